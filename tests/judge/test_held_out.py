"""Pairs that no model trained on."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge import draw_sure
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
