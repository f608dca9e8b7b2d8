"""Mismatch rates of groups of pairs, with intervals: which part of the data is how bad.

The mean of 1 - clean probability is no estimate of a group's rate: every probability was computed with the prior of the
whole data, so that the mean is drawn toward the rate of the whole, the more so the less the score tells. What a pair
itself says is its likelihood ratio, its odds with that prior taken out,

    L_i = p_i / (1 - p_i) * pi / (1 - pi),        p_i: clean probability, pi: the prior P(mismatched) that it holds,

the density of its score among matched pairs over that among mismatched ones. The pairs of a group, drawn with a rate r
of the group's own, then have the likelihood of the calibration's mixture with that weight,

    l(r) = prod_i (r + (1 - r) L_i),        and pair i is mismatched with probability q_i(r) = r / (r + (1 - r) L_i).

The rates of groups are drawn from Beta(m s, (1 - m) s), m the rate of the whole; s is the one that makes the groups
together likeliest (empirical Bayes), so that groups that are alike are drawn together and others are left apart.

Reported is the share of mismatched pairs among those that are there: the mean over the posterior of r of the mean of
q_i(r), with the quantiles of the Beta distribution that has this mean and the variance

    Var_r(mean q_i(r)) + E_r(sum q_i(r) (1 - q_i(r))) / n^2 + shared,

where `shared` is the error of the calibration, which all groups have in common: that of the rate of the whole, taken
as constant on the scale of log odds.

All of this rests on the scores of random re-pairings of the whole data being those of the mismatched pairs of every
group. Where the rates of groups are very unlike, a model learns which groups are mixed with the others, and their
mismatched pairs score higher than random re-pairings: the rates, that of the whole too, are then lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

LEVEL = 0.95
_NORMAL = 1.959964  # its quantile of the normal distribution
#: Judged pairs; the rate of a group with fewer says more about the whole than about the group.
SMALL = 50

_LOG_ODDS = 14.0  # beyond these a pair says nothing more
_BINS = 560
_UNJUDGED, _UNREADABLE = -1, -2  # in the place of a bin
_CELLS = 256
_FEWEST_CELLS = 32  # that the posterior has to spread over
_STRENGTHS = np.geomspace(0.5, 2000, 40)


def tally(groups: pd.DataFrame, clean_probability: np.ndarray, unreadable: np.ndarray) -> pd.DataFrame:
    """Count pairs by group and by what is known of them; tallies of parts can be concatenated.

    groups: (n, columns), what the pairs are grouped by.  clean_probability: (n,) float, NaN where not judged.
    unreadable: (n,) bool.
    Returns the columns of `groups`, `bin` and `pairs` (int64); memory grows with the groups, not with the pairs.
    """
    p = np.clip(np.nan_to_num(clean_probability.astype(np.float64), nan=0.5), 1e-9, 1 - 1e-9)
    log_odds = np.clip(np.log(p) - np.log1p(-p), -_LOG_ODDS, _LOG_ODDS)
    place = np.minimum((log_odds + _LOG_ODDS) * (_BINS / (2 * _LOG_ODDS)), _BINS - 1).astype(np.int64)
    place = np.where(np.isnan(clean_probability), _UNJUDGED, place)
    place = np.where(unreadable, _UNREADABLE, place)
    frame = groups.assign(bin=place)
    return frame.groupby(list(frame.columns), dropna=False, sort=False).size().reset_index(name="pairs")


def audit(
    tallies: Iterable[pd.DataFrame], by: Sequence[str], *, prior: float | None, whole: Mapping[str, Any]
) -> pd.DataFrame:
    """The mismatch rate of every group, the most mismatched pairs first.

    tallies: of `tally`.  by: the columns to group by, at least one.  prior: the prior in the clean probabilities, None
    where nothing was judged.  whole: `mismatch_rate` of report.json (estimate, low, high).
    Returns the columns `by`, then pairs, judged, unjudged, unreadable (int64), mismatched (float64, rate * judged),
    rate, low, high (float64, NaN where nothing is judged), and small (bool, fewer than SMALL judged).
    """
    by = list(by)
    counts = pd.concat(list(tallies), ignore_index=True)
    number = counts.groupby(by, dropna=False, sort=True)
    code = number.ngroup().to_numpy()
    names = number.first().reset_index()[by]
    names = names.astype({name: object for name in by if names[name].isna().any()}).replace({np.nan: None})
    bins, pairs = counts["bin"].to_numpy(), counts["pairs"].to_numpy()

    def total(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(code[chosen], pairs[chosen], len(names)).astype(np.int64)

    judged = bins >= 0
    table = names.assign(
        pairs=total(np.ones(len(counts), bool)),
        judged=total(judged),
        unjudged=total(bins == _UNJUDGED),
        unreadable=total(bins == _UNREADABLE),
    )
    estimate = np.full((len(names), 3), np.nan)
    known = table["judged"].to_numpy() > 0
    if prior is not None and known.any():
        counted = _counted(code[judged], bins[judged], pairs[judged], len(names))
        estimate[known] = _rates(counted[known], prior, whole["estimate"], _shared_error(whole, pairs[judged].sum()))
    table["mismatched"] = estimate[:, 0] * table["judged"]
    table[["rate", "low", "high"]] = estimate
    table["small"] = table["judged"] < SMALL
    return table.sort_values("mismatched", ascending=False, kind="stable", na_position="last", ignore_index=True)


def _counted(code: np.ndarray, bins: np.ndarray, pairs: np.ndarray, groups: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((pairs.astype(np.float64), (code, bins)), shape=(groups, _BINS))


def _shared_error(whole: Mapping[str, Any], pairs: int) -> float:
    """Standard error of the rate of the whole, in log odds."""
    rate = float(np.clip(whole["estimate"], 0.5 / pairs, 1 - 0.5 / pairs))
    return float((whole["high"] - whole["low"]) / (2 * _NORMAL * rate * (1 - rate)))


def _rates(counts: Any, prior: float, rate: float, shared: float) -> np.ndarray:
    """(g, 3) estimate, low and high of each group's rate.

    counts: sparse (g, _BINS) float64, pairs by bin of the log odds of being clean.  rate: of the whole.  shared:
    standard error in log odds that all groups have in common.
    """
    log_odds = (np.arange(_BINS) + 0.5) * (2 * _LOG_ODDS / _BINS) - _LOG_ODDS
    ratio = np.exp(log_odds + np.log(prior) - np.log1p(-prior))
    centre = float(np.clip(rate, 0.005, 0.995))
    edges = np.sin(np.linspace(0, np.pi / 2, _CELLS + 1)) ** 2  # narrow at the ends, as rates near 0 and 1 are
    likelihood = counts @ _log_mixture(edges, ratio).T
    scaled = np.exp(likelihood - likelihood.max(1, keepdims=True))
    priors = np.stack([_prior(edges, centre, s) for s in _STRENGTHS], axis=1)
    strength = float(_STRENGTHS[int(np.log(np.maximum(scaled @ priors, 1e-300)).sum(0).argmax())])
    pairs = np.asarray(counts.sum(1)).ravel()
    mean, variance = np.empty((2, len(pairs)))
    for group, (start, end) in enumerate(pairwise(counts.indptr)):
        seen, times = ratio[counts.indices[start:end]], counts.data[start:end]
        mean[group], variance[group] = _share(seen, times, likelihood[group], edges, centre, strength)
    low, high = _beta_interval(mean, variance + (shared * mean * (1 - mean)) ** 2)
    half = 0.5 / pairs
    return np.stack([mean, np.maximum(low - half, 0.0), np.minimum(high + half, 1.0)], axis=1)


def _log_mixture(edges: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """(cells, _BINS) log(r + (1 - r) L) at the cells' centres."""
    r = (edges[:-1] + edges[1:])[:, None] / 2
    return np.log(r + (1 - r) * ratio)


