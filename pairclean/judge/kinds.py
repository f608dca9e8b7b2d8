"""Kinds: what a mismatched caption is compared with, when it resembles the right one.

Captions and images are each partitioned into kinds. Whatever the noise does between kinds, a caption that was moved
within a kind is exchangeable with the other captions of that kind, so that re-pairings within a kind show what such a
mismatch scores. A text that many different images share, and an image that many different captions share, is a kind of
its own: whether it says anything of its partners is then judged by itself.

A partition is needed, and not the neighbours around each caption: the caption is the centre of these, and the centre is
not exchangeable with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..align.alignment import Alignment
from ..align.zero_shot import ZeroShot
from ..arrays import Pairs, Rows, chunks, single_unit, unique_values, unit
from ..execution import side_by_side

Embed = Callable[[np.ndarray], np.ndarray]

#: Distinct captions (images) per kind on average, and the most kinds. Set on one data set of 2,400 product photos, and
#: checked on photos of scenes: half as large kinds make difficult matches look mismatched, twice as large ones hide
#: half of the mismatches within product types.
MEMBERS, MOST_KINDS = 100, 64
#: An identity with so many different partners is a kind of its own; in large data it needs this share of the pairs.
REPEATED, REPEATED_SHARE = 8, 1 / 5000
#: A kind of a column with fewer pairs is too small to compare a pair with others of it.
FEWEST_OF_COLUMN = 20
#: Vectors per kind that k-means sees, at most, and its iterations.
TRAINED, ITERATIONS = 256, 25
#: Vectors that a thread assigns at once.
CHUNK = 4096


@dataclass(frozen=True)
class Kinds:
    """A partition of the captions, or of the images.

    centroids: (K, d) float32 unit rows.  repeated: (r,) int64 ascending, the identities that are kinds of their own.
    """

    centroids: np.ndarray
    repeated: np.ndarray

    @property
    def clusters(self) -> int:
        """Kinds below this number are clusters; the others are single, repeated identities."""
        return len(self.centroids)

    @property
    def count(self) -> int:
        return len(self.centroids) + len(self.repeated)

    def cluster(self, vectors: Rows, rows: np.ndarray, embed: Embed = single_unit) -> np.ndarray:
        """(n,) int64 in [0, clusters): the nearest centroid of each of `rows`.  embed: into the centroids' space."""
        return clusters_of([self], vectors, rows, embed)[0]

    def with_repeated(self, cluster: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """(n,) int64 in [0, count), from clusters and identities of the same rows."""
        if not len(self.repeated):
            return cluster
        at = np.minimum(np.searchsorted(self.repeated, ids), len(self.repeated) - 1)
        return np.where(self.repeated[at] == ids, self.clusters + at, cluster)

    @staticmethod
    def fit(
        vectors: Rows,
        ids: np.ndarray,
        partner: np.ndarray,
        rows: np.ndarray,
        count: int,
        seed: int = 0,
        embed: Embed = single_unit,
    ) -> Kinds:
        """At most `count` clusters of the distinct identities among `rows`, by spherical k-means.

        vectors: (N, d); ids: (N,) their identities; partner: (N,) identities of the other side.  embed: (n, d) vectors,
        any float -> (n, k) float32 unit rows.
        """
        distinct, first, inverse = np.unique(ids[rows], return_index=True, return_inverse=True)
        _, other = np.unique(partner[rows], return_inverse=True)
        partners = (
            np.bincount(
                unique_values(inverse.astype(np.int64) * (other.max(initial=0) + 1) + other)
                // (other.max(initial=0) + 1)
            )
            if len(rows)
            else np.zeros(0, np.int64)
        )
        repeated = distinct[partners >= max(REPEATED, REPEATED_SHARE * len(rows))]
        return Kinds(_centroids(vectors, rows[first], count, seed, embed), repeated)


def clusters_of(several: Sequence[Kinds], vectors: Rows, rows: np.ndarray, embed: Embed = single_unit) -> np.ndarray:
    """(len(several), n) int64, `cluster` of each of several kinds in one space; every vector is embedded once."""
    out = np.zeros((len(several), len(rows)), np.int64)
    parts = list(chunks(len(rows), CHUNK)) if any(kinds.clusters > 1 for kinds in several) else []
    centroids = np.concatenate([kinds.centroids for kinds in several])
    ends = np.cumsum([kinds.clusters for kinds in several])[:-1]

    def assign(k: int, _: str) -> None:
        fit = embed(vectors[rows[parts[k]]]) @ centroids.T
        for nearest, of_kinds in zip(out, np.split(fit, ends, axis=1), strict=True):
            nearest[parts[k]] = of_kinds.argmax(1)

    side_by_side(assign, len(parts), ["cpu"])
    return out


def _centroids(vectors: Rows, rows: np.ndarray, count: int, seed: int, embed: Embed) -> np.ndarray:
    import faiss

    rng = np.random.default_rng(seed)
    if len(rows) > TRAINED * count:
        rows = np.sort(rng.choice(rows, TRAINED * count, replace=False))
    x = np.ascontiguousarray(embed(vectors[rows]))
    if count < 2 or len(rows) <= count:
        return unit(x.mean(0, keepdims=True)) if len(x) else np.zeros((1, x.shape[1]), np.float32)
    kmeans: Any = faiss.Kmeans(
        x.shape[1], count, niter=ITERATIONS, nredo=3, seed=seed, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(x)
    return unit(np.asarray(kmeans.centroids, np.float32))


@dataclass(frozen=True)
class Partition:
    """Kinds of both sides; coarser and finer kinds of captions show how far the rate depends on their size."""

    image: Kinds
    text: Kinds
    coarse: Kinds
    fine: Kinds

    @staticmethod
    def fit(pairs: Pairs, rows: np.ndarray, model: Alignment | None = None, *, seed: int = 0) -> Partition:
        """By the vectors of the pairs `rows` (n,) of N, in a model's space; None takes the encoder's own.

        Captions that are alike in words may differ in what they show. Where a common space had to be learned, kinds in
        it are kinds of what is shown; captions are put into it without a look at their images.
        """
        model = model or ZeroShot()
        texts = len(unique_values(pairs.caption_id[rows]))
        images = len(unique_values(pairs.image_id[rows]))
        count = int(np.clip(round(texts / MEMBERS), 1, MOST_KINDS))

        def text(kinds: int) -> Kinds:
            ids = pairs.caption_id, pairs.image_id
            return Kinds.fit(pairs.text, *ids, rows, max(1, kinds), seed, model.embed_text)

        of_images = int(np.clip(round(images / MEMBERS), 1, MOST_KINDS))
        ids = pairs.image_id, pairs.caption_id
        image = Kinds.fit(pairs.image, *ids, rows, of_images, seed, model.embed_image)
        return Partition(image, text(count), text(round(count / 2)), text(2 * count))

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({f"{side}.{k}": v for side, kinds in vars(self).items() for k, v in vars(kinds).items()}, path)

    @staticmethod
    def load(path: Path) -> Partition:
        from safetensors.numpy import load_file

        tensors = load_file(path)
        sides = ("image", "text", "coarse", "fine")
        return Partition(*(Kinds(tensors[f"{side}.centroids"], tensors[f"{side}.repeated"]) for side in sides))


@dataclass(frozen=True)
class PairKinds:
    """The kinds of n pairs.  image, text: (n,) int64 kinds, repeated identities among them.

    groups: (scales, n) int64, the clusters within which captions are re-paired, the coarsest first.
    peer_image, peer_text: (n,) int64, the kinds among which an image, and a caption, is compared with others.
    fine: (n,) int64, the finest clusters of the captions.
    clusters: of images and of captions; kinds from these numbers on are single, repeated identities.
    """

    image: np.ndarray
    text: np.ndarray
    groups: np.ndarray
    peer_image: np.ndarray
    peer_text: np.ndarray
    fine: np.ndarray
    clusters: tuple[int, int] = (1, 1)

    @staticmethod
    def single(n: int) -> PairKinds:
        """All pairs of one kind, and none within it."""
        kind = np.zeros(n, np.int64)
        return PairKinds(kind, kind, np.zeros((0, n), np.int64), kind, kind, kind)

    @staticmethod
    def of(
        partition: Partition,
        pairs: Pairs,
        rows: np.ndarray,
        column: np.ndarray | None = None,
        model: Alignment | None = None,
    ) -> PairKinds:
        """column: (N,) int64 kinds that the data bring along, -1 where none is known; they replace the groups.

        model: the one that the partition was fitted in.
        """
        model = model or ZeroShot()
        of_image = partition.image.cluster(pairs.image, rows, model.embed_image)
        image = partition.image.with_repeated(of_image, pairs.image_id[rows])
        of_scale = [partition.coarse, partition.text, partition.fine]
        scales = clusters_of(of_scale, pairs.text, rows, model.embed_text)
        _, of_text, fine = scales
        text = partition.text.with_repeated(of_text, pairs.caption_id[rows])
        clusters = partition.image.clusters, partition.text.clusters
        if column is not None:
            known = column[rows]
            peer_image, peer_text = _or_cluster(known, of_image, clusters[0]), _or_cluster(known, of_text, clusters[1])
            return PairKinds(image, text, known[None], peer_image, peer_text, fine, clusters)
        return PairKinds(image, text, scales, of_image, of_text, fine, clusters)


def _or_cluster(column: np.ndarray, cluster: np.ndarray, clusters: int) -> np.ndarray:
    """Kinds of the column of enough members to compare with, else clusters; numbered apart."""
    _, inverse, count = np.unique(column, return_inverse=True, return_counts=True)
    return np.where((column >= 0) & (count[inverse] >= FEWEST_OF_COLUMN), clusters + column, cluster)


def distinct(ids: np.ndarray) -> np.ndarray:
    """The first position of every identity.  ids: (n,) int64."""
    first: np.ndarray = np.unique(ids, return_index=True)[1]
    return first


def draw_within(
    groups: np.ndarray,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rng: np.random.Generator,
    *,
    draws: int,
    limit: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Re-pairings within groups: (m,) positions of images and of captions, `draws` per pair, of at most `limit` pairs.

    groups: (n,) int64, negative for pairs that take no part.  A caption never meets its own image, or a copy of it, nor
    an image whose own caption it repeats.
    """
    pool = np.flatnonzero(groups >= 0)
    if len(pool) > limit:
        pool = np.sort(rng.choice(pool, limit, replace=False))
    order = pool[np.argsort(groups[pool], kind="stable")]
    _, start, size = np.unique(groups[order], return_index=True, return_counts=True)
    start, size = (np.repeat(x, size) for x in (start, size))
    left = np.tile(order, draws)
    pick = np.tile(start, draws) + (rng.random(len(left)) * np.tile(size, draws)).astype(np.int64)
    right = order[pick]
    allowed = (caption_id[left] != caption_id[right]) & (image_id[left] != image_id[right])
    return left[allowed], right[allowed]
