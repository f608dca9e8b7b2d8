"""Two-component mixtures of the losses of pairs: which pairs are noisy, without labels.

Both mixtures are fitted by the same EM on weighted means and variances; only their densities differ.  Their posterior
is made monotone: it follows the density ratio where that rises with the loss, and is constant where it would turn in a
tail (a huge loss is never cleaner than a large one, a tiny one never noisier than a small one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
LogDensity = Callable[[Floats, Floats, Floats], Floats]

EDGE = 1e-4  # scaled losses are clipped this far from 0 and 1, where beta densities are 0 or infinite
SPLIT_EDGE = 1e-3  # the same in L2RM's split
LEAST_VARIANCE = 1e-6  # of a component on the unit scale; keeps a spike of equal losses from dividing by zero


@dataclass(frozen=True)
class BetaMixture:
    """A mixture of two beta densities on a loss scaled to (0, 1).  Index 0 is the clean component, 1 the noisy one.

    alpha, beta, weight: (2,) float64.  low, high: the losses that are scaled to 0 and 1.
    edge: scaled losses are clipped this far from 0 and 1.
    """

    alpha: Floats
    beta: Floats
    weight: Floats
    low: float = 0.0
    high: float = 1.0
    edge: float = EDGE

    def posterior(self, loss: Floats) -> Floats:
        """The plain posterior of being noisy, from the density ratio.  loss: (n,) float.  Returns (n,) float64."""
        return self._posterior(_unit(loss, self.low, self.high, self.edge))

    def posterior_noisy(self, loss: Floats) -> Floats:
        """The posterior of being noisy, never falling in the loss.  loss: (n,) float.  Returns (n,) float64.

        Source: Arazo et al. 2019 for losses past its maximum; the same below its minimum is ours.
        """
        unit = _unit(loss, self.low, self.high, self.edge)
        # log(noisy / clean) = rise·log x + fall·log(1 - x) + constant: it turns once, if both have one sign
        rise, fall = self.alpha[1] - self.alpha[0], self.beta[1] - self.beta[0]
        if rise > 0 and fall > 0:
            unit = np.minimum(unit, rise / (rise + fall))
        elif rise < 0 and fall < 0:
            unit = np.maximum(unit, rise / (rise + fall))
        return self._posterior(unit)

    def _posterior(self, unit: Floats) -> Floats:
        return _responsibility(np.log(self.weight)[:, None] + _beta_log_density(unit, self.alpha, self.beta))[1]


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of two normal densities on a loss scaled to (0, 1).  Index 0 is the clean component, 1 the noisy one.

    mean, variance, weight: (2,) float64.  low, high: the losses that are scaled to 0 and 1.
    """

    mean: Floats
    variance: Floats
    weight: Floats
    low: float
    high: float

    def posterior_noisy(self, loss: Floats) -> Floats:
        """The posterior of being noisy, made monotone as in `BetaMixture`.  loss: (n,) float.  Returns (n,) float64."""
        unit = _unit(loss, self.low, self.high, -np.inf)
        # log(noisy / clean) is a parabola
        precision = 1 / self.variance
        bend = precision[0] - precision[1]
        if bend:
            turn = (precision[0] * self.mean[0] - precision[1] * self.mean[1]) / bend
            unit = np.minimum(unit, turn) if bend < 0 else np.maximum(unit, turn)
        log_density = _gaussian_log_density(unit, self.mean, self.variance)
        return _responsibility(np.log(self.weight)[:, None] + log_density)[1]


def fit_beta_mixture(loss: Floats, *, steps: int = 10, trim: tuple[float, float] = (5, 95)) -> BetaMixture:
    """Fit a two-component beta mixture to the losses of all pairs.

    loss: (n,) float, finite, n >= 1.
    steps: of EM, from (alpha, beta) = (1, 2) and (2, 1) with equal weights.  The published 10 stop before convergence:
    of losses with two fifths noisy they found .47 noisy, and 100 steps .40.
    trim: percentiles of the loss; losses outside are left out of the fit, those inside are scaled to (0, 1).  If both
    percentiles are one value (a hinge loss that is zero nearly everywhere), nothing is left out.
    Returns the mixture, on the scale of `loss`.  Losses that do not differ come out as clean.
    Source: Arazo et al. 2019 (trimming, start, monotone posterior).
    """
    loss = _finite(loss)
    low, high = (float(bound) for bound in np.percentile(loss, trim))
    if low == high:
        low, high = float(loss.min()), float(loss.max())
    return _fit_beta(loss[(loss >= low) & (loss <= high)], low, high, steps, EDGE)


def beta_mixture_from(unit: Floats, start: NDArray[np.integer[Any]], fits: Sequence[tuple[int, float]]) -> BetaMixture:
    """Fit a two-component beta mixture by EM from a first guess of each pair's component.

    unit: (n,) float64, losses within (0, 1).  start: (n,) integers, 0 or 1.
    fits: one or more runs of EM, each from where the last ended: the most steps, and the gain of the summed
    log-likelihood at or below which to stop. Every run takes at least one step.
    Returns the mixture, on the scale of `unit`.  Source: the published code of Han et al. 2024.
    """
    unit = _finite(unit)
    mean, variance, weight = _moments(unit, np.stack([start == 0, start == 1]).astype(np.float64))
    for steps, gain in fits:
        mean, variance, weight = _em(unit, mean, variance, weight, _beta_moment_log_density, steps, gain)
    alpha, beta = _beta_parameters(mean, variance)
    return BetaMixture(alpha, beta, weight, edge=0.0)


