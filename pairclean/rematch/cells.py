"""A search of many images and captions in time n^1.5: the space is cut into cells, and a query is compared with what
lies in the cells that are nearest to it.

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
from .heaps import Best
from .plan import grouped
from .products import half, half_precision

if TYPE_CHECKING:
    from torch import Tensor

#: The number of cells over the square root of the number of captions; the cells that a query searches; vectors a cell
#: by which their centres are found, and in how many steps.
CELLS, PROBES, TRAINED, STEPS = 8, 160, 10, 3
#: Queries whose results are collected at once: their vectors and results stay in the cache.
BLOCK = 32_768
#: Products are computed for numbers of queries and of vectors that are multiples of these: oneDNN takes longer to
#: prepare for a new shape than to multiply.
ROWS, COLUMNS = 64, 32
CHUNK = 2048


@dataclass(frozen=True)
class _Side:
    """Images, or captions, ordered by their cell.

    vectors: (m + COLUMNS, k) centred, in half precision, the last ones zero.  bonus: (m,) float32 that is added to
    every product.  row: (m,) int64, where they were.  ends: (cells + 1,) int64; cell c has those from ends[c] to
    ends[c + 1].
    """

    vectors: Tensor
    bonus: Tensor
    row: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def of(vectors: Tensor, bonus: np.ndarray, cell: np.ndarray, cells: int) -> _Side:
        import torch

        row = grouped(cell, cells).astype(np.int64)
        ordered = vectors.new_zeros(len(row) + COLUMNS, vectors.shape[1])
        torch.index_select(vectors, 0, torch.from_numpy(row), out=ordered[: len(row)])
        return _Side(ordered, torch.from_numpy(bonus[row]), row, _ends(cell, cells))


class Cells:
    """(n, k) images and (m, k) captions, unit rows that are read in single precision, in cells.

    image_penalty, text_penalty: (n,), (m,), what is taken off the inner products with each of them.  All searches
    return rows of the best, and -1 where fewer were seen.
    """

    def __init__(self, image: Rows, text: Rows, image_penalty: np.ndarray, text_penalty: np.ndarray):
        self.image_mean, self.text_mean = _mean(image), _mean(text)
        images, captions = _centred(image, self.image_mean), _centred(text, self.text_mean)
        self.centres = _centres(images, captions)
        # The cells that each of them searches are kept for `both_ways`.
        self.near = [self._nearest(images), self._nearest(captions)]
        bonus = _bonus(image, self.image_mean, self.text_mean, image_penalty)
        self.images = _Side.of(images, bonus, self.near[0][:, 0], len(self.centres))
        del images  # before the captions are ordered
        bonus = _bonus(text, self.text_mean, self.image_mean, text_penalty)
        self.captions = _Side.of(captions, bonus, self.near[1][:, 0], len(self.centres))

    def both_ways(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) int32 captions of every image and (m, k) images of every caption; once."""
        sides = self.images, self.captions
        found = []
        for side, other in (sides, sides[::-1]):
            near = self.near.pop(0)[side.row]  # queries of one cell follow one another, and search the same cells
            best = self._best(side.vectors[: len(side)], near, other, k)
            found.append(np.empty(best.shape, np.int32))
            found[-1][side.row] = best
        return found[0], found[1]

    def captions_for(self, image: Rows, k: int) -> np.ndarray:
        """(q, k) captions of other images."""
        query = _centred(image, self.image_mean)
        return self._best(query, self._nearest(query), self.captions, k)

    def images_for(self, text: Rows, k: int) -> np.ndarray:
        """(q, k) images of other captions."""
        query = _centred(text, self.text_mean)
        return self._best(query, self._nearest(query), self.images, k)

    def _best(self, query: Tensor, near: np.ndarray, side: _Side, k: int) -> np.ndarray:
        best = Best(len(query), k)
        blocks = list(chunks(len(query), BLOCK))

        def of_block(i: int, _: str) -> None:
            block = blocks[i]
            for who, which, product in self._products(query[block], near[block], side):
                best.add_rows(product, who + block.start, side.row[which])

        side_by_side(of_block, len(blocks), ["cpu"])
        return best.sorted()[1]

    def _nearest(self, x: Tensor) -> np.ndarray:
        """(n, PROBES) cells of (n, k) vectors, the nearest first; all if there are fewer."""
        probes = min(PROBES, len(self.centres))
        found = np.empty((len(x), probes), np.min_scalar_type(len(self.centres)))
        parts = list(chunks(len(x), CHUNK))

        def of_part(i: int, _: str) -> None:
            found[parts[i]] = (x[parts[i]] @ self.centres.T).topk(probes).indices.numpy()

        side_by_side(of_part, len(parts), ["cpu"])
        return found

    def _products(self, query: Tensor, near: np.ndarray, side: _Side) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
        """Cell by cell: (q,) int64 queries, the slice of the side that they are compared with, (q, c) float32 products
        with the bonus of the side.

        near: (n, probes) cells of (n, k) queries.
        """
        import torch

        cell = near.ravel()
        who = grouped(cell, len(self.centres)) // near.shape[1]
        ends = _ends(cell, len(self.centres))
        padded = torch.from_numpy(np.pad(who, (0, ROWS)))
        for c in np.flatnonzero((np.diff(ends) > 0) & (np.diff(side.ends) > 0)):
            (start, stop), which = ends[c : c + 2], slice(*map(int, side.ends[c : c + 2]))
            rows, columns = stop - start, which.stop - which.start
            left = query.index_select(0, padded[start : start + _whole(rows, ROWS)])
            right = side.vectors[which.start : which.start + _whole(columns, COLUMNS)]
            product = torch.add(side.bonus[which], (left @ right.T)[:rows, :columns])
            yield who[start:stop].astype(np.int64), which, product.numpy()


