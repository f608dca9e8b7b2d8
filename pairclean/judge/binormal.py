"""How many of the pairs are mismatched, from the distribution of their evidence.

The evidence z of random mismatches is standard normal by construction. That of matched pairs is taken to be normal,
N(mu, sigma), the binormal model of signal detection (Dorfman and Alf 1969); above z = 2.25 only its mass counts.
Mismatches that resemble matches have the density of re-pairings within kinds, which is sampled:

    f(z) = r N(0, 1) + w f_within(z) + (1 - r - w) N(mu, sigma)

fitted by EM. Only the shape of the matched pairs' lower tail is assumed. Where an encoder tells little, mu is near 0
and very different rates explain the same evidence; the profile likelihood of r + w then says so by a wide interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr

LOW, TOP, CELLS = -4.0, 3.0, 140
EDGES = np.concatenate([[-np.inf], np.linspace(LOW, TOP, CELLS + 1), [np.inf]])
#: Cells of the fit, which takes those above z = 2.25 as one. A kind of a hundred captions has some 2,000 decoys, of
#: which 24 are above that, and where captions resemble one another these are such as happen to fit: a few of them crowd
#: the evidence together or spread it out. When cells up to 3 were fitted, the matched pairs of small sets of photos
#: were taken for a narrow peak, and those below it for mismatched (docs/methods.md).
FITTED = 126
FITTED_EDGES = np.append(EDGES[: FITTED + 1], np.inf)
#: Evidence is crowded between the fitted cells and TOP if there are twice as many pairs as the fit says, and this many.
CROWD = 10
CENTRES = np.concatenate([[LOW], (EDGES[1:-2] + EDGES[2:-1]) / 2, [TOP]])
RANDOM = np.diff(ndtr(EDGES))
#: Matched pairs of a weak encoder vary as random ones do; a matched density that is wider is penalised, as it would
#: take mismatches for matches: standard deviation of log sigma above 0.
SPREAD = 0.05
LEAST_SIGMA = 0.2
ITERATIONS = 400
#: Where EM starts: a strong and a weak encoder.
STARTS = ((3.0, 0.6), (1.3, 1.0))
#: Half of the 95% quantile of chi-squared with one degree of freedom.
DROP = 1.920729


@dataclass(frozen=True)
class Binormal:
    """The fitted model.  random, within: shares of the pairs.  mu, sigma: of the matched pairs' evidence.

    within_mass: (cells,) of re-pairings within kinds.  log_likelihood: of the fit, less the penalty.
    random_mass: (cells,) of random re-pairings, standard normal among all of them.
    crowded: whether there are far more pairs between the fitted cells and TOP than the fit says.
    """

    random: float
    within: float
    mu: float
    sigma: float
    within_mass: np.ndarray
    log_likelihood: float
    random_mass: np.ndarray = field(default_factory=lambda: RANDOM)
    crowded: bool = False

    @property
    def mismatched(self) -> float:
        return self.random + self.within

    def matched_mass(self) -> np.ndarray:
        return np.diff(ndtr((EDGES - self.mu) / self.sigma))


def histogram(z: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """(cells,) float64.  z: (n,) evidence; weight: (n,) of the pairs, None counts each once."""
    return np.histogram(z, EDGES, weights=weight)[0].astype(np.float64)


def smoothed(counts: np.ndarray) -> np.ndarray:
    """(cells,) mass of a sampled density: counts under a Gaussian kernel, the two tails left as they are."""
    x = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (x / 1.5) ** 2)
    body = np.convolve(np.pad(counts[1:-1], 8, "reflect"), kernel / kernel.sum(), "valid")
    mass = np.concatenate([counts[:1], body, counts[-1:]]) + 1e-12
    return mass / mass.sum()


def fit(counts: np.ndarray, within: np.ndarray | None = None, *, mismatched: float | None = None) -> Binormal:
    """counts: (cells,) of the pairs' evidence.  within: (cells,) mass; None fits no mismatches within kinds.

    mismatched: the share of both kinds together, where it is known.
    """
    fits = [_em(counts, within, np.array([-1.0 if mismatched is None else mismatched]), start) for start in STARTS]
    found = max((found.at(0) for found in fits), key=lambda found: found.log_likelihood)
    return replace(found, crowded=_is_crowded(counts, found))


def _is_crowded(counts: np.ndarray, found: Binormal) -> bool:
    noise = found.random * found.random_mass + found.within * found.within_mass
    expected = counts.sum() * (noise + (1 - found.mismatched) * found.matched_mass())[FITTED:-1].sum()
    return bool(counts[FITTED:-1].sum() > 2 * expected + CROWD)


def interval(counts: np.ndarray, found: Binormal) -> tuple[float, float]:
    """The shares of mismatched pairs whose profile likelihood is within DROP of the best one's."""
    n = max(1.0, float(counts.sum()))
    near = found.mismatched + np.linspace(-4, 4, 33) * np.sqrt((found.mismatched * (1 - found.mismatched) + 1 / n) / n)
    grid = np.unique(np.clip(np.concatenate([np.linspace(0, 1, 51), near]), 0, 1))
    within = found.within_mass if found.within else None
    starts = (*STARTS, (found.mu, found.sigma))
    profile = np.max([_em(counts, within, grid, start).log_likelihood for start in starts], axis=0)
    best = max(float(profile.max()), found.log_likelihood)
    inside = np.flatnonzero(profile >= best - DROP)
    if not len(inside):
        return found.mismatched, found.mismatched
    return _crossing(grid, profile, best - DROP, inside[0], -1), _crossing(grid, profile, best - DROP, inside[-1], 1)


