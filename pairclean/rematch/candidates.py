"""Candidate partners: for every image the captions, and for every caption the images, that score best (FAISS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CANDIDATES = 32
#: Up to this many vectors the search is exact; beyond, on a CPU, it goes through an inverted file.
EXACT = 100_000
#: Numbers in one block of similarities of the search on a GPU: 1 GiB of float32.
BLOCK = 2**28


@dataclass(frozen=True)
class Edges:
    """image, caption: (e,) int64 rows; similarity: (e,) float32; each edge once, ordered by image, then caption."""

    image: np.ndarray
    caption: np.ndarray
    similarity: np.ndarray

    @staticmethod
    def union(image: np.ndarray, caption: np.ndarray, similarity: np.ndarray) -> Edges:
        code, first = np.unique((image << 32) | caption, return_index=True)
        return Edges(code >> 32, code & 0xFFFFFFFF, similarity[first])


class Gallery:
    """Images and captions to be searched.

    image, text: (m, k) float32 unit rows; image_level, text_level: (m,) hubness; temperature: of the scores. A score is
    (similarity - t/2 (level of the image + level of the caption)) / t: the query's own level ranks nothing, and the
    other's enters the inner product as one more dimension, so that the search goes by score and not by similarity.
    """

    def __init__(
        self,
        image: np.ndarray,
        text: np.ndarray,
        image_level: np.ndarray,
        text_level: np.ndarray,
        temperature: float,
        *,
        gpu: bool = False,
    ):
        self.image, self.text = image, text
        self.image_level, self.text_level = temperature / 2 * image_level, temperature / 2 * text_level
        self.gpu = gpu
        self._captions: Any = None
        self._images: Any = None

    def edges(self) -> Edges:
        """The union of both directions' best CANDIDATES."""
        return Edges.union(*_joined(self.captions_for(self.image), self.images_for(self.text)))

    def captions_for(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best captions of here for (n, k) images: rows of `image`, rows of here, similarities."""
        self._captions = self._captions or _index(self.text, self.text_level, self.gpu)
        query, found, similarity = _search(self._captions, image, self.text_level)
        return query, found, similarity

    def images_for(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best images of here for (n, k) captions: rows of here, rows of `text`, similarities."""
        self._images = self._images or _index(self.image, self.image_level, self.gpu)
        query, found, similarity = _search(self._images, text, self.image_level)
        return found, query, similarity


def best(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of (e,) edges are among their group's CANDIDATES best by score: their indices."""
    order = np.lexsort((-score, group))
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    return order[np.arange(len(group)) - np.repeat(start, count) < CANDIDATES]


def _joined(*parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, caption, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
    return image, caption, similarity


def _search(index: Any, query: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, k = len(query), min(CANDIDATES, len(level))
    if n == 0 or k == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    product, found = index.search(_widened(query, np.ones(n)), k)
    there = found >= 0  # an inverted file may come up short
    similarity = product[there] + level[found[there]].astype(np.float32)
    return np.repeat(np.arange(n), k)[there.ravel()], found[there].astype(np.int64), similarity


def _widened(x: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.concatenate([x, last[:, None]], axis=1, dtype=np.float32)


def _index(base: np.ndarray, level: np.ndarray, gpu: bool) -> Any:
    import faiss

    base = _widened(base, -level)
    if gpu and faiss.get_num_gpus() == 0:
        return _TorchIndex(base)
    index: Any = faiss.IndexFlatIP(base.shape[1])
    if gpu:
        index = faiss.index_cpu_to_all_gpus(index)
    elif len(base) > EXACT:
        lists = int(4 * len(base) ** 0.5)
        index = faiss.IndexIVFFlat(index, base.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(16, lists // 32)
        index.train(base)
    index.add(base)
    return index


class _TorchIndex:
    """Exact search on a GPU where FAISS has no build for it: products block by block, the best kept."""

    def __init__(self, base: np.ndarray, device: str = "cuda"):
        import torch

        self.device = device
        self.base = torch.from_numpy(base).to(device)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import torch

        step = max(1, BLOCK // len(self.base))
        product, found = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            best = torch.topk(torch.from_numpy(query[part]).to(self.device) @ self.base.T, k)
            product[part], found[part] = best.values.cpu().numpy(), best.indices.cpu().numpy()
        return product, found
