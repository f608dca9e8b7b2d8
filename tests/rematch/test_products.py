"""Products in half precision against those in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.judge.scores import hubness_at
from pairclean.rematch import products as module
from pairclean.rematch.products import HALF_PRODUCT


def across_a_gap(n: int, axis: int, seed: int) -> np.ndarray:
    """(n, 64) unit vectors with a large component of their modality."""
    x = np.random.default_rng(seed).standard_normal((n, 64))
    x[:, axis] += 12
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)])
def test_both_directions(dtype: torch.dtype, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "half_precision", lambda: dtype)
    image, text = across_a_gap(300, 0, 1), across_a_gap(200, 1, 2)
    exact = image.astype(np.float64) @ text.T
    np.testing.assert_allclose(HALF_PRODUCT.with_texts(image, text), exact, atol=error)
    np.testing.assert_allclose(HALF_PRODUCT.with_images(text, image), exact.T, atol=error)
    np.testing.assert_allclose(HALF_PRODUCT.of_pairs(image[:200], text), np.diag(exact), atol=1e-6)


def test_what_vectors_have_in_common_costs_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities of .9 that differ by thousandths: eight bits of each of them would be off by up to .002."""
    monkeypatch.setattr(module, "half_precision", lambda: torch.bfloat16)
    rng = np.random.default_rng(0)
    common = rng.standard_normal(64)
    image, text = (
        (common + 0.03 * rng.standard_normal((n, 64))).astype(np.float32) / np.float32(np.linalg.norm(common))
        for n in (100, 150)
    )
    exact = image.astype(np.float64) @ text.T
    error = np.abs(HALF_PRODUCT.with_texts(image, text) - exact).max()
    plain = np.abs((torch.from_numpy(image).bfloat16() @ torch.from_numpy(text).bfloat16().T).float().numpy() - exact)
    assert error < 1e-5
    assert plain.max() > 1e-3


def test_hubness_has_a_small_error_and_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "half_precision", lambda: torch.bfloat16)
    image, text = across_a_gap(500, 0, 1), across_a_gap(3000, 1, 2)
    temperatures = (0.02, 0.05)
    exact = hubness_at(image, text, temperatures)
    error = hubness_at(image, text, temperatures, compare=HALF_PRODUCT.with_texts) - exact
    assert 0 < np.sqrt((error**2).mean(1)).max() < 0.02
    assert np.abs(error.mean(1)).max() < 2e-3