def _crossing(grid: np.ndarray, profile: np.ndarray, level: float, inside: int, step: int) -> float:
    """Where the profile crosses the level, between a grid point inside and the next one outside."""
    outside = inside + step
    if not 0 <= outside < len(grid):
        return float(grid[inside])
    share = (profile[inside] - level) / max(profile[inside] - profile[outside], 1e-12)
    return float(grid[inside] + share * (grid[outside] - grid[inside]))


@dataclass(frozen=True)
class _Fits:
    """Several fits side by side, (g,) each."""

    random: np.ndarray
    within: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    within_mass: np.ndarray
    log_likelihood: np.ndarray

    def at(self, i: int) -> Binormal:
        random, within, mu, sigma, value = (
            float(x[i]) for x in (self.random, self.within, self.mu, self.sigma, self.log_likelihood)
        )
        return Binormal(random, within, mu, sigma, self.within_mass, value)


def _em(counts: np.ndarray, within: np.ndarray | None, mismatched: np.ndarray, start: tuple[float, float]) -> _Fits:
    """counts: (cells,), or (g, cells) of several samples.

    mismatched: (g,) the fixed share of both kinds of mismatches, negative where it is to be fitted."""
    g = len(mismatched)
    counts = np.broadcast_to(_fitted(counts), (g, FITTED + 1))
    n = np.maximum(counts.sum(1, keepdims=True), 1e-12)
    noise = _fitted(np.stack([RANDOM] if within is None else [RANDOM, within]))
    fixed = mismatched >= 0
    total = np.where(fixed, mismatched, 0.2)
    share = np.repeat(total[:, None] / len(noise), len(noise), axis=1)
    mu, sigma = np.full(g, start[0]), np.full(g, start[1])
    before = np.full(g, -np.inf)
    value = before
    for step in range(ITERATIONS):
        mass = np.diff(ndtr((FITTED_EDGES - mu[:, None]) / sigma[:, None]), axis=1) + 1e-300
        parts = share[:, :, None] * noise
        mix = parts.sum(1) + (1 - share.sum(1))[:, None] * mass
        value = (counts * np.log(np.maximum(mix, 1e-300))).sum(1) - 0.5 * (np.maximum(np.log(sigma), 0) / SPREAD) ** 2
        if step % 20 == 19:
            if np.abs(value - before).max() < 1e-4:
                break
            before = value
        posterior = parts / mix[:, None]
        found = (posterior * counts[:, None]).sum(2) / n
        share = np.where(fixed[:, None], found * (total / np.maximum(found.sum(1), 1e-300))[:, None], found)
        mu, sigma = _normal(counts * np.maximum(1 - posterior.sum(1), 0), mu, sigma)
    within_share = share[:, 1] if len(noise) > 1 else np.zeros(g)
    return _Fits(share[:, 0], within_share, mu, sigma, RANDOM if within is None else within, value)


