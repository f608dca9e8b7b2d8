"""Near-identical images and captions: an image that was encoded again, a caption that differs by a full stop.

The data decide how near that is: two vectors count as one if they are far closer than vectors usually are to their
nearest neighbour.

In large data, near-identical vectors are found by their sketches, the signs of random projections of the centred
vectors (Charikar 2002): a sketch is cut into TABLES words, and vectors whose words begin alike in any of these are
compared, first by all bits of their sketches and then by their distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from ..arrays import Rows, chunks, single, unit
from ..execution import available_cores, side_by_side
from .folds import BOILERPLATE

#: SHARE of the USUAL quantile of nearest-neighbour distances, which copies do not move unless nearly all vectors have
#: some. Images saved again as JPEG and captions with other punctuation were at a thirtieth to a quarter of that
#: quantile, different images at a third or more.
USUAL, SHARE = 0.9, 1 / 6
#: Distances are measured after random projection to this many dimensions, which preserves them to about 5%.
DIMENSIONS = 256
#: Up to this many vectors all are compared; beyond, those with similar sketches. The nearest-neighbour distances are
#: then those of this many QUERIES.
EXACT, QUERIES = 20_000, 512
#: Words of a sketch, of 32 bits each, and vectors on either side that a vector is compared with in each table.
TABLES, BESIDE = 16, 64
#: Distances are measured of vectors whose sketches differ by no more bits than chance gives, in standard deviations,
#: at the largest distance that counts, for vectors that are nearer to the middle than all but this share.
DEVIATIONS, NEAREST_THE_MIDDLE = 4, 0.05
#: Vectors whose mean is the middle, pairs whose distance is measured at once, and vectors that are sketched at once: in
#: the cache.
CHUNK, SKETCHED = 65_536, 4096


def near_identities(vectors: Rows, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Identities in which near-identical vectors share one, the smallest of theirs.

    vectors: (N, d); ids: (N,) int64, the same for exact copies; rows: those that are readable, the others keep theirs.
    Returns (N,) int64. More than BOILERPLATE that hang together are no copies but a template, and stay apart.
    Compared are Euclidean distances of unit vectors. Up to EXACT distinct vectors in quadratic time, beyond in linear
    time, in 64 bytes a vector; copies at the largest distance that counts are then missed once in some hundred times.
    """
    distinct, first, row_of = np.unique(ids[rows], return_index=True, return_inverse=True)
    if len(distinct) < 2:
        return ids
    order = np.argsort(first)  # vectors are read in the order in which they lie on the disk
    distinct, row_of = distinct[order], np.argsort(order)[row_of]
    looked_at = _Vectors(vectors, rows[first[order]])
    component = _by_sketch(looked_at) if len(distinct) > EXACT else _by_distance(looked_at)
    together = np.bincount(component)[component] <= BOILERPLATE
    smallest = np.full(component.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, distinct)
    out = ids.copy()
    out[rows] = np.where(together, smallest[component], distinct)[row_of]
    return out


class _Vectors:
    """The vectors of n rows, scaled to unit length and projected when they are read."""

    def __init__(self, vectors: Rows, rows: np.ndarray):
        self.vectors, self.rows, d = vectors, rows, vectors.shape[1]
        self.project: np.ndarray | None = None
        if d > DIMENSIONS:
            drawn = np.random.default_rng(0).standard_normal((d, DIMENSIONS), np.float32)
            self.project = drawn / np.float32(DIMENSIONS**0.5)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: Any) -> np.ndarray:
        x = unit(single(self.vectors[self.rows[part]]))
        return x if self.project is None else x @ self.project


def _by_distance(vectors: _Vectors) -> np.ndarray:
    """(n,) components of near-identical vectors, among the BOILERPLATE nearest of each."""
    import faiss

    n = len(vectors)
    x = np.ascontiguousarray(vectors[:])
    index: Any = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    squared, near = index.search(x, min(BOILERPLATE, n))
    usual = np.quantile(squared[:, 1], USUAL)  # the first is, as a rule, the vector itself
    i, j = np.nonzero(squared < SHARE**2 * usual)
    return _components(np.arange(n), i, near[i, j])


