"""Kinds of captions whose mismatch rate is far from that of the rest: one bad site among good ones.

Where mismatches within kinds are found, one rate for all kinds makes good kinds look worse than they are, and bad ones
better. With the shape of matched pairs and the sampled densities of mismatches as they were fitted, each kind gets its
own shares (EM, drawn towards those of all). If that explains the pairs far better, the kinds with the highest rates are
taken apart, and the rest is fitted without them; the rest then says what matched pairs are like.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .bivariate import Bivariate, cells, normal_mass

#: How many pairs the shares of all kinds weigh in those of each.
PRIOR_PAIRS = 20.0
#: The gain in log likelihood per pair from which on kinds are taken apart. With mismatches within all kinds alike it
#: was up to .05, since kinds differ in how well they are known; with all of them in one of twenty kinds it was .13.
UNEVEN_PER_PAIR = 0.08
ROUNDS = 300


def kinds_apart(counts: np.ndarray, joint: Bivariate) -> np.ndarray:
    """Indices of the kinds to be taken apart, none if a rate for all explains the pairs.

    counts: (K, z cells, v cells) of the pairs of every kind.  joint: fitted to all of them.
    """
    seen = np.stack([cells(count) for count in counts])
    density = _density(joint)
    even = np.array([joint.random, joint.within, 1 - joint.mismatched])
    share = _shares(seen, density)
    gain = (seen * (np.log(share @ density) - np.log(even @ density))).sum() / seen.sum()
    if len(seen) < 2 or gain <= UNEVEN_PER_PAIR:
        return np.zeros(0, np.int64)
    mismatched = 1 - share[:, 2]
    return np.flatnonzero(mismatched > _otsu(mismatched, seen.sum(1)))


def fit_apart(counts: np.ndarray, like: Bivariate) -> list[Bivariate]:
    """A model for every kind, with the errors of its shares.

    counts: (k, z cells, v cells).  like: what matched and mismatched pairs look like.
    """
    seen = np.stack([cells(count) for count in counts])
    density = _density(like)
    models = []
    for of_kind, share in zip(seen, _shares(seen, density), strict=True):
        # Of the shares of random mismatches and of those within kinds, by the Fisher information.
        slope = (density[:2] - density[2]) / (share @ density)
        covariance = np.linalg.pinv((slope * of_kind) @ slope.T, hermitian=True)
        least = share[:2].sum() * share[2] / max(1.0, of_kind.sum())
        variance = np.array([covariance.sum(), covariance[0, 0], covariance[1, 1]])
        errors = 1.96 * np.sqrt(np.maximum(variance, least))
        models.append(replace(like, random=share[0], within=share[1], errors=tuple(errors.tolist())))
    return models


def _density(model: Bivariate) -> np.ndarray:
    """(3, cells) of random mismatches, of those within kinds, and of matched pairs."""
    masses = model.random_mass, model.within_mass, normal_mass(model.shape)
    return np.maximum(np.stack([cells(mass) for mass in masses]), 1e-300)


def _shares(seen: np.ndarray, density: np.ndarray) -> np.ndarray:
    """(K, 3) shares of the densities in each kind.  seen: (K, cells)."""
    share = np.full((len(seen), 3), 1 / 3)
    for _ in range(ROUNDS):
        mix = share @ density
        found = share * ((seen / mix) @ density.T)
        overall = found.sum(0) / found.sum()
        share = (found + PRIOR_PAIRS * overall) / (found.sum(1, keepdims=True) + PRIOR_PAIRS)
    return share


def _otsu(values: np.ndarray, weight: np.ndarray) -> float:
    """The threshold that splits values into the two most different groups (Otsu 1979)."""
    order = np.argsort(values)
    x, w = values[order], weight[order]
    below = np.cumsum(w)[:-1]
    above = w.sum() - below
    first, second = np.cumsum(w * x)[:-1] / below, ((w * x).sum() - np.cumsum(w * x)[:-1]) / above
    at = int((below * above * (first - second) ** 2).argmax())
    return float((x[at] + x[at + 1]) / 2)
