"""Pairs that a `PairScorer` compares, in the form in which the judge and the rematcher see the pairs of a space.

An image, and a caption, is represented by the number of its pair, and the scorer compares those. Everything else (the
decoys, the hubness, the standing within kinds, the plan) is as it is for vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Comparison, Pairs, PairScorer, Rows, unique_values
from ..pairs import UserError
from .crossfit import CrossFit
from .scores import Model

#: Similarities are scaled so that those of random re-pairings have this standard deviation, about that of CLIP's
#: cosines: temperatures are made for cosines, and a scorer may have any unit.
SPREAD = 0.05
#: Random re-pairings by which the standard deviation of a scorer is measured.
SAMPLE = 2000
#: Comparisons that all scorers together remember, 256 MiB of float32. In small data each is needed many times.
REMEMBERED = 2**26


class _OfRows(ABC):
    """A space whose images and captions are rows of N pairs, (n, 1) int64."""

    device = "cpu"
    learned = False

    @property
    def comparison(self) -> Comparison:
        return self

    def embed_image(self, image: Rows) -> np.ndarray:
        return image[:]

    def embed_text(self, text: Rows) -> np.ndarray:
        return text[:]

    @abstractmethod
    def of_pairs(self, image: np.ndarray, text: np.ndarray) -> np.ndarray: ...

    def with_texts(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        pairs = np.repeat(image, len(text), axis=0), np.tile(text, (len(image), 1))
        return self.of_pairs(*pairs).reshape(len(image), len(text))

    def with_images(self, text: np.ndarray, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.with_texts(image, text).T)


class Compared(_OfRows):
    """The space of one scorer.  unit: the scorer's numbers over the similarities (SPREAD)."""

    def __init__(self, scorer: PairScorer, caption: np.ndarray, rows: np.ndarray, *, scorers: int) -> None:
        """caption: (N,) int64, the row of the source from which each pair has its caption.  rows: (n,) readable pairs.

        scorers: how many there are. If there are several, they were trained on these pairs, each without its own fold.
        """
        self.scorer, self.caption, self.learned = scorer, caption, scorers > 1
        n = len(caption)
        self._known = np.full((n, n), np.nan, np.float32) if n * n * scorers <= REMEMBERED else None
        image, text = np.random.default_rng(0).choice(rows, (2, SAMPLE)) if len(rows) else np.zeros((2, 0), np.int64)
        found = self._compare(image, caption[text]).astype(np.float64)
        self.unit = float(found.std()) / SPREAD if len(np.unique(found)) > 1 else 1.0

    def of_pairs(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        return self._compare(image[:, 0], self.caption[text[:, 0]]) / np.float32(self.unit)

    def _compare(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """(n,) float32, of the images and captions of these rows of the source."""
        if self._known is None:
            return self._ask(image, text)
        missing = np.flatnonzero(np.isnan(self._known[image, text]))
        if len(missing):
            code = unique_values(image[missing] * len(self._known) + text[missing])
            new = np.divmod(code, len(self._known))
            self._known[new] = self._ask(*new)
        return self._known[image, text]

    def _ask(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        if not len(image):
            return np.zeros(0, np.float32)
        found = np.asarray(self.scorer.score(image, text))
        if found.shape != image.shape or found.dtype.kind not in "fiu":
            gave = f"{found.dtype} of the shape {found.shape}"
        elif not np.isfinite(found).all():
            gave = "NaN or infinite numbers"
        else:
            return found.astype(np.float32)
        raise UserError(
            f"the scorer gave {gave} for {len(image)} pairs: score() should return a finite number for each pair"
        )


class _OwnScorer(_OfRows):
    """All scorers as one space: an image is compared by the scorer that judges its pair, and has not trained on it."""

    def __init__(self, spaces: Sequence[Compared], fold: np.ndarray) -> None:
        self.spaces, self.fold = spaces, fold

    def of_pairs(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        out, fold = np.empty(len(image), np.float32), self.fold[image[:, 0]]
        for k, space in enumerate(self.spaces):
            mine = fold == k
            out[mine] = space.of_pairs(image[mine], text[mine])
        return out


@dataclass(frozen=True)
class PairScorers:
    """Who compares the images and captions of N pairs.

    spaces: one per scorer.  fold: (N,) int64: pair i is scored by spaces[fold[i]], which never trained on it.
    """

    spaces: Sequence[Compared]
    fold: np.ndarray

    @staticmethod
    def of(scorers: Sequence[PairScorer], fold: np.ndarray, caption: np.ndarray, rows: np.ndarray) -> PairScorers:
        """caption, rows: as in `Compared`."""
        return PairScorers([Compared(scorer, caption, rows, scorers=len(scorers)) for scorer in scorers], fold)

    @property
    def space(self) -> Model:
        """In which any image can be compared with any caption."""
        return _OwnScorer(self.spaces, self.fold)

    def pairs(self, pairs: Pairs) -> Pairs:
        """The same N pairs in the form that the spaces compare."""
        rows = np.arange(len(pairs))[:, None]
        return Pairs(rows, rows, pairs.image_id, pairs.caption_id)

    def cross_fit(self, rows: np.ndarray) -> CrossFit:
        """For the pairs `rows` (n,)."""
        return CrossFit(self.spaces, rows, self.fold[rows])

    def units(self, rows: np.ndarray) -> np.ndarray:
        """(n,) float32: the scorer's number of each pair over its similarity."""
        units = np.array([space.unit for space in self.spaces], np.float32)
        return units[self.fold[rows]]
