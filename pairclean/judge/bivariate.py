"""Random mismatches, mismatches within kinds, and matched pairs, by their evidence z and their standing v.

    f(z, v) = r f_random(z, v) + w f_within(z, v) + (1 - r - w) N2(z, v)

The first two densities are those of re-pairings, at random and within kinds, which are sampled. Matched pairs are
bivariate normal, the binormal model of signal detection (Dorfman and Alf 1969) in two dimensions; above TOP only the
mass in z and in v counts, so that only the lower tails are assumed. By z alone, mismatches within kinds look like
matched pairs that score low; v tells them apart, since it is uniform among re-pairings within kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtr

from .binormal import LEAST_SIGMA, SPREAD, STARTS

#: Edges of the cells. Both have a last cell for all that is above; v has cells above TOP_V that the fit takes as one.
Z_EDGES = np.concatenate([[-np.inf], np.linspace(-3.0, 3.0, 49), [np.inf]])
V_EDGES = np.concatenate([[-np.inf], np.linspace(-2.2, 2.2, 23), [np.inf]])
TOP_V = 1.2
Z_CENTRES, V_CENTRES = ((np.concatenate([[e[1]], (e[1:-2] + e[2:-1]) / 2, [e[-2]]])) for e in (Z_EDGES, V_EDGES))
_ONE = int(np.searchsorted(V_EDGES, TOP_V))
#: Gaussian kernel of sampled densities, in cells.
SMOOTHING = 0.8
#: Of the parameters (`_Problem`), where a normal would have no mass in the cells or none between them.
BOUNDS = [(-16, 16), (-16, 16), (-3, 9), (-2, 1.5), (-3, 6), (-2, 1.5), (-2, 2)]
ISOTONIC_ROUNDS = 100
#: Of the parameters, for the curvature.
STEP = 1e-3
#: Correlations beyond this are penalised as much as a sigma above 1: the normal would become a line.
MOST_CORRELATED = float(np.tanh(1.8))


@dataclass(frozen=True)
class Bivariate:
    """random, within: shares of the pairs.  shape: means and standard deviations of z and of v, and their correlation.

    random_mass, within_mass: (z cells, v cells).
    log_likelihood: of the fit, less the penalties.
    """

    random: float
    within: float
    shape: tuple[float, float, float, float, float]
    random_mass: np.ndarray
    within_mass: np.ndarray
    log_likelihood: float
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def mismatched(self) -> float:
        return self.random + self.within

    def clean_grid(self) -> np.ndarray:
        """(z cells, v cells) P(matched), made to rise in z and in v."""
        matched = (1 - self.mismatched) * normal_mass(self.shape)
        every = matched + self.random * self.random_mass + self.within * self.within_mass
        return isotonic(matched / every, every)

    def clean_probability(self, z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n,) P(matched)."""
        from scipy.interpolate import RegularGridInterpolator

        at = np.column_stack([np.clip(x, c[0], c[-1]) for x, c in ((z, Z_CENTRES), (v, V_CENTRES))])
        return np.asarray(RegularGridInterpolator((Z_CENTRES, V_CENTRES), self.clean_grid())(at))

    def within_odds(self, z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n,) how much likelier a mismatch is one within its kind than a random one."""
        i, j = (np.clip(np.searchsorted(e, x) - 1, 0, len(e) - 2) for e, x in ((Z_EDGES, z), (V_EDGES, v)))
        odds: np.ndarray = (
            self.within * self.within_mass[i, j] / np.maximum(self.random * self.random_mass[i, j], 1e-12)
        )
        return odds


def histogram(z: np.ndarray, v: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """(z cells, v cells) float64 of the pairs whose standing is known.

    z, v: (n,) float64.  weight: (n,) of the pairs, None counts each once.
    """
    known = ~np.isnan(v)
    weights = None if weight is None else weight[known]
    counts: np.ndarray = np.histogram2d(z[known], v[known], [Z_EDGES, V_EDGES], weights=weights)[0]
    return counts


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Mass of a sampled density, positive everywhere."""
    mass = gaussian_filter(counts, SMOOTHING, mode="nearest")
    mass += 1e-9 * mass.sum() / mass.size + 1e-12
    return np.asarray(mass / mass.sum())


def fit(
    counts: np.ndarray, random: np.ndarray, within: np.ndarray | None = None, *, mismatched: float | None = None
) -> Bivariate:
    """counts: (z cells, v cells) of the pairs.  random, within: masses; None fits no mismatches within kinds.

    mismatched: the share of both kinds together, where it is known.
    """
    problem = _Problem.of(counts, random, within, mismatched)
    starts = [np.array([0.0, -0.5, mu, np.log(sigma), 0.6 * mu, -0.3, 0.8]) for mu, sigma in STARTS]
    found = [minimize(problem, start, method="L-BFGS-B", bounds=BOUNDS, options={"maxiter": 200}) for start in starts]
    best = min(found, key=lambda result: result.fun)
    mixture, shape = problem.read(best.x)
    mass = random if within is None else within
    return Bivariate(float(mixture[0]), float(mixture[1]), shape, random, mass, -float(best.fun))


