"""Candidate partners: for every image the captions, and for every caption the images, that score best (FAISS)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Comparison, Pairs, Space, chunks
from ..judge.scores import Scorer

CANDIDATES = 32
#: Up to this many vectors the search is exact; beyond, on a CPU, it goes through an inverted file.
EXACT = 100_000
#: The number of lists of an inverted file, over the square root of its number of vectors; how many lists a query
#: searches; how many vectors per list it is trained on; how many times the requested number of results is compared
#: again in higher precision.
LISTS, PROBES, TRAINED, AGAIN = 8, 128, 20, 4
CHUNK = 65_536
#: Of the search on a GPU: numbers in the largest array that one block of queries needs, 1 GiB in single precision;
#: columns of which only the maximum is looked at first; dimensions that tensor cores take at once.
BLOCK, GROUP, WHOLE = 2**28, 128, 8
#: Images and captions in one block of the exact search of both directions: 1 MiB of float32.
TILE = 1024, 256


@dataclass(frozen=True)
class Edges:
    """Each edge once, ordered by image, then caption.  image, caption: (e,) int32 rows.  value: (e,), at first the
    float32 similarity."""

    image: np.ndarray
    caption: np.ndarray
    value: np.ndarray

    @staticmethod
    def union(image: np.ndarray, caption: np.ndarray, value: np.ndarray) -> Edges:
        code, first = np.unique(_code(image, caption), return_index=True)
        return Edges((code >> 32).astype(np.int32), code.astype(np.int32), value[first])

    def take(self, which: np.ndarray) -> Edges:
        return Edges(self.image[which], self.caption[which], self.value[which])

    def after(self, few: Edges, n: int) -> Edges:
        """These edges, renumbered behind n images and n captions, with the edges `few` of those merged in."""
        image, caption = self.image + n, self.caption + n
        place = np.searchsorted(_code(image, caption), _code(few.image, few.caption))
        both = ((image, few.image), (caption, few.caption), (self.value, few.value))
        return Edges(*(np.insert(many, place, added) for many, added in both))


def _code(image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    found: np.ndarray = (image.astype(np.int64) << 32) | caption
    return found


class Gallery:
    """Images and captions to be searched.

    image, text: (m, k) float32 unit rows.  image_hubness, text_hubness: (m,).  temperature: of the scores. A score is
    (similarity - t/2 (hubness of the image + hubness of the caption)) / t. The query's own hubness does not change the
    ranking, and that of the other side is one more dimension of the inner product, so that the search is by score and
    not by similarity.
    """

    def __init__(
        self,
        image: np.ndarray,
        text: np.ndarray,
        image_hubness: np.ndarray,
        text_hubness: np.ndarray,
        temperature: float,
        *,
        device: str = "cpu",
    ):
        self.image, self.text = image, text
        self.image_hubness, self.text_hubness = temperature / 2 * image_hubness, temperature / 2 * text_hubness
        self.device = device
        self._captions: Any = None
        self._images: Any = None

    def edges(self) -> Edges:
        """The union of both directions' best CANDIDATES."""
        if self.device != "cpu" or max(len(self.image), len(self.text)) > EXACT:
            return Edges.union(*_joined(self.captions_for(self.image), self.images_for(self.text)))
        captions, images = _both_ways(self.image, self.text, self.image_hubness, self.text_hubness)
        caption, image, similarity = _found(*images, self.image_hubness)
        return Edges.union(*_joined(_found(*captions, self.text_hubness), (image, caption, similarity)))

    def captions_for(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best captions of the gallery for (n, k) images: rows of `image`, rows of the gallery, similarities."""
        self._captions = self._captions or _index(self.text, self.text_hubness, self.image, self.device)
        query, found, similarity = _search(self._captions, image, self.text_hubness)
        return query, found, similarity

    def images_for(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best images of the gallery for (n, k) captions: rows of the gallery, rows of `text`, similarities."""
        self._images = self._images or _index(self.image, self.image_hubness, self.text, self.device)
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

    def edges(self) -> Edges:
        found = self.found.edges()
        return replace(found, value=self.comparison.of_pairs(self.image[found.image], self.text[found.caption]))

    def captions_for(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        query, found, _ = self.found.captions_for(self.finder.images(image))
        return query, found, self.comparison.of_pairs(image[query], self.text[found])

    def images_for(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found, query, _ = self.found.images_for(self.finder.texts(text))
        return found, query, self.comparison.of_pairs(self.image[found], text[query])


def best(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of (e,) edges are among their group's CANDIDATES best by score: their indices."""
    order = np.lexsort((-score, group))
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    return order[np.arange(len(group)) - np.repeat(start, count) < CANDIDATES]


def _joined(*parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, caption, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
    return image, caption, similarity


def _search(index: Any, query: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, k = len(query), min(CANDIDATES, len(penalty))
    if n == 0 or k == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    product, found = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    for part in chunks(n, CHUNK):
        product[part], found[part] = index.search(_widened(query[part], np.ones(len(query[part]))), k)
    return _found(product, found, penalty)


def _found(product: np.ndarray, found: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, k) results of a search, -1 where there are fewer -> queries, results and their similarities, (e,) each."""
    there = found >= 0  # an inverted file may find fewer
    similarity = product[there] + penalty[found[there]].astype(np.float32)
    return np.repeat(np.arange(len(found)), found.shape[1])[there.ravel()], found[there], similarity


def _both_ways(
    image: np.ndarray, text: np.ndarray, image_penalty: np.ndarray, text_penalty: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The best captions of every image, and the best images of every caption: products less the penalty of what is
    found, and rows, (n, CANDIDATES) each.  Both directions need the same products, which are computed once.
    """
    captions, images = _Best(len(image), len(text)), _Best(len(text), len(image))
    image_penalty, text_penalty = (x.astype(np.float32) for x in (image_penalty, text_penalty))
    for rows in chunks(len(image), TILE[0]):
        for columns in chunks(len(text), TILE[1]):
            similarity = image[rows] @ text[columns].T
            turned = np.subtract(similarity.T, image_penalty[rows], order="C")
            similarity -= text_penalty[columns]
            captions.add(similarity, rows.start, columns.start)
            images.add(turned, columns.start, rows.start)
    return captions.sorted(), images.sorted()


class _Best:
    """The CANDIDATES largest of every row of an (n, m) matrix that is seen in blocks (FAISS's heaps)."""

    def __init__(self, n: int, m: int):
        import faiss

        k = min(CANDIDATES, m)
        self.value, self.column = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
        self.pointer = faiss.swig_ptr
        self.heaps: Any = faiss.float_minheap_array_t()
        self.heaps.nh, self.heaps.k = n, k
        self.heaps.val, self.heaps.ids = self.pointer(self.value), self.pointer(self.column)
        self.heaps.heapify()

    def add(self, block: np.ndarray, row: int, column: int) -> None:
        """block: float32, contiguous, whose first entry is at this row and column."""
        self.heaps.addn(block.shape[1], self.pointer(block), column, row, len(block))

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) values, descending, and their columns."""
        self.heaps.reorder()
        return self.value, self.column


def _widened(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.concatenate([x, last[:, None]], axis=1, dtype=np.float32)


def _index(x: np.ndarray, penalty: np.ndarray, other: np.ndarray, device: str) -> Any:
    """other: (m, k), vectors like the queries."""
    import faiss

    if device == "cpu" and len(x) > EXACT:
        return _Inverted(x, penalty, other)
    base = _widened(x, -penalty)
    if device != "cpu":
        return _DeviceIndex(base, device)
    index: Any = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    return index


class _Inverted:
    """An inverted file of four-bit product codes, whose best results are compared again in half precision (FAISS).

    Images and captions lie in different regions of the space. That offset does not distinguish captions, but would
    decide which lists a query searches. So both sides are centred, which changes a product by a term of the query and
    one of the base, one more dimension: with means q' and b', q b = (q - q')(b - b') + q' (b - b') + q b'.
    """

    def __init__(self, x: np.ndarray, penalty: np.ndarray, other: np.ndarray):
        import faiss

        n = len(x)
        self.query_mean = np.append(other.mean(0), np.float32(1))
        self.base_mean = np.append(x.mean(0), np.float32(-penalty.mean()))
        lists, dim = int(LISTS * n**0.5), self._padded(len(self.base_mean) + 1)
        index: Any = faiss.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT)
        self.file = faiss.extract_index_ivf(index)
        self.file.nprobe = min(PROBES, lists)
        self.file.cp.niter, self.file.cp.min_points_per_centroid = 5, 1  # rough lists are good enough
        index.k_factor = AGAIN

        def some(part: Any) -> np.ndarray:
            b = _widened(x[part], -penalty[part]) - self.base_mean
            return self._with(b, b @ self.query_mean)

        index.train(some(np.sort(np.random.default_rng(0).choice(n, min(n, TRAINED * lists), replace=False))))
        for part in chunks(n, CHUNK):
            index.add(some(part))
        self.index = index

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        product, found = self.index.search(self._with(query - self.query_mean, np.ones(len(query))), k)
        return product + (query @ self.base_mean)[:, None], found

    @staticmethod
    def _padded(dim: int) -> int:
        return -(-dim // 4) * 4  # each code covers two dimensions, and codes come in pairs

    def _with(self, x: np.ndarray, last: np.ndarray) -> np.ndarray:
        wide = _widened(x, last)
        return np.pad(wide, ((0, 0), (0, self._padded(wide.shape[1]) - wide.shape[1])))


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
        step = max(1, BLOCK // max(len(self.half), GROUP * most, most * self.base.shape[1]))
        for part in chunks(len(query), step):
            q = torch.from_numpy(query[part]).to(self.device)
            products = pad(q.half(), (0, -q.shape[1] % WHOLE)) @ self.half.T
            products[:, self.n :] = -torch.inf
            near = _largest(products, most)
            again = torch.bmm(self.base[near], q[:, :, None])[:, :, 0]
            best = torch.topk(again, k)
            product[part], found[part] = best.values.cpu().numpy(), near.gather(1, best.indices).cpu().numpy()
        return product, found


def _largest(x: Any, k: int) -> Any:
    """The columns of the k largest of every row, (n, k), in any order.  x: (n, m), a tensor; m a multiple of GROUP.

    They lie in the k groups of columns whose maxima are largest; to sort all columns takes several times as long.
    """
    groups = x.shape[1] // GROUP
    if groups <= k:
        return x.topk(k, sorted=False).indices
    grouped = x.view(len(x), GROUP, groups)  # columns that are `groups` apart are one group: maxima then read in order
    group = grouped.amax(1).topk(k, sorted=False).indices
    few = grouped.gather(2, group[:, None].expand(-1, GROUP, -1)).flatten(1)
    at = few.topk(k, sorted=False).indices
    return at // k * groups + group.gather(1, at % k)
