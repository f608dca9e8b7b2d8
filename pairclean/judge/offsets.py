"""Systematic faults: captions that moved by a constant number of rows, were reversed, or were copied down.

A caption column that was joined by position after rows were dropped, two swapped files and a reversed column all leave
the caption of image i in row i + k, or in row c - i, over a range of rows. Whether a pairing of images with rows fits
better than another is read from the difference of their scores, row by row,

    d_i = s(i, partner of i) - s(i, rival of i),        t = sum d / sqrt(sum d^2),

with s the cosine of centred vectors. If neither pairing is the true one, d_i is as likely positive as negative, and
P(t > x) <= exp(-x^2 / 2) (Efron 1969; Hoeffding 1963), whatever the distribution of the scores. A pairing is reported
if it beats every one of these rivals: the pairs as they are, the mirrored offset -k, and the two pairings on either
side. The last two matter where neighbouring rows are alike: there, every small offset fits better than a random
re-pairing, but only the true one fits better than both of its neighbours and its mirror image. The bound is corrected
for all ranges of a fixed grid and all offsets (Bonferroni, half of the error rate for the small offsets), so that at
most `ERROR_RATE` of runs without a fault report one.

Candidates are those of `diagonals`: all small offsets, and the peaks of the sums of s along all diagonals. The rows
of a fault are those of the likeliest path through the pairings (Viterbi); it is reported if a range of the grid within
them is significant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from ..arrays import Pairs, Space
from .diagonals import NEAR, REACH, SHORTEST, Diagonals, Pairing

#: The share of runs without a fault in which one may be reported.
ERROR_RATE = 0.01
#: Least mean advantage over each rival, over its root mean square: less is a bias of the data, not a fault.
ADVANTAGE = 0.1
#: Log odds of one standard deviation of the score, along the path.
SLOPE = 1.5
#: Fewest rows with one caption that are called a run, and the share of a usual score that they must not reach.
RUN, MISFIT = 20, 0.5

Kind = Literal["shifted", "reversed", "repeated"]


@dataclass(frozen=True)
class Finding:
    """A systematic fault of the pairs start <= i < stop, in input order.

    kind: "shifted": the caption of image i is that of pair i + offset, where `wraps` is set modulo the range;
    "reversed": that of pair offset - i; "repeated": all carry one caption, theirs are lost, and offset is 0.
    z: t against the closest rival, in the most significant range of the grid; for "repeated" the normal deviate of the
    p-value.  p_value: corrected for all ranges and offsets.
    """

    kind: Kind
    start: int
    stop: int
    offset: int
    z: float
    p_value: float
    wraps: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        """The fault in a few words: "captions moved 1 row down (offset +1)"."""
        if self.kind == "reversed":
            return f"captions in reverse order (rows add up to {self.offset})"
        if self.kind == "repeated":
            return "one caption on a run of rows"
        size = abs(self.offset)
        way = "down" if self.offset > 0 else "up"
        return f"captions moved {size:,} {'row' if size == 1 else 'rows'} {way} (offset {self.offset:+d})"

    @property
    def rows(self) -> np.ndarray:
        return np.arange(self.start, self.stop)

    def moved(self, rows: np.ndarray) -> np.ndarray:
        """(n,) pairs of the range -> (n,) int64 pairs whose captions belong to their images; not for "repeated"."""
        if self.kind == "reversed":
            return self.offset - rows
        if self.wraps:
            return self.start + (rows - self.start + self.offset) % len(self)
        return rows + self.offset


def find_faults(pairs: Pairs, readable: np.ndarray, space: Space) -> list[Finding]:
    """The systematic faults of N pairs, ordered by their first row.

    pairs: in the order of the source's rows.  readable: (N,) bool; unreadable pairs keep their rows.
    space: in which images and captions are comparable.
    """
    if readable.sum() < 2 * SHORTEST:
        return []
    diagonals = Diagonals(pairs, readable, space)
    moved = _moved(diagonals)
    taken = np.zeros(len(pairs), bool)
    for finding in moved:
        taken[finding.start : finding.stop] = True
    repeated = [found for found in _repeated(pairs, readable, diagonals) if not taken[found.start : found.stop].any()]
    return sorted(moved + repeated, key=lambda found: found.start)


@dataclass(frozen=True)
class Faults:
    """The systematic faults of N pairs, and where the captions of their images are.

    findings: the faults, ordered by their first row.
    place: (N,) int64, a permutation: the pair that holds each image's caption; its own where nothing moved.
    probability: (N,) float64 that a caption in a place that follows from a finding is right, NaN for all other pairs.
    repaired: whether captions are given back, so that pairs are learned from and judged with them.
    """

    findings: Sequence[Finding]
    place: np.ndarray
    probability: np.ndarray
    repaired: bool

    @staticmethod
    def of(pairs: Pairs, readable: np.ndarray, space: Space | None, *, repair: bool = False) -> Faults:
        """Look for faults, and for where the captions are.  Without a space nothing is found."""
        findings = [] if space is None else find_faults(pairs, readable, space)
        if space is None or not findings:
            return Faults(findings, np.arange(len(pairs)), np.full(len(pairs), np.nan), repair)
        return Faults(findings, *places(pairs, readable, space, findings), repair)

    @property
    def moved(self) -> np.ndarray:
        """(N,) bool: images whose caption is with another one, or with none."""
        return self.place != np.arange(len(self.place))

    @property
    def caption(self) -> np.ndarray:
        """(N,) int64, the pair whose caption each image is judged with."""
        return self.place if self.repaired else np.arange(len(self.place))

    @property
    def doubt(self) -> float:
        """At most the probability that a caption of another place was with its image all the same."""
        return max((finding.p_value for finding in self.findings if finding.kind != "repeated"), default=0.0)

    def strays(self, caption_id: np.ndarray) -> np.ndarray:
        """(N,) bool: pairs whose caption belongs to another image, and is not the same text by accident."""
        return self.moved & (caption_id[self.place] != caption_id)

    def mended(self, pairs: Pairs) -> Pairs:
        """The pairs with the captions that they are judged with."""
        return pairs.carrying(self.place) if self.repaired and self.moved.any() else pairs


def places(
    pairs: Pairs, readable: np.ndarray, space: Space, findings: Sequence[Finding]
) -> tuple[np.ndarray, np.ndarray]:
    """The `place` and the `probability` of `Faults`.  Arguments as before.

    Where ranges overlap, a caption goes to the first. Images whose own caption goes to another one, and that get none
    by the findings, have the captions that are left, in order; these are not sure to be right.
    """
    n = len(pairs)
    caption, probability, taken = np.full(n, -1), np.full(n, np.nan), np.zeros(n, bool)
    moved = [finding for finding in findings if finding.kind != "repeated"]
    diagonals = Diagonals(pairs, readable, space) if moved else None
    for finding in moved:
        assert diagonals is not None
        rows = finding.rows
        theirs = finding.moved(rows)
        there = readable[rows] & (caption[rows] < 0) & (theirs >= 0) & (theirs < n)
        there[there] &= readable[theirs[there]] & ~taken[theirs[there]]
        rows, theirs = rows[there], theirs[there]
        if not len(rows):
            continue
        caption[rows], taken[theirs] = theirs, True
        chance = probabilities(diagonals.of(rows, finding.moved), diagonals.random)
        # A text that was in its own place already is right as often as those that moved, whatever its score.
        same = pairs.caption_id[theirs] == pairs.caption_id[rows]
        probability[rows] = np.where(same, np.maximum(chance, chance.mean()), chance)
    stays = np.flatnonzero((caption < 0) & ~taken)
    caption[stays], taken[stays] = stays, True
    caption[caption < 0] = np.flatnonzero(~taken)
    return caption, probability


def probabilities(found: np.ndarray, random: np.ndarray) -> np.ndarray:
    """(n,) float64: for each of n new pairings the probability that it is right.

    found: (n,) scores of the pairings, random: (m,) of random re-pairings.
    On the normal scores of the random re-pairings, wrong pairings are N(0, 1) and right ones N(mu, sigma <= 1) with mu
    > 0; the share of right ones, mu and sigma are of maximum likelihood (EM).
    """
    from scipy.special import ndtri

    rank = np.searchsorted(np.sort(random), found, side="right")
    z = ndtri((rank + 0.5) / (len(random) + 1))
    share, mu, sigma = 0.9, max(float(np.median(z)), 0.5), 0.7
    for _ in range(300):
        likelihood = np.exp(-(((z - mu) / sigma) ** 2) / 2) / sigma
        right = share * likelihood / (share * likelihood + (1 - share) * np.exp(-(z**2) / 2))
        share = float(np.clip(right.mean(), 1e-6, 1 - 0.5 / len(z)))
        mu = max(float((right * z).sum() / right.sum()), 0.0)
        sigma = float(np.clip(np.sqrt((right * (z - mu) ** 2).sum() / right.sum()), 0.2, 1.0))
    return right


# --- moved captions ---------------------------------------------------------------------------------------------------


def _moved(diagonals: Diagonals) -> list[Finding]:
    candidates = [*_near(diagonals), *_far(diagonals)]
    found = []
    for start, stop, pairing in _path(diagonals, candidates):
        z, p = _test(diagonals.n, pairing, *_compared(diagonals, replace(pairing, start=start, stop=stop)), start)
        if p < ERROR_RATE:
            kind: Kind = "reversed" if pairing.reversed else "shifted"
            found.append(Finding(kind, start, stop, pairing.offset, z, p))
    return [_wrapped(diagonals, finding, found) for finding in found]


def _near(diagonals: Diagonals) -> Iterator[Pairing]:
    """The small offsets that are significant in some range."""
    near = diagonals.sweep.near
    for offset in range(-NEAR, NEAR + 1):
        pairing = Pairing(offset, False, 0, diagonals.n)
        own = near[:, REACH + offset].astype(np.float32)
        rivals = [near[:, REACH + rival.offset] for rival in pairing.rivals()]
        # Nearly all that are no fault lose to the pairs as they are.
        if offset and all(_test(diagonals.n, pairing, own, some, 0)[1] < ERROR_RATE for some in (rivals[:1], rivals)):
            yield pairing


def _far(diagonals: Diagonals) -> Iterator[Pairing]:
    """The peaks that are significant in some range."""
    projected = diagonals.sweep.projected
    for pairing in diagonals.sweep.peaks:
        # Nearly all that are no fault lose to the pairs as they are: the other rivals are not scored then. A fault that
        # is a peak of the whole set has a thousand rows or more, which projected scores tell as well.
        looks = [(diagonals.scores, pairing.rivals()[:1]), (diagonals.scores, pairing.rivals())]
        if projected is not None and pairing.stop - pairing.start == diagonals.n:
            looks.insert(0, (projected.scores, pairing.rivals()[:1]))
        if all(
            _test(diagonals.n, pairing, scores(pairing), [scores(rival) for rival in rivals], pairing.start)[1]
            < ERROR_RATE
            for scores, rivals in looks
        ):
            yield pairing


def _compared(diagonals: Diagonals, pairing: Pairing) -> tuple[np.ndarray, list[np.ndarray]]:
    """The scores of a pairing, and those of each of its rivals."""
    return diagonals.scores(pairing), [diagonals.scores(rival) for rival in pairing.rivals()]


def _test(n: int, pairing: Pairing, own: np.ndarray, rivals: list[np.ndarray], first: int) -> tuple[float, float]:
    """The largest t against the closest rival over the ranges of the grid within some rows, and its p-value.

    own, rivals: scores of the rows from `first` on, of n.
    The p-value is corrected for all ranges of the grid, and for all offsets that are as small, or all.
    """
    difference = own.astype(np.float64)[:, None] - np.stack(rivals, 1)
    nothing = np.zeros((1, len(rivals)))
    total, squares = (np.concatenate([nothing, np.cumsum(x, 0)]) for x in (difference, difference**2))
    best = 0.0
    for length, step in _grid(n):
        start = np.arange(-first % step, len(own) - length + 1, step)
        if len(start):
            moments = (sums[start + length] - sums[start] for sums in (total, squares))
            t = (next(moments) / np.sqrt(np.maximum(next(moments), 1e-12))).min(1)
            best = max(best, float(np.where(t > ADVANTAGE * length**0.5, t, 0).max()))
    small = not pairing.reversed and abs(pairing.offset) <= NEAR
    ranges = sum((n - length) // step + 1 for length, step in _grid(n))
    tests = 2 * ranges * (2 * NEAR if small else 4 * n)  # half of the error rate is for the small offsets
    return best, float(np.exp(min(np.log(tests) - best**2 / 2, 0)))


def _grid(n: int) -> Iterator[tuple[int, int]]:
    """The lengths of the ranges that are tested, multiples of the square root of 2, and the steps of their starts."""
    length = SHORTEST * 1.0
    while length <= n:
        yield int(length), int(length) // 8
        length *= 2**0.5


def _path(diagonals: Diagonals, likely: Sequence[Pairing]) -> Iterator[tuple[int, int, Pairing]]:
    """The likeliest path of the rows through the pairs as they are and these pairings: its ranges off the former."""
    if not likely:
        return
    n = diagonals.n
    own = Pairing(0, False, 0, n)
    odds = np.full((n, 1 + len(likely)), -np.inf)
    for k, pairing in enumerate([own, *likely]):
        scores = diagonals.scores(pairing).astype(np.float64)
        partner = pairing.partner(np.arange(pairing.start, pairing.stop))
        there = (partner >= 0) & (partner < n)
        odds[pairing.start : pairing.stop, k] = np.where(
            there, SLOPE * np.clip(scores / diagonals.scale, -3, 3), -np.inf
        )
    change = 2 * np.log(n) + np.log(len(likely))
    value, best = odds[0].copy(), np.zeros(n, np.int64)
    stays = np.ones(odds.shape, bool)
    for i in range(1, n):
        best[i] = value.argmax()
        other = value[best[i]] - change
        stays[i] = value >= other
        value = np.maximum(value, other) + odds[i]
    state = np.empty(n, np.int64)
    state[-1] = value.argmax()
    for i in range(n - 1, 0, -1):
        state[i - 1] = state[i] if stays[i, state[i]] else best[i]
    ends = np.flatnonzero(np.diff(state, prepend=-1, append=-1))
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if state[start]:
            yield start, stop, likely[state[start] - 1]


def _wrapped(diagonals: Diagonals, finding: Finding, others: Sequence[Finding]) -> Finding:
    """The finding with the rows at its end whose captions went to its beginning, or the other way round, if any did.

    Where a caption is nobody's, the path ends anywhere in as many rows as the offset has: all ends there are tried.
    """
    k, size, n = finding.offset, abs(finding.offset), diagonals.n
    if finding.kind != "shifted" or size > min(NEAR, len(finding) // 4):
        return finding
    edge, slack = np.arange(-3, 4), np.arange(-size - 3, 4)
    starts, stops = (edge, slack + size) if k > 0 else (-slack - size, edge)
    border = np.concatenate(
        [finding.start + np.arange(-size - 4, size + 4), finding.stop + np.arange(-size - 4, size + 4)]
    )
    border = np.unique(border[(border >= 0) & (border < n)])
    own, shifted = diagonals.of(border, lambda rows: rows), diagonals.of(border, lambda rows: rows + k)
    usual = float(diagonals.of(finding.rows, finding.moved).mean())

    def fit(start: int, stop: int) -> float:
        """Sum of the scores at the border if the rows start to stop are shifted and the others are not."""
        return float(np.where((border >= start) & (border < stop), shifted, own).sum())

    best, most = finding, fit(finding.start, finding.stop)
    for start, stop in product((finding.start + starts).tolist(), (finding.stop + stops).tolist()):
        if start < 0 or stop > n or any(o.start < stop and o.stop > start for o in others if o is not finding):
            continue
        wider = replace(finding, start=start, stop=stop, wraps=True)
        first, last = (start, stop - k) if k > 0 else (start + size, stop)
        wrapped = np.arange(last, stop) if k > 0 else np.arange(start, first)
        fits = diagonals.of(wrapped, wider.moved)
        total = fit(first, last) + float((fits - diagonals.of(wrapped, np.asarray)).sum())
        if total > most and fits.mean() > usual / 2:
            best, most = wider, total
    return best


# --- one caption on a run of rows -------------------------------------------------------------------------------------


def _repeated(pairs: Pairs, readable: np.ndarray, diagonals: Diagonals) -> Iterator[Finding]:
    """Runs of one caption over different images that it does not fit.

    Without order, a caption that a share f of the pairs carries starts a run of L rows somewhere with a probability of
    at most n f^L. Runs that are no accident are in order where the caption fits, as in a catalogue.
    """
    n = len(pairs)
    _, caption, count = np.unique(pairs.caption_id, return_inverse=True, return_counts=True)
    ends = np.flatnonzero(np.diff(np.where(readable, caption, -1), prepend=-2, append=-2))
    usual: float | None = None
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if not readable[start] or stop - start < RUN or len(np.unique(pairs.image_id[start:stop])) < RUN:
            continue
        log_p = np.log(n) + (stop - start) * np.log(count[caption[start]] / n)
        if log_p > np.log(ERROR_RATE):
            continue
        if usual is None:
            usual = float(np.median(diagonals.of(diagonals.sample, np.asarray)))
        score = diagonals.of(np.arange(start, stop), np.asarray)
        if score.mean() < MISFIT * usual:
            yield Finding("repeated", start, stop, 0, float(np.sqrt(-2 * log_p)), float(np.exp(log_p)))
