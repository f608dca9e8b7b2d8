"""Random mismatches, mismatches of another sort, and matched pairs, by their evidence z and something else, v.

    f(z, v) = r f_random(z, v) + w f_within(z, v) + (1 - r - w) N2(z, v)

v is the standing of a pair, and the other sort are mismatches within kinds; or it is the fit of its weakest phrase
(`phrased`), and they are captions that are partly wrong, whose share is called `within` here too.

The first two densities are sampled, by re-pairings or by captions of which a phrase was exchanged. Matched pairs are
bivariate normal, the binormal model of signal detection (Dorfman and Alf 1969) in two dimensions; above the top only
the mass in z and in v counts, so that only the lower tails are assumed. By z alone, mismatches within kinds look like
matched pairs that score low; v tells them apart, since it is uniform among re-pairings within kinds. The fit of a
weakest phrase is a minimum and skewed to the left; it is taken to be normal after an exponential transformation
(Manly 1976),

    v -> (exp(k v) - 1) / k,    k >= 0,

whose k is fitted with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtr

from .binormal import LEAST_SIGMA, SPREAD, STARTS

#: Edges of the cells of z, with a last cell for all that is above. How many cells are below that one; and how many are
#: below z = 2.5, where decoys are many. (`binormal` fits up to 2.25; what tells mismatches within kinds needs more.)
Z_EDGES = np.concatenate([[-np.inf], np.linspace(-3.0, 3.0, 49), [np.inf]])
EVERY, COVERED = len(Z_EDGES) - 2, int(np.searchsorted(Z_EDGES, 2.5))
#: Of the parameters (`_Problem`), where a normal would have no mass in the cells or none between them.
BOUNDS = [(-16, 16), (-16, 16), (-3, 9), (-2, 1.5), (-3, 6), (-2, 1.5), (-2, 2)]
SKEWED_BOUNDS = [*BOUNDS[:4], (-3, 20), (-2, 3), BOUNDS[6], (0, 1)]
ISOTONIC_ROUNDS = 100
#: Of the parameters, for the curvature.
STEP = 1e-3
#: Correlations beyond this are penalised as much as a sigma above 1: the normal would become a line.
MOST_CORRELATED = float(np.tanh(1.8))


def _centres(edges: np.ndarray) -> np.ndarray:
    return np.concatenate([[edges[1]], (edges[1:-2] + edges[2:-1]) / 2, [edges[-2]]])


@dataclass(frozen=True)
class Axis:
    """The cells of v.  edges: with a last cell for all that is above.  top: the fit takes the cells above it as one.

    smoothing: Gaussian kernel of sampled densities, in cells.  skewed: whether k is fitted; it is 0 otherwise.
    whole: whether v counts where z is above its last edge: a strong encoder puts captions that are half right there.
    """

    edges: np.ndarray
    top: float
    smoothing: float
    skewed: bool
    whole: bool

    @staticmethod
    def of(limit: float, cells: int, top: float, smoothing: float, skewed: bool, whole: bool) -> Axis:
        edges = np.concatenate([[-np.inf], np.linspace(-limit, limit, cells + 1), [np.inf]])
        return Axis(edges, top, smoothing, skewed, whole)

    @property
    def centres(self) -> np.ndarray:
        return _centres(self.edges)


Z_CENTRES = _centres(Z_EDGES)
STANDING = Axis.of(2.2, 22, top=1.2, smoothing=0.8, skewed=False, whole=False)
WEAKEST = Axis.of(3.0, 48, top=3.0, smoothing=1.5, skewed=True, whole=True)
AXES = {"standing": STANDING, "weakest": WEAKEST}
Shape = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Bivariate:
    """random, within: shares of the pairs.  shape: means and standard deviations of z and of v (transformed), their
    correlation, and k.

    random_mass, within_mass: (z cells, v cells).
    log_likelihood: of the fit, less the penalties.  errors: half the intervals of the mismatched, random and within
    shares.  axis: the name of v in AXES.
    """

    random: float
    within: float
    shape: Shape
    random_mass: np.ndarray
    within_mass: np.ndarray
    log_likelihood: float
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: str = "standing"

    @property
    def mismatched(self) -> float:
        return self.random + self.within

    def clean_grid(self) -> np.ndarray:
        """(z cells, v cells) P(matched), made to rise in z and in v."""
        matched = (1 - self.mismatched) * normal_mass(self.shape, AXES[self.axis])
        every = matched + self.random * self.random_mass + self.within * self.within_mass
        return isotonic(matched / every, every)

    def clean_probability(self, z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n,) P(matched)."""
        from scipy.interpolate import RegularGridInterpolator

        centres = Z_CENTRES, AXES[self.axis].centres
        at = np.column_stack([np.clip(x, c[0], c[-1]) for x, c in zip((z, v), centres, strict=True)])
        return np.asarray(RegularGridInterpolator(centres, self.clean_grid())(at))

    def within_odds(self, z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n,) how much likelier a mismatch is of the other sort than a random one."""
        edges = Z_EDGES, AXES[self.axis].edges
        i, j = (np.clip(np.searchsorted(e, x) - 1, 0, len(e) - 2) for e, x in zip(edges, (z, v), strict=True))
        odds: np.ndarray = (
            self.within * self.within_mass[i, j] / np.maximum(self.random * self.random_mass[i, j], 1e-12)
        )
        return odds


def histogram(z: np.ndarray, v: np.ndarray, weight: np.ndarray | None = None, *, axis: Axis = STANDING) -> np.ndarray:
    """(z cells, v cells) float64 of the pairs whose v is known.

    z, v: (n,) float64, v NaN where it is not known.  weight: (n,) of the pairs, None counts each once.
    """
    known = ~np.isnan(v)
    weights = None if weight is None else weight[known]
    counts: np.ndarray = np.histogram2d(z[known], v[known], [Z_EDGES, axis.edges], weights=weights)[0]
    return counts


def smoothed(counts: np.ndarray, *, axis: Axis = STANDING) -> np.ndarray:
    """Mass of a sampled density, positive everywhere."""
    mass = gaussian_filter(counts, axis.smoothing, mode="nearest")
    mass += 1e-9 * mass.sum() / mass.size + 1e-12
    return np.asarray(mass / mass.sum())


def fit(
    counts: np.ndarray,
    random: np.ndarray,
    within: np.ndarray | None = None,
    *,
    mismatched: float | None = None,
    axis: str = "standing",
    rows: int = EVERY,
) -> Bivariate:
    """counts: (z cells, v cells) of the pairs.  random, within: masses; None fits no mismatches of the other sort.

    mismatched: the share of both sorts together, where it is known.  axis: the name of v in AXES.  rows: cells of z
    that are fitted one by one; those above them count as one.
    """
    problem = _Problem.of(counts, random, within, mismatched, axis, rows)
    starts = [np.array([0.0, -0.5, mu, np.log(sigma), 0.6 * mu, -0.3, 0.8]) for mu, sigma in STARTS]
    bounds = BOUNDS
    if AXES[axis].skewed:
        ends = [(mu, sigma, k, (np.exp(0.8 * k * mu) - 1) / k) for mu, sigma in STARTS for k in (0.01, 0.3)]
        starts = [np.array([0.0, -0.5, mu, np.log(sigma), mean, 0.0, 0.5, k]) for mu, sigma, k, mean in ends]
        bounds = SKEWED_BOUNDS
    found = [minimize(problem, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300}) for start in starts]
    best = min(found, key=lambda result: result.fun)
    mixture, shape = problem.read(best.x)
    mass = random if within is None else within
    return Bivariate(float(mixture[0]), float(mixture[1]), shape, random, mass, -float(best.fun), axis=axis)


def with_errors(counts: np.ndarray, found: Bivariate) -> Bivariate:
    """The same, with the errors that the curvature of the log likelihood gives (the delta method)."""
    problem = _Problem.of(counts, found.random_mass, found.within_mass, None, found.axis, EVERY)
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
    mean and log sigma of z, and of v; the inverse hyperbolic tangent of their correlation; k if the axis is skewed."""

    counts: np.ndarray
    random: np.ndarray
    within: np.ndarray | None
    mismatched: float | None
    axis: Axis
    rows: int

    @staticmethod
    def of(
        counts: np.ndarray,
        random: np.ndarray,
        within: np.ndarray | None,
        mismatched: float | None,
        axis: str,
        rows: int,
    ) -> _Problem:
        of = AXES[axis]
        masses = cells(random, of, rows), None if within is None else cells(within, of, rows)
        return _Problem(cells(counts, of, rows), *masses, mismatched, of, rows)

    def read(self, parameters: np.ndarray) -> tuple[np.ndarray, Shape]:
        """(random, within, matched) shares, and the shape of the matched pairs."""
        total, part, mean_z, log_z, mean_v, log_v, correlation, *skew = parameters.tolist()
        share = expit(total) if self.mismatched is None else self.mismatched
        random = 1.0 if self.within is None else float(expit(part))
        shares = np.array([share * random, share * (1 - random), 1 - share])
        k = skew[0] if skew else 0.0
        return shares, (mean_z, float(np.exp(log_z)), mean_v, float(np.exp(log_v)), float(np.tanh(correlation)), k)

    def write(self, found: Bivariate) -> np.ndarray:
        mean_z, sd_z, mean_v, sd_v, correlation, k = found.shape
        share = np.clip([found.mismatched, found.random / max(found.mismatched, 1e-9)], 1e-6, 1 - 1e-6)
        skew = [k] if self.axis.skewed else []
        return np.array([*logit(share), mean_z, np.log(sd_z), mean_v, np.log(sd_v), np.arctanh(correlation), *skew])

    def __call__(self, parameters: np.ndarray) -> float:
        shares, shape = self.read(parameters)
        mix = shares[0] * self.random + shares[2] * cells(normal_mass(shape, self.axis), self.axis, self.rows)
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


