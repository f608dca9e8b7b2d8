"""Intervals for means over questions, by drawing again the images that the questions are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
DRAWS = 1000


def bootstrap_means(
    values: Mapping[str, tuple[NDArray[Any], NDArray[np.int64]]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Means of drawn-again data: images are drawn with replacement, each with all the questions that are about it.

    values: for each figure the value of every question, (q,) float (nan: not asked), and the image that it is about,
    (q,) int64 in [0, I).  Captions of one image are not independent, so that they are drawn together; the same draws
    serve all figures, so that they can be added. What is searched through stays the same.
    Returns (draws,) means for each figure.  Memory is 16 * I bytes a figure: only sums an image are kept.
    """
    images = 1 + max((int(image.max()) for _, image in values.values() if len(image)), default=-1)
    asked = {name: ~np.isnan(value) for name, (value, _) in values.items()}
    sums = np.stack([np.bincount(i[asked[n]], v[asked[n]], images) for n, (v, i) in values.items()], 1)
    counts = np.stack([np.bincount(i[asked[n]], minlength=images) for n, (_, i) in values.items()], 1).astype(float)
    rng = np.random.default_rng(seed)
    means = np.full((draws, len(values)), np.nan)
    for draw in range(draws):
        weight = np.bincount(rng.integers(images, size=images), minlength=images).astype(float)
        total = weight @ counts
        np.divide(weight @ sums, total, out=means[draw], where=total > 0)
    return dict(zip(values, means.T, strict=True))


def interval(means: NDArray[np.float64], level: float = LEVEL) -> list[float]:
    """The percentile interval of `bootstrap_means`: [low, high]."""
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
