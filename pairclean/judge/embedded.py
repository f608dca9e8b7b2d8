"""Some pairs in a model's space, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..arrays import INNER_PRODUCT, Comparison, Pairs, Rows, chunks
from .scores import Model, on_all_cores

CHUNK = 16384  # pairs embedded at once
#: Pairs that a thread embeds at once, where others do the same beside it.
PART = 4096
#: The most pairs whose vectors are held in memory.
HELD = 2**15


class Vectors:
    """A model's vectors of n rows of one side, by their positions among these rows.

    They are held in memory if n is at most HELD, and otherwise embedded each time that they are asked for.
    """

    def __init__(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        vectors: Rows,
        rows: np.ndarray,
        comparison: Comparison = INNER_PRODUCT,
    ):
        """vectors: (N, d) in the encoder's space.  rows: (n,) int64.  embed: (m, d) -> (m, k) float32 unit rows.

        comparison: of the space that they are embedded in.
        """
        self._embed, self._vectors, self._rows, self._comparison = embed, vectors, rows, comparison
        self._held: np.ndarray | None = None
        if len(rows) <= HELD:
            self._held = self._embedded(rows)

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        """at: (m,) int64 positions.  Returns (m, k) float32; no row is embedded twice for one call."""
        if self._held is not None:
            return self._held[at]
        if isinstance(at, slice):
            return self._embedded(self._rows[at])
        if (at[1:] > at[:-1]).all():
            return self._embedded(self._rows[at])
        used, place = np.unique(at, return_inverse=True)
        return self._embedded(self._rows[used])[place]

    def _embedded(self, rows: np.ndarray) -> np.ndarray:
        first = self._embed(self._vectors[rows[:PART]])
        if len(rows) <= PART:
            return first
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        out[:PART] = first
        parts = list(chunks(len(rows), PART))[1:]

        def embed_part(k: int, _: str) -> None:
            out[parts[k]] = self._embed(self._vectors[rows[parts[k]]])

        on_all_cores(embed_part, len(parts), self._comparison)
        return out


def both_sides(model: Model, pairs: Pairs, rows: np.ndarray) -> tuple[Vectors, Vectors]:
    """The images, and the captions, of the pairs `rows` (n,) in a model's space."""
    by = model.comparison
    return Vectors(model.embed_image, pairs.image, rows, by), Vectors(model.embed_text, pairs.text, rows, by)


def embedded(
    model: Model, pairs: Pairs, rows: np.ndarray, *, size: int | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The pairs `rows` in a model's space, `size` at a time: which of them, their images and their captions."""
    for part in chunks(len(rows), size or CHUNK):
        yield part, model.embed_image(pairs.image[rows[part]]), model.embed_text(pairs.text[rows[part]])
