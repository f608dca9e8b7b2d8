"""Candidate partners: for every image the captions, and for every caption the images, that score best (FAISS)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Comparison, Pairs, Rows, Space, chunks, unique_values
from ..execution import side_by_side
from ..judge.scores import Scorer, pair_similarity
from ..scratch import MEMORY, Scratch
from .cells import Cells
from .heaps import Best
from .plan import SORTED, ends_of_blocks, sort_blocks
from .products import largest

CANDIDATES = 32
#: Up to this many vectors the search is exact; beyond, on a CPU, it goes through cells.
EXACT = 100_000
CHUNK = 65_536
#: Of the search on a GPU: how many times the requested number of results is compared again in single precision; numbers
#: in the largest array that one block of queries needs, or more where the card has ROOM bytes of free memory for each
#: of them, as a product of few queries takes as long as reading the gallery; columns of which only the maximum is
#: looked at first; dimensions that tensor cores take at once.
AGAIN, BLOCK, ROOM, GROUP, WHOLE = 4, 2**28, 16, 128, 8
#: Images and captions in one block of the exact search of both directions: 1 MiB of float32. How many strips of the
#: captions are searched side by side.
TILE, STRIPS = (1024, 256), 8


@dataclass(frozen=True)
class Edges:
    """Each edge once, those of an image together.  image, caption: (e,) int32 rows.  value: (e,) float32, at first
    the similarity."""

    image: np.ndarray
    caption: np.ndarray
    value: np.ndarray

    @staticmethod
    def union(image: np.ndarray, caption: np.ndarray, value: np.ndarray, *, device: str = "cpu") -> Edges:
        """device: of torch, which sorts them."""
        code = _code(image, caption)
        if device == "cpu":
            code, first = np.unique(code, return_index=True)
        else:
            import torch

            found, place = torch.sort(torch.from_numpy(code).to(device), stable=True)
            new = torch.cat([found.new_ones(1, dtype=torch.bool), found[1:] != found[:-1]])[: len(found)]
            code, first = found[new].cpu().numpy(), place[new].cpu().numpy()
        return Edges((code >> 32).astype(np.int32), code.astype(np.int32), value[first])

    def take(self, which: np.ndarray) -> Edges:
        return Edges(self.image[which], self.caption[which], self.value[which])


def _code(image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    found: np.ndarray = (image.astype(np.int64) << 32) | caption
    return found


class Gallery:
    """Images and captions to be searched.

    image, text: (m, k) unit rows, read in single precision.  image_hubness, text_hubness: (m,).  temperature: of the
    scores.  scratch: where large arrays are put.

    A score is (similarity - t/2 (hubness of the image + hubness of the caption)) / t. The query's own hubness does
    not change the ranking, and that of the other side is one more dimension of the inner product, so that the
    search is by score and not by similarity.
    """

    def __init__(
        self,
        image: Rows,
        text: Rows,
        image_hubness: np.ndarray,
        text_hubness: np.ndarray,
        temperature: float,
        *,
        device: str = "cpu",
        scratch: Scratch = MEMORY,
    ):
        self.image, self.text, self.scratch = image, text, scratch
        self.image_hubness, self.text_hubness = temperature / 2 * image_hubness, temperature / 2 * text_hubness
        self.device = device
        self._captions: Any = None
        self._images: Any = None
        self._cells: Cells | None = None

    @property
    def large(self) -> bool:
        return self.device == "cpu" and max(self.image.shape[0], self.text.shape[0]) > EXACT

    @property
    def cells(self) -> Cells:
        self._cells = self._cells or Cells(
            self.image, self.text, self.image_hubness, self.text_hubness, scratch=self.scratch
        )
        return self._cells

    @property
    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """An order of the images and one of the captions in which those that edges connect lie close together; where
        none is known, the one that they came in."""
        if self.large:
            return self.cells.images.row, self.cells.captions.row
        return np.arange(self.image.shape[0]), np.arange(self.text.shape[0])

    def edges(self) -> Iterator[Edges]:
        """The union of both directions' best CANDIDATES, in blocks of images that follow one another in `order`."""
        if self.large:
            yield from self._edges_of_cells()
        elif self.device != "cpu":
            yield Edges.union(*_joined(self.captions_for(self.image), self.images_for(self.text)), device=self.device)
        else:
            best_captions, best_images = _both_ways(self.image[:], self.text[:], self.image_hubness, self.text_hubness)
            caption, image, similarity = _found(*best_images, self.image_hubness)
            yield Edges.union(*_joined(_found(*best_captions, self.text_hubness), (image, caption, similarity)))

    def _edges_of_cells(self) -> Iterator[Edges]:
        captions, images = self.cells.both_ways(CANDIDATES)
        ends, back = self._found_by(images, len(captions))
        del images
        image_row, caption_row = self.order
        for block in chunks(len(captions), CHUNK):
            image, caption = _there(captions[block])
            here = slice(ends[block.start], ends[block.stop])
            turned = np.repeat(np.arange(block.start, block.stop), np.diff(ends[block.start : block.stop + 1]))
            code = np.concatenate([_code(image + block.start, caption), _code(turned, back[here])])
            code = unique_values(code)
            image, caption = image_row[code >> 32], caption_row[code.astype(np.int32)]
            similarity = pair_similarity(self.image, self.text, image, caption)
            yield Edges(image.astype(np.int32), caption.astype(np.int32), similarity)

    def _found_by(self, images: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of n images the captions that found them, by those that (m, k) captions found, -1 where these are fewer.

        Returns (n + 1,) int64 and, at least as long as the last of these, int32: image i was found by the captions from
        ends[i] to ends[i + 1].
        """

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for part in chunks(len(images), SORTED):
                caption, image = _there(images[part])
                yield image, caption + part.start

        ends = ends_of_blocks((image for image, _ in blocks()), n)
        by = self.scratch.empty((images.size,), np.int32)
        sort_blocks(blocks(), ends, (by,))
        return ends, by

    def captions_for(self, image: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best captions of the gallery for (n, k) images: rows of `image`, rows of the gallery, similarities."""
        if self.large:
            query, found = _there(self.cells.captions_for(image, CANDIDATES))
            return query, found, pair_similarity(image, self.text, query, found)
        self._captions = self._captions or _index(self.text[:], self.text_hubness, self.device)
        query, found, similarity = _search(self._captions, image, self.text_hubness)
        return query, found, similarity

    def images_for(self, text: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best images of the gallery for (n, k) captions: rows of the gallery, rows of `text`, similarities."""
        if self.large:
            query, found = _there(self.cells.images_for(text, CANDIDATES))
            return found, query, pair_similarity(self.image, text, found, query)
        self._images = self._images or _index(self.image[:], self.image_hubness, self.device)
        query, found, similarity = _search(self._images, text, self.image_hubness)
        return found, query, similarity


@dataclass(frozen=True)
class Finder:
    """Finds the candidates of pairs that no inner product compares, by vectors that stand for them.

    pairs: N, model: their vectors, and the space in which they are searched.  scorer: of that space.
    """

    pairs: Pairs
    model: Space
    scorer: Scorer
    device: str = "cpu"

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(n, 1) int64 rows of the N pairs -> (n, k) float32 unit rows."""
        return self.model.embed_image(self.pairs.image[rows[:, 0]])

    def texts(self, rows: np.ndarray) -> np.ndarray:
        return self.model.embed_text(self.pairs.text[rows[:, 0]])


class ComparedGallery(Gallery):
    """A gallery of pairs that are found by vectors; the similarities are those of a comparison."""

    def __init__(self, image: np.ndarray, text: np.ndarray, finder: Finder, comparison: Comparison):
        """image, text: (m, 1) int64, rows of the finder's pairs, as are the queries."""
        vectors = finder.images(image), finder.texts(text)
        hubness = finder.scorer.hubness(*vectors)
        self.image, self.text, self.finder, self.comparison = image, text, finder, comparison
        self.found = Gallery(*vectors, *hubness, finder.scorer.temperature, device=finder.device)

    @property
    def order(self) -> tuple[np.ndarray, np.ndarray]:
        return self.found.order

    def edges(self) -> Iterator[Edges]:
        for found in self.found.edges():
            yield replace(found, value=self.comparison.of_pairs(self.image[found.image], self.text[found.caption]))

    def captions_for(self, image: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        query, found, _ = self.found.captions_for(self.finder.images(image[:]))
        return query, found, self.comparison.of_pairs(image[query], self.text[found])

    def images_for(self, text: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found, query, _ = self.found.images_for(self.finder.texts(text[:]))
        return found, query, self.comparison.of_pairs(self.image[found], text[query])


def best(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of (e,) edges are among their group's CANDIDATES best by score: their indices."""
    order = np.lexsort((-score, group))
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    return order[np.arange(len(group)) - np.repeat(start, count) < CANDIDATES]


def _joined(*parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, caption, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
    return image, caption, similarity


def _search(index: Any, query: Rows, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, k = query.shape[0], min(CANDIDATES, len(penalty))
    if n == 0 or k == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    product, found = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    for part in chunks(n, CHUNK):
        product[part], found[part] = index.search(_widened(query[part], np.ones(part.stop - part.start)), k)
    return _found(product, found, penalty)


def _found(product: np.ndarray, found: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, k) results of an exact search -> queries, results and their similarities, (n k,) each."""
    query, row = _there(found)
    return query, row, product.ravel() + penalty[row].astype(np.float32)


def _there(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) results of a search, -1 where there are fewer -> queries and results, (e,) each."""
    there = found >= 0
    return np.repeat(np.arange(len(found)), found.shape[1])[there.ravel()], found[there]


def _both_ways(
    image: np.ndarray, text: np.ndarray, image_penalty: np.ndarray, text_penalty: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The best captions of every image, and the best images of every caption: products less the penalty of what is
    found, and rows, (n, CANDIDATES) each.  Both directions need the same products, which are computed once.
    """
    images = Best(len(text), min(CANDIDATES, len(image)))
    image_penalty, text_penalty = (x.astype(np.float32) for x in (image_penalty, text_penalty))
    # As many for any number of cores: which of equally good captions are found must not depend on it.
    strips = list(chunks(len(text), -(-len(text) // (STRIPS * TILE[1])) * TILE[1] or 1)) or [slice(0, 0)]

    def of_strip(i: int, _: str) -> tuple[np.ndarray, np.ndarray]:
        captions = Best(len(image), min(CANDIDATES, len(text)))
        for rows in chunks(len(image), TILE[0]):
            for part in chunks(strips[i].stop - strips[i].start, TILE[1]):
                columns = slice(strips[i].start + part.start, strips[i].start + part.stop)
                similarity = image[rows] @ text[columns].T
                turned = np.subtract(similarity.T, image_penalty[rows], order="C")
                similarity -= text_penalty[columns]
                captions.add(similarity, rows.start, columns.start)
                images.add(turned, columns.start, rows.start)  # no other strip has these rows
        return captions.sorted()

    value, column = map(np.hstack, zip(*side_by_side(of_strip, len(strips), ["cpu"]), strict=True))
    best = np.argsort(-value, axis=1, kind="stable")[:, : min(CANDIDATES, len(text))]
    return (np.take_along_axis(value, best, 1), np.take_along_axis(column, best, 1)), images.sorted()


def _widened(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.concatenate([x, last[:, None]], axis=1, dtype=np.float32)


def _index(x: np.ndarray, penalty: np.ndarray, device: str) -> Any:
    import faiss

    base = _widened(x, -penalty)
    if device != "cpu":
        return _DeviceIndex(base, device)
    index: Any = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    return index


class _DeviceIndex:
    """Exact search on a torch device: products in half precision, block by block; the best of them, AGAIN times as many
    as requested, are computed again in single precision.

    Vectors are padded to a multiple of WHOLE dimensions; without it, tensor cores multiply at a fifth of their speed.
    """

    def __init__(self, base: np.ndarray, device: str):
        import torch
        from torch.nn.functional import pad

        self.n, self.device = len(base), device
        self.base = torch.from_numpy(base).to(device)
        self.half = pad(self.base.half(), (0, -base.shape[1] % WHOLE, 0, -len(base) % GROUP))

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import torch
        from torch.nn.functional import pad

        product, found = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
        most = min(AGAIN * k, self.n)
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.startswith("cuda") else 0
        step = max(1, max(BLOCK, free // ROOM) // max(len(self.half), GROUP * most, most * self.base.shape[1]))
        for part in chunks(len(query), step):
            q = torch.from_numpy(query[part]).to(self.device)
            products = pad(q.half(), (0, -q.shape[1] % WHOLE)) @ self.half.T
            products[:, self.n :] = -torch.inf
            near = largest(products, most, GROUP)
            again = torch.bmm(self.base[near], q[:, :, None])[:, :, 0]
            best = torch.topk(again, k)
            product[part], found[part] = best.values.cpu().numpy(), near.gather(1, best.indices).cpu().numpy()
        return product, found
