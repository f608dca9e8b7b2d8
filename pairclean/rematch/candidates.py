"""Candidate partners: for every image the captions, and for every caption the images, that score best (FAISS)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..judge.scores import Scorer

CANDIDATES = 32
#: Up to this many vectors the search is exact; beyond, it goes through an inverted file.
EXACT = 100_000


def candidate_edges(
    image: np.ndarray,
    text: np.ndarray,
    scorer: Scorer,
    image_level: np.ndarray,
    text_level: np.ndarray,
    *,
    gpu: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """image, text: (m, k) float32 unit rows; levels: (m,) hubness.  Returns (e,) image rows and (e,) caption rows.

    The union of both directions' best CANDIDATES by score, each edge once. Hubness enters the inner product as one more
    dimension, so that the search ranks by score and not by similarity.
    """
    m = len(image)
    if m == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    k = min(CANDIDATES, m)
    t = scorer.temperature
    captions = _search(np.c_[text, -t / 2 * text_level], np.c_[image, np.ones(m)], k, gpu)
    images = _search(np.c_[image, -t / 2 * image_level], np.c_[text, np.ones(m)], k, gpu)
    this = np.repeat(np.arange(m), k)
    code = np.unique(np.concatenate([this * m + captions.ravel(), images.ravel() * m + this]))
    return code // m, code % m


def _search(base: np.ndarray, query: np.ndarray, k: int, gpu: bool) -> np.ndarray:
    """(m, k) rows of `base` with the largest inner products."""
    import faiss

    base, query = np.ascontiguousarray(base, np.float32), np.ascontiguousarray(query, np.float32)
    index: Any = faiss.IndexFlatIP(base.shape[1])
    if len(base) > EXACT:
        lists = int(4 * len(base) ** 0.5)
        index = faiss.IndexIVFFlat(index, base.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(16, lists // 32)
    if gpu and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    if len(base) > EXACT:
        index.train(base)
    index.add(base)
    found = index.search(query, k)[1]
    # An inverted file may come up short; a row's own index is then a harmless filler (staying is an edge anyway).
    return np.where(found < 0, np.arange(len(query))[:, None], found)
