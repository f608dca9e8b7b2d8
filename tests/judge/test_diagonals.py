"""Scores along diagonals, against a naive computation."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge import diagonals as module
from pairclean.judge.diagonals import REACH, products_beside


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
    np.testing.assert_allclose(shifted, [s.trace(k) for k in range(1 - n, m)], atol=1e-3)
    np.testing.assert_allclose(turned, [s[:, ::-1].trace(m - 1 - k) for k in range(n + m - 1)], atol=1e-3)


@pytest.mark.parametrize(("before", "n", "after"), [(0, 200, 0), (5, 64, 100), (100, 10, 2)])
def test_products_with_the_rows_beside(before: int, n: int, after: int) -> None:
    x, text = drawn(n, 8), drawn(before + n + after, 8, seed=1)
    found = products_beside(x, *np.split(text, [before, before + n]))
    s = np.pad(x @ text.T, ((0, 0), (REACH, REACH)))
    expected = [s[i, before + i : before + i + 2 * REACH + 1] for i in range(n)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
