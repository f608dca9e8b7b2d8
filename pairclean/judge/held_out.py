"""Which pairs of the data a model never trained on, drawn to measure retrieval on and to calibrate rematching with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .crossfit import CrossFit
from .scores import Model

PAIRS = 1000  # per fold, at most
MOST_SURE = 4000


def clean_by_fold(
    cross_fit: CrossFit, clean_probability: np.ndarray, *, seed: int = 0
) -> Iterator[tuple[Model, np.ndarray]]:
    """Each model with the judged-clean pairs of its fold: rows, ascending, at most `PAIRS`, drawn at random.

    clean_probability: (N,), NaN where nothing was judged.
    """
    rng = np.random.default_rng(seed)
    for model, place in cross_fit.members():
        rows = cross_fit.rows[place]
        clean = rows[clean_probability[rows] >= 0.5]
        yield model, np.sort(rng.choice(clean, PAIRS, replace=False)) if len(clean) > PAIRS else clean


def draw_sure(clean_probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of likely matched pairs, ascending, at most MOST_SURE.

    Each is drawn with its own probability of being clean, so that there are difficult matched pairs among them, and not
    only the most certain ones.

    clean_probability: (N,), NaN where not judged.
    """
    likely = np.flatnonzero(clean_probability >= 0.5)
    drawn = likely[rng.random(len(likely)) < clean_probability[likely]]
    return np.sort(rng.choice(drawn, MOST_SURE, replace=False)) if len(drawn) > MOST_SURE else drawn