def _prior(edges: np.ndarray, centre: float, strength: float) -> np.ndarray:
    """Mass of Beta(m s, (1 - m) s) in each cell."""
    from scipy.special import betainc

    a, b = centre * strength, (1 - centre) * strength
    # From the nearer end, where the differences are not of numbers that are both almost 1.
    mass = np.where(edges[1:] < centre, np.diff(betainc(a, b, edges)), -np.diff(betainc(b, a, 1 - edges)))
    return np.maximum(mass, 1e-300)


def _share(
    ratio: np.ndarray, pairs: np.ndarray, likelihood: np.ndarray, edges: np.ndarray, centre: float, strength: float
) -> tuple[float, float]:
    """Mean and variance of one group's share of mismatched pairs, the error of the calibration left aside.

    ratio, pairs: (k,) likelihood ratios and how many pairs have them.  likelihood: (cells,) log, of the rates between
    `edges`; the cells are made finer until the posterior spreads over many.
    """
    while True:
        mass = likelihood + np.log(_prior(edges, centre, strength))
        mass = np.exp(mass - mass.max())
        held = np.flatnonzero(mass > 1e-9)
        if len(held) >= _FEWEST_CELLS or edges[-1] - edges[0] < 1e-7:
            break
        edges = np.linspace(edges[max(0, held[0] - 1)], edges[min(_CELLS, held[-1] + 2)], _CELLS + 1)
        likelihood = _log_mixture(edges, ratio) @ pairs
    mass = mass[held] / mass[held].sum()
    r = ((edges[held] + edges[held + 1]) / 2)[:, None]
    noisy = r / (r + (1 - r) * ratio)  # of a pair, given the rate and its score
    share = noisy @ pairs / pairs.sum()
    spread = (noisy * (1 - noisy)) @ pairs / pairs.sum() ** 2
    mean = float(mass @ share)
    return mean, float(mass @ (spread + (share - mean) ** 2))


