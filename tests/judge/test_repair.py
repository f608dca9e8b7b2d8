"""What captions that moved together say of the pairs as they came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pairclean.judge import NOISE_KINDS, Faults, Finding, Judgement, Rate, with_strays

N = 100
MOVED = np.arange(40, 80)


def faults(*, repaired: bool) -> Faults:
    place = np.arange(N)
    place[MOVED] = np.roll(MOVED, 1)
    finding = Finding("shifted", 40, 79, 1, 0.0, 1e-6)
    return Faults([finding], place, np.full(N, np.nan), repaired)


def judged(rate: Rate) -> Judgement:
    """Of the 40 pairs that moved, half look matched; of the 60 others, 6 look mismatched; one is not judged."""
    clean = np.ones(N)
    clean[MOVED[:20]] = 0.0
    clean[:6] = 0.0
    clean[99] = np.nan
    nan, none = np.full(N, np.nan, np.float32), np.zeros(0)
    kind, phrase = np.full(N, NOISE_KINDS.index("complete"), np.int8), np.full((N, 2), -1, np.int32)
    return Judgement(None, [], clean, nan, nan, kind, phrase, np.zeros(N, np.int8), none, none, rate=rate)


def test_pairs_in_a_range_that_moved_count_as_mismatched_whatever_they_score() -> None:
    parts = {"random": {"estimate": 0.26, "low": 0.2, "high": 0.3}}
    found = with_strays(judged(Rate(0.26, 0.2, 0.3, parts=parts)), faults(repaired=False), np.arange(N))
    assert (found.clean_probability[MOVED] <= 1e-6 * 1.01).all()
    assert found.clean_probability[0] == 0.0
    assert found.clean_probability[20] == 1.0
    assert np.isnan(found.clean_probability[99])
    assert found.rate is not None
    assert found.rate.estimate == pytest.approx(46 / 99, abs=1e-4)
    assert found.rate.low == pytest.approx((40 + 6) / 99 - 59 / 99 * 0.06, abs=1e-4)
    assert found.rate.high == pytest.approx((40 + 6) / 99 + 59 / 99 * 0.04, abs=1e-4)
    assert found.rate.parts["shifted"]["estimate"] == pytest.approx(40 / 99)
    assert found.rate.parts["random"]["estimate"] == pytest.approx(0.26 - 20 / 99)


def test_the_same_text_in_another_place_is_no_mismatch() -> None:
    before = judged(Rate(0.26, 0.2, 0.3))
    assert with_strays(before, faults(repaired=False), np.zeros(N, np.int64)) is before


def test_once_captions_are_given_back_the_judgement_is_of_the_pairs_as_they_are() -> None:
    before = judged(Rate(0.26, 0.2, 0.3))
    assert with_strays(before, faults(repaired=True), np.arange(N)) is before


def test_what_is_known_to_have_moved_does_not_make_the_others_suspicious() -> None:
    """All mismatches are in the range: among the others, evidence that is twice as usual with matches is of matches."""
    before = judged(Rate(0.4, 0.35, 0.45))
    clean = np.full(N, 0.75)  # the odds of a pair are 3 to 1 with the prior 3 to 2
    clean[MOVED] = 0.0
    found = with_strays(replace(before, clean_probability=clean), faults(repaired=False), np.arange(N))
    assert found.rate is not None
    assert found.rate.estimate == pytest.approx(0.4, abs=1e-3)
    assert found.rate.low == pytest.approx(0.4, abs=1e-3)