def fit_gaussian_mixture(loss: Floats, *, steps: int = 100) -> GaussianMixture:
    """Fit a two-component Gaussian mixture to the losses of all pairs, scaled to (0, 1) by their extremes.

    loss: (n,) float, finite, n >= 1.  steps: of EM, from the losses up to their mean and those above.
    Returns the mixture, on the scale of `loss`.  Source: Huang et al. 2021 (NCR); the start is ours.
    """
    loss = _finite(loss)
    low, high = float(loss.min()), float(loss.max())
    unit = _unit(loss, low, high, -np.inf)
    above = unit > unit.mean()
    share = np.stack([~above, above]).astype(np.float64)
    mean, variance, weight = _em(unit, *_moments(unit, share), _gaussian_log_density, steps)
    return GaussianMixture(mean, variance, weight, low, high)


def split_clean(loss: Floats, *, monotone: bool = True) -> Floats:
    """L2RM's split: the posterior of being clean; above 0.5 a pair counts as clean.

    The losses (`losses.triplet_per_pair`) are scaled to (0, 1) by their extremes and clipped to 1e-3 from either end; a
    beta mixture is fitted by 10 steps of EM.

    loss: (n,) float, finite, n >= 1.  Returns (n,) float64.
    monotone: clean is the component of the smaller mean, and the posterior never rises in the loss.  False: published,
    clean is the component likelier at the smallest loss, and pairs of huge loss can come out clean again.
    Source: Han et al. 2024.  The start and the end of EM are those of Arazo et al.; `pairclean.paper.split` has the
    published ones, which begin with a random k-means.
    """
    loss = _finite(loss)
    low, high = float(loss.min()), float(loss.max())
    mixture = _fit_beta(loss, low, high, 10, SPLIT_EDGE)
    if monotone:
        return 1 - mixture.posterior_noisy(loss)
    noisy = mixture.posterior(loss)
    return noisy if noisy[loss.argmin()] > 0.5 else 1 - noisy


def _finite(loss: Floats) -> Floats:
    loss = np.asarray(loss, np.float64)
    if not len(loss) or not np.isfinite(loss).all():
        raise ValueError("a mixture needs losses, all of them finite")
    return loss


def _fit_beta(loss: Floats, low: float, high: float, steps: int, edge: float) -> BetaMixture:
    unit = _unit(loss, low, high, edge)
    mean, variance = np.array([1 / 3, 2 / 3]), np.full(2, 1 / 18)  # (alpha, beta) = (1, 2) and (2, 1)
    mean, variance, weight = _em(unit, mean, variance, np.full(2, 0.5), _beta_moment_log_density, steps)
    alpha, beta = _beta_parameters(mean, variance)
    return BetaMixture(alpha, beta, weight, low, high, edge)


def _em(
    unit: Floats,
    mean: Floats,
    variance: Floats,
    weight: Floats,
    log_density: LogDensity,
    steps: int,
    least_gain: float = -np.inf,
) -> tuple[Floats, Floats, Floats]:
    """EM by weighted moments from the start given, (2,) each; unit: (n,) losses.  Returns mean, variance, weight.

    It ends after `steps`, or once a step raised the summed log-likelihood by `least_gain` or less.  The component of
    the smaller mean comes first; of equal ones, that which started with it.
    """
    likelihood = -np.inf
    for _ in range(steps):
        joint = np.log(weight)[:, None] + log_density(unit, mean, variance)
        before, likelihood = likelihood, float(np.logaddexp(joint[0], joint[1]).sum())
        if likelihood - before <= least_gain:
            break
        mean, variance, weight = _moments(unit, _responsibility(joint))
    if mean[0] > mean[1] + 1e-6:
        return mean[::-1], variance[::-1], weight[::-1]
    return mean, variance, weight


def _moments(unit: Floats, share: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, variance and weight of each component, (2,) each, from its share (2, n) of every loss."""
    share = share + 1e-12  # a component never becomes empty
    total = share.sum(1)
    mean = share @ unit / total
    variance = np.maximum((share * (unit - mean[:, None]) ** 2).sum(1) / total, LEAST_VARIANCE)
    return mean, variance, total / total.sum()


def _unit(loss: Floats, low: float, high: float, edge: float) -> Floats:
    """Losses scaled so that low..high becomes 0..1, held between edge and 1 - edge (all 0 if low is high)."""
    return np.clip((np.asarray(loss, np.float64) - low) / ((high - low) or 1.0), edge, 1 - edge)


def _responsibility(log_joint: Floats) -> Floats:
    """log_joint: (2, n).  Returns (2, n), the posterior of each component."""
    return np.exp(log_joint - np.logaddexp(log_joint[0], log_joint[1]))


def _gaussian_log_density(unit: Floats, mean: Floats, variance: Floats) -> Floats:
    mean, variance = mean[:, None], variance[:, None]
    return -0.5 * (np.log(2 * np.pi * variance) + (unit - mean) ** 2 / variance)


def _beta_parameters(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    alpha = mean * (mean * (1 - mean) / variance - 1)
    return alpha, alpha * (1 - mean) / mean


def _beta_moment_log_density(unit: Floats, mean: Floats, variance: Floats) -> Floats:
    return _beta_log_density(unit, *_beta_parameters(mean, variance))


def _beta_log_density(unit: Floats, alpha: Floats, beta: Floats) -> Floats:
    from scipy.special import betaln

    alpha, beta = alpha[:, None], beta[:, None]
    return (alpha - 1) * np.log(unit) + (beta - 1) * np.log1p(-unit) - betaln(alpha, beta)
