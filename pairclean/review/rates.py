"""Rates from labels: what a stratified random sample that people have labelled says about all pairs.

A population of N pairs is divided into strata of N_h pairs with weights W_h = N_h / N. Of each stratum a simple random
sample without replacement of n_h pairs is labelled, y_h of which are mismatched. The rate is estimated by
sum_h W_h y_h / n_h (Cochran 1977, *Sampling Techniques*, chapter 5).

Its interval holds every rate r with which the samples agree, by a goodness-of-fit test at LEVEL. For a rate r the
likeliest rates p_h of the strata are found: those that maximise the binomial likelihood subject to sum_h W_h p_h = r,
which have a closed form in a Lagrange multiplier (`_rates_on_path`). Then r lies inside if

    sum_h m_h D(y_h / n_h, p_h) <= z^2,
    D(a, p) = 2 d(a, p) + 2 d(1 - a, 1 - p),
    d(a, e) = a ln(a / e) - (a - e)                                     where more was seen than expected, a > e,
              [a ((a / e)^c - 1) / c - (a - e)] / (c + 1),  c = 2/3,    where less was.

Both are terms of the power divergence (Cressie and Read 1984, *Multinomial goodness-of-fit tests*), of its exponents 0
(the likelihood ratio) and 2/3. No single exponent serves for rare answers: after no mismatch among n, the likelihood
ratio would leave room for a rate of 1.9 / n only; after a single one, exponent 2/3 would reject rates below 0.14 / n,
at which one is seen in every eighth sample. No variance is estimated: a stratum in which no mismatched pair was seen
does not count as one that has none, and the interval stays inside [0, 1]. The samples count for

    m_h = (n_h - 1 + 1 / H) (N_h - 1) / (N_h - n_h)

draws: the first factor makes up for the H - 1 rates that are fitted to the labels (as s^2 divides by n - 1), the second
is the correction for a finite population.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # the normal distribution's quantile at (1 + LEVEL) / 2
_POWER = 2 / 3  # of the divergence, where less was seen than expected
_MOST = 1e9  # how many times its own size a sample may count for; at a complete census the correction is infinite


@dataclass(frozen=True)
class Estimate:
    """A share with its interval at LEVEL, and the number of labels that it rests on."""

    estimate: float
    low: float
    high: float
    labels: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Strata:
    """H strata and what is known of them.

    size: (H,) pairs in each.  labelled: (H,) labelled pairs, drawn at random.  mismatched: (H,) how many of these are.
    """

    size: np.ndarray
    labelled: np.ndarray
    mismatched: np.ndarray

    @staticmethod
    def counted(stratum: np.ndarray, rows: np.ndarray, mismatched: np.ndarray) -> Strata:
        """stratum: (N,) the stratum of each pair, -1 for pairs that are left out.  rows: (n,) the labelled pairs.
        mismatched: (n,) bool, or between 0 and 1."""
        strata = int(stratum.max(initial=-1)) + 1
        of_rows = stratum[rows]
        inside = of_rows >= 0
        return Strata(
            np.bincount(stratum[stratum >= 0], minlength=strata),
            np.bincount(of_rows[inside], minlength=strata),
            np.bincount(of_rows[inside], np.asarray(mismatched, float)[inside], minlength=strata),
        )

    def collapsed(self) -> Strata:
        """Without strata that hold nothing; one without a label joins the nearest that has one."""
        place, known = np.arange(len(self.size)), np.flatnonzero(self.labelled > 0)
        nearest = known[np.abs(place[:, None] - known).argmin(1)] if len(known) else place
        size = np.bincount(nearest, self.size, minlength=len(place)).astype(np.int64)
        return Strata(size[known], self.labelled[known], self.mismatched[known])


def rate(strata: Strata) -> Estimate | None:
    """The share of mismatched pairs; None where no pair is labelled."""
    found = strata.collapsed()
    labels = int(found.labelled.sum())
    if not labels:
        return None
    weight = found.size / found.size.sum()
    samples = _Samples.of(found)
    estimate = float(weight @ samples.rate)
    low, high = (samples.bound(weight, estimate, side) for side in (-1, 1))
    # What is labelled is known for certain, and the share of N pairs is a multiple of 1 / N.
    known, total = float(found.mismatched.sum()), float(found.size.sum())
    low = max(np.floor(low * total + 1e-6), known) / total
    high = min(np.ceil(high * total - 1e-6), total - (labels - known)) / total
    return Estimate(estimate, float(min(low, estimate)), float(max(high, estimate)), labels)


def share_within(strata: Strata, part: np.ndarray) -> Estimate | None:
    """Of all mismatched pairs, the share that lies in some of the strata: what flagging them finds (its recall).

    part: (H,) bool.  None where no mismatched pair is labelled.
    A share s lies inside the interval if the contrast sum_h W_h (part_h - s) p_h is compatible with 0, by the same test
    as for a rate.
    """
    inside, outside = (
        Strata(strata.size[chosen], strata.labelled[chosen], strata.mismatched[chosen]) for chosen in (part, ~part)
    )
    if not outside.size.sum() or not inside.size.sum():
        return None
    inside, outside = inside.collapsed(), outside.collapsed()
    if not len(inside.size) or not len(outside.size):
        return None
    joined = Strata(*(np.concatenate(both) for both in zip(vars(inside).values(), vars(outside).values(), strict=True)))
    is_inside = np.arange(len(joined.size)) < len(inside.size)
    weight, samples = joined.size / joined.size.sum(), _Samples.of(joined)
    mass = weight * samples.rate
    if not mass.sum():
        return None
    estimate = float(mass[is_inside].sum() / mass.sum())

    def distance(share: float) -> float:
        return samples.distance(weight * (is_inside - share)) - _Z**2

    low = 0.0 if estimate == 0 or distance(0.0) <= 0 else _root(distance, 0.0, estimate)
    high = 1.0 if estimate == 1 or distance(1.0) <= 0 else _root(distance, 1.0, estimate)
    return Estimate(estimate, low, high, int(joined.labelled.sum()))


def difference(
    stratum: np.ndarray, prediction: np.ndarray, rows: np.ndarray, mismatched: np.ndarray, *, power: float | None = None
) -> Estimate | None:
    """The prediction-powered rate: the mean prediction, corrected by what labels say about its errors.

        sum_h W_h (mean of t f over the stratum + mean of y - t f over its labelled pairs),    f: the prediction

    stratum: (N,), -1 for pairs that are left out.  prediction: (N,) in [0, 1], what the scores say of being mismatched.
    rows: (n,) labelled pairs.  mismatched: (n,) bool.  power: t; by default the one of least variance, in [0, 1].
    The interval is normal; in a stratum whose labels all agree, the variance is that of Wilson's centre, not 0.
    None where a stratum has no label.
    Source: Angelopoulos et al. 2023, *Prediction-powered inference*; the power after Angelopoulos, Duchi and Zrnic 2023
    (PPI++), one for all strata; strata after Fisch et al. 2024, *Stratified prediction-powered inference*.
    """
    strata = Strata.counted(stratum, rows, mismatched)
    filled = strata.size > 0
    if not filled.any() or (strata.labelled[filled] == 0).any():
        return None
    size, n, y = strata.size[filled], strata.labelled[filled], strata.mismatched[filled]
    place = np.cumsum(filled) - 1
    used, kept = stratum >= 0, stratum[rows] >= 0
    of_row, truth = place[stratum[rows][kept]], np.asarray(mismatched, float)[kept]
    said = prediction[rows][kept]
    weight = size / size.sum()

    def means(values: np.ndarray) -> np.ndarray:
        return np.bincount(of_row, values, len(size)) / n

    def covariances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        centred = (a - means(a)[of_row]) * (b - means(b)[of_row])
        return np.bincount(of_row, centred, len(size)) / np.maximum(n - 1, 1)

    factor = weight**2 * (1 / n - 1 / size)
    if power is None:
        spread = float(factor @ covariances(said, said))
        power = float(np.clip(factor @ covariances(said, truth) / spread, 0, 1)) if spread > 0 else 0.0
    predicted = np.bincount(place[stratum[used]], prediction[used], len(size)) / size
    estimate = float(weight @ (power * predicted + means(truth - power * said)))
    variance = covariances(truth - power * said, truth - power * said)
    centre = (y + _Z**2 / 2) / (n + _Z**2)
    alike = (y == 0) | (y == n)
    variance = np.where(alike, np.maximum(variance, centre * (1 - centre)), variance)
    half = _Z * float(np.sqrt(factor @ variance))
    return Estimate(estimate, max(estimate - half, 0.0), min(estimate + half, 1.0), int(n.sum()))


def allocate(strata: Strata, count: int) -> np.ndarray:
    """How many pairs to draw next from each stratum, (H,) int64, `count` in all where there are as many left.

    Half of the sample is proportional to the strata's sizes; the other half is proportional to size times standard
    deviation (Neyman 1934), the latter taken at (y + 2) / (n + 4) so that a stratum with only one kind of answer so
    far is not given up. Every stratum gets two labels at least, so that none goes without.
    """
    left = strata.size - strata.labelled
    count = min(count, int(left.sum()))
    p = (strata.mismatched + 2) / (strata.labelled + 4)
    spread = strata.size * np.sqrt(p * (1 - p))
    aim = (strata.size / strata.size.sum() + spread / spread.sum()) / 2 * (strata.labelled.sum() + count)
    drawn = np.zeros(len(left), np.int64)
    for _ in range(count):  # one after another, each where most are missing
        missing = np.maximum(aim, np.minimum(2, strata.size)) - strata.labelled - drawn
        drawn[np.where(drawn < left, missing, -np.inf).argmax()] += 1
    return drawn


def labels_needed(strata: Strata, now: Estimate, half_width: float) -> int:
    """How many more labels would bring the interval to +- half_width, if they go on as they did; 0 if it is there."""
    if now.half_width <= half_width:
        return 0
    found = strata.collapsed()
    weight = found.size / found.size.sum()
    p = (found.mismatched + 1) / (found.labelled + 2)
    unit = weight**2 * p * (1 - p)
    per_label, floor = float((unit / found.labelled).sum()), float((unit / found.size).sum())
    # The interval at hand sets the scale: variance = scale * (per_label * n / labels - floor).
    scale = (now.half_width / _Z) ** 2 / max(per_label - floor, 1e-300)
    labels = per_label * now.labels / ((half_width / _Z) ** 2 / scale + floor)
    return min(max(int(np.ceil(labels)) - now.labels, 1), int(found.size.sum()) - now.labels)


@dataclass(frozen=True)
class _Samples:
    """What enters the test: (H,) the observed rates, and how many independent draws each counts for (m_h)."""

    rate: np.ndarray
    draws: np.ndarray

    @staticmethod
    def of(strata: Strata) -> _Samples:
        n, size = strata.labelled.astype(float), strata.size.astype(float)
        correction = np.maximum(size - 1, 1e-9) / np.maximum(size - n, 1e-9)
        return _Samples(strata.mismatched / n, (n - 1 + 1 / len(n)) * np.minimum(correction, _MOST))

    def bound(self, weight: np.ndarray, estimate: float, side: int) -> float:
        """The end of the interval for sum_h weight_h p_h that lies below (side -1) or above (side 1) the estimate."""
        if (side < 0 and estimate <= 0) or (side > 0 and estimate >= 1):
            return estimate

        def excess(log_multiplier: float) -> float:
            return self.divergence(_rates_on_path(self, -side * np.exp(log_multiplier) * weight)) - _Z**2

        log_multiplier = _root(excess, 60.0, -30.0)
        return float(weight @ _rates_on_path(self, -side * np.exp(log_multiplier) * weight))

    def distance(self, contrast: np.ndarray) -> float:
        """The divergence from the likeliest rates with sum_h contrast_h p_h = 0."""
        value = float(contrast @ self.rate)
        if abs(value) < 1e-12:
            return 0.0
        side = np.sign(value)

        def rest(log_multiplier: float) -> float:
            return float(side * (contrast @ _rates_on_path(self, side * np.exp(log_multiplier) * contrast)))

        if rest(60.0) > 0:  # no rates whatever make it 0
            return float("inf")
        log_multiplier = _root(rest, -30.0, 60.0)
        return self.divergence(_rates_on_path(self, side * np.exp(log_multiplier) * contrast))

    def divergence(self, p: np.ndarray) -> float:
        each = _apart(self.rate, p) + _apart(1 - self.rate, 1 - p)
        return float(2 * self.draws @ each)


def _apart(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(H,) d(seen, expected)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.where(seen > 0, seen * np.log(seen / expected), 0.0) - (seen - expected)
        less = (seen * ((seen / expected) ** _POWER - 1) / _POWER - (seen - expected)) / (_POWER + 1)
    return np.where(seen == expected, 0.0, np.where(seen > expected, more, less))


def _rates_on_path(samples: _Samples, slope: np.ndarray) -> np.ndarray:
    """(H,) the rates at which the log likelihood of stratum h grows by slope_h per unit of its rate.

    With a = draws * observed rate they solve a / p - (draws - a) / (1 - p) = slope, that is
    slope p^2 - (draws + slope) p + a = 0; of the two roots the one in [0, 1].
    """
    a, sum_ = samples.draws * samples.rate, samples.draws + slope
    root = np.sqrt(np.maximum(sum_**2 - 4 * slope * a, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(sum_ > 0, 2 * a / (sum_ + root), (sum_ - root) / (2 * slope))
    return np.clip(p, 0, 1)


def _root(function: Callable[[float], float], a: float, b: float) -> float:
    """Where the function changes its sign between a and b; b where it does not."""
    from scipy.optimize import brentq

    if function(a) * function(b) > 0:
        return b
    return float(brentq(function, a, b, xtol=1e-10))
