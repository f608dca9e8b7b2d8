"""Mismatch rates of groups of pairs, with intervals: how bad each part of the data is.

The mean of 1 - clean probability is not an estimate of a group's rate. Every probability was computed with the prior of
the whole data set, so the mean is shrunk toward the overall rate, and more so where the score says little. The evidence
of a single pair is its likelihood ratio, its odds with that prior removed,

    L_i = p_i / (1 - p_i) * pi / (1 - pi),        p_i: clean probability, pi: the prior P(mismatched) contained in it,

which is the density of its score among matched pairs over the density among mismatched pairs. The pairs of a group with
a mismatch rate r of its own have the likelihood of the calibration's mixture with that weight,

    l(r) = prod_i (r + (1 - r) L_i)^(1/c_i),   and pair i is mismatched with probability q_i(r) = r / (r + (1 - r) L_i).

Copies of a pair, which have the same image and caption, are right or wrong together: c_i is the number of judged copies
of pair i in its group, itself included, so that all of them are the evidence of one pair.

The rates of the groups have the prior Beta(m s, (1 - m) s), where m is the overall rate and s maximises the joint
likelihood of all groups (empirical Bayes). Groups that are alike are therefore shrunk together, others are left apart.

What is reported is the share of mismatched pairs among the pairs that are present: the posterior mean of the mean of
q_i(r). Its interval has the quantiles of the Beta distribution with this mean and the variance

    Var_r(mean q_i(r)) + E_r(sum c_i q_i(r) (1 - q_i(r))) / n^2 + shared,

where `shared` is the calibration error, common to all groups: the error of the overall rate, taken as constant in log
odds.

All of this assumes that the mismatched pairs of every group score like random re-pairings of the whole data set. Where
the rates of the groups differ very much, a model learns which groups are mixed with others, and their mismatched pairs
score higher than random re-pairings. All rates, the overall one too, are then lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

LEVEL = 0.95
_NORMAL = 1.959964  # the 97.5% quantile of the normal distribution
#: The rate of a group with fewer distinct judged pairs says more about the whole data set than about the group.
SMALL = 50

_LOG_ODDS = 14.0  # evidence beyond this is clipped
BINS = 560  # of the log odds of being clean
_UNJUDGED, _UNREADABLE = -1, -2  # used in place of a bin
_SINGLE = -1  # the unit of pairs without copies
_CELLS = 256
_FEWEST_CELLS = 32  # the posterior has to spread over at least this many
_STRENGTHS = np.geomspace(0.5, 2000, 40)

#: The columns of the tables of `audit` and `compare`.
COUNTS = ("pairs", "judged", "unjudged", "unreadable")
ESTIMATES = ("rate", "low", "high")
COMPARED = ("pairs", "judged", *ESTIMATES)  # shown for both runs
DIFFERENCE = ("difference", "difference_low", "difference_high")
_AGAINST = "_against"
_TAKEN = {*COUNTS, "mismatched", *ESTIMATES, "small", *(name + _AGAINST for name in COMPARED), *DIFFERENCE}


def shown_names(by: Sequence[str]) -> list[str]:
    """The names of the grouping columns in a table; one that collides with a column of the table's own is marked.

    >>> shown_names(["domain", "pairs"])
    ['domain', 'pairs (source)']
    """
    names: list[str] = []
    for name in by:
        while name in _TAKEN or name in names:
            name += " (source)"
        names.append(name)
    return names


def tally(
    groups: pd.DataFrame, clean_probability: np.ndarray, unreadable: np.ndarray, unit: np.ndarray | None = None
) -> pd.DataFrame:
    """Count pairs by group and by clean probability; tallies of parts can be concatenated.

    groups: (n, columns), the values to group by.  clean_probability: (n,) float, NaN where not judged.
    unreadable: (n,) bool.  unit: (n,) int64 from `units_of` all pairs; None if there are no copies.
    Returns one column for each of `groups`, named by its position (0, ...), then `bin`, `unit` and `pairs` (int64).
    Memory grows with the number of groups and of pairs that have copies, not with the number of all pairs.
    """
    place = np.where(unreadable, _UNREADABLE, evidence_bins(clean_probability))
    codes, values = zip(*(_numbered(groups[name]) for name in groups), strict=True)
    unit = np.where(place < 0, _SINGLE, _SINGLE if unit is None else unit)
    frame = pd.DataFrame(dict(enumerate(codes))).assign(bin=place, unit=unit)
    counts = frame.groupby(list(frame.columns), sort=False).size().reset_index(name="pairs")
    return _named(counts, range(len(codes)), values)


def units_of(identity: np.ndarray) -> np.ndarray:
    """(n,) int64 that are equal for copies of a pair, and -1 for a pair that has none.

    identity: (n,) int64, equal for copies.

    >>> units_of(np.array([7, 5, 7, 9])).tolist()
    [1, -1, 1, -1]
    """
    _, code, copies = np.unique(identity, return_inverse=True, return_counts=True)
    unit: np.ndarray = np.where(copies[code] > 1, code, _SINGLE)
    return unit


def evidence_bins(clean_probability: np.ndarray) -> np.ndarray:
    """(n,) int64 in [0, BINS), the bin of the log odds of being clean; -1 for NaN (not judged)."""
    p = np.clip(np.nan_to_num(clean_probability.astype(np.float64), nan=0.5), 1e-9, 1 - 1e-9)
    log_odds = np.clip(np.log(p) - np.log1p(-p), -_LOG_ODDS, _LOG_ODDS)
    place = np.minimum((log_odds + _LOG_ODDS) * (BINS / (2 * _LOG_ODDS)), BINS - 1).astype(np.int64)
    return np.where(np.isnan(clean_probability), _UNJUDGED, place)


def bin_probabilities() -> np.ndarray:
    """(BINS,) the clean probability at the centre of each bin."""
    from scipy.special import expit

    probability: np.ndarray = expit(_log_odds())
    return probability


def rate_likelihood(counts: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """(c,) mismatch rates in ascending order, and (g, c) the log-likelihood of each in each group.

    counts: (g, BINS), distinct pairs of each group by `evidence_bins`.  prior: as in `audit`.
    """
    edges = _edges()
    likelihood: np.ndarray = counts @ _log_likelihood_of_bins(prior)
    return (edges[:-1] + edges[1:]) / 2, likelihood


def group_rates(
    group: np.ndarray, bins: np.ndarray, unit: np.ndarray, *, prior: float, whole: Mapping[str, Any]
) -> np.ndarray:
    """(g, 3) the rate of each group, low and high, as in `audit`.

    group: (n,) int64 in [0, g), every one of them there.  bins: (n,) int64 in [0, BINS), from `evidence_bins`.
    unit: (n,) int64 from `units_of`.
    """
    counted = _Counted.of(group, bins, unit, np.ones(len(group), np.int64), int(group.max()) + 1)
    return _rates(counted, prior, whole["estimate"], _shared_error(whole, len(group)))


def _numbered(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Factorise a column: a code per row, and the distinct values as objects, ordered by their text, None last.

    Values with the same text are the same: shards and runs may hold a number in columns of different types.
    """
    code, values = pd.factorize(column.to_numpy(object))
    text = np.array([_text(value) for value in values], object)
    _, first, same = np.unique(text, return_index=True, return_inverse=True)
    return np.append(same, len(first))[code], np.append(values[first], [None])


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _named(table: pd.DataFrame, columns: Iterable[Any], values: Iterable[np.ndarray]) -> pd.DataFrame:
    """`table` with the codes in `columns` replaced by their values, of one type each, so that a file can hold them."""
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

    tallies: from `tally`.  by: the columns to group by, at least one.  prior: the prior P(mismatched) contained in the
    clean probabilities, None where nothing was judged.  whole: `mismatch_rate` of report.json (estimate, low, high).
    Returns the columns `by` (objects, None for null; named as by `shown_names`), then pairs, judged, unjudged,
    unreadable (int64), mismatched (float64, rate * judged), rate, low, high (float64, NaN where nothing is judged), and
    small (bool, fewer than SMALL distinct pairs judged).

    >>> groups = pd.DataFrame({"shop": ["a"] * 200 + ["b"] * 200})
    >>> clean = np.array(([0.99] * 9 + [0.01]) * 20 + [0.99, 0.01] * 100)  # one in ten, and one in two, look mismatched
    >>> whole = {"estimate": 0.3, "low": 0.25, "high": 0.35}
    >>> table = audit([tally(groups, clean, np.zeros(400, bool))], ["shop"], prior=0.3, whole=whole)
    >>> table[["shop", "judged", "rate"]].round(2).values.tolist()
    [['b', 200, 0.51], ['a', 200, 0.1]]
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
    counted = _Counted.of(code[judged], bins[judged], counts["unit"].to_numpy()[judged], pairs[judged], len(groups))
    if prior is not None and known.any():
        shared = _shared_error(whole, pairs[judged].sum())
        estimate[known] = _rates(counted.take(known), prior, whole["estimate"], shared)
    table["mismatched"] = estimate[:, 0] * table["judged"]
    table[list(ESTIMATES)] = estimate
    table["small"] = counted.distinct < SMALL - 0.5  # sums of 1 / c are not exact
    return table.sort_values("mismatched", ascending=False, kind="stable", na_position="last", ignore_index=True)


