"""Probabilities that are refitted with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from pairclean.judge import Judgement, Labelled, Rate, Recalibration, with_labels
from pairclean.judge import refit as module
from pairclean.judge.judgement import rate_notes
from pairclean.judge.recalibration import LEAST_SLOPE, PRIOR_LABELS, fit
from pairclean.metrics.detection import expected_calibration_error
from pairclean.pairs import UserError

NAN = float("nan")
N = 3000


def judgement_of(clean: np.ndarray, **fields: Any) -> Judgement:
    n = len(clean)
    about: dict[str, Any] = {"unjudged": None, "rate": Rate(0.1, 0.05, 0.15), "notes": ["one"], **fields}
    return Judgement(
        clean_probability=clean,
        similarity=np.full(n, NAN, np.float32),
        aligned_similarity=np.full(n, NAN, np.float32),
        noise_kind=np.zeros(n, np.int8),
        wrong_phrase=np.full((n, 2), -1, np.int32),
        unjudged_reason=np.zeros(n, np.int8),
        decoy_clean_probability=np.array([0.01, 0.2]),
        mixed_clean_probability=np.array([0.6]),
        **about,
    )


def overconfident(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clean probabilities whose log odds are twice as large as they should be and too high by one, and the truth."""
    rng = np.random.default_rng(seed)
    truth = expit(rng.normal(0.5, 1.5, N))
    return expit(2 * logit(truth) + 1).astype(np.float32).astype(float), rng.random(N) < truth


def labelled_of(matched: np.ndarray, row: np.ndarray, weight: np.ndarray | None = None) -> Labelled:
    weight = np.ones(len(row)) if weight is None else weight
    return Labelled(row, matched[row], weight, Rate(float(1 - matched.mean()), 0.3, 0.5))


def test_two_hundred_labels_mend_probabilities_that_are_too_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "near_misses", lambda calibration: ["similar pictures"])
    clean, matched = overconfident()
    before = expected_calibration_error(clean, matched)
    wide = Rate(0.1, 0.05, 0.15, why_wide="some resemble matches")
    found = with_labels(
        judgement_of(clean, rate=wide, notes=["one", *rate_notes(wide), "similar pictures"]),
        labelled_of(matched, np.random.default_rng(1).choice(N, 200, replace=False)),
        np.arange(N),
    )
    assert before > 0.1
    assert expected_calibration_error(found.clean_probability, matched) < 0.06
    assert found.recalibration is not None
    assert found.recalibration.slope == pytest.approx(0.5, abs=0.15)
    assert found.recalibration.labels == 200
    assert found.rate is not None
    assert (found.rate.low, found.rate.high) == (0.3, 0.5)
    assert found.recalibration.by_scores["estimate"] == 0.1
    assert np.array_equal(found.decoy_clean_probability, found.recalibration(np.array([0.01, 0.2])))
    assert len(found.notes) == 2
    assert found.notes[0] == "one"
    assert "200 labels" in found.notes[1]
    assert "10.0% (5.0% to 15.0%)" in found.notes[1]


def test_the_fit_is_the_likeliest_one() -> None:
    clean, matched = overconfident()
    row = np.arange(0, N, 10)
    weight = np.random.default_rng(2).random(len(row))
    points = np.array([0.2, 0.5, 0.9])

    def likelihood(intercept: float, slope: float) -> float:
        def log(p: np.ndarray, share: np.ndarray) -> np.ndarray:
            q = expit(intercept + slope * logit(p))
            return share * np.log(q) + (1 - share) * np.log(1 - q)

        own = weight / weight.mean() @ log(clean[row], matched[row])
        return float(own + PRIOR_LABELS * log(points, points).mean())

    intercept, slope = fit(clean[row], matched[row], weight, points)
    best = likelihood(intercept, slope)
    for a, b in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert likelihood(intercept + a, slope + b) < best


def test_few_labels_change_little_and_none_nothing() -> None:
    points = np.linspace(0.01, 0.99, 99)
    intercept, slope = fit(np.empty(0), np.empty(0, bool), np.empty(0), points)
    assert (intercept, slope) == pytest.approx((0, 1), abs=1e-3)
    few = fit(np.full(3, 0.9), np.zeros(3, bool), np.ones(3), points)
    many = fit(np.full(300, 0.9), np.zeros(300, bool), np.ones(300), points)
    assert 0.5 < expit(few[0] + few[1] * logit(0.9)) < 0.9
    assert expit(many[0] + many[1] * logit(0.9)) < 0.1


def test_weights_make_up_for_how_pairs_were_drawn() -> None:
    clean, matched = np.full(N, 0.9), np.arange(N) % 2 == 0
    drawn = np.concatenate([np.flatnonzero(matched)[:20], np.flatnonzero(~matched)[:100]])
    weight = np.where(matched[drawn], 5.0, 1.0)
    intercept, slope = fit(clean[drawn], matched[drawn], weight, np.full(5, 0.5))
    assert expit(intercept + slope * logit(0.9)) == pytest.approx(0.5, abs=0.03)


def test_the_order_stays_even_if_labels_contradict_it() -> None:
    clean = np.linspace(0.02, 0.98, N)
    matched = clean < 0.5
    slope = fit(clean, matched, np.ones(N), clean)[1]
    assert slope == pytest.approx(LEAST_SLOPE)


def test_a_pair_does_not_see_its_own_label() -> None:
    clean, matched = overconfident()
    image_id = np.arange(N)
    image_id[1000] = image_id[0]  # a second caption of a labelled image
    row = np.arange(100)
    found = with_labels(judgement_of(clean), labelled_of(matched, row), image_id)
    turned = matched.copy()
    turned[0] = not turned[0]
    other = with_labels(judgement_of(clean), labelled_of(turned, row), image_id)
    same = found.clean_probability == other.clean_probability
    assert same[0]
    assert same[1000]
    assert not same[2000:].any()
    assert not same[:100].all()


def test_pairs_that_were_not_judged_stay_so() -> None:
    clean, matched = overconfident()
    clean[:500] = NAN
    found = with_labels(judgement_of(clean), labelled_of(matched, np.arange(0, N, 10)), np.arange(N))
    assert np.array_equal(np.isnan(found.clean_probability), np.isnan(clean))
    assert found.recalibration is not None
    assert found.recalibration.labels == 250
    assert np.array_equal(found.clean_probability, found.clean_probability.astype(np.float32), equal_nan=True)


def test_too_few_labels_and_nothing_judged_are_errors() -> None:
    clean, matched = overconfident()
    with pytest.raises(UserError, match="19 judged pairs are labelled"):
        with_labels(judgement_of(clean), labelled_of(matched, np.arange(19)), np.arange(N))
    nothing = judgement_of(np.full(N, NAN), unjudged="all alike", rate=None)
    with pytest.raises(UserError, match=r"no probabilities to refit.*all alike"):
        with_labels(nothing, labelled_of(matched, np.arange(50)), np.arange(N))


def test_a_recalibration_keeps_what_is_unknown() -> None:
    found = Recalibration(1.0, 0.5, 30, 0.2, {})(np.array([NAN, 0.0, 0.5, 1.0]))
    assert np.isnan(found[0])
    assert 0 < found[1] < found[2] == expit(1.0) < found[3] < 1
