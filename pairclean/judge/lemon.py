"""LEMoN's score of a pair: the distance of its two sides, and the distance of each from the neighbours of the other.

    -score(x, y) = d(x, y) + beta s_n + gamma s_m,      d = 1 - cosine, in the encoder's own space
    s_n = mean over the k images x' nearest to x, with captions y', of  d(y, y') exp(-tau_1 d(x, x') - tau_2 d(x', y'))
    s_m = mean over the k captions y' nearest to y, with images x', of  d(x, x') exp(-tau_1 d(y, y') - tau_2 d(x', y'))

Source: Zhang et al., LEMoN: Label Error Detection using Multimodal Neighbors, ICML 2025, with its fixed parameters.
Of more than REFERENCE pairs, a fixed sample is searched; a pair and its copies are not neighbours of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..align.zero_shot import ZeroShot
from ..arrays import Pairs, chunks, unique_values
from .crossfit import Decoys, Scores
from .embedded import both_sides, embedded
from .scores import Reference

NEIGHBOURS, BETA, GAMMA, TAU_1, TAU_2 = 30, 5.0, 5.0, 0.1, 5.0
REFERENCE = 50_000
CHUNK = 1024  # pairs whose neighbours' vectors are held at once


def lemon_scores(pairs: Pairs, rows: np.ndarray, *, index: NeighbourIndex | None = None, seed: int = 0) -> Scores:
    """Scores of the pairs `rows` (n,), in the encoder's own vectors, and of decoys.

    index: that of an earlier run; None makes one from these pairs.
    """
    rng = np.random.default_rng(seed)
    model = ZeroShot()
    if index is None:
        sample = np.sort(rng.choice(rows, min(REFERENCE, len(rows)), replace=False))
        index = NeighbourIndex.of(Reference.of(pairs.take(sample).through(model)))
    ids = pairs.image_id[rows], pairs.caption_id[rows]
    code = _pair_code(*ids)
    score, similarity = np.empty(len(rows)), np.empty(len(rows), np.float32)
    for part, x, y in embedded(model, pairs, rows, size=CHUNK):
        found = index.neighbours(x, y, code[part])
        similarity[part] = (x * y).sum(1)
        every = np.arange(len(x))
        score[part] = found.score(similarity[part], every, every)
    drawn = Decoys.draw(*both_sides(model, pairs, rows), *ids, rng)
    used = unique_values(np.concatenate([drawn.left, drawn.right]))
    left, right = np.searchsorted(used, drawn.left), np.searchsorted(used, drawn.right)
    ends = pairs.take(rows[used]).through(model)
    found = index.neighbours(ends.image[:], ends.text[:], code[used])
    decoys = [found.score(drawn.similarity[part], left[part], right[part]) for part in chunks(len(left), 65536)]
    return Scores(score, similarity, np.concatenate(decoys) if decoys else np.zeros(0), [index])


@dataclass(frozen=True)
class NeighbourIndex:
    """Pairs to find neighbours among.  pair: (R,) int64, equal for copies.  trust: (R,) exp(-tau_2 d) of each."""

    reference: Reference
    pair: np.ndarray
    trust: np.ndarray
    image_index: Any
    text_index: Any

    @staticmethod
    def of(reference: Reference) -> NeighbourIndex:
        import faiss

        indexes = []
        for vectors in (reference.image, reference.text):
            index = faiss.IndexFlatIP(vectors.shape[1])
            index.add(np.ascontiguousarray(vectors))
            indexes.append(index)
        trust = np.exp(-TAU_2 * (1 - (reference.image * reference.text).sum(1)))
        return NeighbourIndex(reference, _pair_code(reference.image_id, reference.caption_id), trust, *indexes)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(value) for name, value in vars(self.reference).items()}, path)

    @staticmethod
    def load(path: Path) -> NeighbourIndex:
        from safetensors.numpy import load_file

        return NeighbourIndex.of(Reference(**load_file(path)))

    def neighbours(self, x: np.ndarray, y: np.ndarray, pair: np.ndarray) -> _Neighbours:
        """x, y: (n, d) unit rows of the images and captions of n pairs.  pair: (n,) their codes."""
        r = self.reference
        sides = ((self.image_index, x, r.text), (self.text_index, y, r.image))
        return _Neighbours(x, y, pair, *(self._side(*side, pair) for side in sides))

    def _side(self, index: Any, query: np.ndarray, partner: np.ndarray, pair: np.ndarray) -> _Side:
        n, k = len(query), min(NEIGHBOURS, len(partner))
        mean, total = np.empty((n, partner.shape[1]), np.float32), np.empty(n, np.float32)
        neighbours = np.empty((n, k), np.int64)
        for part in chunks(n, CHUNK):
            near, found = index.search(np.ascontiguousarray(query[part]), min(2 * NEIGHBOURS, len(partner)))
            other = self.pair[found] != pair[part, None]
            order = np.argsort(~other, axis=1, kind="stable")[:, :k]
            near, found, other = (np.take_along_axis(a, order, 1) for a in (near, found, other))
            weight = other * np.exp(-TAU_1 * (1 - near)) * self.trust[found]
            weight /= np.maximum(other.sum(1, keepdims=True), 1)
            total[part] = weight.sum(1)
            mean[part] = np.einsum("ij,ijk->ik", weight, partner[found], optimize=True)
            neighbours[part] = self.pair[found]
        return _Side(mean, total, neighbours)


@dataclass(frozen=True)
class _Side:
    """The neighbours of one side.  mean: (n, d), the weighted mean of their other sides.  total: (n,), the sum of their
    weights.  pair: (n, k), their codes."""

    mean: np.ndarray
    total: np.ndarray
    pair: np.ndarray

    def apart(self, row: np.ndarray, vector: np.ndarray, own: np.ndarray) -> np.ndarray:
        """s_n or s_m of rows `row` against (m, d) vectors of the other side, which come from the pairs `own` (m,).

        In a decoy, a neighbour can be the pair that the other side comes from. A mismatched pair has no such neighbour,
        so it is left out: that lowers the count by one and leaves the sum as it is.
        """
        s = self.total[row] - np.einsum("ij,ij->i", self.mean[row], vector)
        k = self.pair.shape[1]
        return np.where((self.pair[row] == own[:, None]).any(1), s * k / max(k - 1, 1), s)


@dataclass(frozen=True)
class _Neighbours:
    """n pairs, and the neighbours of their images and of their captions."""

    x: np.ndarray
    y: np.ndarray
    pair: np.ndarray
    image: _Side
    caption: _Side

    def score(self, similarity: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(m,) float64 scores of the images of pairs `left` with the captions of pairs `right`."""
        s_n = self.image.apart(left, self.y[right], np.where(left == right, _NONE, self.pair[right]))
        s_m = self.caption.apart(right, self.x[left], np.where(left == right, _NONE, self.pair[left]))
        return similarity.astype(np.float64) - 1 - BETA * s_n - GAMMA * s_m


_NONE = np.iinfo(np.int64).min


def _pair_code(image_id: np.ndarray, caption_id: np.ndarray) -> np.ndarray:
    """(n,) int64, the same for pairs of the same image and caption."""
    with np.errstate(over="ignore"):
        return image_id.astype(np.int64) * np.int64(-7046029254386353131) + caption_id
