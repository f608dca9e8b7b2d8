"""A search of many images and captions: the space is cut into cells, and a query is compared with what lies in those
that are likeliest to have what fits it best. The time to choose cells grows as n^1.5, that of the rest as n.

That is an inverted file whose lists are read by all their queries together, as products of matrices. Images and
captions lie in different regions of the space. That offset does not distinguish captions, but would decide which cells
a query searches, so both sides are centred, and they share the cells. With means x' and y',

    x y = (x - x')(y - y') + x' (y - y') + x y'

where the first term is the product that is computed, the second is a number of each caption, and the third does not
change the order of an image's captions; and vice versa.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Rows, chunks
from ..execution import side_by_side
from ..scratch import MEMORY, Scratch
from .heaps import Best
from .plan import ends_of, grouped
from .products import half, half_precision, largest

if TYPE_CHECKING:
    from torch import Tensor

#: The number of cells over the square root of the number of captions; vectors a cell by which their centres are found,
#: and in how many steps.
CELLS, TRAINED, STEPS = 8, 25, 5
#: Vectors that a query is compared with, about: it searches as many cells. The same number finds more of the best in
#: more vectors, whose cells are smaller in space: .912 of them in 131,072 (3,620 compared), .931 in 491,520 (4,207).
COMPARED = 8192
#: How far above a cell's mean its best vector is expected, over the root mean square of its distances from the mean:
#: the best of 0, .1, .2, .3 and .5 on generated scenes, photos (flickr8k, coco2k) and products (fashion_unseen).
WIDE = 0.2
#: Queries whose results are collected at once: their vectors and results stay in the cache.
BLOCK = 32_768
#: Products are computed for numbers of queries and of vectors that are multiples of these: oneDNN takes longer to
#: prepare for a new shape than to multiply.
ROWS, COLUMNS = 64, 32
#: Products that are computed at once: they stay in the cache.
PRODUCTS = 2**18
#: Vectors that are compared with all centres at once, and the cells of which only the likeliest is looked at first.
CHUNK, GROUP = 256, 8


@dataclass(frozen=True)
class _Centred:
    """Vectors that are read less their mean, in half precision.  rows: (n, k), read in single precision."""

    rows: Rows
    mean: np.ndarray

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> Tensor:
        return half(self.rows[index] - self.mean)


class _Side:
    """Images, or captions, ordered by their cell.

    vectors: (m + COLUMNS, k) centred, in half precision, the last ones zero.  bonus: (m,) float32 that is added to
    every product.  row: (m,) int64, where they were.  ends: (cells + 1,) int64; cell c has those from ends[c] to
    ends[c + 1].
    """

    def __init__(self, vectors: _Centred, bonus: np.ndarray, centres: Tensor, scratch: Scratch):
        import torch

        cell, cells = _cell(vectors, centres), len(centres)
        self.row, self.ends = grouped(cell, cells).astype(np.int64), ends_of(cell, cells)
        dtype = half_precision()
        words = scratch.empty((len(self) + COLUMNS, vectors.rows.shape[1]), f"i{dtype.itemsize}")
        self.vectors = torch.from_numpy(words).view(dtype)
        self.vectors[len(self) :] = 0
        total, squares = torch.zeros(centres.shape), torch.zeros(cells)
        for part in chunks(len(self), CHUNK):
            x = self.vectors[part] = vectors[self.row[part]]
            here = torch.from_numpy(cell[self.row[part]])
            total.index_add_(0, here, x.float())
            squares.index_add_(0, here, x.float().square().sum(1))
        self.bonus = torch.from_numpy(bonus[self.row])
        count = torch.from_numpy(np.maximum(np.diff(self.ends), 1))
        mean = total / count[:, None]
        self._mean = mean.to(dtype)
        self._width = WIDE * torch.clamp(squares / count - mean.square().sum(1), min=0).sqrt()
        self._bonus = torch.from_numpy(np.bincount(cell, bonus, cells)).float() / count
        self._bonus[np.diff(self.ends) == 0] = -torch.inf

    def __len__(self) -> int:
        return len(self.row)

    def there(self, place: np.ndarray) -> np.ndarray:
        """Where the vectors at some places of the order were; -1 stays."""
        return np.where(place < 0, -1, self.row[place])

    def near(self, query: Tensor) -> np.ndarray:
        """(n, p) cells that are likeliest to have what fits (n, k) vectors best, as many as have COMPARED vectors."""
        import torch

        cells = len(self._mean)
        found = [np.zeros((0, min(cells, -(-COMPARED * cells // max(1, len(self))))), np.int64)]
        for x in query.split(CHUNK):
            expected = torch.add(self._bonus, x @ self._mean.T).addr_(x.float().norm(dim=1), self._width)
            found.append(largest(expected, found[0].shape[1], GROUP).numpy())
        return np.concatenate(found)


class Cells:
    """(n, k) images and (m, k) captions, unit rows that are read in single precision, in cells.

    image_penalty, text_penalty: (n,), (m,), what is taken off the inner products with each of them.  scratch: where
    large arrays are put.  All searches return the best, and -1 where fewer were seen.
    """

    def __init__(
        self,
        image: Rows,
        text: Rows,
        image_penalty: np.ndarray,
        text_penalty: np.ndarray,
        *,
        scratch: Scratch = MEMORY,
    ):
        self.scratch, self.image_mean, self.text_mean = scratch, _mean(image), _mean(text)
        images, captions = _Centred(image, self.image_mean), _Centred(text, self.text_mean)
        centres = _centres(images, captions)
        bonus = _bonus(image, self.image_mean, self.text_mean, image_penalty)
        self.images = _Side(images, bonus, centres, scratch)
        bonus = _bonus(text, self.text_mean, self.image_mean, text_penalty)
        self.captions = _Side(captions, bonus, centres, scratch)

    def both_ways(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) int32 captions of every image and (m, k) images of every caption, all in the order of the cells."""
        # Queries of one cell follow one another, and search the same cells.
        images, captions = self.images, self.captions
        return (
            self._best(images.vectors[: len(images)], captions, k),
            self._best(captions.vectors[: len(captions)], images, k),
        )

    def captions_for(self, image: Rows, k: int) -> np.ndarray:
        """(q, k) captions of other images."""
        return self.captions.there(self._best(_Centred(image, self.image_mean), self.captions, k))

    def images_for(self, text: Rows, k: int) -> np.ndarray:
        """(q, k) images of other captions."""
        return self.images.there(self._best(_Centred(text, self.text_mean), self.images, k))

    def _best(self, query: Tensor | _Centred, side: _Side, k: int) -> np.ndarray:
        """(n, k) int32 of the side, in its order, for n queries."""
        found = self.scratch.empty((len(query), k), np.int32)
        blocks = list(chunks(len(query), BLOCK))

        def of_block(i: int, _: str) -> None:
            vectors = query[blocks[i]]
            best = Best(len(vectors), k)
            for who, which, product in _products(vectors, side):
                best.add_rows(product, who, np.arange(which.start, which.stop))
            found[blocks[i]] = best.sorted()[1]

        side_by_side(of_block, len(blocks), ["cpu"])
        return found


