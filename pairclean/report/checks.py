"""What a run can check about its own probabilities without knowing the truth."""

from __future__ import annotations

from typing import Any

import numpy as np

CHECKED_BINS = 10
CURVE_POINTS = 120
_FEWEST = 20  # pairs, or trials; fewer show only chance
_NORMAL = 1.959964  # 97.5% quantile of the normal distribution


def check_calibration(clean_probability: np.ndarray, decoys: np.ndarray, rate: float) -> dict[str, Any] | None:
    """Compare the clean probabilities with the share of matched pairs that random re-pairings imply.

    If d_b of the d decoys fall into a bin of clean probability with n_b pairs, rate * n * d_b / d of these pairs are
    expected to be mismatched, so that the share 1 - rate * n * d_b / (d * n_b) is matched, whatever mixture was fitted.
    The interval (95%) is that of the two counts.

    clean_probability: (n,) float, NaN where not judged.  decoys: (d,) float, those of the decoys.
    rate: the mismatch rate.
    Returns edges (11 floats); for each of the ten bins pairs, said (mean clean probability), found, low and high, None
    in bins with fewer than 20 pairs; and gap, the mean distance of said and found over the pairs.  Returns None if
    there is nothing to compare.
    """
    p = clean_probability[~np.isnan(clean_probability)]
    if not len(p) or not len(decoys):
        return None
    edges = np.arange(CHECKED_BINS + 1) / CHECKED_BINS
    bins = np.minimum((p * CHECKED_BINS).astype(np.int64), CHECKED_BINS - 1)
    pairs = np.bincount(bins, minlength=CHECKED_BINS)
    drawn = np.histogram(decoys, edges)[0]
    many = np.maximum(pairs, 1)
    said = np.bincount(bins, p, CHECKED_BINS) / many
    mismatched = rate * len(p) * drawn / len(decoys) / many
    error = _NORMAL * mismatched * np.sqrt(1 / many + 1 / np.maximum(drawn, 1))
    found, low, high = (np.clip(1 - mismatched + sign * error, 0, 1) for sign in (0, -1, 1))
    enough = pairs >= _FEWEST
    if not enough.any():
        return None
    return {
        "edges": edges.tolist(),
        "pairs": pairs.tolist(),
        **{
            name: [float(value) if there else None for value, there in zip(values, enough, strict=True)]
            for name, values in (("said", said), ("found", found), ("low", low), ("high", high))
        },
        "gap": float(np.average(np.abs(said - found)[enough], weights=pairs[enough])),
    }


def rematch_curve(offered: np.ndarray, trials: np.ndarray, emitted: int) -> dict[str, Any] | None:
    """The expected precision of rematching if more or fewer of its proposals were accepted, the most certain first.

    offered: (n,) probabilities of all proposals, descending.  trials: (t, 3), of matched pairs broken on purpose:
    probability of the proposal, whether it was correct, weight.  emitted: how many proposals were accepted.
    Returns taken (counts, ascending, including `emitted`), expected (mean probability of those accepted) and measured
    (share of correct proposals among the trials that are at least as certain, None if these are few).  Returns None
    without proposals.
    """
    if not len(offered):
        return None
    taken = np.unique(np.linspace(1, len(offered), min(CURVE_POINTS, len(offered))).round().astype(np.int64))
    if 0 < emitted <= len(offered):
        taken = np.union1d(taken, [emitted])
    expected = np.cumsum(offered, dtype=np.float64)[taken - 1] / taken
    order = np.argsort(-trials[:, 0], kind="stable")
    probability, right, weight = trials[order].T
    as_sure = np.searchsorted(-probability, -offered[taken - 1], side="right")
    rights, weights = np.cumsum(right * weight), np.cumsum(weight)
    measured = [
        float(rights[count - 1] / weights[count - 1]) if count >= _FEWEST and weights[count - 1] > 0 else None
        for count in as_sure.tolist()
    ]
    return {"taken": taken.tolist(), "expected": expected.tolist(), "measured": measured}
