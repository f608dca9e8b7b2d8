"""The linear start by itself, as a method: canonical correlation, in closed form."""

from __future__ import annotations

import numpy as np

from ..arrays import Rows
from .alignment import Alignment, Head
from .canonical import canonical_maps


class Canonical(Alignment):
    """See `align.canonical`; the variates are weighted by their correlations."""

    def fit(
        self,
        image: Rows,
        text: Rows,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        *,
        rows: np.ndarray,
        clean_probability: np.ndarray | None = None,
    ) -> Canonical:
        """image: (N, d), text: (N, e), image_id and caption_id: (N,) int64; rows: (n,) int64, the pairs to learn from.

        clean_probability: (N,) in [0, 1], weights; None counts every pair alike.
        """
        weight = np.ones(len(rows)) if clean_probability is None else clean_probability[rows]
        to_image, to_text, correlation = canonical_maps(image, text, rows, weight)
        self.image = Head(image.shape[1], to_image, correlation).to(self.device)
        self.text = Head(text.shape[1], to_text, correlation).to(self.device)
        return self