@dataclass(frozen=True)
class _Counted:
    """The judged pairs of g groups by bin, each sparse (g, BINS) float64 of one structure.

    pairs: how many there are.  units: the sum of 1 / c over them, how many distinct ones there are.  copies: the sum of
    c.  c: the number of copies of a pair in its group.
    """

    pairs: Any
    units: Any
    copies: Any

    @staticmethod
    def of(group: np.ndarray, bins: np.ndarray, unit: np.ndarray, pairs: np.ndarray, groups: int) -> _Counted:
        """group, bins, unit, pairs: (k,), so many pairs of a group in a bin, all of one unit or all single."""
        from scipy.sparse import csr_array

        of_unit = np.flatnonzero(unit != _SINGLE)
        _, place = np.unique(np.stack([group[of_unit], unit[of_unit]]), axis=1, return_inverse=True)
        copies = np.ones(len(pairs))
        copies[of_unit] = np.bincount(place, pairs[of_unit])[place]
        sums = (pairs * weight for weight in (1.0, 1 / copies, copies))
        return _Counted(*(csr_array((of_bin, (group, bins)), shape=(groups, BINS)) for of_bin in sums))

    @property
    def distinct(self) -> np.ndarray:
        """(g,) float64, the number of distinct pairs of each group."""
        return np.asarray(self.units.sum(1)).ravel()

    def take(self, chosen: np.ndarray) -> _Counted:
        """Some of the groups.  chosen: (g,) bool."""
        return _Counted(self.pairs[chosen], self.units[chosen], self.copies[chosen])


