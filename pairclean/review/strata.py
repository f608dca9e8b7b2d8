"""Dividing the pairs of a run into strata, so that few labels say much: arrays only."""

from __future__ import annotations

import numpy as np

MOST_BINS = 10  # of the clean probability
LABELS_A_BIN = 10  # at least, on average
LABELS_A_GROUP = 20
OTHERS = "(others)"


def draw_strata(
    clean_probability: np.ndarray,
    readable: np.ndarray,
    *,
    labels: int,
    group: np.ndarray | None = None,
) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Strata of like clean probability, within each group; pairs that were not judged are strata of their own.

    clean_probability: (N,), NaN where not judged.  readable: (N,) bool; the others are in no stratum.  labels: how many
    are planned.
    group: (N,) str, a column of the source, for an estimate of each group; groups too small for LABELS_A_GROUP of the
    planned labels are put together.
    Returns (N,) int32 stratum, -1 for unreadable pairs, and for each stratum its `group` and the `low` and `high`
    clean probability in it (None for the unjudged).
    """
    stratum, about = np.full(len(clean_probability), -1, np.int32), list[dict[str, object]]()
    groups = np.full(len(stratum), None, object) if group is None else large_groups(group, readable, labels)
    for name in [None] if group is None else sorted(set(groups[readable])):
        members = np.flatnonzero(readable & ((groups == name) if name is not None else True))
        bins = bins_of(clean_probability[members], labels * len(members) / max(readable.sum(), 1))
        for number in range(bins.max(initial=-1) + 1):
            rows = members[bins == number]
            p = clean_probability[rows]
            judged = not np.isnan(p[0])
            ends = {"low": float(p.min()) if judged else None, "high": float(p.max()) if judged else None}
            stratum[rows] = len(about)
            about.append({"group": name, **ends})
    return stratum, about


def large_groups(group: np.ndarray, readable: np.ndarray, labels: int) -> np.ndarray:
    """(N,) object: the names of the groups that are large enough for an estimate, OTHERS for the rest."""
    names, code, pairs = np.unique(group.astype(str), return_inverse=True, return_counts=True)
    pairs = np.bincount(code[readable], minlength=len(names))
    large = pairs * labels >= LABELS_A_GROUP * readable.sum()
    return np.where(large, names, OTHERS).astype(object)[code]


def bins_of(clean_probability: np.ndarray, labels: float) -> np.ndarray:
    """(n,) which bin each pair is in: bins of about equal numbers, the lowest first; the unjudged (NaN) in the last."""
    judged = np.flatnonzero(~np.isnan(clean_probability))
    order = judged[np.argsort(clean_probability[judged], kind="stable")]
    bins = min(int(np.clip(labels // LABELS_A_BIN, 1, MOST_BINS)), len(order))
    found = np.full(len(clean_probability), bins)
    for number, rows in enumerate(np.array_split(order, bins) if bins else ()):
        found[rows] = number
    return found
