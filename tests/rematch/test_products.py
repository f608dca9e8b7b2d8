"""Hubness by products in half precision, against that in single precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.judge.scores import Reference, Scorer, hubness
from pairclean.rematch import products as module
from pairclean.rematch.products import HalfScorer, half_hubness, largest


def across_a_gap(n: int, axis: int, seed: int) -> np.ndarray:
    """(n, 64) unit vectors with a large component of their modality."""
    x = np.random.default_rng(seed).standard_normal((n, 64))
    x[:, axis] += 12
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_both_directions(dtype: torch.dtype, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """More vectors and references than are compared at once; and none."""
    monkeypatch.setattr(module, "half_precision", lambda: dtype)
    monkeypatch.setattr(module, "TILE", (70, 90))
    image, text = across_a_gap(300, 0, 1), across_a_gap(200, 1, 2)
    reference = Reference(image[:150], text, np.arange(150), np.arange(200))
    exact = Scorer(reference, 0.02).hubness(image, text)
    for found, expected in zip(HalfScorer(reference, 0.02).hubness(image, text), exact, strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=error)
    assert HalfScorer(reference, 0.02).hubness(image[:0], text[:0])[0].shape == (0,)
    fewer = HalfScorer(reference, 0.02).without(np.arange(50), np.arange(3))
    assert isinstance(fewer, HalfScorer)
    assert (len(fewer.reference.image), len(fewer.reference.text)) == (100, 197)


def test_what_vectors_have_in_common_costs_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities of .9 that differ by thousandths: eight bits of each of them would be off by up to .002."""
    monkeypatch.setattr(module, "half_precision", lambda: torch.bfloat16)
    rng = np.random.default_rng(0)
    common = rng.standard_normal(64)
    image, text = (
        (common + 0.03 * rng.standard_normal((n, 64))).astype(np.float32) / np.float32(np.linalg.norm(common))
        for n in (100, 150)
    )
    exact = hubness(image, text, 0.01)
    rounded = (torch.from_numpy(x).bfloat16().float().numpy() for x in (image, text))
    assert np.abs(half_hubness(image, text, 0.01) - exact).max() < 1e-3
    assert np.abs(hubness(*rounded, 0.01) - exact).max() > 0.02


def test_hubness_has_a_small_error_and_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "half_precision", lambda: torch.bfloat16)
    image, text = across_a_gap(500, 0, 1), across_a_gap(3000, 1, 2)
    for temperature in (0.02, 0.05):
        error = half_hubness(image, text, temperature) - hubness(image, text, temperature)
        assert 0 < np.sqrt((error**2).mean()) < 0.02
        assert np.abs(error.mean()) < 2e-3


@pytest.mark.parametrize(("columns", "k"), [(64, 3), (64, 8), (64, 20), (61, 3), (5, 5)])
def test_the_largest_of_every_row(columns: int, k: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).permutation(40 * columns).astype(np.float32).reshape(40, columns))
    found = largest(x, k, 8).sort().values
    assert torch.equal(found, x.topk(k).indices.sort().values)