def _shared_error(whole: Mapping[str, Any], pairs: int) -> float:
    """Standard error of the overall rate, in log odds."""
    rate = float(np.clip(whole["estimate"], 0.5 / pairs, 1 - 0.5 / pairs))
    return float((whole["high"] - whole["low"]) / (2 * _NORMAL * rate * (1 - rate)))


def _rates(counted: _Counted, prior: float, rate: float, shared: float) -> np.ndarray:
    """(g, 3) estimate, low and high of each group's rate.

    rate: the overall mismatch rate.  shared: standard error, in log odds, that all groups have in common.
    """
    ratio, edges = _ratio(prior), _edges()
    centre = float(np.clip(rate, 0.005, 0.995))
    likelihood = counted.units @ _log_mixture(edges, ratio).T
    scaled = np.exp(likelihood - likelihood.max(1, keepdims=True))
    priors = np.stack([_prior(edges, centre, s) for s in _STRENGTHS], axis=1)
    strength = float(_STRENGTHS[int(np.log(np.maximum(scaled @ priors, 1e-300)).sum(0).argmax())])
    mean, variance = np.empty((2, len(likelihood)))
    for group, (start, end) in enumerate(pairwise(counted.pairs.indptr)):
        seen = ratio[counted.pairs.indices[start:end]]
        pairs, units, copies = (part.data[start:end] for part in (counted.pairs, counted.units, counted.copies))
        mean[group], variance[group] = _share(seen, pairs, units, copies, likelihood[group], edges, centre, strength)
    low, high = _beta_interval(mean, variance + (shared * mean * (1 - mean)) ** 2)
    half = 0.5 / counted.distinct
    return np.stack([mean, np.maximum(low - half, 0.0), np.minimum(high + half, 1.0)], axis=1)


@lru_cache(maxsize=4)
def _log_likelihood_of_bins(prior: float) -> np.ndarray:
    """(BINS, _CELLS) float64, of a pair in each bin for each rate."""
    return _log_mixture(_edges(), _ratio(prior)).T


def _ratio(prior: float) -> np.ndarray:
    """(BINS,) the likelihood ratio L at the centre of each bin."""
    ratio: np.ndarray = np.exp(_log_odds() + np.log(prior) - np.log1p(-prior))
    return ratio


def _log_odds() -> np.ndarray:
    """(BINS,) the centres of the bins."""
    return (np.arange(BINS) + 0.5) * (2 * _LOG_ODDS / BINS) - _LOG_ODDS