def with_errors(counts: np.ndarray, found: Bivariate) -> Bivariate:
    """The same, with the errors that the curvature of the log likelihood gives (the delta method)."""
    problem = _Problem.of(counts, found.random_mass, found.within_mass, None)
    best = problem.write(found)
    each = np.eye(len(best)) * STEP
    curvature = [
        [problem(best + a + b) - problem(best + a - b) - problem(best - a + b) + problem(best - a - b) for b in each]
        for a in each
    ]
    covariance = np.linalg.pinv(np.array(curvature) / (4 * STEP**2), hermitian=True)[:2, :2]
    total, part = expit(best[:2])
    slope = total * (1 - total), total * part * (1 - part)
    ways = np.array([[slope[0], 0], [slope[0] * part, slope[1]], [slope[0] * (1 - part), -slope[1]]])
    variance = np.maximum(np.einsum("ij,jk,ik->i", ways, covariance, ways), 0)
    # At least what counting so many pairs leaves in doubt.
    least = total * (1 - total) / max(1.0, float(counts.sum()))
    return replace(found, errors=tuple((1.96 * np.sqrt(np.maximum(variance, least))).tolist()))


@dataclass(frozen=True)
class _Problem:
    """The negative log likelihood.  Parameters: logits of the mismatched share and, among these, of the random ones;
    mean and log sigma of z, and of v; the inverse hyperbolic tangent of their correlation."""

    counts: np.ndarray
    random: np.ndarray
    within: np.ndarray | None
    mismatched: float | None

    @staticmethod
    def of(counts: np.ndarray, random: np.ndarray, within: np.ndarray | None, mismatched: float | None) -> _Problem:
        return _Problem(cells(counts), cells(random), None if within is None else cells(within), mismatched)

    def read(self, parameters: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float, float]]:
        """(random, within, matched) shares, and the shape of the matched pairs."""
        total, part, mean_z, log_z, mean_v, log_v, correlation = parameters.tolist()
        share = expit(total) if self.mismatched is None else self.mismatched
        random = 1.0 if self.within is None else float(expit(part))
        shares = np.array([share * random, share * (1 - random), 1 - share])
        return shares, (mean_z, float(np.exp(log_z)), mean_v, float(np.exp(log_v)), float(np.tanh(correlation)))

    @staticmethod
    def write(found: Bivariate) -> np.ndarray:
        mean_z, sd_z, mean_v, sd_v, correlation = found.shape
        share = np.clip([found.mismatched, found.random / max(found.mismatched, 1e-9)], 1e-6, 1 - 1e-6)
        return np.array([*logit(share), mean_z, np.log(sd_z), mean_v, np.log(sd_v), np.arctanh(correlation)])

    def __call__(self, parameters: np.ndarray) -> float:
        shares, shape = self.read(parameters)
        mix = shares[0] * self.random + shares[2] * cells(normal_mass(shape))
        if self.within is not None:
            mix = mix + shares[1] * self.within
        log_z, log_v, correlation = parameters[3], parameters[5], parameters[6]
        beyond = (
            max(log_z, 0.0),
            max(np.log(LEAST_SIGMA) - log_z, 0.0),
            max(np.log(LEAST_SIGMA) - log_v, 0.0),
            max(abs(correlation) - np.arctanh(MOST_CORRELATED), 0.0),
        )
        penalty = 0.5 * float(np.square(beyond).sum()) / SPREAD**2
        return penalty - float((self.counts * np.log(np.maximum(mix, 1e-300))).sum())


def normal_mass(shape: tuple[float, float, float, float, float]) -> np.ndarray:
    """(z cells, v cells) mass of a bivariate normal, by that of v at the middle of each cell of z."""
    mean_z, sd_z, mean_v, sd_v, correlation = shape
    middle = Z_CENTRES.copy()
    above = (Z_EDGES[-2] - mean_z) / sd_z
    mills = np.exp(-0.5 * above**2) / np.sqrt(2 * np.pi) / max(float(ndtr(-above)), 1e-300)
    middle[-1] = mean_z + sd_z * mills  # the mean of all that is above the last edge
    of_z = np.diff(ndtr((Z_EDGES - mean_z) / sd_z))
    mean = mean_v + correlation * sd_v / sd_z * (middle - mean_z)
    of_v = np.diff(ndtr((V_EDGES - mean[:, None]) / (sd_v * np.sqrt(1 - correlation**2))), axis=1)
    return np.asarray(of_z[:, None] * of_v)


def isotonic(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The nearest values, in weighted least squares, that fall along neither axis (Dykstra and Robertson 1982).

    values, weight: (a, b) float64, weight positive.
    """
    from scipy.optimize import isotonic_regression

    def along(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        lines = zip(x.T, w.T, strict=True)
        return np.array([isotonic_regression(line, weights=of).x for line, of in lines]).T

    by_column, by_row = np.zeros_like(values), np.zeros_like(values)
    found = values
    for _ in range(ISOTONIC_ROUNDS):
        first = along(values + by_row, weight)
        by_column = first - (values + by_row)
        found = along((values + by_column).T, weight.T).T
        by_row = found - (values + by_column)
        if np.abs(found - first).max() < 1e-6:
            break
    # What is left of the alternation.
    return np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1)


def cells(mass: np.ndarray) -> np.ndarray:
    """(z cells, v cells) -> (cells,), what the likelihood sees: above TOP_V, and above the last edge of z, only the
    mass."""
    body = np.concatenate([mass[:, :_ONE], mass[:, _ONE:].sum(1, keepdims=True)], axis=1)
    return np.concatenate([body[:-1].ravel(), [body[-1].sum()]])
