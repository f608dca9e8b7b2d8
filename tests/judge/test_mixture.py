"""Calibration by two betas or two Gaussians, on scores of which the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pairclean.judge import Scores, calibrate_scores, judge_scores, read_calibration
from pairclean.judge.decoys import Rate
from pairclean.judge.evidence import Scored
from pairclean.judge.mixture import calibrate_mixture

KINDS = ("beta", "gauss")


def drawn(rate: float, seed: int = 0, n: int = 3000) -> tuple[Scores, np.ndarray]:
    rng = np.random.default_rng(seed)
    matched = np.arange(n) >= rate * n
    score = rng.standard_normal(n) + 5 * matched - 2
    return Scores(score, score.astype(np.float32), rng.standard_normal(20 * n) - 2, []), matched


@pytest.mark.parametrize(("kind", "rate"), [("beta", 0.5), ("gauss", 0.2), ("gauss", 0.5)])
def test_the_rate_is_the_weight_of_the_lower_component(kind: str, rate: float) -> None:
    scores, matched = drawn(rate)
    found = calibrate_scores(scores, kind)
    assert found.rate.estimate == pytest.approx(rate, abs=0.04)
    assert 0 <= found.rate.low < found.rate.estimate < found.rate.high <= 1
    assert 0.01 < found.rate.high - found.rate.low < 0.12
    p = found.clean_probability(Scored.plain(scores.score))
    assert p[matched].mean() > 0.8
    assert p[~matched].mean() < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_rise_strictly_with_the_score(kind: str) -> None:
    """Also where a Gaussian of its own has the mixture turn around."""
    scores, _ = drawn(0.3)
    wide = np.where(np.arange(3000) % 2, scores.score, 3 * scores.score)
    for score in (scores.score, wide):
        found = calibrate_scores(Scores(score, score.astype(np.float32), scores.decoys, []), kind)
        p = found.clean_probability(Scored.plain(np.arange(score.min() - 1, score.max() + 1, 0.02))).astype(np.float32)
        assert (np.diff(p) > 0).all()
        assert 0 <= p[0] < p[-1] <= 1


@pytest.mark.parametrize("kind", [*KINDS, "decoy"])
def test_it_is_read_back_as_it_was_written(kind: str) -> None:
    scores, _ = drawn(0.4, n=500)
    found = calibrate_scores(scores, kind)
    data = json.loads(json.dumps(found.to_json()))
    again = read_calibration(data)
    grid = np.linspace(-8, 8, 99)
    assert data["kind"] == kind
    assert np.array_equal(again.clean_probability(Scored.plain(grid)), found.clean_probability(Scored.plain(grid)))
    assert again.rate == found.rate


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_rate_is_kept_and_moves_the_probabilities(kind: str) -> None:
    scores, _ = drawn(0.4, n=500)
    low, high = (calibrate_mixture(scores.score, kind, rate=Rate(r, r - 0.1, r + 0.1)) for r in (0.2, 0.6))
    assert low.rate == Rate(0.2, 0.2 - 0.1, 0.2 + 0.1)
    assert (
        low.clean_probability(Scored.plain(scores.score)) >= high.clean_probability(Scored.plain(scores.score))
    ).all()
    unbiased, _ = drawn(0.5, seed=1, n=500)
    assert judge_scores(scores, unbiased, kind).rate == calibrate_scores(unbiased, kind).rate


@pytest.mark.parametrize("kind", KINDS)
def test_more_pairs_make_the_interval_narrower(kind: str) -> None:
    few, many = (calibrate_scores(drawn(0.4, n=n)[0], kind).rate for n in (500, 8000))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_clean_data_are_split_in_two_all_the_same() -> None:
    """What decoys are for."""
    scores, _ = drawn(0.0)
    assert calibrate_scores(scores, "decoy").rate.estimate < 0.02
    assert calibrate_scores(scores, "gauss").rate.estimate > 0.1