def _beta_interval(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the Beta distributions with these moments."""
    from scipy.special import betaincinv

    size = np.maximum(mean * (1 - mean) / np.maximum(variance, 1e-18) - 1, 1e-6)
    low, high = (betaincinv(mean * size, (1 - mean) * size, tail) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high


def difference(rate: Any, low: Any, high: Any, rate2: Any, low2: Any, high2: Any) -> tuple[Any, Any, Any]:
    """rate - rate2 with its interval, from the intervals of the two; arrays or floats.

    Source: the square-and-add intervals of Zou and Donner 2008. They hold for independent estimates; two runs over the
    same pairs mostly err alike, and the interval is then wider than it need be.
    """
    change = rate - rate2
    below = np.sqrt((rate - low) ** 2 + (high2 - rate2) ** 2)
    above = np.sqrt((high - rate) ** 2 + (rate2 - low2) ** 2)
    return change, np.maximum(change - below, -1), np.minimum(change + above, 1)


def compare(table: pd.DataFrame, other: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Two audits side by side: the columns of `table`; pairs, judged, rate, low and high of the other with `_against`
    at the end; and difference, difference_low, difference_high.  Groups that one of them lacks have nulls there.
    """
    by = list(by)
    theirs = other[[*by, "pairs", "judged", "rate", "low", "high"]]
    both = table.merge(theirs, on=by, how="outer", suffixes=("", "_against"), sort=False)
    counted = ["pairs", "judged", "unjudged", "unreadable"]
    both[[*counted, "pairs_against", "judged_against"]] = (
        both[[*counted, "pairs_against", "judged_against"]].fillna(0).astype(np.int64)
    )
    both["small"] = (both["judged"] < SMALL) | (both["judged_against"] < SMALL)
    found = difference(*(both[name] for name in ("rate", "low", "high", "rate_against", "low_against", "high_against")))
    both[["difference", "difference_low", "difference_high"]] = np.column_stack(found)
    return both.sort_values("mismatched", ascending=False, kind="stable", na_position="last", ignore_index=True)


def domain_of(url: object) -> str | None:
    """The host that a URL names, without "www."; None where it names none."""
    if not isinstance(url, str):
        return None
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return None
    return host.removeprefix("www.").rstrip(".") or None if host else None