def _whole(n: int, size: int) -> int:
    return -(-n // size) * size


def _ends(cell: np.ndarray, cells: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=cells))])


def _mean(x: Rows) -> np.ndarray:
    total = sum((x[part].sum(0, dtype=np.float64) for part in chunks(x.shape[0], CHUNK)), np.zeros(x.shape[1]))
    return (total / max(1, x.shape[0])).astype(np.float32)


def _centred(x: Rows, mean: np.ndarray) -> Tensor:
    import torch

    out = torch.empty(x.shape, dtype=half_precision())
    for part in chunks(x.shape[0], CHUNK):
        out[part] = half(x[part] - mean)
    return out


def _bonus(x: Rows, mean: np.ndarray, other: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(n,) float32: what the mean of the other side adds to every product, less the penalty."""
    products = np.concatenate([x[part] @ other for part in chunks(x.shape[0], CHUNK)])
    return (products - mean @ other - penalty).astype(np.float32)


def _centres(images: Tensor, captions: Tensor) -> Tensor:
    """(cells, k) unit vectors in the middle of centred ones: k-means by directions (Dhillon and Modha 2001)."""
    import torch

    rng = np.random.default_rng(0)
    cells = max(1, int(CELLS * max(len(images), len(captions)) ** 0.5))
    size = TRAINED * cells // 2
    drawn = (x[torch.from_numpy(rng.choice(len(x), min(len(x), size), replace=False))] for x in (images, captions))
    x = torch.cat(list(drawn))
    centres = x[torch.from_numpy(rng.choice(len(x), min(len(x), cells), replace=False))].float()
    for _ in range(STEPS):
        total = torch.zeros_like(centres)
        for part in x.split(CHUNK):
            total.index_add_(0, (part @ centres.to(x.dtype).T).argmax(1), part.float())
        empty = total.abs().sum(1, keepdim=True) == 0
        centres = torch.nn.functional.normalize(torch.where(empty, centres, total))
    return centres.to(x.dtype)
