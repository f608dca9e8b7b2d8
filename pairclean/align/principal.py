"""Principal coordinates of one modality, for methods that learn each modality alone."""

from __future__ import annotations

import numpy as np

from ..arrays import Rows, chunks, single
from .canonical import LEAST_VARIANCE, MAX_PAIRS, RIDGE, LinearMap


def principal_map(x: Rows, rows: np.ndarray, dimensions: int, *, seed: int = 0) -> LinearMap:
    """The map to the leading principal coordinates, each scaled to a variance of about one.

    x: (N, d); rows: (n,) int64, of which at most MAX_PAIRS are used.  Directions of little variance are scaled up
    less, by a ridge of RIDGE of the largest variance.  Returns a map to min(dimensions, d) coordinates.
    """
    if len(rows) > MAX_PAIRS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_PAIRS, replace=False))
    d = x.shape[1]
    mean, second = np.zeros(d), np.zeros((d, d))
    for part in chunks(len(rows), 8192):
        block = single(x[rows[part]])
        mean += block.sum(0, dtype=np.float64)
        second += block.T @ block
    mean /= max(1, len(rows))
    covariance = second / max(1, len(rows)) - np.outer(mean, mean)
    variance, direction = np.linalg.eigh(covariance)
    leading = slice(None, -1 - min(dimensions, d), -1)
    variance, direction = np.maximum(variance[leading], 0), direction[:, leading]
    scale = 1 / np.sqrt(variance + RIDGE * max(float(variance[0]), LEAST_VARIANCE))
    return LinearMap(mean.astype(np.float32), (direction * scale).astype(np.float32))
