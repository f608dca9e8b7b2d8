from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import mixture as sklearn_mixture

from pairclean.align.mixtures import BetaMixture, _fit_beta, fit_beta_mixture, fit_gaussian_mixture, split_clean


@pytest.fixture(scope="module")
def vectors(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "drcl_bmm_vectors.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """4,000 losses, 40% noisy, on a scale of their own."""
    rng = np.random.default_rng(0)
    noisy = rng.random(4000) < 0.4
    return 3 + 5 * np.where(noisy, rng.beta(8, 3, 4000), rng.beta(2, 9, 4000)), noisy


@pytest.mark.parametrize("case", ["bmm0", "bmm1", "bmm2"])
def test_the_fit_is_the_published_one(vectors, case):
    x = vectors[f"{case}/x"]
    fitted = _fit_beta(x, 0, 1, steps=10, edge=1e-4)  # the vectors are on (0, 1) already, and not trimmed
    np.testing.assert_allclose(fitted.alpha, vectors[f"{case}/alphas"], rtol=1e-6)
    np.testing.assert_allclose(fitted.beta, vectors[f"{case}/betas"], rtol=1e-6)
    np.testing.assert_allclose(fitted.weight, vectors[f"{case}/weights"], rtol=1e-6)
    np.testing.assert_allclose(fitted.posterior(x), vectors[f"{case}/posterior_noisy"], rtol=1e-4, atol=1e-9)


def test_the_posterior_is_bayes_rule_on_two_beta_densities():
    mixture = BetaMixture(np.array([2.0, 5.0]), np.array([6.0, 3.0]), np.array([0.7, 0.3]), low=10, high=20)
    loss = np.array([11.0, 14.0, 18.0])
    unit = (loss - 10) / 10
    clean, noisy = 0.7 * stats.beta.pdf(unit, 2, 6), 0.3 * stats.beta.pdf(unit, 5, 3)
    np.testing.assert_allclose(mixture.posterior(loss), noisy / (clean + noisy), rtol=1e-10)
    np.testing.assert_allclose(mixture.posterior_noisy(loss), noisy / (clean + noisy), rtol=1e-10)


def test_the_posterior_is_held_level_past_its_maximum_and_below_its_minimum():
    weight, loss = np.array([0.5, 0.5]), np.linspace(0.001, 0.999, 999)
    # density ratios x²(1 - x)² and its inverse (up to a factor) turn at ½
    hill = BetaMixture(np.array([1.0, 3.0]), np.array([1.0, 3.0]), weight)
    valley = BetaMixture(np.array([3.0, 1.0]), np.array([3.0, 1.0]), weight)
    for mixture, left, right in ((hill, hill.posterior(loss), None), (valley, None, valley.posterior(loss))):
        held, level = mixture.posterior_noisy(loss), mixture.posterior(np.array([0.5]))[0]
        np.testing.assert_allclose(held[:499], level if left is None else left[:499])
        np.testing.assert_allclose(held[500:], level if right is None else right[500:])
        assert np.diff(held).min() >= -1e-12


def test_the_beta_mixture_finds_what_was_planted(planted):
    loss, noisy = planted
    assert fit_beta_mixture(loss, steps=100).weight[1] == pytest.approx(0.4, abs=0.03)
    mixture = fit_beta_mixture(loss)
    assert mixture.weight[1] == pytest.approx(0.4, abs=0.1)  # ten steps stop short
    posterior = mixture.posterior_noisy(loss)
    assert ((posterior > 0.5) == noisy).mean() > 0.95
    assert np.diff(posterior[np.argsort(loss)]).min() >= -1e-12
    assert 0 <= posterior.min() <= posterior.max() <= 1


@pytest.mark.parametrize("fit", [fit_beta_mixture, fit_gaussian_mixture])
def test_the_unit_of_the_loss_does_not_matter(planted, fit):
    loss, _ = planted
    moved = 100 * loss - 7
    np.testing.assert_allclose(fit(moved).posterior_noisy(moved), fit(loss).posterior_noisy(loss), atol=1e-9)


def test_outliers_do_not_move_the_fit(planted):
    loss, _ = planted
    with_outliers = np.concatenate([loss, np.full(40, 1e6)])
    assert fit_beta_mixture(with_outliers, steps=100).weight[1] == pytest.approx(0.4, abs=0.03)
    assert fit_beta_mixture(with_outliers).posterior_noisy(with_outliers)[-1] > 0.9


def test_the_gaussian_mixture_is_the_one_of_scikit_learn(planted):
    loss, _ = planted
    ours = fit_gaussian_mixture(loss)
    theirs = sklearn_mixture.GaussianMixture(2, random_state=0, tol=1e-8, max_iter=1000).fit(loss[:, None])
    order = np.argsort(theirs.means_[:, 0])
    scale = ours.high - ours.low
    np.testing.assert_allclose(ours.low + scale * ours.mean, theirs.means_[order, 0], rtol=2e-3)
    np.testing.assert_allclose(scale**2 * ours.variance, theirs.covariances_[order, 0, 0], rtol=2e-2)
    np.testing.assert_allclose(ours.weight, theirs.weights_[order], rtol=1e-2)
    middle = np.linspace(4, 6.5, 50)  # where nothing is held
    expected = theirs.predict_proba(middle[:, None])[:, order[1]]
    np.testing.assert_allclose(ours.posterior_noisy(middle), expected, atol=0.02)


def test_the_gaussian_posterior_never_falls(planted):
    loss = np.sort(planted[0])
    for sign in (1, -1):  # the broader component once above, once below
        values = np.sort(sign * loss)
        posterior = fit_gaussian_mixture(values).posterior_noisy(np.linspace(values[0] - 9, values[-1] + 9, 999))
        assert np.diff(posterior).min() >= -1e-12
        assert posterior[0] < 0.05
        assert posterior[-1] > 0.95


@pytest.mark.parametrize("fit", [fit_beta_mixture, fit_gaussian_mixture])
def test_losses_that_are_nearly_all_zero_still_show_the_large_ones(fit):
    loss = np.concatenate([np.zeros(970), np.linspace(0.5, 0.9, 30)])
    posterior = fit(loss).posterior_noisy(loss)
    assert posterior[:970].max() < 0.1
    assert posterior[970:].min() > 0.9


def test_losses_that_do_not_differ_are_clean():
    loss = np.full(50, 0.3)
    assert fit_beta_mixture(loss).posterior_noisy(loss).max() < 0.5
    assert split_clean(loss).min() > 0.5
    assert fit_gaussian_mixture(loss).posterior_noisy(loss).max() < 0.5


def test_split_clean_separates_what_was_planted(planted):
    loss, noisy = planted
    clean = split_clean(loss)
    assert ((clean > 0.5) != noisy).mean() > 0.95
    assert np.diff(clean[np.argsort(loss)]).max() <= 1e-12


def test_the_published_split_calls_the_largest_losses_clean_where_the_clean_component_has_the_longer_tail():
    rng = np.random.default_rng(0)
    loss = np.concatenate([rng.beta(1.2, 1.7, 1600), rng.beta(20, 10, 2400)])
    largest = np.argsort(loss)[-1:]
    assert split_clean(loss, monotone=False)[largest] > 0.5
    assert split_clean(loss)[largest] < 0.5


@pytest.mark.parametrize("fit", [fit_beta_mixture, fit_gaussian_mixture, split_clean])
@pytest.mark.parametrize("loss", [np.array([]), np.array([0.1, np.nan]), np.array([0.1, np.inf])])
def test_losses_that_are_none_are_refused(fit, loss):
    with pytest.raises(ValueError, match="finite"):
        fit(loss)
