"""Near-identical images and captions: an image that was encoded again, a caption that differs by a full stop.

The data decide how near that is: two vectors count as one if they are far closer than vectors usually are to their
nearest neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Rows, chunks, unit
from .folds import BOILERPLATE

#: SHARE of the USUAL quantile of nearest-neighbour distances, which copies do not move unless nearly all vectors have
#: some. Images saved again as JPEG and captions with other punctuation were at a thirtieth to a quarter of that
#: quantile, different images at a third or more.
USUAL, SHARE = 0.9, 1 / 6
#: Distances are measured after random projection to this many dimensions, which preserves them to about 5%.
DIMENSIONS = 256
#: Up to this many vectors the search is exact; above it uses an inverted file.
EXACT = 20_000
CHUNK = 65_536


def near_identities(vectors: Rows, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Identities in which near-identical vectors share one, the smallest of theirs.

    vectors: (N, d); ids: (N,) int64, the same for exact copies; rows: those that are readable, the others keep theirs.
    Returns (N,) int64. More than BOILERPLATE that hang together are no copies but a template, and stay apart.
    Compared are Euclidean distances of unit vectors. Up to EXACT distinct vectors in quadratic time, beyond in about
    n * sqrt(n), in half a kilobyte a vector.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    distinct, first, row_of = np.unique(ids[rows], return_index=True, return_inverse=True)
    if len(distinct) < 2:
        return ids
    squared, near = _nearest(vectors, rows[first])
    usual = np.quantile(squared[:, 1], USUAL)  # the first is, as a rule, the vector itself
    i, j = np.nonzero(squared < SHARE**2 * usual)
    graph = coo_matrix((np.ones(len(i), np.int8), (i, near[i, j])), shape=(len(distinct),) * 2)
    _, component = connected_components(graph, directed=False)
    together = np.bincount(component)[component] <= BOILERPLATE
    smallest = np.full(component.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, distinct)
    out = ids.copy()
    out[rows] = np.where(together, smallest[component], distinct)[row_of]
    return out


def _nearest(vectors: Rows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) squared distances, ascending, of the nearest vectors of each of n rows, itself included; (n, k) which."""
    import faiss

    n, d = len(rows), vectors.shape[1]
    k = min(BOILERPLATE, n)
    rng = np.random.default_rng(0)
    project = None
    if d > DIMENSIONS:
        project, d = rng.standard_normal((d, DIMENSIONS), np.float32) / np.float32(DIMENSIONS**0.5), DIMENSIONS

    def some(part: Any) -> np.ndarray:
        x = unit(np.asarray(vectors[rows[part]], np.float32))
        return np.ascontiguousarray(x if project is None else x @ project)

    index: Any = faiss.IndexFlatL2(d)
    if n > EXACT:
        lists = int(4 * n**0.5)
        index = faiss.IndexIVFScalarQuantizer(index, d, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
        index.nprobe = 4  # near copies are nearly always in the same list
        index.cp.niter, index.cp.min_points_per_centroid = 5, 1  # rough lists do as well
        index.train(some(rng.choice(n, min(n, 20 * lists), replace=False)))
    for part in chunks(n, CHUNK):
        index.add(some(part))
    squared, near = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    for part in chunks(n, CHUNK):
        squared[part], near[part] = index.search(some(part), k)
    missing = near < 0
    return np.where(missing, np.inf, np.maximum(squared, 0)), np.where(missing, np.arange(n)[:, None], near)
