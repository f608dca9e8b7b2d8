"""The mismatch rate where some captions tell much less than others: strata of pairs by the spread of their captions.

A short or vague caption fits many images about equally well. Its own image then stands out less from the others, so
that it gives less evidence when it is right, and matched pairs as a whole are not of one normal distribution: those of
vague captions look like mismatches. How much a caption tells is seen without its own image, by how widely its
similarities with other images spread. In every stratum s of that spread

    f(z, v | s) = r_s f_random(z, v | s) + w_s f_within(z, v | s) + (1 - r_s - w_s) N(z; mu_s, sigma_s) N(v; a + b z, c)

with z and v as in `bivariate`. The first two densities are sampled within the stratum; r_s / (r_s + w_s) is the same in
all. Neighbouring strata are alike: the logit of r_s + w_s, mu_s and log sigma_s are random walks over the strata, whose
steps have the standard deviations STEPS. So a stratum that can tell its own rate does, and one that cannot takes that
of its neighbours. The fit maximises the penalised likelihood; the error of the total is that of its curvature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtr

from . import binormal, bivariate
from .binormal import LEAST_SIGMA, SPREAD, STARTS, Binormal
from .bivariate import STANDING, Z_CENTRES, Z_EDGES, Bivariate
from .evidence import Scored

#: Strata, at most, and pairs in each, at least; fewer than FEWEST strata say nothing.
MOST, PAIRS, FEWEST = 10, 200, 3
#: Of the logit of the rate, of mu and of log sigma, from one of MOST strata to the next.
STEPS = (0.15, 1.0, 0.3)
#: The gain in log likelihood per pair over matched pairs that are alike in all strata, from which on strata are used.
#: Drawn scenes, whose captions name one to three things, gained .04 to .06; product titles and human captions of photos
#: .002 to .018. An encoder that is weak on such photos gained up to .011, and its rate was worse with strata.
GAIN_PER_PAIR = 0.025
#: How closely a total that is given is kept.
KEPT = 1e-3
#: Of the logit of the rate, of mu and of log sigma; of the logit of the random share, and of a, b and log c.
BOUNDS = ((-9.0, 9.0), (-1.0, 8.0), (-2.0, 1.5))
PART_BOUNDS, LINE_BOUNDS = (-9.0, 9.0), ((-6.0, 6.0), (-2.0, 2.0), (-2.0, 1.5))
#: The edges of the cells of v, of which those above the top count as one (as in `bivariate`).
ONE = int(np.searchsorted(STANDING.edges, STANDING.top))
V_EDGES = np.append(STANDING.edges[: ONE + 1], np.inf)
#: Of the parameters, for the curvature.
STEP = 1e-4


@dataclass(frozen=True)
class Strata:
    """Models of the pairs by the spread of their captions.

    cuts: (S - 1,) float64 ascending spreads at which a stratum ends and the next begins.
    models: S, of the evidence alone.  joints: S, of evidence and standing; none where the standing was not used.
    random, within: shares of all pairs.  errors: half the intervals of the mismatched, random and within shares.
    """

    cuts: np.ndarray
    models: tuple[Binormal, ...]
    joints: tuple[Bivariate, ...]
    random: float
    within: float
    errors: tuple[float, float, float]

    @property
    def mismatched(self) -> float:
        return self.random + self.within

    def of(self, spread: np.ndarray) -> np.ndarray:
        """(n,) int64 stratum of each spread, (n,) float64; -1 where it is NaN."""
        return _stratum(spread, self.cuts)


@dataclass(frozen=True)
class Sample:
    """Pairs, or re-pairings.  z, v, spread, weight: (n,) float64; v and the spread are NaN where they are not known."""

    z: np.ndarray
    v: np.ndarray
    spread: np.ndarray
    weight: np.ndarray

    @staticmethod
    def of(z: np.ndarray, scored: Scored, weight: np.ndarray | None = None) -> Sample:
        """z: (n,) the evidence of what is scored.  weight: (n,); None counts each once."""
        return Sample(z, scored.standing, scored.spread, np.ones(len(z)) if weight is None else weight)


def fit_needed(
    pairs: Sample, random: Sample, within: Sequence[Sample], *, by_standing: bool
) -> tuple[Strata, float, float] | None:
    """The strata, and the ends of the share of mismatched pairs; None where pairs are alike in all strata.

    within: re-pairings within kinds, from the coarsest kinds to the finest; empty without such mismatches. The strata
    are those of the middle one; the ends include the shares by the others.  by_standing: whether v is used.
    """
    cuts = cuts_of(pairs.spread)
    if not len(cuts):
        return None
    each, alike = (_Problem.of(pairs, random, None, cuts, each=each) for each in (True, False))
    if alike.best().fun - each.best().fun <= GAIN_PER_PAIR * each.counts.sum():
        return None
    scales: Sequence[Sample | None] = within or [None]
    fits = [fit(pairs, random, sample, cuts, by_standing=by_standing) for sample in scales]
    found, shares = fits[len(fits) // 2], [other.mismatched for other in fits]
    low, high = (found.mismatched + side * found.errors[0] for side in (-1, 1))
    return found, max(0.0, min(low, *shares)), min(1.0, max(high, *shares))


def fit(
    pairs: Sample,
    random: Sample,
    within: Sample | None,
    cuts: np.ndarray,
    *,
    by_standing: bool,
    mismatched: float | None = None,
) -> Strata:
    """cuts: as in `Strata`.  within, by_standing: as in `fit_needed`.  mismatched: the share, where it is known."""
    problem = _Problem.of(pairs, random, within, cuts, by_standing=by_standing, mismatched=mismatched)
    best = problem.best()
    at = problem.read(best.x)
    of_random, of_within = _evidence(random, cuts), _evidence(within or random, cuts)
    value, count = -float(best.fun), range(len(at.rate))
    share = [(float(rate * at.part), float(rate * (1 - at.part))) for rate in at.rate]
    models = tuple(
        Binormal(*share[k], float(at.mu[k]), float(at.sigma[k]), of_within[k], value, of_random[k]) for k in count
    )
    joints: tuple[Bivariate, ...] = ()
    if by_standing:
        masses = _masses(random, cuts, True), _masses(within or random, cuts, True)
        joints = tuple(Bivariate(*share[k], at.shape(k), masses[0][k], masses[1][k], value) for k in count)
    total = float(problem.weight @ at.rate)
    return Strata(cuts, models, joints, total * at.part, total * (1 - at.part), problem.errors(best.x))


def cuts_of(spread: np.ndarray) -> np.ndarray:
    """Quantiles of the spread, (S - 1,) float64; none if the pairs are too few, or too many are of the same spread."""
    known = spread[~np.isnan(spread)]
    count = min(MOST, len(known) // PAIRS)
    cuts = np.unique(np.quantile(known, np.arange(1, count) / count)) if count >= FEWEST else np.zeros(0)
    return cuts if len(cuts) >= FEWEST - 1 else np.zeros(0)


def _stratum(spread: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """(n,) int64, -1 where the spread is NaN."""
    return np.where(np.isnan(spread), -1, np.searchsorted(cuts, spread, "right"))


def _members(sample: Sample, cuts: np.ndarray) -> list[np.ndarray]:
    stratum = _stratum(sample.spread, cuts)
    return [np.flatnonzero(stratum == k) for k in range(len(cuts) + 1)]


def _evidence(sample: Sample, cuts: np.ndarray) -> list[np.ndarray]:
    """The mass of z in each stratum, on the cells of `binormal`."""
    each = _members(sample, cuts)
    # A few from the standard normal, so that no tail is empty.
    return [binormal.smoothed(binormal.histogram(sample.z[m], sample.weight[m]) + 10 * binormal.RANDOM) for m in each]


def _counts(sample: Sample, cuts: np.ndarray, by_standing: bool) -> np.ndarray:
    """(S, z cells, v cells) on the cells of `bivariate`; a single cell of v where the standing is not used."""
    z, v, weight = sample.z, sample.v, sample.weight
    if by_standing:
        return np.stack([bivariate.histogram(z[m], v[m], weight[m]) for m in _members(sample, cuts)])
    return np.stack([np.histogram(z[m], Z_EDGES, weights=weight[m])[0][:, None] for m in _members(sample, cuts)])


def _masses(sample: Sample, cuts: np.ndarray, by_standing: bool) -> np.ndarray:
    return np.stack([bivariate.smoothed(counts) for counts in _counts(sample, cuts, by_standing)])


@dataclass(frozen=True)
class _At:
    """Parameters as they are meant.  rate, mu, sigma: (S,).  part: the random share of mismatches.  line: a, b, c."""

    rate: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    part: float
    line: tuple[float, float, float]

    def shape(self, k: int) -> bivariate.Shape:
        mu, sigma, (a, b, c) = float(self.mu[k]), float(self.sigma[k]), self.line
        sd = float(np.hypot(c, b * sigma))
        return mu, sigma, a + b * mu, sd, b * sigma / sd, 0.0


@dataclass(frozen=True)
class _Problem:
    """The negative penalised log likelihood and its gradient.

    Parameters: the logits of the S rates, S times mu, S times log sigma, and with `within` the logit of the random
    share, with more than one cell of v a, b and log c.  each: False has one mu and one sigma for all strata.
    counts, random, within: (S, z cells, v cells).
    """

    counts: np.ndarray
    random: np.ndarray
    within: np.ndarray | None
    each: bool
    mismatched: float | None

    @staticmethod
    def of(
        pairs: Sample,
        random: Sample,
        within: Sample | None,
        cuts: np.ndarray,
        *,
        by_standing: bool = False,
        each: bool = True,
        mismatched: float | None = None,
    ) -> _Problem:
        counts = _one_top(_counts(pairs, cuts, by_standing))
        of_random = _one_top(_masses(random, cuts, by_standing))
        of_within = None if within is None else _one_top(_masses(within, cuts, by_standing))
        return _Problem(counts, of_random, of_within, each, mismatched)

    @property
    def weight(self) -> np.ndarray:
        """(S,) the strata's shares of the pairs."""
        count = self.counts.sum((1, 2))
        return np.asarray(count / count.sum())

    @property
    def _by_standing(self) -> bool:
        return self.counts.shape[2] > 1

    def _split(self, parameters: np.ndarray) -> list[np.ndarray]:
        s = len(self.counts)
        shapes = s if self.each else 1
        ends = np.cumsum([s, shapes, shapes, self.within is not None])
        return np.split(parameters, ends)

    def read(self, parameters: np.ndarray) -> _At:
        s = len(self.counts)
        rate, mu, log_sigma, part, line = self._split(parameters)
        a, b, log_c = line if len(line) else (0.0, 0.0, 0.0)
        return _At(
            expit(rate),
            np.broadcast_to(mu, s),
            np.broadcast_to(np.exp(log_sigma), s),
            float(expit(part[0])) if len(part) else 1.0,
            (float(a), float(b), float(np.exp(log_c))),
        )

    def best(self) -> Any:
        """The `scipy.optimize.OptimizeResult` of the best start."""
        s = len(self.counts)
        shapes = s if self.each else 1
        more = [0.0] * (self.within is not None) + [0.0, 0.6, -0.6] * self._by_standing
        bounds = [BOUNDS[0]] * s + [BOUNDS[1]] * shapes + [BOUNDS[2]] * shapes
        bounds += [PART_BOUNDS] * (self.within is not None) + list(LINE_BOUNDS) * self._by_standing
        start_rate = -1.4 if self.mismatched is None else float(logit(np.clip(self.mismatched, 1e-3, 1 - 1e-3)))
        found = []
        for mu, sigma in STARTS:
            start = np.r_[np.full(s, start_rate), np.full(shapes, mu), np.full(shapes, np.log(sigma)), more]
            found.append(minimize(self, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}))
        return min(found, key=lambda result: result.fun)

    def errors(self, best: np.ndarray) -> tuple[float, float, float]:
        """Half the intervals of the mismatched, random and within shares, by the delta method."""
        steps = np.eye(len(best)) * STEP
        curvature = np.stack([self(best + step)[1] - self(best - step)[1] for step in steps]) / (2 * STEP)
        covariance = np.linalg.pinv((curvature + curvature.T) / 2, hermitian=True)
        at, s = self.read(best), len(self.counts)
        total, slope = float(self.weight @ at.rate), self.weight * at.rate * (1 - at.rate)
        ways = np.zeros((3, len(best)))
        ways[:, :s] = slope * np.array([[1.0], [at.part], [1 - at.part]])
        if self.within is not None:
            at_part = len(best) - 1 - 3 * self._by_standing
            ways[1:, at_part] = total * at.part * (1 - at.part) * np.array([1, -1])
        variance = np.maximum(np.einsum("ij,jk,ik->i", ways, covariance, ways), 0)
        least = total * (1 - total) / max(1.0, float(self.counts.sum()))  # what counting so many pairs leaves in doubt
        one, two, three = (1.96 * np.sqrt(np.maximum(variance, least))).tolist()
        return one, two, three

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self._likelihood(parameters)
        penalty, slope = self._penalty(parameters)
        return value + penalty, gradient + slope

    def _likelihood(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Its negative logarithm, and the gradient of that."""
        at, gradient = self.read(parameters), np.zeros(len(parameters))
        of_rate, of_mu, of_log_sigma, of_part, of_line = self._split(gradient)
        of_z, by_mu, by_log_sigma = _normal(Z_EDGES, at.mu[:, None], at.sigma[:, None])
        of_v, by_a, by_log_c = np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1))
        if len(of_line):
            a, b, c = at.line
            of_v, by_a, by_log_c = _normal(V_EDGES, (a + b * Z_CENTRES)[:, None], np.full((1, 1), c))
        matched = of_z[:, :, None] * of_v
        noise = self.random if self.within is None else at.part * self.random + (1 - at.part) * self.within
        rate = at.rate[:, None, None]
        mix = np.maximum(_seen(rate * noise + (1 - rate) * matched), 1e-300)
        counts = _seen(self.counts)
        # How the log likelihood rises with the mass of each cell, and with that of its matched pairs.
        rise = _unseen(counts / mix, self.counts.shape)
        of_matched = (1 - rate) * rise
        of_rate -= (rise * (noise - matched)).sum((1, 2)) * at.rate * (1 - at.rate)
        for of, by in ((of_mu, by_mu), (of_log_sigma, by_log_sigma)):
            slope = -((of_matched * of_v).sum(2) * by).sum(1)
            of += slope if self.each else slope.sum()
        if self.within is not None:
            of_part -= (rate * rise * (self.random - self.within)).sum() * at.part * (1 - at.part)
        if len(of_line):
            of_cell = (of_matched * of_z[:, :, None]).sum(0)
            of_line -= [(of_cell * by).sum() for by in (by_a, by_a * Z_CENTRES[:, None], by_log_c)]
        return -float((counts * np.log(mix)).sum()), gradient

    def _penalty(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Of steps between strata, of matched pairs that vary more than random ones or hardly at all, and of another
        total than the one that is given; and its gradient."""
        value, gradient = 0.0, np.zeros(len(parameters))
        logits, mu, log_sigma, _, line = self._split(parameters)
        of_rate, of_mu, of_log_sigma, _, of_line = self._split(gradient)
        for x, of, step in zip((logits, mu, log_sigma), (of_rate, of_mu, of_log_sigma), STEPS, strict=True):
            moved = np.diff(x) / (step * np.sqrt(MOST / len(self.counts)))
            value += 0.5 * float(np.square(moved).sum())
            pull = moved / (step * np.sqrt(MOST / len(self.counts)))
            of[1:] += pull
            of[:-1] -= pull
        share = self.weight if self.each else np.ones(1)
        wide = max(float(share @ log_sigma), 0.0) / SPREAD
        value += 0.5 * wide**2
        of_log_sigma += wide / SPREAD * share
        for x, of in ((log_sigma, of_log_sigma), (line[2:], of_line[2:])):
            narrow = np.maximum(np.log(LEAST_SIGMA) - x, 0) / SPREAD
            value += 0.5 * float(np.square(narrow).sum())
            of -= narrow / SPREAD
        if self.mismatched is not None:
            rate = expit(logits)
            off = (float(self.weight @ rate) - self.mismatched) / KEPT
            value += 0.5 * off**2
            of_rate += off / KEPT * self.weight * rate * (1 - rate)
        return value, gradient


def _normal(edges: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m, cells) mass of normals, and its derivatives by the mean and by log sd.  mean, sd: (m, 1) or (1, 1)."""
    at = (edges - mean) / sd
    finite = np.where(np.isfinite(at), at, 0)
    density = np.where(np.isfinite(at), np.exp(-0.5 * finite**2) / np.sqrt(2 * np.pi), 0)
    return np.diff(ndtr(at)), -np.diff(density) / sd, -np.diff(density * finite)


def _one_top(mass: np.ndarray) -> np.ndarray:
    """(S, z cells, v cells), the cells of v above the top as one."""
    if mass.shape[2] == 1:
        return mass
    return np.concatenate([mass[:, :, :ONE], mass[:, :, ONE:].sum(2, keepdims=True)], axis=2)


def _seen(mass: np.ndarray) -> np.ndarray:
    """(S, cells): what the likelihood sees of (S, z cells, v cells), above the last edge of z only the mass."""
    return np.concatenate([mass[:, :-1].reshape(len(mass), -1), mass[:, -1].sum(1, keepdims=True)], axis=1)


def _unseen(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(S, z cells, v cells): for every cell the value of what it is seen in."""
    strata, z_cells, v_cells = shape
    body = values[:, :-1].reshape(strata, z_cells - 1, v_cells)
    top = np.broadcast_to(values[:, -1][:, None, None], (strata, 1, v_cells))
    return np.concatenate([body, top], axis=1)
