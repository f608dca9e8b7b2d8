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

#: The columns of the tables of `audit` and `compare`.
COUNTS = ("pairs", "judged", "unjudged", "unreadable")
ESTIMATES = ("rate", "low", "high")
COMPARED = ("pairs", "judged", *ESTIMATES)  # with the other run's beside them
DIFFERENCE = ("difference", "difference_low", "difference_high")
_AGAINST = "_against"
_TAKEN = {*COUNTS, "mismatched", *ESTIMATES, "small", *(name + _AGAINST for name in COMPARED), *DIFFERENCE}


def shown_names(by: Sequence[str]) -> list[str]:
    """What the columns that are grouped by are called in a table: one that has a name of the table's own is marked."""
    names: list[str] = []
    for name in by:
        while name in _TAKEN or name in names:
            name += " (source)"
        names.append(name)
    return names


def tally(groups: pd.DataFrame, clean_probability: np.ndarray, unreadable: np.ndarray) -> pd.DataFrame:
    """Count pairs by group and by what is known of them; tallies of parts can be concatenated.

    groups: (n, columns), what the pairs are grouped by.  clean_probability: (n,) float, NaN where not judged.
    unreadable: (n,) bool.
    Returns a column for each of `groups`, called by its place (0, ...), `bin` and `pairs` (int64); memory grows with
    the groups, not with the pairs.
    """
    p = np.clip(np.nan_to_num(clean_probability.astype(np.float64), nan=0.5), 1e-9, 1 - 1e-9)
    log_odds = np.clip(np.log(p) - np.log1p(-p), -_LOG_ODDS, _LOG_ODDS)
    place = np.minimum((log_odds + _LOG_ODDS) * (_BINS / (2 * _LOG_ODDS)), _BINS - 1).astype(np.int64)
    place = np.where(np.isnan(clean_probability), _UNJUDGED, place)
    place = np.where(unreadable, _UNREADABLE, place)
    codes, values = zip(*(_numbered(groups[name]) for name in groups), strict=True)
    frame = pd.DataFrame(dict(enumerate(codes))).assign(bin=place)
    counts = frame.groupby(list(frame.columns), sort=False).size().reset_index(name="pairs")
    return _named(counts, range(len(codes)), values)


def _numbered(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Which of its different values each of a column's is, and these: objects, in the order of their text, None last.

    Values of one text are the same: shards and runs may hold a number in columns of different types.
    """
    code, values = pd.factorize(column.to_numpy(object))
    text = np.array([_text(value) for value in values], object)
    _, first, same = np.unique(text, return_index=True, return_inverse=True)
    return np.append(same, len(first))[code], np.append(values[first], [None])


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _named(table: pd.DataFrame, columns: Iterable[Any], values: Iterable[np.ndarray]) -> pd.DataFrame:
    """`table` with values for the numbers that stand for them; of one type, so that a file can hold them."""
    for name, of_column in zip(columns, values, strict=True):
        kinds = {type(value) for value in of_column if value is not None}
        if len(kinds) > 1:
            of_column = np.array([None if value is None else _text(value) for value in of_column], object)
        table[name] = pd.Series(of_column[table[name]], table.index, dtype=object)
    return table


def audit(
    tallies: Iterable[pd.DataFrame], by: Sequence[str], *, prior: float | None, whole: Mapping[str, Any]
) -> pd.DataFrame:
    """The mismatch rate of every group, the most mismatched pairs first.

    tallies: of `tally`.  by: the columns to group by, at least one.  prior: the prior in the clean probabilities, None
    where nothing was judged.  whole: `mismatch_rate` of report.json (estimate, low, high).
    Returns the columns `by` (objects, None for null; called as `shown_names` says), then pairs, judged, unjudged,
    unreadable (int64), mismatched (float64, rate * judged), rate, low, high (float64, NaN where nothing is judged), and
    small (bool, fewer than SMALL judged).
    """
    names = shown_names(by)
    counts = pd.concat(list(tallies), ignore_index=True)
    codes, values = zip(*(_numbered(counts[place]) for place in range(len(names))), strict=True)
    crossed = pd.DataFrame(dict(zip(names, codes, strict=True))).groupby(names, sort=True)
    code = crossed.ngroup().to_numpy()
    groups = _named(crossed.size().reset_index()[names], names, values)
    bins, pairs = counts["bin"].to_numpy(), counts["pairs"].to_numpy()

    def total(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(code[chosen], pairs[chosen], len(groups)).astype(np.int64)

    judged = bins >= 0
    table = groups.assign(
        pairs=total(np.ones(len(counts), bool)),
        judged=total(judged),
        unjudged=total(bins == _UNJUDGED),
        unreadable=total(bins == _UNREADABLE),
    )
    estimate = np.full((len(groups), 3), np.nan)
    known = table["judged"].to_numpy() > 0
    if prior is not None and known.any():
        counted = _counted(code[judged], bins[judged], pairs[judged], len(groups))
        estimate[known] = _rates(counted[known], prior, whole["estimate"], _shared_error(whole, pairs[judged].sum()))
    table["mismatched"] = estimate[:, 0] * table["judged"]
    table[list(ESTIMATES)] = estimate
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

    mean = np.clip(mean, 1e-12, 1 - 1e-12)  # of nothing but certain pairs, it is rounded to 0 or 1
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
    names = shown_names(by)
    ours, theirs, values = table.copy(), other[[*names, *COMPARED]].copy(), []
    for name in names:
        code, of_both = _numbered(pd.concat([table[name], other[name]]))
        ours[name], theirs[name] = code[: len(table)], code[len(table) :]
        values.append(of_both)
    both = ours.merge(theirs, on=names, how="outer", suffixes=("", _AGAINST), sort=False)
    both = _named(both, names, values)
    counted = [*COUNTS, *(name + _AGAINST for name in COMPARED if name in COUNTS)]
    both[counted] = both[counted].fillna(0).astype(np.int64)
    both["small"] = (both["judged"] < SMALL) | (both["judged" + _AGAINST] < SMALL)
    found = difference(*(both[name] for name in (*ESTIMATES, *(name + _AGAINST for name in ESTIMATES))))
    both[list(DIFFERENCE)] = np.column_stack(found)
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
