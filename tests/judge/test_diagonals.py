"""Scores along diagonals, against a naive computation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from pairclean.align.zero_shot import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import diagonals as module


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("lengths", [(30, 40, 25), (0, 40, 7), (0, 3, 0)])
def test_sums_along_all_diagonals(kept: bool, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS", 3)
    x, blocks = drawn(40, 8), [drawn(m, 8, seed=m) for m in lengths]
    made = [module._Block.keeping(y, 96) if kept else module._Block(y, 96) for y in blocks]
    n, m, y = 40, sum(lengths), np.concatenate(blocks)
    s = x @ y.T
    shifted, turned = module._sums(x, made)
    monkeypatch.setattr(module, "SPECTRA", 1)  # one column at a time, as where they are long
    assert all(np.array_equal(*both) for both in zip(module._sums(x, made), (shifted, turned), strict=True))
    np.testing.assert_allclose(shifted, [s.trace(k) for k in range(1 - n, m)], atol=1e-3)
    np.testing.assert_allclose(turned, [s[:, ::-1].trace(m - 1 - k) for k in range(n + m - 1)], atol=1e-3)


@pytest.mark.parametrize("n", [601, 615, 640])
def test_a_sweep_does_not_depend_on_the_cores(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a last window of few rows disturb it."""
    monkeypatch.setattr(module, "WINDOW", 100)
    scene = drawn(n, 16)
    pairs = Pairs(scene, np.roll(scene, 150, axis=0) + drawn(n, 16, seed=1), np.arange(n), np.arange(n))
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(module, "available_cores", lambda cores=cores: cores)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(module.Diagonals(pairs, np.ones(n, bool), ZeroShot()).sweep)
    assert any(pairing.offset == 150 for pairing in found[0].peaks)
    for other in found[1:]:
        assert other.peaks == found[0].peaks
        assert np.array_equal(other.near, found[0].near)
        assert np.array_equal(other.own, found[0].own)