def _products(query: Tensor, side: _Side) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
    """Cell by cell: (q,) int64 of (n, k) queries, the slice of the side that they are compared with, (q, c) float32
    products with the bonus of the side."""
    import torch

    near = side.near(query)
    cell, cells = near.ravel(), len(side.ends) - 1
    who, ends = grouped(cell, cells) // near.shape[1], ends_of(cell, cells)
    padded = torch.from_numpy(np.pad(who, (0, ROWS)))
    for c in np.flatnonzero((np.diff(ends) > 0) & (np.diff(side.ends) > 0)):
        (start, stop), which = ends[c : c + 2], slice(*map(int, side.ends[c : c + 2]))
        columns = which.stop - which.start
        right = side.vectors[which.start : which.start + _whole(columns, COLUMNS)]
        for part in chunks(stop - start, max(ROWS, PRODUCTS // len(right) // ROWS * ROWS)):
            first, rows = start + part.start, part.stop - part.start
            left = query.index_select(0, padded[first : first + _whole(rows, ROWS)])
            product = torch.add(side.bonus[which], (left @ right.T)[:rows, :columns])
            yield who[first : first + rows].astype(np.int64), which, product.numpy()


def _cell(x: Tensor | _Centred, centres: Tensor) -> np.ndarray:
    """(n,) int32, the cell of each vector."""
    cell = np.empty(len(x), np.int32)
    parts = list(chunks(len(x), CHUNK))

    def of_part(i: int, _: str) -> None:
        cell[parts[i]] = (x[parts[i]] @ centres.T).max(1).indices.numpy()  # argmax takes four times as long

    side_by_side(of_part, len(parts), ["cpu"])
    return cell


def _whole(n: int, size: int) -> int:
    return -(-n // size) * size


def _mean(x: Rows) -> np.ndarray:
    total = sum((x[part].sum(0, dtype=np.float64) for part in chunks(x.shape[0], CHUNK)), np.zeros(x.shape[1]))
    return (total / max(1, x.shape[0])).astype(np.float32)


def _bonus(x: Rows, mean: np.ndarray, other: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(n,) float32: what the mean of the other side adds to every product, less the penalty."""
    products = np.concatenate([x[part] @ other for part in chunks(x.shape[0], CHUNK)])
    return (products - mean @ other - penalty).astype(np.float32)


def _centres(images: _Centred, captions: _Centred) -> Tensor:
    """(cells, k) unit vectors in the middle of centred ones: k-means by directions (Dhillon and Modha 2001)."""
    import torch

    rng = np.random.default_rng(0)
    cells = max(1, int(CELLS * max(len(images), len(captions)) ** 0.5))
    cells = max(cells // GROUP * GROUP, 1)
    size = TRAINED * cells // 2
    x = torch.cat([x[rng.choice(len(x), min(len(x), size), replace=False)] for x in (images, captions)])
    centres = x[torch.from_numpy(rng.choice(len(x), min(len(x), cells), replace=False))].float()
    for _ in range(STEPS):
        cell, total = torch.from_numpy(_cell(x, centres.to(x.dtype))), torch.zeros_like(centres)
        for part in chunks(len(x), CHUNK):
            total.index_add_(0, cell[part], x[part].float())
        empty = total.abs().sum(1, keepdim=True) == 0
        centres = torch.nn.functional.normalize(torch.where(empty, centres, total))
    return centres.to(x.dtype)