def _by_sketch(vectors: _Vectors) -> np.ndarray:
    """(n,) components of near-identical vectors."""
    n, rng = len(vectors), np.random.default_rng(0)
    sketch, nearest, radius = _sketches(vectors, rng)
    near = SHARE**2 * float(np.quantile(nearest, USUAL))
    component = np.arange(n)
    if not near or not radius:  # nearly all vectors have an equal one: then no distance is far smaller than usual
        return component
    most = _most_different(near**0.5 / radius)
    for tables in chunks(TABLES, available_cores()):  # those of earlier ones need not be compared again

        def of_table(k: int, _: str, first: int = tables.start, known: np.ndarray = component) -> np.ndarray:
            return _of_table(vectors, sketch, first + k, known, near, most)

        for found in side_by_side(of_table, tables.stop - tables.start, ["cpu"]):
            component = _components(component, np.arange(n), found)
    return component


def _of_table(
    vectors: _Vectors, sketch: np.ndarray, table: int, component: np.ndarray, near: float, most: float
) -> np.ndarray:
    """(n,) components that one table joins.

    component: those that are known.  near: squared distance below which vectors are near-identical.  most: bits in
    which the sketches of these differ.
    """
    n = len(vectors)
    beginning = np.uint32(32 - np.ceil(np.log2(n)))  # of words: so many bits that few vectors share them by chance
    key = (sketch[:, table] >> beginning).astype(np.uint64) << np.uint64(32)
    key |= sketch[:, (table + 1) % TABLES]
    order = np.argsort(key, kind="stable")
    word = (key >> np.uint64(32))[order]
    at = np.arange(n - 1)
    found = [np.zeros((2, 0), np.int64)]
    for beside in range(1, BESIDE + 1):
        at = at[at + beside < n]
        at = at[word[at] == word[at + beside]]
        if not len(at):
            break
        pair = order[[at, at + beside]]
        pair = pair[:, component[pair[0]] != component[pair[1]]]
        bits = np.bitwise_count(sketch[pair[0]] ^ sketch[pair[1]]).sum(1, dtype=np.int64)
        pair = pair[:, bits <= most]
        for part in chunks(pair.shape[1], CHUNK):
            apart = np.square(vectors[pair[0, part]] - vectors[pair[1, part]]).sum(1)
            found.append(pair[:, part][:, apart < near])
        if sum(pairs.shape[1] for pairs in found) > n // 8:  # a template: all of it need not be compared with all
            component, found = _components(component, *np.concatenate(found, axis=1)), found[:1]
    return _components(component, *np.concatenate(found, axis=1))


def _most_different(distance: float) -> float:
    """How many bits of the sketches of near-identical vectors differ at most.

    distance: the largest that counts, over the vectors' distance from the middle. One bit differs with the probability
    of the angle between them over pi.
    """
    chance = 2 * float(np.arcsin(min(1.0, distance / 2))) / np.pi
    bits = 32 * TABLES
    return bits * chance + DEVIATIONS * float(np.sqrt(bits * chance * (1 - chance)))


def _sketches(vectors: _Vectors, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """What is compared: (n, TABLES) uint32 sketches, and how near vectors are.

    Then (QUERIES,) squared distances of some vectors to their nearest neighbours, and the distance from the middle that
    few of these are below.
    """
    n = len(vectors)
    query = np.sort(rng.choice(n, min(n, QUERIES), replace=False))
    x = vectors[query]
    planes = rng.standard_normal((x.shape[1], 32 * TABLES), np.float32)
    middle = vectors[np.sort(rng.choice(n, min(n, CHUNK), replace=False))].mean(0)
    radius = float(np.quantile(np.linalg.norm(x - middle, axis=1), NEAREST_THE_MIDDLE))
    offset = middle @ planes
    sketch = np.empty((n, TABLES), np.uint32)
    parts = list(chunks(n, SKETCHED))

    def of_part(k: int, _: str) -> np.ndarray:
        """(q,) of each query the largest 2 x y - y y: the nearest of these vectors has it."""
        part = parts[k]
        y = vectors[part]
        sketch[part] = np.packbits(y @ planes > offset, axis=1).view(np.uint32)
        closeness = 2 * (y @ x.T) - np.einsum("ij,ij->i", y, y)[:, None]
        here = np.flatnonzero((query >= part.start) & (query < part.stop))
        closeness[query[here] - part.start, here] = -np.inf
        return np.asarray(closeness.max(0))

    closest = np.max(side_by_side(of_part, len(parts), ["cpu"]), axis=0)
    return sketch, np.maximum(np.square(x).sum(1) - closest, 0), radius


def _components(component: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(n,) int64, each the smallest member of its component, once the vectors i and j (e,) are joined as well."""
    from scipy.sparse.csgraph import connected_components

    n = len(component)
    left, right = np.concatenate([i, np.arange(n)]), np.concatenate([j, component])
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    smallest = np.full(label.max() + 1, n)
    np.minimum.at(smallest, label, np.arange(n))
    return np.asarray(smallest[label])
