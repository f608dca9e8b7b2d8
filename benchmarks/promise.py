"""Does rematching keep the precision that it promises, and how much does it find?

    python -m benchmarks.promise [--seeds 5] [SET ...] [--captions COLUMN]

Captions are moved at random. pairclean is told nothing; at each promise (`--min-precision`) `found` is the share of the
moved captions in the data that come home, and `at` the share of what is emitted that is right. `exact` is told which
pairs were moved: it assigns their captions one to one (scipy) by the same scores, and emits the surest as long as .9 of
them are right. With orphans, half of the moved captions are not in the data. Where captions are the names of classes
(`article_type`, 69 texts), a rematch is right if it is the name of the image's own class. Means over draws of pairs and
of noise; `at` is of all that was emitted. --captions runs the settings with this column as captions only.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.common import Data, load
from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import Reference, Scorer, judge, learn_mended
from pairclean.rematch import fit_temperature, rematch

PROMISES = (0.6, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Setting:
    """pairs: how many are drawn; None takes all, one per image.  captions: the column that is taken as captions, if not
    the usual one."""

    name: str
    rate: float
    pairs: int | None = None
    orphans: bool = False
    captions: str | None = None


SETTINGS = [
    Setting("flickr8k_clip", 0.4),
    Setting("flickr8k_clip", 0.6),
    Setting("flickr8k", 0.4),
    Setting("flickr8k", 0.4, orphans=True),
    Setting("flickr8k", 0.4, 290),
    Setting("flickr8k", 0.6, 100),
    Setting("fashion_unseen", 0.2),
    Setting("fashion_unseen", 0.4, 500),
    Setting("fashion_unseen", 0.4, 500, orphans=True),
    Setting("fashion_unseen", 0.6, 100),
    Setting("coco2k", 0.4, 290),
    Setting("fashion_unseen", 0.2, captions="article_type"),
    Setting("fashion_unseen", 0.4, captions="article_type"),
    Setting("fashion_unseen", 0.2, 500, captions="article_type"),
    Setting("fashion_unseen", 0.4, 500, captions="article_type"),
]


@dataclass(frozen=True)
class Planted:
    """pairs: as a run would see them.  own: (n,) int64, the caption that belongs to each image.  moved: (n,) bool."""

    pairs: Pairs
    own: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        return np.asarray(self.pairs.caption_id != self.own)

    @property
    def findable(self) -> int:
        """Moved pairs whose own caption is with another moved one."""
        return int((self.moved & np.isin(self.own, self.pairs.caption_id[self.moved])).sum())


def planted(data: Data, setting: Setting, seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.image))
    rows = np.sort(order[np.unique(data.image_id[order], return_index=True)[1]])
    if setting.pairs is not None:
        rows = np.sort(rng.choice(rows, setting.pairs, replace=False))
    pairs = data.pairs.take(rows)
    moved = rng.permutation(len(rows))[: round(setting.rate * len(rows))]
    carried = np.arange(len(rows))
    carried[moved] = np.roll(moved, 1)
    gone = rng.choice(moved, len(moved) // 2, replace=False) if setting.orphans else moved[:0]
    stay = np.flatnonzero(~np.isin(carried, gone))
    return Planted(pairs.carrying(carried).take(stay), pairs.caption_id[stay])


def exact(planted: Planted, precision: float) -> float:
    """The share found by exact assignment among the moved pairs, at this precision."""
    bad, good = np.flatnonzero(planted.moved), np.flatnonzero(~planted.moved)
    pairs = planted.pairs.through(ZeroShot())
    image, text = pairs.image[:], pairs.text[:]
    scorer = Scorer(Reference.of(pairs.take(good)), fit_temperature(image[good], text[good]))
    hubness = scorer.hubness(image[bad], text[bad])
    score = image[bad] @ text[bad].T / scorer.temperature - (hubness[0][:, None] + hubness[1]) / 2
    row, column = linear_sum_assignment(-score)
    right = planted.pairs.caption_id[bad][column] == planted.own[bad][row]
    of_row, of_column = (np.exp(score - score.max(axis, keepdims=True)) for axis in (1, 0))
    sure = (of_row / of_row.sum(1, keepdims=True) * of_column / of_column.sum(0))[row, column]
    order = np.argsort(-sure)
    enough = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision)
    return float(right[order][: enough[-1] + 1].sum() / planted.findable) if len(enough) else 0.0


def measure(planted: Planted) -> list[tuple[float, int, int]]:
    """For each promise: the share found, how many were emitted, and how many of them are right."""
    pairs, rows = planted.pairs, np.arange(len(planted.pairs))
    learned, faults = learn_mended(pairs, np.ones(len(rows), bool), comparable=True, repair=False, method="zero-shot")
    judged = judge(pairs, rows, learned, comparable=True)
    found = []
    for promise in PROMISES:
        partner = rematch(pairs, learned, judged, faults, min_precision=promise).partner
        given = partner >= 0
        right = given & (pairs.caption_id[partner] == planted.own)
        found.append((float((right & planted.moved).sum() / planted.findable), int(given.sum()), int(right.sum())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--captions")
    options = parser.parse_args()
    promises = " | ".join(f"promise {promise}: found at" for promise in PROMISES)
    print(f"| data | pairs | moved | {promises} | exact at .9 |")
    print("|---" * (4 + len(PROMISES)) + "|")
    for setting in SETTINGS:
        if (options.sets and setting.name not in options.sets) or options.captions not in (None, setting.captions):
            continue
        data = load(setting.name, setting.captions)
        draws = [planted(data, setting, seed) for seed in range(options.seeds)]
        results = np.array([measure(draw) for draw in draws])  # (seeds, promises, 3)
        cells = []
        for found, emitted, right in results.transpose(1, 2, 0):
            at = f"{right.sum() / emitted.sum():.2f}" if emitted.sum() else "-"
            cells.append(f"{found.mean():.2f} at {at}")
        known = np.mean([exact(draw, 0.9) for draw in draws])
        orphans = " (half of them orphans)" if setting.orphans else ""
        name = f"{setting.name}, {setting.captions}" if setting.captions else setting.name
        print(
            f"| {name} | {len(draws[0].pairs):,} | {setting.rate:g}{orphans} | {' | '.join(cells)} | {known:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
