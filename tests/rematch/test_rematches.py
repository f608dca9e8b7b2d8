"""Which proposals are emitted."""

from __future__ import annotations

import numpy as np

from pairclean.rematch import emit, settle


def test_emit_takes_the_largest_set_at_the_precision() -> None:
    rng = np.random.default_rng(0)
    for precision in (0.0, 0.6, 0.9, 1.0):
        p = rng.uniform(0.2, 1, 200)
        chosen = emit(p, precision)
        k = int(chosen.sum())
        ordered = np.sort(p)[::-1]
        best = max([m for m in range(1, 201) if ordered[:m].mean() >= precision], default=0)
        assert k == best
        assert set(p[chosen]) == set(ordered[:k])
    assert emit(np.array([0.95, 0.7, 0.95]), 0.9).tolist() == [True, False, True]
    assert emit(np.array([0.8, 0.7]), 0.9).tolist() == [False, False]
    assert emit(np.zeros(0), 0.9).tolist() == []


def test_a_caption_is_given_away_only_if_its_own_pair_lets_it_go() -> None:
    partner = np.array([1, 2, 3, 0, -1])
    chance = np.array([0.95, 0.94, 0.93, 0.2, 0.0])
    flagged = np.array([True, False, True, False, False])
    everybody = np.ones(5, bool)
    # 2 wants the caption of 3, which stays; then 1 has nobody to leave for, but 2 is flagged and lets its caption go.
    chosen, offered = settle(partner, chance, flagged, everybody, 0.9, False)
    assert chosen.tolist() == [True, True, False, False, False]
    assert offered.tolist() == [True, True, False, True, False]
    # Where captions can be given again, nobody has to let go.
    assert settle(partner, chance, flagged, everybody, 0.9, True)[0].tolist() == [True, True, True, False, False]
    # Of those that may not be emitted none is, and what hangs on them neither.
    chosen, offered = settle(partner, chance, flagged, flagged, 0.9, False)
    assert not chosen.any()
    assert not offered.any()
