"""Where the mismatches are: slices of the data with a rate far above that of the rest.

A slice is what one condition selects (`domain = shop.example`), or two of them together. The likelihood of a rate r in
a slice is that of `group_rates`, the product of r + (1 - r) L_i over its pairs. A slice is reported if

    the rate r_hat with the highest likelihood exceeds r_0 = the rate of the rest + max(MARGIN, SPREADS * tau), by the
    signed root of the likelihood ratio, z = sqrt(2 (l(r_hat) - l(r_0))), at a level that is corrected for all slices
    that could be looked at (Holm 1979);
    and the mean of 1 - clean probability, which is shrunk toward the overall rate, exceeds that of the rest by MARGIN.

Both margins are there because mismatched pairs cannot be told from matched ones that the encoder scores low. Kinds
differ in how hard they are. Even where the noise is even, their estimated rates differ, by tau (the median absolute
deviation over the kinds, beyond their sampling error), and where there is hardly any noise, the rate of a hard kind can
be fitted at any value: the likelihood ratios of its pairs are all near 1, but their clean probabilities are high. What
stands out by less than the margins is not reported, even if it is real.

Two conditions can select mismatched pairs by contradicting each other: pictures of watches with captions of shoes. If
mismatched captions are drawn at random, r n_A n_B / n of them meet the conditions A and B, out of n_AB pairs that do;
for crossed slices, the rate of the rest is replaced by r n_A n_B / (n n_AB) where this is larger.

The slice with the largest gain is reported first, l(r_hat) - l(r_rest), less the logarithm of the number of possible
conditions for each of its own (minimum description length): a part of the faulty slice gains less, and so does a larger
slice that contains it. Its pairs are then set aside, and the rest is
searched again, so that a slice that only stands out because of one reported before is not reported.

Copies of a pair, which have the same image and caption, count as one pair wherever evidence is weighed: each weighs
1 / c, where c is the number of its copies.

Sources: the likelihood ratio scan of Kulldorff 1997; a null distribution that knows how groups differ, Efron 2004;
crossing conditions level by level, Chung et al. 2019 (Slice Finder).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import erfc, log, sqrt
from typing import Any

import numpy as np

from .group_rates import BINS, SMALL, bin_probabilities, evidence_bins, group_rates, rate_likelihood

#: The share of data sets with even noise in which a slice may be reported.
ERROR_RATE = 0.05
#: Points by which a rate has to exceed that of the rest, and standard deviations of the rates of kinds.
MARGIN, SPREADS = 0.10, 3.0
#: Single conditions that are crossed with others, slices reported, and values per column looked at, at most.
BEAM, MOST_SLICES, MOST_VALUES = 12, 10, 1_000
#: How often a slice is narrowed to a part of it.
NARROWED = 3
#: Fewer kinds do not show how much kinds differ.
FEWEST_KINDS = 4


@dataclass(frozen=True)
class Slice:
    """Pairs selected by one or two conditions, without those of the slices found before.

    where: the code of each column.  rows: (n,) int64, its judged pairs.  rate, low, high: its mismatch rate and a 95%
    interval that includes the calibration error.  rest: the rate of the judged pairs that are in no slice found so far.
    p_value: corrected for all slices that could be looked at.
    """

    where: dict[str, int]
    rows: np.ndarray
    rate: float
    low: float
    high: float
    rest: float
    p_value: float

    def __len__(self) -> int:
        return len(self.rows)


def uneven_slices(
    clean_probability: np.ndarray,
    columns: Mapping[str, np.ndarray],
    *,
    prior: float,
    whole: Mapping[str, Any],
    units: np.ndarray | None = None,
    kinds: Sequence[str] = (),
    most: int = MOST_SLICES,
) -> list[Slice]:
    """The slices whose mismatch rate exceeds that of the rest by more than chance and hard kinds explain.

    clean_probability: (n,) float, NaN for pairs that take no part.  columns: (n,) int64 codes from 0 on, negative where
    there is no value.  prior: P(mismatched) contained in the probabilities.  whole: `mismatch_rate` of report.json.
    units: (n,) int64 from `group_rates.units_of`; None if there are no copies.
    kinds: the columns that hold kinds; two of these are not crossed.
    Returns at most `most`, each of at least SMALL distinct pairs, in the order in which they were found.
    """
    bins = evidence_bins(clean_probability)
    left = np.flatnonzero(bins >= 0)
    units = np.full(len(bins), -1) if units is None else units
    weight = _weights(units, left)
    usable = {name: _looked_at(codes, left, weight) for name, codes in columns.items()}
    conditions = sum(len(np.unique(codes[codes >= 0])) for codes in usable.values())
    search = _Search(bins, weight, usable, conditions, prior, tuple(kinds))
    margin, looks = max(MARGIN, SPREADS * search.spread(left)), search.conditions * (search.conditions + 1) // 2
    found: list[Slice] = []
    while len(found) < most:
        best = search.best(left, margin, ERROR_RATE / max(1, looks - len(found)))
        if best is None:
            break
        inside = search.selects(best.where, left)
        rates = group_rates((~inside).astype(np.int64), bins[left], units[left], prior=prior, whole=whole)
        rate, low, high = rates[0].tolist()
        rows, left = left[inside], left[~inside]
        found.append(Slice(best.where, rows, rate, low, high, best.rest, min(1.0, best.p_value * looks)))
    return found


def _weights(units: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) float64: 1 / c for the pairs `rows`, of which c are copies of each other."""
    weight = np.ones(len(units))
    copied = rows[units[rows] >= 0]
    _, code, copies = np.unique(units[copied], return_inverse=True, return_counts=True)
    weight[copied] = 1 / copies[code]
    return weight


