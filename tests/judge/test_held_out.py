"""Pairs that no model trained on."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import Alignment
from pairclean.judge import CrossFit, clean_by_fold, draw_sure
from pairclean.judge import held_out as module


def test_likely_clean_pairs_are_drawn_by_their_probability() -> None:
    clean = np.concatenate([np.full(20_000, 0.6), np.full(20_000, 1.0), np.full(20_000, 0.4), np.full(100, np.nan)])
    drawn = draw_sure(clean, np.random.default_rng(0))
    assert len(drawn) == module.MOST_SURE
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(drawn // 20_000, minlength=4)
    assert counts.tolist() == pytest.approx([1500, 2500, 0, 0], abs=130)
    assert counts[2] == counts[3] == 0
    few = draw_sure(np.array([0.6, 1.0] * 1000 + [0.4, np.nan]), np.random.default_rng(0))
    assert np.bincount(few % 2).tolist() == pytest.approx([600, 1000], abs=50)


def test_each_model_has_the_clean_pairs_of_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(10, 110)
    cross_fit = CrossFit([Alignment(), Alignment()], rows, np.arange(100) % 4)
    clean = np.full(200, np.nan)
    clean[rows] = np.where(rows % 3 == 0, 0.9, 0.1)
    found = list(clean_by_fold(cross_fit, clean))
    assert [model for model, _ in found] == list(cross_fit.models)
    assert [part.tolist() for _, part in found] == [[r for r in rows if r % 3 == 0 and r % 2 == k] for k in (0, 1)]
    monkeypatch.setattr(module, "PAIRS", 5)
    few = [part for _, part in clean_by_fold(cross_fit, clean, seed=1)]
    assert [len(part) for part in few] == [5, 5]
    assert all(
        set(some) <= set(part.tolist()) and (np.diff(some) > 0).all()
        for some, (_, part) in zip(few, found, strict=True)
    )
