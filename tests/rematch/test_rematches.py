"""Which proposals are emitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from world import unit

from pairclean.arrays import Pairs
from pairclean.judge import judge, learn_mended
from pairclean.rematch import emit, rematch, settle


def test_emit_takes_the_largest_set_at_the_precision() -> None:
    rng = np.random.default_rng(0)
    for precision in (0.0, 0.6, 0.9, 1.0):
        p = rng.uniform(0.2, 1, 200)
        chosen = emit(p, precision)
        k = int(chosen.sum())
        ordered = np.sort(p)[::-1]
        best = max([m for m in range(1, 201) if ordered[:m].mean() >= precision], default=0)
        assert k == best
        assert set(p[chosen]) == set(ordered[:k])
    assert emit(np.array([0.95, 0.7, 0.95]), 0.9).tolist() == [True, False, True]
    assert emit(np.array([0.8, 0.7]), 0.9).tolist() == [False, False]
    assert emit(np.zeros(0), 0.9).tolist() == []


def test_a_caption_is_given_away_only_if_its_own_pair_lets_it_go() -> None:
    partner = np.array([1, 2, 3, 0, -1])
    chance = np.array([0.95, 0.94, 0.93, 0.2, 0.0])
    flagged = np.array([True, False, True, False, False])
    nothing = np.zeros(5, bool)
    likely = np.array([False, True, False, False, False])
    # 2 wants the caption of 3, which stays; 1 is flagged by what it is offered, and lets go of what 0 wants.
    chosen, offered = settle(partner, chance, flagged, likely, 0.9, False, True)
    assert chosen.tolist() == [True, True, False, False, False]
    assert offered.tolist() == [True, True, False, False, False]
    # Where captions can be given again, nobody has to let go.
    assert settle(partner, chance, flagged, likely, 0.9, True, False)[0].tolist() == [True, True, True, False, False]
    # If pairs are flagged by nothing else, 1 stays, and what hangs on it too.
    chosen, offered = settle(partner, chance, flagged, nothing, 0.9, False, True)
    assert not chosen.any()
    assert not offered.any()


def test_a_likely_rematch_takes_its_caption_from_a_pair_that_was_not_flagged() -> None:
    partner, chance = np.array([1, -1]), np.array([0.95, 0.0])
    flagged = np.array([True, False])
    likely, unlikely = np.array([True, False]), np.zeros(2, bool)
    assert settle(partner, chance, flagged, likely, 0.9, False, True)[0].tolist() == [True, False]
    assert settle(partner, chance, flagged, unlikely, 0.9, False, True)[0].tolist() == [False, False]
    # Where a caption may have two images, its own pair is not flagged by that, and keeps it.
    assert settle(partner, chance, flagged, likely, 0.9, False, False)[0].tolist() == [False, False]


def _moved(n: int = 500, seed: int = 0) -> Pairs:
    """Two fifths of the pairs have the caption of another, and the pairs with half of these captions are left out."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 24))
    image, text = (unit(latent + 0.8 * rng.standard_normal((n, 24))) for _ in range(2))
    moved = rng.permutation(n)[: 2 * n // 5]
    carried = np.arange(n)
    carried[moved] = np.roll(moved, 1)
    stay = np.setdiff1d(np.arange(n), moved[: n // 5])
    return Pairs(image[stay], text[carried[stay]], stay, carried[stay])


def test_pairs_whose_captions_are_given_away_are_flagged() -> None:
    pairs = _moved()
    rows = np.arange(len(pairs))
    learned, faults = learn_mended(pairs, rows >= 0, comparable=True, repair=False, method="zero-shot")
    judged = judge(pairs, rows, learned, comparable=True)
    found = rematch(pairs, learned, judged, faults, flag_below=0.02)
    given = found.partner[found.partner >= 0]
    assert len(given) > 30
    assert (found.clean_probability[given] < 0.02).all()
    robbed = given[(judged.clean_probability[given] >= 0.02) & (found.partner[given] < 0)]
    assert len(robbed)
    assert (pairs.caption_id[robbed] != pairs.image_id[robbed]).mean() > 0.8  # they had been moved
    kept = rematch(pairs, learned, judged, faults, keep_fraction=0.7)
    assert (kept.clean_probability < kept.flag_below).mean() == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("capacity", [1, 2])
def test_no_pair_that_stays_shares_its_caption(capacity: int) -> None:
    """Only captions of pairs that are flagged in the end are given away."""
    pairs = _moved()
    rows = np.arange(len(pairs))
    learned, faults = learn_mended(pairs, rows >= 0, comparable=True, repair=False, method="zero-shot")
    judged = judge(pairs, rows, learned, comparable=True)
    found = rematch(pairs, learned, judged, faults, flag_below=0.02, capacity=capacity)
    given = found.partner[found.partner >= 0]
    assert len(given) > 10
    assert (found.clean_probability[given] < found.flag_below).all()


def test_pairs_that_were_learned_from_and_not_judged_do_not_spoil_the_calibration() -> None:
    pairs = _moved()
    rows = np.arange(len(pairs))
    learned, faults = learn_mended(pairs, rows >= 0, comparable=True, repair=False, method="canonical")
    judged = judge(pairs, rows, learned, comparable=True)
    assert learned.held_out is not None
    clean = judged.clean_probability.copy()
    clean[learned.held_out[:5]] = np.nan
    found = rematch(pairs, learned, replace(judged, clean_probability=clean), faults)
    assert found.emitted > 10
    said, right, weight = found.trials.T
    assert np.average(said, weights=weight) == pytest.approx(np.average(right, weights=weight), abs=0.03)