def _edges() -> np.ndarray:
    """(_CELLS + 1,) rates from 0 to 1, finer near 0 and 1, where rates are known more closely."""
    edges: np.ndarray = np.sin(np.linspace(0, np.pi / 2, _CELLS + 1)) ** 2
    return edges


def _log_mixture(edges: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """log(r + (1 - r) L) at the centres of the cells, (cells, BINS)."""
    r = (edges[:-1] + edges[1:])[:, None] / 2
    return np.log(r + (1 - r) * ratio)


def _prior(edges: np.ndarray, centre: float, strength: float) -> np.ndarray:
    """Probability mass of Beta(m s, (1 - m) s) in each cell; m: centre, s: strength."""
    from scipy.special import betainc

    a, b = centre * strength, (1 - centre) * strength
    # Integrated from the nearer end: the difference of two numbers that are both almost 1 would lose its digits.
    mass = np.where(edges[1:] < centre, np.diff(betainc(a, b, edges)), -np.diff(betainc(b, a, 1 - edges)))
    return np.maximum(mass, 1e-300)


def _share(
    ratio: np.ndarray,
    pairs: np.ndarray,
    units: np.ndarray,
    copies: np.ndarray,
    likelihood: np.ndarray,
    edges: np.ndarray,
    centre: float,
    strength: float,
) -> tuple[float, float]:
    """Mean and variance of one group's share of mismatched pairs, without the calibration error.

    ratio: (k,) likelihood ratios.  pairs, units, copies: (k,), of the pairs that have them, as in `_Counted`.
    likelihood: (cells,) log-likelihood of the rates between `edges`; the cells are refined until the posterior spreads
    over many of them.
    """
    while True:
        mass = likelihood + np.log(_prior(edges, centre, strength))
        mass = np.exp(mass - mass.max())
        held = np.flatnonzero(mass > 1e-9)
        if len(held) >= _FEWEST_CELLS or edges[-1] - edges[0] < 1e-7:
            break
        edges = np.linspace(edges[max(0, held[0] - 1)], edges[min(_CELLS, held[-1] + 2)], _CELLS + 1)
        likelihood = _log_mixture(edges, ratio) @ units
    mass = mass[held] / mass[held].sum()
    r = ((edges[held] + edges[held + 1]) / 2)[:, None]
    noisy = r / (r + (1 - r) * ratio)  # P(mismatched) of a pair, given the rate and its score
    share = noisy @ pairs / pairs.sum()
    spread = (noisy * (1 - noisy)) @ copies / pairs.sum() ** 2
    mean = float(mass @ share)
    return mean, float(mass @ (spread + (share - mean) ** 2))


def _beta_interval(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central LEVEL interval of the Beta distributions with these means and variances."""
    from scipy.special import betaincinv

    mean = np.clip(mean, 1e-12, 1 - 1e-12)  # it is rounded to 0 or 1 where all pairs are certain
    size = np.maximum(mean * (1 - mean) / np.maximum(variance, 1e-18) - 1, 1e-6)
    low, high = (betaincinv(mean * size, (1 - mean) * size, tail) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high


def difference(rate: Any, low: Any, high: Any, rate2: Any, low2: Any, high2: Any) -> tuple[Any, Any, Any]:
    """The difference rate - rate2 with its interval, from the two intervals; arrays or floats.

    The interval is that of independent estimates. Two runs over the same pairs tend to err in the same direction; the
    interval is then wider than necessary.
    Source: the square-and-add intervals (MOVER) of Zou and Donner 2008.

    >>> change, low, high = difference(0.5, 0.4, 0.6, 0.25, 0.25, 0.25)
    >>> round(change, 3), round(float(low), 3), round(float(high), 3)
    (0.25, 0.15, 0.35)
    """
    change = rate - rate2
    below = np.sqrt((rate - low) ** 2 + (high2 - rate2) ** 2)
    above = np.sqrt((high - rate) ** 2 + (rate2 - low2) ** 2)
    return change, np.maximum(change - below, -1), np.minimum(change + above, 1)


def compare(table: pd.DataFrame, other: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Two audits side by side.

    table, other: from `audit`, grouped by the same columns `by`.
    Returns the columns of `table`; pairs, judged, rate, low and high of `other` with the suffix `_against`; and
    difference, difference_low, difference_high.  A group that one of the two lacks has nulls there.
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
    """The host of a URL, without "www."; None where there is none.

    >>> domain_of("https://www.example.org/a.jpg")
    'example.org'
    """
    if not isinstance(url, str):
        return None
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return None
    return host.removeprefix("www.").rstrip(".") or None if host else None
