"""How a pair stands among others of its kind, with its own image held fixed, and with its own caption held fixed.

    v = (probit of the share of captions of the caption's kind that fit the image less well
         + probit of the share of images of the image's kind that fit the caption less well) / 2

A caption that was moved within a kind is exchangeable with the other captions of the kind, so that its share is uniform
whatever the image is like. The evidence compares pairs with one another; v compares a pair with what else its own image
and its own caption could be paired with, and so tells mismatches within kinds from matches that score low.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arrays import INNER_PRODUCT, Comparison, chunks, places_of_values
from .embedded import Vectors
from .kinds import distinct
from .scores import on_all_cores

#: Members per kind that a pair is compared with, at most, and at least.
PEERS, FEWEST_PEERS = 64, 8
CHUNK = 8192


@dataclass(frozen=True)
class Peers:
    """Captions, or images, of each kind, in a model's space.

    vectors: (m, d) float32.  hub: (m,) float64, half of each one's hubness.  ids: (m,) int64 identities.
    kinds: (K,) ascending; start: (K + 1,): the members of kinds[k] are at start[k]:start[k + 1].
    """

    vectors: np.ndarray
    hub: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray
    start: np.ndarray

    def probit(
        self,
        other: np.ndarray,
        score: np.ndarray,
        kind: np.ndarray,
        ids: np.ndarray,
        t: float,
        compare: Callable[[np.ndarray, np.ndarray], np.ndarray] = INNER_PRODUCT.with_texts,
    ) -> np.ndarray:
        """(n,) float64: where each pair stands among these, NaN where its kind has too few of them.

        other: (n, d) float32 vectors of the side that is held fixed.  score: (n,) float64, similarity / t - hub of the
        pair's own caption (image).  kind, ids: (n,) of that caption (image), which is not compared with itself.
        compare: vectors of the side that is held fixed with these, (n, d), (m, d) -> (n, m).
        """
        from scipy.special import ndtri

        out = np.full(len(score), np.nan)
        for k, members in zip(*places_of_values(kind), strict=True):
            at = np.searchsorted(self.kinds, k)
            if at == len(self.kinds) or self.kinds[at] != k:
                continue
            of = slice(self.start[at], self.start[at + 1])
            for part in chunks(len(members), CHUNK):
                pair = members[part]
                fit = compare(other[pair], self.vectors[of]).astype(np.float64)
                fit /= t
                fit -= self.hub[of]
                others = self.ids[of] != ids[pair, None]
                below = (others & (fit < score[pair, None])).sum(1) + 0.5 * (others & (fit == score[pair, None])).sum(1)
                count = others.sum(1)
                p = (below + 0.5) / (count + 1)
                out[pair] = np.where(count >= FEWEST_PEERS, ndtri(p), np.nan)
        return out


def draw_peers(kind: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most PEERS of every kind, by ascending kind, no identity twice.  kind, ids: (n,) int64."""
    first = distinct(ids)
    first = first[rng.permutation(len(first))]
    first = first[np.argsort(kind[first], kind="stable")]
    _, start, size = np.unique(kind[first], return_index=True, return_counts=True)
    return first[np.arange(len(first)) - np.repeat(start, size) < PEERS]


@dataclass(frozen=True)
class Standing:
    """What says how any re-pairing of n pairs stands among others of its kinds, in one model's space.

    images, texts: the peers.  kind, hub, ids: of the images and of the captions, (n,) each: int64 kinds, float64 half
    of the hubness at the temperature, int64 identities.
    """

    images: Peers
    texts: Peers
    kind: tuple[np.ndarray, np.ndarray]
    hub: tuple[np.ndarray, np.ndarray]
    ids: tuple[np.ndarray, np.ndarray]
    temperature: float
    comparison: Comparison

    @staticmethod
    def of(
        vectors: tuple[Vectors, Vectors],
        ids: tuple[np.ndarray, np.ndarray],
        kind: tuple[np.ndarray, np.ndarray],
        hub: tuple[np.ndarray, np.ndarray],
        temperature: float,
        rng: np.random.Generator,
        comparison: Comparison = INNER_PRODUCT,
    ) -> Standing:
        """vectors: of the n images and of the n captions; the rest as in the class."""
        peers = []
        for side, id_of, of, hub_of in zip(vectors, ids, kind, hub, strict=True):
            drawn = draw_peers(of, id_of, rng)
            kinds, start = np.unique(of[drawn], return_index=True)
            peers.append(Peers(side[drawn], hub_of[drawn], id_of[drawn], kinds, np.append(start, len(drawn))))
        return Standing(peers[0], peers[1], kind, hub, ids, temperature, comparison)

    def measured(
        self, images: Vectors, captions: Vectors, similarity: np.ndarray, left: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """(m,) float64 v of images left with captions right, without holding the vectors of all.

        images, captions: of the n pairs.  similarity: (m,).  left, right: (m,) positions.
        """
        out = np.empty(len(left))
        parts = list(chunks(len(left), CHUNK))

        def measure(k: int, _: str) -> None:
            part = parts[k]
            i, j = left[part], right[part]
            out[part] = self(images[i], captions[j], similarity[part], i, j)

        on_all_cores(measure, len(parts), self.comparison)
        return out

    def __call__(
        self, x: np.ndarray, y: np.ndarray, similarity: np.ndarray, left: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """(m,) float64 v of images left with captions right, (m,) positions; NaN where a kind has too few members.

        x, y: (m, d) their vectors.  similarity: (m,) of them.
        """
        t, compare = self.temperature, self.comparison
        logit = similarity.astype(np.float64) / t
        (image_kind, text_kind), (image_hub, text_hub), (image_id, caption_id) = self.kind, self.hub, self.ids
        by_text = self.texts.probit(
            x, logit - text_hub[right], text_kind[right], caption_id[right], t, compare.with_texts
        )
        by_image = self.images.probit(
            y, logit - image_hub[left], image_kind[left], image_id[left], t, compare.with_images
        )
        return (by_text + by_image) / 2
