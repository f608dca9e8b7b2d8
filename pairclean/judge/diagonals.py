"""Scores of images with captions a constant number of rows away, or in reverse order: all such diagonals at once.

s is the cosine of centred vectors. Candidates for a fault are all small offsets, and the peaks of the sums of s along
all diagonals, which the FFT gives at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np

from ..arrays import Pairs, Rows, Space, chunks
from ..execution import available_cores, side_by_side

#: Beyond NEAR rows, the PEAKS highest sums along the diagonals of a window are candidates.
NEAR, PEAKS = 16, 8
#: Height of a peak that is tested, in standard deviations of the sums.
PEAK = 5.0
#: Rivals on either side of a pairing, and how far away the captions are that an image is compared with for all of them.
BESIDE = 2
REACH = NEAR + BESIDE
#: Rows of images in a window of diagonals; its captions reach as far on either side. Sets up to thrice as long are one
#: window. Larger ones are also searched as a whole, by vectors projected to PROJECTED dimensions. A thread takes up to
#: STRIP windows that follow one another, which share the captions between them.
WINDOW, PROJECTED, STRIP = 16_384, 64, 8
#: Rows of the shortest diagonal that is looked at.
SHORTEST = 32
#: Pairs that centre the vectors, and random re-pairings that probabilities are measured by.
SAMPLE = 20_000
#: Rows scored at once: of a pairing, and where all small offsets of the same rows follow, from the cache. Columns of
#: which spectra are taken at once; fewer where these would have more numbers than SPECTRA.
CHUNK, CACHED, COLUMNS, SPECTRA = 8192, 512, 16, 2**26


@dataclass(frozen=True)
class Pairing:
    """Image i with caption i + offset or, reversed, offset - i.  start, stop: the rows in which it is looked for."""

    offset: int
    reversed: bool
    start: int
    stop: int

    def partner(self, rows: np.ndarray) -> np.ndarray:
        return self.offset - rows if self.reversed else rows + self.offset

    def rivals(self) -> list[Pairing]:
        """The pairings that it has to beat, the pairs as they are among them."""
        beside = {self.offset + step for step in range(-BESIDE, BESIDE + 1) if step}
        if not self.reversed:
            beside |= {-self.offset}
        found = [replace(self, offset=offset) for offset in sorted(beside) if self.reversed or offset]
        return [Pairing(0, False, self.start, self.stop), *found]


class Diagonals:
    """Scores of images with captions along diagonals; 0, which is that of random re-pairings, where there is none.

    pairs: N in the order of their rows.  readable: (N,) bool.  space: where images and captions are comparable.
    """

    def __init__(self, pairs: Pairs, readable: np.ndarray, space: Space):
        self.n = len(pairs)
        present = np.flatnonzero(readable)
        rng = np.random.default_rng(0)
        self.sample = present if len(present) <= SAMPLE else np.sort(rng.choice(present, SAMPLE, replace=False))
        self._image = _Centred(pairs.image, space.embed_image, readable, self.sample)
        self._text = _Centred(pairs.text, space.embed_text, readable, self.sample)
        images, captions = (rng.choice(self.sample, SAMPLE) for _ in range(2))
        #: (SAMPLE,) scores of random re-pairings.
        self.random = products(self._image(images), self._text(captions))
        self.scale = float(self.random.std()) or 1.0

    def scores(self, pairing: Pairing) -> np.ndarray:
        """(stop - start,) float32 of the pairing's rows."""
        if not pairing.offset and not pairing.reversed:
            return self.sweep.own[pairing.start : pairing.stop]
        return self.of(np.arange(pairing.start, pairing.stop), pairing.partner)

    def of(self, rows: np.ndarray, partner: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(n,) float32 of images with captions.  partner: rows of images -> rows of captions; outside there is none."""
        return _along(self._image, self._text, self.n, rows, partner)

    @cached_property
    def sweep(self) -> Sweep:
        """What one reading of all vectors tells."""
        n = self.n
        windows = [slice(0, n)] if n <= 3 * WINDOW else list(chunks(n, WINDOW))
        found = Sweep(np.zeros(n, np.float32), np.zeros((n, 2 * REACH + 1), np.float16), [], None)
        if len(windows) > 1:
            found.projected = _Projected(*(np.empty((n, PROJECTED), np.float32) for _ in range(2)))
        # What is found in a window does not depend on the others.
        strips = list(chunks(len(windows), min(STRIP, -(-len(windows) // available_cores()))))

        def of_strip(k: int, _: str) -> list[Pairing]:
            return self._of_windows(found, windows, strips[k])

        found.peaks = list(chain.from_iterable(side_by_side(of_strip, len(strips), ["cpu"])))
        if found.projected is not None:
            from scipy.fft import set_workers

            captions = _Block(found.projected.text, _length(2 * n))
            with set_workers(available_cores()):
                found.peaks += _peaks(found.projected.image, [captions], 0, 0)
        found.peaks = list(dict.fromkeys(found.peaks))
        return found

    def _of_windows(self, found: Sweep, windows: list[slice], strip: slice) -> list[Pairing]:
        """Fill in what some windows tell.  Returns their peaks."""
        length = _length(2 * (windows[0].stop - windows[0].start))

        def captions(k: int) -> _Block:
            return _Block.keeping(self._text(windows[k] if 0 <= k < len(windows) else slice(0, 0)), length)

        peaks: list[Pairing] = []
        blocks = [captions(strip.start - 1), captions(strip.start)]
        for k in range(strip.start, strip.stop):
            part, blocks = windows[k], [*blocks[-2:], captions(k + 1)]
            image, (before, here, after) = self._image(part), (block.vectors for block in blocks)
            around = np.concatenate([before[-REACH:], here, after[:REACH]])
            self._near(found, image, around, part.start, part.start - min(REACH, len(before)))
            peaks += _peaks(image, blocks, part.start, part.start - len(before))
            if found.projected is not None:
                for out, side in ((found.projected.image, image), (found.projected.text, here)):
                    out[part] = side @ _projection(side.shape[1])
        return peaks

    def _near(self, found: Sweep, image: np.ndarray, text: np.ndarray, start: int, first: int) -> None:
        """Score images with the captions around them.  start, first: the rows of the first image and caption here."""
        for part in chunks(len(image), CACHED):
            for offset in range(-REACH, REACH + 1):
                low, high = max(part.start, -offset - start), min(part.stop, self.n - offset - start)
                if low < high:
                    to = offset + start - first
                    scores = products(image[low:high], text[low + to : high + to])
                    found.near[start + low : start + high, REACH + offset] = scores
                    if not offset:
                        found.own[start + low : start + high] = scores


@dataclass
class Sweep:
    """own: (N,) float32 scores of the pairs as they are.  near: (N, 2 REACH + 1) float16, of each image with the
    captions up to REACH rows away.  peaks: pairings beyond NEAR rows whose sum of scores stands out from
    those beside it.  projected: of sets that are longer than a window, vectors for a first look at such pairings.
    """

    own: np.ndarray
    near: np.ndarray
    peaks: list[Pairing]
    projected: _Projected | None


@dataclass(frozen=True)
class _Projected:
    """image, text: (N, PROJECTED) float32 centred vectors, projected at random."""

    image: np.ndarray
    text: np.ndarray

    def scores(self, pairing: Pairing) -> np.ndarray:
        """(stop - start,) float32 of the pairing's rows: those of `Diagonals`, with the projection's noise."""
        rows = np.arange(pairing.start, pairing.stop)
        return _along(self.image.__getitem__, self.text.__getitem__, len(self.image), rows, pairing.partner)


class _Centred:
    """Vectors of one side in the common space, less their mean, of unit length; zero where they are unreadable."""

    def __init__(
        self, vectors: Rows, embed: Callable[[Rows], np.ndarray], readable: np.ndarray, sample: np.ndarray
    ) -> None:
        self.vectors, self.embed, self.readable = vectors, embed, readable
        self.mean = embed(vectors[sample]).mean(0)

    def __call__(self, rows: np.ndarray | slice) -> np.ndarray:
        readable = self.readable[rows]
        if not len(readable):
            return np.zeros((0, len(self.mean)), np.float32)
        found: np.ndarray = self.embed(self.vectors[rows]) - self.mean
        found /= np.maximum(np.sqrt(products(found, found)), 1e-12)[:, None]
        found[~readable] = 0
        return found


def _along(
    image: Callable[[np.ndarray], np.ndarray],
    text: Callable[[np.ndarray], np.ndarray],
    n: int,
    rows: np.ndarray,
    partner: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    out = np.zeros(len(rows), np.float32)
    for part in chunks(len(rows), CHUNK):
        caption = partner(rows[part])
        there = (caption >= 0) & (caption < n)
        out[np.flatnonzero(there) + part.start] = products(image(rows[part][there]), text(caption[there]))
    return out


def _projection(dimensions: int) -> np.ndarray:
    """(dimensions, PROJECTED) float32, drawn; the identity where there are no more than that."""
    drawn = np.random.default_rng(0).standard_normal((dimensions, PROJECTED), np.float32)
    return drawn if dimensions > PROJECTED else np.eye(dimensions, PROJECTED, dtype=np.float32)


@dataclass(frozen=True)
class _Block:
    """Consecutive vectors, (m, d).  length: of their columns' spectra, padded with zeros.  kept: (d, length // 2 + 1)
    complex64, these spectra; None where they are computed when they are needed."""

    vectors: np.ndarray
    length: int
    kept: np.ndarray | None = None

    @staticmethod
    def keeping(vectors: np.ndarray, length: int) -> _Block:
        kept = np.empty((vectors.shape[1], length // 2 + 1), np.complex64)
        for part in chunks(len(kept) if len(vectors) else 0, COLUMNS):
            kept[part] = _spectrum(vectors[:, part], length)
        return _Block(vectors, length, kept)

    def __len__(self) -> int:
        return len(self.vectors)

    def spectrum(self, columns: slice) -> np.ndarray:
        return _spectrum(self.vectors[:, columns], self.length) if self.kept is None else self.kept[columns]


def _length(least: int) -> int:
    """The length of spectra for at least so many rows, those of images and captions together."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(least, real=True))


def _spectrum(x: np.ndarray, length: int) -> np.ndarray:
    """(n, c) -> (c, length // 2 + 1) complex, of its columns padded with zeros."""
    from scipy.fft import rfft

    found: np.ndarray = rfft(np.ascontiguousarray(x.T), length, axis=1)
    return found


def _peaks(image: np.ndarray, blocks: Sequence[_Block], start: int, first: int) -> list[Pairing]:
    """Pairings that stand out.  image, blocks: consecutive vectors.  start, first: their first rows."""
    n, m = len(image), sum(map(len, blocks))
    shifted, turned = _sums(image, blocks)
    to, stop = first - start, start + n
    lags = _standing_out(shifted, n, lambda lags: np.abs(lags + to) <= NEAR)
    found = [Pairing(lag + to, False, start, stop) for lag in lags]
    lags = _standing_out(turned[::-1], n, lambda lags: np.zeros(len(lags), bool))
    return found + [Pairing(first + m - 1 - lag + start, True, start, stop) for lag in lags]


def _sums(x: np.ndarray, blocks: Sequence[_Block]) -> tuple[np.ndarray, np.ndarray]:
    """The sums of x_i y_(i + k), for the lags k from 1 - n to m - 1, and of x_i y_(k - i), for k from 0 to n + m - 2.

    x: (n, d).  blocks: of y, m rows together.  Returns two (n + m - 1,) float32.  A block's spectrum serves the windows
    on both sides of it too, and short spectra stay in the cache.
    """
    from scipy.fft import irfft

    n, m = len(x), sum(map(len, blocks))
    present, length = [block for block in blocks if len(block)], blocks[0].length
    correlated, convolved = np.zeros((2, len(present), length // 2 + 1), np.complex64)
    product = np.empty(length // 2 + 1, np.complex64)
    for part in chunks(x.shape[1], min(COLUMNS, max(1, SPECTRA // length))):
        for of_x, *of_blocks in zip(_spectrum(x[:, part], length), *(b.spectrum(part) for b in present), strict=True):
            mirrored = of_x.conj()
            for of_y, one, other in zip(of_blocks, correlated, convolved, strict=True):
                one += np.multiply(mirrored, of_y, out=product)
                other += np.multiply(of_x, of_y, out=product)
    shifted, turned = np.zeros((2, n + m - 1), np.float32)
    at = 0
    for block, one, other in zip(present, correlated, convolved, strict=True):
        to = slice(at, at + n + len(block) - 1)
        shifted[to] += irfft(one, length)[np.arange(1 - n, len(block)) % length]
        turned[to] += irfft(other, length)[: n + len(block) - 1]
        at += len(block)
    return shifted, turned


def _standing_out(total: np.ndarray, n: int, known: Callable[[np.ndarray], np.ndarray]) -> list[int]:
    """The lags k at which a sum stands out from those at the two lags on either side.

    total: (n + m - 1,) by lag, as `_sums` returns them.  known: lags -> bool, those that are left out.
    """
    if n < SHORTEST:  # such as a last window of few rows
        return []
    m = len(total) - n + 1
    lags = np.arange(-(n - 1), m)
    beside = sum(np.roll(total, step) for step in (-2, -1, 1, 2)) / 4
    rows = np.minimum(n, m - lags) - np.maximum(0, -lags)
    height = (total - beside) / np.sqrt(rows)
    height[(rows < SHORTEST) | known(lags)] = 0
    height /= 1.4826 * np.median(np.abs(height[rows >= SHORTEST])) + 1e-12
    top = np.argsort(-height, kind="stable")[:PEAKS]
    return [int(lags[k]) for k in top if height[k] > PEAK]


def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, d), (n, d) -> (n,) inner products of the rows."""
    found: np.ndarray = np.einsum("ij,ij->i", x, y)
    return found