def _fitted(mass: np.ndarray) -> np.ndarray:
    """(..., cells) -> (..., FITTED + 1), the cells above as one."""
    return np.concatenate([mass[..., :FITTED], mass[..., FITTED:].sum(-1, keepdims=True)], axis=-1)


def _normal(weight: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of EM for normals of which nothing but the mass is known above the fitted cells.

    weight: (g, FITTED + 1).
    """
    n = weight.sum(1) + 1e-9
    a = (EDGES[FITTED] - mu) / sigma
    # Moments of the part above, under the present normal (inverse Mills ratio).
    tail = np.maximum(ndtr(-a), 1e-300)
    mills = np.exp(-0.5 * a * a) / np.sqrt(2 * np.pi) / tail
    mean_above = mu + sigma * mills
    second_above = sigma**2 * (1 + a * mills - mills**2) + mean_above**2
    body, above, centres = weight[:, :-1], weight[:, -1], CENTRES[:FITTED]
    new_mu = (body @ centres + above * mean_above) / n
    second = (body @ centres**2 + above * second_above) / n
    variance = np.maximum(second - new_mu**2, LEAST_SIGMA**2)
    log_sigma = 0.5 * np.log(variance)
    # The penalty above sigma = 1: the root of 1 - variance exp(-2u) + u / (n SPREAD^2) in u = log sigma.
    u = np.maximum(log_sigma, 0)
    for _ in range(8):
        slope = 2 * variance * np.exp(-2 * u) + 1 / (n * SPREAD**2)
        u = np.maximum(u - (1 - variance * np.exp(-2 * u) + u / (n * SPREAD**2)) / slope, 0)
    return new_mu, np.exp(np.where(log_sigma > 0, u, log_sigma))


def ratio(model: Binormal, z: np.ndarray) -> np.ndarray:
    """(n,) density of the evidence of matched pairs over that of mismatched ones, made to rise in z.

    Neighbouring cells whose ratios fall are pooled (isotonic regression), which keeps the mean of the probabilities.
    Above the fitted cells only the mass of the matched pairs is known: where they are crowded there, and not spread as
    the normal is, the ratio is at least that of the masses.
    """
    from scipy.optimize import isotonic_regression

    matched = np.maximum(model.matched_mass(), 1e-300)
    noise = max(model.random, 1e-12) * model.random_mass
    if model.within:
        noise = noise + model.within * model.within_mass
    noise = np.maximum(noise / noise.sum(), 1e-300)
    both = matched + noise
    share = matched / both
    if model.crowded:
        share[FITTED:] = np.maximum(share[FITTED:], matched[FITTED:].sum() / both[FITTED:].sum())
    share = isotonic_regression(share, weights=both).x
    log = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
    return np.exp(np.clip(np.interp(z, CENTRES, log), -700, 700))


def ratio_to_random(model: Binormal, z: np.ndarray) -> np.ndarray:
    """(n,) as `ratio`, with random mismatches as the only ones."""
    return ratio(replace(model, random=1.0, within=0.0), z)


def density(mass: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n,) of a mass over the cells, linear between their centres; the two tails are spread over one unit."""
    width = (TOP - LOW) / CELLS
    height = np.concatenate([mass[:1], mass[1:-1] / width, mass[-1:]])
    return np.interp(z, CENTRES, height)
