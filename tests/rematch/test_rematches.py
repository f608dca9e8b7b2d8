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
    nothing = np.zeros(5, bool)
    likely = np.array([False, True, False, False, False])
    # 2 wants the caption of 3, which stays; 1 is flagged by what it is offered, and lets go of what 0 wants.
    chosen, offered = settle(partner, chance, flagged, likely, 0.9, False)
    assert chosen.tolist() == [True, True, False, False, False]
    assert offered.tolist() == [True, True, False, False, False]
    # Where captions can be given again, nobody has to let go.
    assert settle(partner, chance, flagged, likely, 0.9, True)[0].tolist() == [True, True, True, False, False]
    # If pairs are flagged by nothing else, 1 stays, and what hangs on it too.
    chosen, offered = settle(partner, chance, flagged, nothing, 0.9, False)
    assert not chosen.any()
    assert not offered.any()


def test_a_likely_rematch_takes_its_caption_from_a_pair_that_was_not_flagged() -> None:
    partner, chance = np.array([1, -1]), np.array([0.95, 0.0])
    flagged = np.array([True, False])
    assert settle(partner, chance, flagged, np.array([True, False]), 0.9, False)[0].tolist() == [True, False]
    assert settle(partner, chance, flagged, np.array([False, False]), 0.9, False)[0].tolist() == [False, False]