def _is_large(size: np.ndarray) -> np.ndarray:
    """Which sizes, in distinct pairs, are at least SMALL; as sums of 1 / c they are not exact."""
    return size > SMALL - 0.5


def _looked_at(codes: np.ndarray, rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n,) int64, negative for all but the MOST_VALUES commonest values, and for values of fewer than SMALL pairs."""
    values, code = np.unique(codes[rows], return_inverse=True)
    size = np.bincount(code, weight[rows], len(values))
    usable = (values >= 0) & _is_large(size)
    usable[np.argsort(np.where(usable, -size, 0), kind="stable")[MOST_VALUES:]] = False
    out = np.full(len(codes), -1)
    out[rows] = np.where(usable[code], codes[rows], -1)
    return out


@dataclass(frozen=True)
class _Tested:
    """gain: of the log-likelihood, less the cost of its conditions.  rest: the rate of all other pairs.

    p_value: not corrected; 1 where the rate does not exceed the margins.
    """

    where: dict[str, int]
    gain: float
    rest: float
    p_value: float


@dataclass(frozen=True)
class _Search:
    """bins: (n,) `evidence_bins`.  weight: (n,) from `_weights`; all counts of pairs are sums of these.

    columns: as in `uneven_slices`, without what is not looked at.  conditions: how many values they have together.
    """

    bins: np.ndarray
    weight: np.ndarray
    columns: Mapping[str, np.ndarray]
    conditions: int
    prior: float
    kinds: tuple[str, ...]

    def spread(self, rows: np.ndarray) -> float:
        """The standard deviation of the rates of kinds beyond their sampling error; a few outliers do not count."""
        deviations, variances = [], []
        for name in self.kinds:
            codes, counts = self._counts(rows, name)
            if len(codes) >= FEWEST_KINDS:
                rates, likelihood = rate_likelihood(counts, self.prior)
                mass = np.exp(likelihood - likelihood.max(1, keepdims=True)) * np.gradient(rates)
                mass /= mass.sum(1, keepdims=True)
                mean = mass @ rates
                deviations.append(np.abs(mean - np.median(mean)))
                variances.append(mass @ rates**2 - mean**2)
        if not deviations:
            return 0.0
        total = (1.4826 * float(np.median(np.concatenate(deviations)))) ** 2  # of a normal distribution
        return float(np.sqrt(max(0.0, total - float(np.median(np.concatenate(variances))))))

    def selects(self, where: Mapping[str, int], rows: np.ndarray) -> np.ndarray:
        """(n,) bool: which of `rows` meet all conditions."""
        selected = np.ones(len(rows), bool)
        for name, code in where.items():
            selected &= self.columns[name][rows] == code
        return selected

    def best(self, rows: np.ndarray, margin: float, level: float) -> _Tested | None:
        """The slice that raises the likelihood most; None if none is significant at this level.

        Where a condition divides it into parts whose rates differ significantly, the part is taken instead: a slice
        says where the mismatches are only if its pairs are alike.
        """
        singles = self._by_every_column(rows, {}, margin)
        beam = sorted(singles, key=_gain)[-BEAM:]
        found = [*singles, *(two for one in beam for two in self._by_every_column(rows, one.where, margin))]
        best = _most(found, level)
        for _ in range(NARROWED):
            inside = rows[self.selects(best.where, rows)] if best else rows[:0]
            part = _most(self._by_every_column(inside, {}, margin), level)
            if best is None or part is None:
                break
            narrower = [one for one in found if one.where in (part.where, best.where | part.where)]
            best = max(narrower, key=_gain, default=best)
        return best

    def _by_every_column(self, rows: np.ndarray, where: dict[str, int], margin: float) -> list[_Tested]:
        """Slices by one condition more than `where`, against all other `rows`."""
        taken = {*where, *(self.kinds if where.keys() & set(self.kinds) else ())}
        return [
            found for name in self.columns if name not in taken for found in self._by_column(rows, where, name, margin)
        ]

    def _by_column(self, rows: np.ndarray, where: dict[str, int], name: str, margin: float) -> Iterator[_Tested]:
        """The slices by `where` and the values of a column whose rate exceeds that of the other `rows`."""
        weight = self.weight[rows]
        total = np.bincount(self.bins[rows], weight, BINS)
        inside = rows[self.selects(where, rows)]
        codes, counts = self._counts(inside, name)
        others = total - counts
        large = _is_large(others.sum(1))
        codes, counts, others = codes[large], counts[large], others[large]
        by_chance = np.zeros(len(codes))
        if where:
            having = np.bincount(self.columns[name][rows] + 1, weight, codes.max(initial=0) + 2)[codes + 1]
            expected = self.weight[inside].sum() * having / weight.sum()
            by_chance = np.minimum(1.0, _mean_mismatched(total[None]) * expected / counts.sum(1))
        usual = np.maximum(_mean_mismatched(others), by_chance)
        exceeds = _mean_mismatched(counts) - usual >= MARGIN
        if where:  # nothing is crossed with these again
            codes, counts, others, by_chance = (part[exceeds] for part in (codes, counts, others, by_chance))
            exceeds = exceeds[exceeds]
        rates, likelihood = rate_likelihood(counts, self.prior)
        peak, rest = likelihood.argmax(1), rate_likelihood(others, self.prior)[1].argmax(1)
        null = np.searchsorted(rates, np.maximum(rates[rest], by_chance) + margin).clip(max=len(rates) - 1)
        for i in np.flatnonzero(peak > rest).tolist():
            at, p_value = likelihood[i], 1.0
            if exceeds[i] and peak[i] > null[i]:
                z = sqrt(2 * float(at[peak[i]] - at[null[i]]))
                p_value = 0.5 * erfc(z / sqrt(2))
            gain = float(at[peak[i]] - at[rest[i]]) - (len(where) + 1) * log(self.conditions)
            yield _Tested({**where, name: int(codes[i])}, gain, float(rates[rest[i]]), p_value)

    def _counts(self, rows: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(g,) the values of a column that SMALL pairs or more have, and (g, BINS) how many pairs are in each bin."""
        codes = self.columns[name][rows]
        rows, codes = rows[codes >= 0], codes[codes >= 0]
        found, code = np.unique(codes, return_inverse=True)
        places, cells = code * BINS + self.bins[rows], len(found) * BINS
        counts = np.bincount(places, self.weight[rows], cells).reshape(len(found), BINS)
        large = _is_large(counts.sum(1))
        return found[large], counts[large]


def _mean_mismatched(counts: np.ndarray) -> np.ndarray:
    """(g,) the mean of 1 - clean probability.  counts: (g, BINS)."""
    mean: np.ndarray = counts @ (1 - bin_probabilities()) / counts.sum(1)
    return mean


def _gain(tested: _Tested) -> float:
    return tested.gain


def _most(found: Iterable[_Tested], level: float) -> _Tested | None:
    return max((one for one in found if one.p_value <= level), key=_gain, default=None)
