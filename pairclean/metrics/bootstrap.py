"""Bootstrap intervals for means over queries, resampling the images that the queries belong to."""

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
    """Bootstrap means of several metrics: images are drawn with replacement, each with all the queries it belongs to.

    values: by metric, the value of every query, (q,) float (NaN: not asked), and the image it belongs to, (q,) int64
    in [0, I).  The captions of one image are not independent, so they are drawn together. All metrics share the same
    draws, so that they can be added. The gallery (what is searched) stays the same.
    Returns (draws,) means for each metric, NaN for a draw without queries.  Memory is 16 * I bytes per metric: only
    sums per image are kept.
    Source: the cluster bootstrap, Field and Welsh 2007.

    >>> recall, image = np.array([100.0, 0.0, 100.0, 100.0]), np.array([0, 0, 1, 2])
    >>> means = bootstrap_means({"r1": (recall, image)}, draws=200)["r1"]
    >>> means.shape, bool(means.min() >= 0), bool(means.max() <= 100)
    ((200,), True, True)
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
    """The percentile interval of bootstrap means: [low, high].

    means: (draws,) float, NaN left out.  level: confidence level, in (0, 1).

    >>> low, high = interval(np.arange(101.0))
    >>> round(low, 1), round(high, 1)
    (2.5, 97.5)
    """
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
