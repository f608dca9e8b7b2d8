"""Some pairs in a model's space, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..arrays import Pairs, Rows, chunks
from .scores import Model

CHUNK = 16384  # pairs embedded at once
#: The most pairs whose vectors are held in memory.
HELD = 2**15


class Vectors:
    """A model's vectors of n rows of one side, by their positions among these rows.

    They are held in memory if n is at most HELD, and otherwise embedded each time that they are asked for.
    """

    def __init__(self, embed: Callable[[np.ndarray], np.ndarray], vectors: Rows, rows: np.ndarray):
        """vectors: (N, d) in the encoder's space.  rows: (n,) int64.  embed: (m, d) -> (m, k) float32 unit rows."""
        self._embed, self._vectors, self._rows = embed, vectors, rows
        self._held: np.ndarray | None = None
        if len(rows) <= HELD:
            parts = [embed(vectors[rows[part]]) for part in chunks(len(rows), CHUNK)]
            self._held = np.concatenate(parts) if parts else embed(vectors[rows])

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        """at: (m,) int64 positions.  Returns (m, k) float32; no row is embedded twice for one call."""
        if self._held is not None:
            return self._held[at]
        if isinstance(at, slice):
            return self._embed(self._vectors[self._rows[at]])
        used, place = np.unique(at, return_inverse=True)
        return self._embed(self._vectors[self._rows[used]])[place]


def both_sides(model: Model, pairs: Pairs, rows: np.ndarray) -> tuple[Vectors, Vectors]:
    """The images, and the captions, of the pairs `rows` (n,) in a model's space."""
    return Vectors(model.embed_image, pairs.image, rows), Vectors(model.embed_text, pairs.text, rows)


def embedded(
    model: Model, pairs: Pairs, rows: np.ndarray, *, size: int | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The pairs `rows` in a model's space, `size` at a time: which of them, their images and their captions."""
    for part in chunks(len(rows), size or CHUNK):
        yield part, model.embed_image(pairs.image[rows[part]]), model.embed_text(pairs.text[rows[part]])
