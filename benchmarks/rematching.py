"""Who finds the partners of mismatched pairs?  python -m benchmarks.rematching [SET ...]

Captions are moved at random and every rematcher is asked for the partners. The simple ones are told which pairs were
moved, which nobody knows of real data, and give each of them a caption: the best (argmax), the best if it is mutual,
the best without hubness (CSLS, Conneau et al. 2018, ten neighbours), the exact one-to-one assignment (scipy), and the
largest entry of a row of a dense Sinkhorn plan. pairclean is told nothing: it aligns, judges, and rematches at the
precision that it is asked for. `found` is the share of the moved captions that come home, `precision` the share of what
is given that is right; medians over noise seeds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from pairclean.arrays import unit
from pairclean.run.results import open_rematches

from .common import Data, judged, load, moved, planted_run

#: (set, rates, seeds, the precision that is asked for)
SETTINGS = {
    "flickr8k_clip": ((0.2, 0.4, 0.6, 0.8), range(10), 0.9),
    "fashion_unseen": ((0.4,), range(3), 0.6),
}
NEIGHBOURS = 10
SINKHORN_TEMPERATURE, SINKHORN_ITERATIONS = 0.02, 200


def argmax(s: np.ndarray) -> np.ndarray:
    return s.argmax(1)


def mutual(s: np.ndarray) -> np.ndarray:
    best = s.argmax(1)
    return np.where(s.argmax(0)[best] == np.arange(len(s)), best, -1)


def csls(s: np.ndarray) -> np.ndarray:
    k = min(NEIGHBOURS, len(s))
    rows, columns = np.sort(s, 1)[:, -k:].mean(1), np.sort(s, 0)[-k:].mean(0)
    return (2 * s - rows[:, None] - columns).argmax(1)


def assignment(s: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(-s)[1]


def sinkhorn(s: np.ndarray) -> np.ndarray:
    log_plan = s / SINKHORN_TEMPERATURE
    for _ in range(SINKHORN_ITERATIONS):
        log_plan = log_plan - logsumexp(log_plan, axis=1, keepdims=True)
        log_plan = log_plan - logsumexp(log_plan, axis=0, keepdims=True)
    return log_plan.argmax(1)


TOLD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "argmax": argmax,
    "mutual nearest": mutual,
    "CSLS": csls,
    "exact assignment": assignment,
    "dense Sinkhorn": sinkhorn,
}


def told(data: Data, carried: np.ndarray) -> dict[str, np.ndarray]:
    """What each simple rematcher gives, (N,) pair rows, -1 for none; it knows which pairs were moved."""
    rows = np.flatnonzero(data.caption_id[carried] != data.caption_id)
    image, text = (unit(np.asarray(x, np.float32)) for x in (data.image[rows], data.text[carried[rows]]))
    similarity = image @ text.T
    similarity[data.caption_id[carried[rows]][:, None] == data.caption_id[carried[rows]]] = -1.0  # what it has
    out = {}
    for name, rematcher in TOLD.items():
        found = rematcher(similarity)
        out[name] = np.full(len(carried), -1)
        out[name][rows] = np.where(found >= 0, rows[found], -1)
    return out


def ours(data: Data, carried: np.ndarray, precision: float) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        run = planted_run(Path(folder) / "run", data.carrying(carried), min_precision=precision)
        judged(run, ("align", "judge", "rematch"))
        return np.array(open_rematches(run).partner)


def score(data: Data, carried: np.ndarray, partner: np.ndarray) -> tuple[float, float]:
    """Share of the moved captions that come home, and share of what is given that is right (1 if nothing is)."""
    now, given = data.caption_id[carried], partner >= 0
    right = given & (now[partner] == data.caption_id)
    astray = now != data.caption_id
    return float(right[astray].mean()), float(right.sum() / given.sum()) if given.any() else 1.0


def main(sets: list[str]) -> None:
    print("| data | moved | rematcher | found | precision | given |")
    print("|---|---|---|---|---|---|")
    for name in sets or list(SETTINGS):
        rates, seeds, precision = SETTINGS[name]
        data = load(name)
        for rate in rates:
            found: dict[str, list[tuple[float, float, int]]] = {}
            for seed in seeds:
                carried = moved(data, rate, seed)
                given = {**told(data, carried), f"pairclean at {precision:g}": ours(data, carried, precision)}
                for who, partner in given.items():
                    found.setdefault(who, []).append((*score(data, carried, partner), int((partner >= 0).sum())))
            for who, results in found.items():
                share, right, count = np.median(results, axis=0)
                print(f"| {name} | {rate:g} | {who} | {share:.3f} | {right:.3f} | {count:.0f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
