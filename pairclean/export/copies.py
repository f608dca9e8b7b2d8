"""Copies: pairs that share a picture or a caption, and which of them `cleaned/` keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from ..judge import Faults, Learned, pair_codes
from .kept import column


@dataclass(frozen=True)
class Copies:
    """The groups of exact and near copies among N pairs.

    image, caption: (N,) int64, equal for copies of one picture (caption); meaningless for unreadable pairs.
    """

    image: np.ndarray
    caption: np.ndarray

    @staticmethod
    def of(learned: Learned, faults: Faults) -> Copies:
        """The groups of the pairs as they came: what was learned may be of captions that were given back."""
        caption = np.empty(len(learned.caption_id), np.int64)
        caption[faults.caption] = learned.caption_id
        return Copies(np.asarray(learned.image_id), caption)

    def kept_instead(self, kept: pa.Table, one_per: Literal["image", "pair"]) -> np.ndarray:
        """(N,) int64: for each pair that is left out, the pair that is kept in its place; -1 for all others.

        kept: the pairs of all shards, as `kept_pairs` returns them.  one_per: whether one pair is kept per picture, or
        per picture and caption. It is the pair that is most likely to be right, the first if there are several. A
        rematched pair counts with its new caption.
        """
        pair, donor, probability = (column(kept, name).to_numpy() for name in ("pair", "donor", "probability"))
        image = self.image[pair]
        group = image if one_per == "image" else pair_codes(image, self.caption[donor])
        order = np.lexsort((pair, -probability, group))
        first = np.diff(group[order], prepend=group[order[:1]] - 1) != 0
        best = order[first][np.cumsum(first) - 1]
        found = np.full(len(self.image), -1)
        found[pair[order[~first]]] = pair[best[~first]]
        return found
