"""The mismatch rate and the clean probability, on generated scores of which the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pairclean.judge.decoys import DecoyCalibration, DecoyScale, Rate, calibrate

N, DECOYS = 4000, 40_000


def scores(rate: float, seed: int, *, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed scores, decoys, and (n,) bool which of the observed are matched. Skewed, as scores of pairs are."""
    rng = np.random.default_rng([seed, round(1000 * rate)])
    matched = np.ones(n, bool)
    matched[: round(rate * n)] = False
    return np.exp((rng.standard_normal(n) + 3 * matched) / 3), np.exp(rng.standard_normal(DECOYS) / 3), matched


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.8, 1.0])
def test_the_mismatch_rate_is_found(rate: float) -> None:
    found = [calibrate(*scores(rate, seed)[:2], seed=seed).rate for seed in range(3)]
    assert [r.estimate for r in found] == pytest.approx([rate] * 3, abs=0.03)
    for r in found:
        assert 0 <= r.low <= r.estimate <= r.high <= 1
        assert r.high - r.low < 0.1


@pytest.mark.slow
def test_the_interval_covers_the_rate() -> None:
    found = [calibrate(*scores(0.4, seed)[:2], seed=seed).rate for seed in range(20)]
    assert sum(r.low <= 0.4 <= r.high for r in found) >= 17
    assert np.mean([r.high - r.low for r in found]) < 0.08


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_probabilities_are_calibrated(rate: float) -> None:
    observed, decoys, matched = scores(rate, 7, n=12_000)
    p = calibrate(observed, decoys).clean_probability(observed)
    bins = np.minimum((p * 10).astype(int), 9)
    error = sum(abs(p[bins == b].mean() - matched[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert error < 0.02
    assert p.mean() == pytest.approx(1 - rate, abs=0.03)
    assert p[matched].mean() > 0.7
    assert p[~matched].mean() < 0.3


def test_probabilities_rise_strictly_with_the_score() -> None:
    for rate in (0.0, 0.3, 1.0):
        observed, decoys, _ = scores(rate, 1)
        fitted = calibrate(observed, decoys)
        grid = np.linspace(observed.min() - 1, observed.max() + 1, 5000)
        p = fitted.clean_probability(grid)
        assert (np.diff(p) > 0).all()
        assert (np.diff(fitted.likelihood_ratio(grid)) >= 0).all()
        assert p.min() >= 0
        assert p.max() <= 1


def test_float32_makes_no_ties_of_scores_that_differ() -> None:
    """By a hundredth of their spread: also where all are surely clean, or surely not."""
    for rate in (0.0, 0.3, 1.0):
        observed, decoys, _ = scores(rate, 2)
        fitted = calibrate(observed, decoys)
        grid = np.arange(*np.quantile(observed, [0.001, 0.999]), 1e-2 * observed.std())
        p = fitted.clean_probability(grid).astype(np.float32)
        assert (np.diff(p) > 0).all()


def test_the_ranking_is_that_of_the_score() -> None:
    observed, decoys, _ = scores(0.3, 3)
    p = calibrate(observed, decoys).clean_probability(observed)
    assert np.array_equal(np.argsort(p), np.argsort(observed))


def test_a_likelihood_ratio_is_one_on_average_over_decoys() -> None:
    observed, decoys, _ = scores(0.4, 4)
    fitted = calibrate(observed, decoys)
    assert fitted.likelihood_ratio(decoys).mean() == pytest.approx(1, abs=0.1)
    assert fitted.weight.sum() == pytest.approx(1)


def test_it_is_read_back_as_it_was_written() -> None:
    observed, decoys, _ = scores(0.4, 5)
    fitted = calibrate(observed, decoys)
    again = DecoyCalibration.from_json(json.loads(json.dumps(fitted.to_json())))
    grid = np.linspace(-1, 10, 999)
    assert np.array_equal(again.clean_probability(grid), fitted.clean_probability(grid))
    assert again.rate == fitted.rate
    assert again.to_json() == fitted.to_json()


def test_a_known_rate_is_kept_and_moves_the_probabilities() -> None:
    observed, decoys, _ = scores(0.4, 6)
    low, high = (calibrate(observed, decoys, rate=Rate(r, r - 0.01, r + 0.02)) for r in (0.3, 0.5))
    assert low.rate == Rate(0.3, 0.29, 0.32)
    assert low.clean_probability(observed).mean() > high.clean_probability(observed).mean() + 0.05
    assert (low.clean_probability(observed) > high.clean_probability(observed)).mean() > 0.95
    own = calibrate(observed, decoys)
    same = calibrate(observed, decoys, rate=own.rate)
    np.testing.assert_allclose(same.clean_probability(observed), own.clean_probability(observed), atol=0.02)


def test_seeds_move_the_interval_only() -> None:
    observed, decoys, _ = scores(0.4, 8)
    one, same, other = (calibrate(observed, decoys, seed=seed).rate for seed in (0, 0, 1))
    assert one == same
    assert one.estimate == other.estimate
    assert one != other
    assert one.low == pytest.approx(other.low, abs=0.01)


def test_mismatches_that_resemble_matches_make_it_a_lower_bound() -> None:
    observed, decoys, matched = scores(0.4, 9)
    observed = np.where(matched, observed, observed * np.exp(1 / 6))
    assert 0.1 < calibrate(observed, decoys).rate.high < 0.3


def test_scales_of_scores_do_not_matter() -> None:
    observed, decoys, _ = scores(0.4, 10)
    one, other = calibrate(observed, decoys), calibrate(1e4 * observed - 7, 1e4 * decoys - 7)
    assert other.rate.estimate == pytest.approx(one.rate.estimate, abs=1e-3)
    np.testing.assert_allclose(other.clean_probability(1e4 * observed - 7), one.clean_probability(observed), atol=2e-3)


def test_the_scale_is_the_logit_of_the_share_above() -> None:
    decoys = np.random.default_rng(0).uniform(size=100_000)
    scale = DecoyScale.fit(decoys)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert scale(np.array([1 - share]))[0] == pytest.approx(np.log(share / (1 - share)), abs=0.2)
    assert (np.diff(scale(np.linspace(-2, 3, 1000))) < 0).all()


@pytest.mark.parametrize("values", [2, 3, 5])
def test_few_distinct_decoys_are_no_error(values: int) -> None:
    rng = np.random.default_rng(0)
    decoys = rng.integers(values, size=2000).astype(float)
    observed = np.r_[rng.integers(values, size=60).astype(float), np.full(40, values + 1.0)]
    p = calibrate(observed, decoys).clean_probability(np.array([0.0, values - 1.0, values + 1.0]))
    assert np.isfinite(p).all()
    assert p[0] < p[1] < p[2]
