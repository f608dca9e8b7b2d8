"""Where to cut: the threshold of the clean probability that a rule asks for, and what every threshold costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..options import DEFAULT_THRESHOLD
from ..pairs import UserError
from .calibration import keeping
from .decoys import Rate

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_Z = 1.959963984540054  # the normal distribution's quantile at (1 + 0.95) / 2
_EDGE = 1e-6  # nearest to 0 and 1 that a rate is taken to be


def threshold_for(
    clean_probability: np.ndarray,
    *,
    flag_below: float | None = None,
    keep_fraction: float | None = None,
    keep_precision: float | None = None,
    cost_ratio: float | None = None,
) -> float:
    """The threshold by the one rule that is given: pairs with a lower clean probability are flagged.

    clean_probability: (N,) float32 or values of it, NaN where not judged.
    flag_below: the threshold itself.  keep_fraction: the share of the judged pairs to keep, in (0, 1].
    keep_precision: keep as many pairs as possible of which this share is expected to be matched.
    cost_ratio: how many matched pairs may be lost to leave out one mismatched pair; the expected cost is least at
    cost_ratio / (1 + cost_ratio) (Elkan 2001, *The foundations of cost-sensitive learning*).
    Raises UserError if not even the likeliest pairs are expected to reach keep_precision.

    >>> threshold_for(np.array([0.2, 0.6, 0.9, 1.0]), keep_precision=0.9)
    0.9
    >>> threshold_for(np.array([0.2, 0.6, 0.9, 1.0]), cost_ratio=9)
    0.9
    """
    if keep_fraction is not None:
        return keeping(clean_probability, keep_fraction)
    if keep_precision is not None:
        return _precise(clean_probability, keep_precision)
    if cost_ratio is not None:
        return cost_ratio / (1 + cost_ratio)
    return DEFAULT_THRESHOLD if flag_below is None else flag_below


def _precise(clean_probability: np.ndarray, precision: float) -> float:
    judged = clean_probability[~np.isnan(clean_probability)]
    if not len(judged):
        return 0.0
    value, count = np.unique(judged, return_counts=True)
    kept = np.cumsum(count[::-1])[::-1]  # at or above each value
    expected = np.cumsum((value * count)[::-1])[::-1] / kept
    enough = np.flatnonzero(expected >= precision)
    if not len(enough):
        raise UserError(
            f"even of the pairs with the highest clean probability only {expected[-1]:.4%} are expected to be matched, "
            f"not {precision:.4%}: give a lower --keep-precision"
        )
    return float(value[enough[0]])


def threshold_table(
    clean_probability: np.ndarray, rate: Rate | None, *, flag_below: float | None = None
) -> list[dict[str, Any]]:
    """What each threshold keeps and costs, by the clean probabilities alone; empty where nothing is judged.

    clean_probability: (N,), NaN where not judged.  rate: the mismatch rate that the probabilities contain, with its
    interval.  flag_below: the threshold in use, which gets a row beside those of THRESHOLDS.
    Each row has threshold, kept (judged pairs at or above it), and wrong_left (mismatched among these) and right_lost
    (matched among the others), both {estimate, low, high} in pairs.

    The intervals hold if the probabilities do: the ends are what is expected at the ends of the rate's interval (the
    odds of each pair are multiplied by those of the rate; Saerens et al. 2002, *Adjusting the outputs of a classifier
    to new a priori probabilities*), and 1.96 standard deviations of a sum of independent pairs further out.
    """
    p = clean_probability[~np.isnan(clean_probability)]
    if not len(p) or rate is None:
        return []
    fewest, most = (_at_rate(p, rate.estimate, end) for end in (rate.low, rate.high))  # mismatched
    table = []
    for threshold in thresholds_shown(flag_below):
        kept = p >= threshold
        table.append(
            {
                "threshold": threshold,
                "kept": int(kept.sum()),
                "wrong_left": _count(1 - p[kept], 1 - fewest[kept], 1 - most[kept]),
                "right_lost": _count(p[~kept], most[~kept], fewest[~kept]),
            }
        )
    return table


def thresholds_shown(flag_below: float | None = None) -> list[float]:
    """THRESHOLDS and the one in use, ascending."""
    return sorted({*THRESHOLDS, *(() if flag_below is None else (flag_below,))})


def _at_rate(p: np.ndarray, rate: float, other: float) -> np.ndarray:
    """(n,) the clean probabilities, if the share of mismatched pairs is `other` instead of `rate`."""
    rate, other = (float(np.clip(share, _EDGE, 1 - _EDGE)) for share in (rate, other))
    factor = (1 - other) / other * rate / (1 - rate)
    return p * factor / (p * factor + 1 - p)


def _count(expected: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float]:
    """Of pairs with these probabilities, how many are expected, with an interval."""

    def end(probability: np.ndarray, side: int) -> float:
        spread = _Z * np.sqrt((probability * (1 - probability)).sum())
        return float(np.clip(probability.sum() + side * spread, 0, len(probability)))

    return {"estimate": float(expected.sum()), "low": end(low, -1), "high": end(high, 1)}
