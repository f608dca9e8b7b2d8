"""Canonical correlation against a dense computation, and what noise and weights do to it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh

from pairclean.align import Canonical, canonical
from pairclean.align.canonical import RIDGE, canonical_maps
from pairclean.arrays import Pairs

CORRELATIONS = np.array([0.95, 0.85, 0.7, 0.5])


def planted(n: int, d: int = 12, e: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian views with canonical correlations CORRELATIONS; the true latent variates, (n, 4) each, come last."""
    rng = np.random.default_rng(seed)
    k = len(CORRELATIONS)
    z = rng.standard_normal((n, k))
    u = np.sqrt(CORRELATIONS) * z + np.sqrt(1 - CORRELATIONS) * rng.standard_normal((n, k))
    v = np.sqrt(CORRELATIONS) * z + np.sqrt(1 - CORRELATIONS) * rng.standard_normal((n, k))
    mix_x, mix_y = np.random.default_rng(99).standard_normal((d, d)), np.random.default_rng(98).standard_normal((e, e))
    x = np.c_[u, rng.standard_normal((n, d - k))] @ mix_x + 3
    y = np.c_[v, rng.standard_normal((n, e - k))] @ mix_y - 2
    return x.astype(np.float32), y.astype(np.float32), u, v


def dense(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, ridge: float, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions in x and in y, (d, k) and (e, k) of unit variance, and correlations: a generalised eigenproblem."""
    x, y, w = x.astype(np.float64), y.astype(np.float64), weight / weight.sum()
    x, y = x - w @ x, y - w @ y
    cxx, cyy, cxy = (x * w[:, None]).T @ x, (y * w[:, None]).T @ y, (x * w[:, None]).T @ y
    cxx += ridge * np.linalg.eigvalsh(cxx)[-1] * np.eye(len(cxx))
    cyy += ridge * np.linalg.eigvalsh(cyy)[-1] * np.eye(len(cyy))
    square, a = eigh(cxy @ np.linalg.solve(cyy, cxy.T), cxx)
    order = np.argsort(-square)[:k]
    correlation, a = np.sqrt(square[order]), a[:, order]
    return a, np.linalg.solve(cyy, cxy.T @ a) / correlation, correlation


def all_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(x)), np.ones(len(x))


def aligned(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlations of the columns of a with those of b, without their signs."""
    return np.array([abs(np.corrcoef(p, q)[0, 1]) for p, q in zip(a.T, b.T, strict=True)])


@pytest.mark.parametrize("ridge", [RIDGE, 0.3])
def test_maps_are_those_of_the_dense_eigenproblem(ridge: float) -> None:
    x, y, _, _ = planted(3000)
    to_x, to_y, correlation = canonical_maps(x, y, *all_rows(x), dimensions=4, ridge=ridge)
    a, b, expected = dense(x, y, np.ones(len(x)), ridge, 4)
    np.testing.assert_allclose(correlation, expected, atol=2e-3)
    sign = np.sign((a * to_x.matrix).sum(0))  # one sign for both sides of a variate
    for found, direction in ((to_x, a), (to_y, b)):
        np.testing.assert_allclose(found.matrix, direction * sign, atol=0.01 * np.abs(direction).max())
    np.testing.assert_allclose(to_x.mean, x.mean(0, dtype=float), rtol=1e-4)
    np.testing.assert_allclose(to_x(x).mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(to_y(y[:5]), (y[:5] - to_y.mean) @ to_y.matrix, rtol=1e-5)


def test_planted_correlations_and_variates_are_recovered() -> None:
    x, y, u, v = planted(20_000)
    to_x, to_y, correlation = canonical_maps(x, y, *all_rows(x), dimensions=4, ridge=1e-6)
    np.testing.assert_allclose(correlation, CORRELATIONS, atol=0.02)
    assert aligned(to_x(x), u).min() > 0.99
    assert aligned(to_y(y), v).min() > 0.99
    np.testing.assert_allclose(to_x(x).var(0), 1, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(to_x(x).T, to_y(y).T)[:4, 4:], np.diag(CORRELATIONS), atol=0.03)


def test_random_mismatches_scale_the_correlations_and_keep_the_directions() -> None:
    x, y, u, v = planted(40_000)
    carried = np.arange(len(x))
    carried[: 2 * len(x) // 5] = np.roll(carried[: 2 * len(x) // 5], 1)  # rows are independent: any other's will do
    to_x, to_y, correlation = canonical_maps(x, y[carried], *all_rows(x), dimensions=4, ridge=1e-6)
    np.testing.assert_allclose(correlation, 0.6 * CORRELATIONS, atol=0.02)
    assert aligned(to_x(x), u).min() > 0.97
    assert aligned(to_y(y), v).min() > 0.97


def test_weights_are_shares_of_rows() -> None:
    x, y, _, _ = planted(1000)
    kept = np.arange(0, 1000, 3)
    whole = np.zeros(1000)
    whole[kept] = 2.5
    by_weight = canonical_maps(x, y, np.arange(1000), whole, dimensions=4)
    by_rows = canonical_maps(x, y, kept, np.ones(len(kept)), dimensions=4)
    np.testing.assert_allclose(by_weight[2], by_rows[2], atol=1e-4)
    for one, other, data in zip(by_weight, by_rows, (x, y), strict=False):
        np.testing.assert_allclose(one.mean, other.mean, atol=1e-4)
        np.testing.assert_allclose(aligned(one(data), other(data)), 1, atol=1e-3)
    twice = canonical_maps(x, y, np.r_[kept, kept[:50]], np.ones(len(kept) + 50), dimensions=4)[2]
    weighted = canonical_maps(x, y, kept, np.where(np.arange(len(kept)) < 50, 2.0, 1.0), dimensions=4)[2]
    np.testing.assert_allclose(twice, weighted, atol=1e-4)


def test_dimensions_are_bounded_by_the_spaces_and_the_pairs() -> None:
    x, y, _, _ = planted(300)
    for dimensions, rows, k in ((128, 300, 9), (3, 300, 3), (128, 6, 5), (128, 2, 1)):
        to_x, to_y, correlation = canonical_maps(x, y, np.arange(rows), np.ones(rows), dimensions=dimensions)
        assert to_x.matrix.shape == (12, k)
        assert to_y.matrix.shape == (9, k)
        assert correlation.shape == (k,)
        assert {a.dtype for a in (to_x.mean, to_x.matrix, to_y.mean, to_y.matrix, correlation)} == {np.dtype("float32")}


@pytest.mark.parametrize(("d", "e"), [(200, 200), (30, 200), (200, 30)])
def test_fewer_pairs_than_dimensions(d: int, e: int) -> None:
    """As the dense computation says, also of what was not learned from and lies outside the span of the pairs."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((80, 4)) * np.array([9, 6, 4, 3])
    x, y = (z @ np.linalg.qr(rng.standard_normal((m, 4)))[0].T + rng.standard_normal((80, m)) + 1 for m in (d, e))
    x, y, rows = x.astype(np.float32), y.astype(np.float32), np.arange(40)
    weight = rng.uniform(0.5, 1, 40)
    to_x, to_y, correlation = canonical_maps(x, y, rows, weight)
    a, b, expected = dense(x[:40], y[:40], weight, RIDGE, 30)
    assert len(correlation) == min(39, d, e)
    assert (np.diff(correlation) <= 1e-6).all()
    assert correlation.max() <= 1
    np.testing.assert_allclose(correlation[:30], expected, atol=5e-3)
    sign = np.sign((a * to_x.matrix[:, :30]).sum(0))[:4]
    for found, direction, data in ((to_x, a, x), (to_y, b, y)):
        variates = (data[40:] - np.average(data[:40], axis=0, weights=weight)) @ direction[:, :4] * sign
        np.testing.assert_allclose(found(data[40:])[:, :4], variates, atol=0.05)
        np.testing.assert_allclose(found.mean, np.average(data[:40], axis=0, weights=weight), atol=1e-4)


def test_the_same_twice_and_rows_beyond_the_sample_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _, _ = planted(2000)
    one, other = (canonical_maps(x, y, *all_rows(x), seed=3) for _ in range(2))
    assert np.array_equal(one[0].matrix, other[0].matrix)
    monkeypatch.setattr(canonical, "MAX_PAIRS", 1000)
    sampled = canonical_maps(x, y, *all_rows(x), seed=3)[0]
    assert not np.array_equal(sampled.mean, one[0].mean)
    np.testing.assert_allclose(sampled.mean, one[0].mean, atol=0.5)


def test_where_nothing_varies_everything_is_the_same_point() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((1, 50)), 120, 0).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = rng.standard_normal((120, 30)).astype(np.float32)
    ids = np.arange(120)
    for image, text, rows in ((x, y, ids), (y, x, ids), (x, x, ids), (y, y, ids[:0])):
        model = Canonical().fit(Pairs(image, text, ids, ids), rows)
        similarity = (model.embed_image(image) * model.embed_text(text)).sum(1)
        assert np.isfinite(similarity).all()


def test_the_method_weights_variates_by_their_correlations() -> None:
    x, y, _, _ = planted(2000)
    ids = np.arange(2000)
    model = Canonical().fit(Pairs(x, y, ids, ids), ids)
    to_x, to_y, correlation = canonical_maps(x, y, *all_rows(x))
    for found, expected in (
        (model.embed_image(x), to_x(x) * correlation),
        (model.embed_text(y), to_y(y) * correlation),
    ):
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    clean = np.where(ids < 1000, 1.0, 0.0)
    weighted = Canonical().fit(Pairs(x, y, ids, ids), ids, clean).embed_image(x)
    halved = Canonical().fit(Pairs(x, y, ids, ids), ids[:1000]).embed_image(x)
    np.testing.assert_allclose(weighted @ weighted[0], halved @ halved[0], atol=2e-3)
