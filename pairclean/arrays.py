"""Pairs as arrays, the form in which the methods see them.

Vectors are read by row, so that memory-mapped parts are never loaded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .scratch import MEMORY, Scratch

#: Vectors that are converted at once.
CHUNK = 8192


class Rows(Protocol):
    """(N, d), indexed by a slice or an integer array; a NumPy array or `embed.store.ShardedArray`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class Space(Protocol):
    """Maps the encoder's vectors of both sides to unit vectors of a common space."""

    def embed_image(self, image: Rows, /) -> np.ndarray: ...

    def embed_text(self, text: Rows, /) -> np.ndarray: ...


class Comparison(Protocol):
    """How the images and captions of a space are compared; what fits better is higher."""

    def of_pairs(self, image: np.ndarray, text: np.ndarray, /) -> np.ndarray:
        """(n, k), (n, k) -> (n,) float32: each image with the caption beside it."""

    def with_texts(self, image: np.ndarray, text: np.ndarray, /) -> np.ndarray:
        """(n, k), (m, k) -> (n, m) float32: each image with each caption."""

    def with_images(self, text: np.ndarray, image: np.ndarray, /) -> np.ndarray:
        """(n, k), (m, k) -> (n, m) float32: each caption with each image."""


class InnerProduct:
    """Compares images with captions by the inner products of their vectors."""

    def of_pairs(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("ij,ij->i", image, text))

    def with_texts(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        return image @ text.T

    def with_images(self, text: np.ndarray, image: np.ndarray) -> np.ndarray:
        return text @ image.T


INNER_PRODUCT = InnerProduct()


class PairScorer(Protocol):
    """Compares images with captions by more than one vector of each: a network over regions and words, a cross-encoder.

    Images and captions are named by the pairs that they came in, as rows of the data.
    """

    def score(self, image_rows: np.ndarray, text_rows: np.ndarray, /) -> np.ndarray:
        """How well the image of pair image_rows[i] and the caption of pair text_rows[i] fit.

        image_rows, text_rows: (n,) int64, in any order and repeated; n is from 1 to millions.
        Returns (n,) finite floats in any unit, higher where the fit is better.
        """


@dataclass(frozen=True)
class Pairs:
    """N pairs of an image and a caption.

    image: (N, d), text: (N, e), any float.  image_id, caption_id: (N,) int64, equal for copies of one image (caption).
    """

    image: Rows
    text: Rows
    image_id: np.ndarray
    caption_id: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    def take(self, rows: np.ndarray) -> Pairs:
        """The pairs `rows` (n,) int64, with their vectors in memory."""
        return Pairs(self.image[rows], self.text[rows], self.image_id[rows], self.caption_id[rows])

    def carrying(self, captions: np.ndarray) -> Pairs:
        """The same images, each with the caption of the pair `captions` (N,) int64; vectors are still read by row."""
        return Pairs(self.image, _Reordered(self.text, captions), self.image_id, self.caption_id[captions])

    def through(self, space: Space) -> Pairs:
        """The same pairs with (N, k) float32 unit vectors of `space`, in memory."""
        return Pairs(space.embed_image(self.image), space.embed_text(self.text), self.image_id, self.caption_id)

    def halved_through(self, space: Space, rows: np.ndarray, scratch: Scratch = MEMORY) -> Pairs:
        """The pairs `rows` (n,) int64 with their vectors in `space`, which are held in half precision."""
        sides = ((self.image, space.embed_image), (self.text, space.embed_text))
        image, text = (HalfPrecision.of(vectors, rows, embed, scratch) for vectors, embed in sides)
        return Pairs(image, text, self.image_id[rows], self.caption_id[rows])

    def with_ids(self, image_id: np.ndarray, caption_id: np.ndarray) -> Pairs:
        """The same vectors under other identities, (N,) int64 each."""
        return Pairs(self.image, self.text, image_id, caption_id)

    @staticmethod
    def joined(*parts: Pairs) -> Pairs:
        """The pairs of all parts in order, with their vectors in memory."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Pairs(*(np.concatenate([column[:] for column in of_parts]) for of_parts in columns))


@dataclass(frozen=True)
class HalfPrecision:
    """Vectors that are held in half precision, and read in single precision.

    Inner products of unit vectors of 512 dimensions are off by about 1e-5.  held: (N, k) float16.
    """

    held: np.ndarray

    @staticmethod
    def of(
        vectors: Rows, rows: np.ndarray, embed: Callable[[np.ndarray], np.ndarray], scratch: Scratch = MEMORY
    ) -> HalfPrecision:
        """What `embed` makes of some rows, without holding all of it in single precision."""
        held = scratch.empty((len(rows), embed(vectors[rows[:1]]).shape[1]), np.float16)
        for part in chunks(len(rows), CHUNK):
            held[part] = embed(vectors[rows[part]])
        return HalfPrecision(held)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape

    def __getitem__(self, index: Any, /) -> np.ndarray:
        return single(self.held[index])


@dataclass(frozen=True)
class _Reordered:
    """Rows in another order: row i is row order[i] of `rows`."""

    rows: Rows
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), *self.rows.shape[1:])

    def __getitem__(self, index: Any, /) -> np.ndarray:
        return self.rows[self.order[index]]


def chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def single(x: np.ndarray) -> np.ndarray:
    """x in single precision; torch converts from half precision in a fifth of NumPy's time."""
    if x.dtype != np.float16:
        return np.asarray(x, np.float32)
    import torch

    writable = np.require(x, requirements=["C", "W"])  # torch warns of others
    found: np.ndarray = torch.from_numpy(writable).float().numpy()
    return found


def unique_values(values: np.ndarray) -> np.ndarray:
    """The distinct ones of (n,) integers, ascending: `np.unique` without its hashes, which take far longer to build."""
    values = np.sort(values)
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return values[new]


def places_of_values(values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct ones of (n,) integers, ascending, and where each of them stands, ascending."""
    order = np.argsort(values, kind="stable")
    distinct, start = np.unique(values[order], return_index=True)
    return distinct, np.split(order, start[1:]) if len(distinct) else []


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length; zero rows stay zero."""
    return np.asarray(x / _lengths(x))


def single_unit(x: np.ndarray) -> np.ndarray:
    """`unit` of x in single precision, which is computed in place where x has to be converted."""
    found = single(x)
    return np.divide(found, _lengths(found), out=None if np.may_share_memory(found, x) else found)


def _lengths(x: np.ndarray) -> np.ndarray:
    """(n, 1), at least 1e-12; np.linalg.norm would hold the squares of all entries."""
    return np.asarray(np.maximum(np.sqrt(np.einsum("ij,ij->i", x, x)), 1e-12)[:, None])
