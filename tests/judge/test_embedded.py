from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge import embedded
from pairclean.judge.embedded import Vectors


@pytest.mark.parametrize("held", [0, 1000])
def test_vectors_are_those_of_the_rows_whether_held_or_not(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "HELD", held)
    monkeypatch.setattr(embedded, "PART", 16)
    x = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32)
    rows = np.arange(79, 9, -1)
    asked: list[int] = []

    def embed(vectors: np.ndarray) -> np.ndarray:
        asked.append(len(vectors))
        return 2 * vectors

    vectors = Vectors(embed, x, rows)
    at = np.array([3, 0, 3, 69])
    np.testing.assert_array_equal(vectors[at], 2 * x[rows[at]])
    np.testing.assert_array_equal(vectors[5:9], 2 * x[rows[5:9]])
    assert sum(asked) == (70 if held else 3 + 4)  # repeated positions are embedded once


def test_no_rows_give_no_vectors() -> None:
    none = Vectors(lambda x: x[:, :3], np.zeros((4, 5), np.float32), np.zeros(0, np.int64))
    assert none[np.zeros(0, np.int64)].shape == (0, 3)
