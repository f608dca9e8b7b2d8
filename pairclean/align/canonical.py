"""Regularised canonical correlation: the linear start for learning an alignment of two different spaces.

It is robust to noise: a random mismatch contributes nothing to the cross-covariance in expectation, so a mismatch rate
r scales it by 1 - r and does not change its singular directions, or the alignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ..arrays import Rows, chunks, single

#: Ridge in units of the largest eigenvalue of each covariance.
RIDGE = 1e-2
DIMENSIONS = 128
#: The least variance of unit vectors that counts; less is nothing but rounding (all images are alike).
LEAST_VARIANCE = 1e-3
#: The most pairs that are used, by sampling: more do not improve a covariance of a few thousand dimensions.
MAX_PAIRS = 200_000


@dataclass(frozen=True)
class LinearMap:
    """x -> (x - mean) @ matrix.  mean: (d,) float32, matrix: (d, k) float32."""

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (single(x) - self.mean) @ self.matrix


def canonical_maps(
    image: Rows,
    text: Rows,
    rows: np.ndarray,
    weight: np.ndarray,
    *,
    dimensions: int = DIMENSIONS,
    ridge: float = RIDGE,
    seed: int = 0,
) -> tuple[LinearMap, LinearMap, np.ndarray]:
    """Maps of both modalities to their canonical variates, and the canonical correlations.

    image: (N, d) and text: (N, e) arrays; rows: (n,) int64, the pairs to learn from; weight: (n,) non-negative.
    Returns maps to k = min(dimensions, d, e, n - 1) variates of about unit variance, and (k,) float32 correlations,
    descending.
    Source: Hotelling 1936; ridge after Vinod 1976. Solved by Cholesky whitening and subspace iteration, which reads
    the data once and needs no full eigendecomposition.
    """
    if 1 < len(rows) < max(image.shape[1], text.shape[1]) / 2:
        return _maps_in_spans(image[rows], text[rows], weight, dimensions, ridge, seed)
    rng = np.random.default_rng(seed)
    if len(rows) > MAX_PAIRS:
        chosen = np.sort(rng.choice(len(rows), MAX_PAIRS, replace=False))
        rows, weight = rows[chosen], weight[chosen]
    x_mean, y_mean, xx, yy, xy = _moments(image, text, rows, weight)
    k = min(dimensions, *xy.shape, max(1, len(rows) - 1))
    x_root, y_root = _ridge_root(xx, ridge, rng), _ridge_root(yy, ridge, rng)
    whitened = solve_triangular(y_root, solve_triangular(x_root, xy, lower=True).T, lower=True).T
    u, correlation, v = _leading_singular(whitened, k, rng)
    return (
        LinearMap(x_mean, solve_triangular(x_root, u, lower=True, trans="T")),
        LinearMap(y_mean, solve_triangular(y_root, v, lower=True, trans="T")),
        np.minimum(correlation, np.float32(1)),
    )


def _maps_in_spans(
    image: np.ndarray, text: np.ndarray, weight: np.ndarray, dimensions: int, ridge: float, seed: int
) -> tuple[LinearMap, LinearMap, np.ndarray]:
    """canonical_maps of few pairs: the maps look at nothing outside the span of the vectors that they learn from.

    In coordinates of an orthonormal basis of that span, covariances have n rows instead of d.
    """
    (x, x_basis), (y, y_basis) = _in_their_span(image), _in_their_span(text)
    rows = np.arange(len(weight))
    x_map, y_map, correlation = canonical_maps(x, y, rows, weight, dimensions=dimensions, ridge=ridge, seed=seed)
    return (
        LinearMap(x_basis @ x_map.mean, x_basis @ x_map.matrix),
        LinearMap(y_basis @ y_map.mean, y_basis @ y_map.matrix),
        correlation,
    )


def _in_their_span(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) -> coordinates (n, m) and an orthonormal basis (d, m), float32, with x = coordinates @ basis.T."""
    basis, coordinates = np.linalg.qr(np.asarray(x, np.float32).T)
    return coordinates.T, basis


def _moments(image: Rows, text: Rows, rows: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted means, covariances and cross-covariance, float32, accumulated in float64 over float32 products."""
    d, e = image.shape[1], text.shape[1]
    x_mean, y_mean, mass = np.zeros(d), np.zeros(e), 0.0
    xx, yy, xy = np.zeros((d, d)), np.zeros((e, e)), np.zeros((d, e))
    for part in chunks(len(rows), 8192):
        x, y = single(image[rows[part]]), single(text[rows[part]])
        root = np.sqrt(weight[part].astype(np.float32))
        mass += float(root @ root)
        x, y = x * root[:, None], y * root[:, None]
        x_mean += root @ x
        y_mean += root @ y
        xx += x.T @ x  # NumPy computes half of a matrix times its own transpose
        xy += x.T @ y
        yy += y.T @ y
    mass = mass or 1.0  # no pairs: no variance
    x_mean, y_mean = x_mean / mass, y_mean / mass
    xx, yy, xy = (
        s / mass - np.outer(a, b) for s, a, b in ((xx, x_mean, x_mean), (yy, y_mean, y_mean), (xy, x_mean, y_mean))
    )
    moments = (x_mean, y_mean, xx, yy, xy)
    return tuple(m.astype(np.float32) for m in moments)


def _ridge_root(covariance: np.ndarray, ridge: float, rng: np.random.Generator) -> np.ndarray:
    """The Cholesky factor of covariance + ridge * (largest eigenvalue) * identity."""
    direction = rng.standard_normal(len(covariance)).astype(np.float32)
    for _ in range(30):  # power iteration: two digits are enough for a ridge
        direction = covariance @ (direction / max(float(np.linalg.norm(direction)), 1e-30))
    largest = np.float32(max(float(np.linalg.norm(direction)), LEAST_VARIANCE))
    return np.linalg.cholesky(covariance + np.float32(ridge) * largest * np.eye(len(covariance), dtype=np.float32))


def _leading_singular(
    matrix: np.ndarray, k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading k singular triplets by subspace iteration with oversampling (Halko et al. 2011)."""
    basis = rng.standard_normal((matrix.shape[1], min(k + 16, *matrix.shape))).astype(np.float32)
    for _ in range(8):
        basis, _ = np.linalg.qr(matrix @ basis)
        basis, _ = np.linalg.qr(matrix.T @ basis)
    left, _ = np.linalg.qr(matrix @ basis)
    u, s, vt = np.linalg.svd(left.T @ matrix, full_matrices=False)
    return left @ u[:, :k], s[:k], vt[:k].T
