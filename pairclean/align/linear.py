"""Canonical correlation, in closed form, as a method of its own."""

from __future__ import annotations

import numpy as np

from ..arrays import Pairs
from .alignment import Alignment, Head
from .canonical import MAX_PAIRS, canonical_maps


class Canonical(Alignment):
    """See `align.canonical`; the variates are weighted by their correlations."""

    largest_epoch = MAX_PAIRS  # its only one

    def fit(self, pairs: Pairs, rows: np.ndarray, clean_probability: np.ndarray | None = None) -> Canonical:
        """Arguments as in `Method`; the clean probabilities are the pairs' weights, None weights all pairs equally."""
        weight = np.ones(len(rows)) if clean_probability is None else clean_probability[rows]
        to_image, to_text, correlation = canonical_maps(pairs.image, pairs.text, rows, weight)
        self.image = Head(pairs.image.shape[1], to_image, correlation).to(self.device)
        self.text = Head(pairs.text.shape[1], to_text, correlation).to(self.device)
        return self