def normal_mass(shape: Shape, axis: Axis = STANDING) -> np.ndarray:
    """(z cells, v cells) of a bivariate normal of z and v transformed, by that of v at the middle of each cell of z."""
    mean_z, sd_z, mean_v, sd_v, correlation, k = shape
    v_edges = axis.edges
    if k > 1e-6:
        v_edges = np.concatenate([[-np.inf], np.expm1(k * v_edges[1:-1]) / k, [np.inf]])
    middle = Z_CENTRES.copy()
    above = (Z_EDGES[-2] - mean_z) / sd_z
    mills = np.exp(-0.5 * above**2) / np.sqrt(2 * np.pi) / max(float(ndtr(-above)), 1e-300)
    middle[-1] = mean_z + sd_z * mills  # the mean of all that is above the last edge
    of_z = np.diff(ndtr((Z_EDGES - mean_z) / sd_z))
    mean = mean_v + correlation * sd_v / sd_z * (middle - mean_z)
    of_v = np.diff(ndtr((v_edges - mean[:, None]) / (sd_v * np.sqrt(1 - correlation**2))), axis=1)
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


def cells(mass: np.ndarray, axis: Axis = STANDING, rows: int = EVERY) -> np.ndarray:
    """What the likelihood sees: above the axis' top only the mass, and above the rows of z too unless `whole`."""
    one = int(np.searchsorted(axis.edges, axis.top))
    body = np.concatenate([mass[:, :one], mass[:, one:].sum(1, keepdims=True)], axis=1)
    body = np.concatenate([body[:rows], body[rows:].sum(0, keepdims=True)])
    return body.ravel() if axis.whole else np.concatenate([body[:-1].ravel(), [body[-1].sum()]])
