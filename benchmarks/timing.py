"""Two sides of a comparison in one run, in turn, so that a machine that changes its mind changes it for both."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], runs: int = 5) -> tuple[float, float, str]:
    """Median seconds of either side after a warm-up, and theirs / ours, pair by pair: "median (min to max)"."""
    ours(), theirs()
    seconds = np.array([[_seconds(ours), _seconds(theirs)] for _ in range(runs)])
    ratio = seconds[:, 1] / seconds[:, 0]
    spread = f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
    return float(np.median(seconds[:, 0])), float(np.median(seconds[:, 1])), spread


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
