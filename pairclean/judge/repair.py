"""Looking for systematic faults before anything is learned, and learning from the pairs as they are then."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..align import ZeroShot
from ..arrays import Pairs, Space
from .offsets import Faults
from .rounds import Learned, learn


def faults_before(pairs: Pairs, readable: np.ndarray, learned: Learned, *, comparable: bool, repair: bool) -> Faults:
    """The faults of pairs that a model is applied to which did not learn from them.  Arguments as in `learn_mended`."""
    return Faults.of(pairs, readable, _space(learned, comparable), repair=repair)


def learn_mended(
    pairs: Pairs, readable: np.ndarray, *, comparable: bool, repair: bool, **options: Any
) -> tuple[Learned, Faults]:
    """Find the systematic faults of N pairs, give captions back if `repair`, and learn from what the pairs are then.

    Faults are looked for in the encoder's space. Where it has none that both sides share, a model that was learned
    from the pairs as they are stands in, and learning is repeated if captions were given back.

    readable: (N,) bool.  comparable and the other options: as in `learn`.
    """
    rows = np.flatnonzero(readable)
    if comparable:
        faults = Faults.of(pairs, readable, ZeroShot(), repair=repair)
        return learn(faults.mended(pairs), rows, comparable=True, **options), faults
    learned = learn(pairs, rows, comparable=False, **options)
    faults = faults_before(pairs, readable, learned, comparable=False, repair=repair)
    if repair and faults.moved.any():
        learned = learn(faults.mended(pairs), rows, comparable=False, **options)
    return learned, faults


def _space(learned: Learned, comparable: bool) -> Space | None:
    return ZeroShot() if comparable else next(iter(learned.first), None)
