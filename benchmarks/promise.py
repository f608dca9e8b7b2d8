"""Does rematching keep the precision that it promises, and how much does it find?

    python -m benchmarks.promise [--seeds 20] [SET ...]

Captions are moved at random. pairclean is told nothing. At each promise (`--min-precision`) a cell says
`found at precision (exact)`: the share of the moved captions in the data that come home, the share of all that was
emitted that is right, and what exact assignment finds at that promise. That one is told which pairs were moved: it
assigns their captions one to one (scipy) by the same scores, and emits the surest as long as the promise holds for
them. With orphans, half of the moved captions are not in the data. Where captions are the names of classes
(`article_type`, 69 texts), a rematch is right if it is the name of the image's own class. Means over draws of pairs and
of noise.

`kept`: whether the precision is at most TOLERANCE below the promise, and above it only where there is hardly more to
find: exact assignment finds at most NEARLY more. If not, it names the promises that are broken (<) or too careful (>).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks import generated
from benchmarks.common import MODELS, load
from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import Faults, Judgement, Learned, Reference, Scorer, judge, learn_mended
from pairclean.judge.scores import Model
from pairclean.rematch import fit_temperature, rematch

PROMISES = (0.6, 0.8, 0.9, 0.95)
TOLERANCE, NEARLY = 0.03, 0.02


@dataclass(frozen=True)
class Setting:
    """pairs: how many are drawn; None takes all, one per image.  captions: the column that is taken as captions, if not
    the usual one.  slow: half of the draws are enough."""

    name: str
    rate: float
    pairs: int | None = None
    orphans: bool = False
    captions: str | None = None
    slow: bool = False


SETTINGS = [
    Setting("flickr8k_clip", 0.4),
    Setting("flickr8k_clip", 0.6),
    Setting("flickr8k", 0.2),
    Setting("flickr8k", 0.4),
    Setting("flickr8k", 0.4, orphans=True),
    Setting("flickr8k", 0.4, 290),
    Setting("flickr8k", 0.4, 500, orphans=True),
    Setting("flickr8k", 0.6, 100),
    Setting("fashion_unseen", 0.2, slow=True),
    Setting("fashion_unseen", 0.4, slow=True),
    Setting("fashion_unseen", 0.4, orphans=True, slow=True),
    Setting("fashion_unseen", 0.4, 500),
    Setting("fashion_unseen", 0.4, 500, orphans=True),
    Setting("fashion_unseen", 0.6, 100),
    Setting("coco2k", 0.4, slow=True),
    Setting("coco2k", 0.4, 290),
    Setting("fashion_unseen", 0.2, captions="article_type", slow=True),
    Setting("fashion_unseen", 0.4, captions="article_type", slow=True),
    Setting("fashion_unseen", 0.2, 500, captions="article_type", slow=True),
    Setting("fashion_unseen", 0.4, 500, captions="article_type", slow=True),
    Setting("fashion", 0.4, 300),
    Setting("fashion", 0.4, slow=True),
    Setting("fashion", 0.4, orphans=True, slow=True),
    Setting("generated", 0.4, 10_000, slow=True),
    Setting("generated", 0.4, 10_000, orphans=True, slow=True),
]


@dataclass(frozen=True)
class Planted:
    """pairs: as a run would see them, already embedded; comparable: whether both sides share the encoder's space.
    shown, told: (n,) int64, what each image shows and what each caption tells; a caption that tells what an image shows
    is right for it."""

    pairs: Pairs
    comparable: bool
    shown: np.ndarray
    told: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        return np.asarray(self.shown != self.told)

    @property
    def findable(self) -> int:
        """Moved pairs whose own caption is with another moved one."""
        return int((self.moved & np.isin(self.shown, self.told[self.moved])).sum())


def planted(setting: Setting, seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    pairs, shown, told = _drawn(setting, seed, rng)
    n = len(pairs)
    moved = rng.permutation(n)[: round(setting.rate * n)]
    carried = np.arange(n)
    carried[moved] = np.roll(moved, 1)
    gone = rng.choice(moved, len(moved) // 2, replace=False) if setting.orphans else moved[:0]
    stay = np.flatnonzero(~np.isin(carried, gone))
    comparable = setting.name == "generated" or MODELS[setting.name] != "hog-tfidf"
    return Planted(pairs.carrying(carried).take(stay), comparable, shown[stay], told[carried][stay])


def _drawn(setting: Setting, seed: int, rng: np.random.Generator) -> tuple[Pairs, np.ndarray, np.ndarray]:
    """Pairs that match, with what their images show and what their captions tell."""
    if setting.name == "generated":
        assert setting.pairs is not None
        drawn = generated.draw(0, setting.pairs, seed)
        return Pairs(drawn.image, drawn.text, drawn.image_id, drawn.caption_id), drawn.scene, drawn.scene
    data = load(setting.name, setting.captions)
    order = rng.permutation(len(data.image))
    rows = np.sort(order[np.unique(data.image_id[order], return_index=True)[1]])
    if setting.pairs is not None:
        rows = np.sort(rng.choice(rows, setting.pairs, replace=False))
    pairs = data.pairs.take(rows)
    return pairs, pairs.caption_id, pairs.caption_id


def judged(planted: Planted) -> tuple[Learned, Faults, Judgement]:
    pairs, comparable, rows = planted.pairs, planted.comparable, np.arange(len(planted.pairs))
    method = "zero-shot" if comparable else "canonical"
    learned, faults = learn_mended(pairs, np.ones(len(rows), bool), comparable=comparable, repair=False, method=method)
    return learned, faults, judge(pairs, rows, learned, comparable=comparable)


def exact(planted: Planted, learned: Learned) -> list[float]:
    """For each promise, the share that exact assignment among the moved pairs finds at this precision."""
    bad, good = np.flatnonzero(planted.moved), np.flatnonzero(~planted.moved)
    space: Model = learned.aligned[0] if learned.aligned else ZeroShot()
    pairs = planted.pairs.through(space)
    image, text = pairs.image[:], pairs.text[:]
    some = good[:1000]
    scorer = Scorer(Reference.of(pairs.take(good)), fit_temperature(image[some], text[some]))
    hubness = scorer.hubness(image[bad], text[bad])
    score = image[bad] @ text[bad].T / scorer.temperature - (hubness[0][:, None] + hubness[1]) / 2
    row, column = linear_sum_assignment(-score)
    right = planted.told[bad][column] == planted.shown[bad][row]
    of_row, of_column = (np.exp(score - score.max(axis, keepdims=True)) for axis in (1, 0))
    sure = (of_row / of_row.sum(1, keepdims=True) * of_column / of_column.sum(0))[row, column]
    order = np.argsort(-sure)
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    found = []
    for promise in PROMISES:
        enough = np.flatnonzero(precision >= promise)
        found.append(float(right[order][: enough[-1] + 1].sum() / planted.findable) if len(enough) else 0.0)
    return found


def measure(planted: Planted, learned: Learned, faults: Faults, judgement: Judgement) -> list[tuple[float, int, int]]:
    """For each promise: the share found, how many were emitted, and how many of them are right."""
    found = []
    for promise in PROMISES:
        partner = rematch(planted.pairs, learned, judgement, faults, min_precision=promise).partner
        given = partner >= 0
        right = given & (planted.told[partner] == planted.shown)
        found.append((float((right & planted.moved).sum() / planted.findable), int(given.sum()), int(right.sum())))
    return found


def kept(found: np.ndarray, precision: np.ndarray, known: np.ndarray) -> str:
    """Arguments: one number for each promise; nothing emitted has no precision (NaN)."""
    promise = np.array(PROMISES)
    broken = precision < promise - TOLERANCE
    careful = ~(precision <= promise + TOLERANCE) & (found < known - NEARLY)
    names = [f"{'<' if b else '>'} {p:g}" for p, b, c in zip(promise, broken, careful, strict=True) if b or c]
    return ", ".join(names) or "yes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    promises = " | ".join(f"promise {promise}: found at (exact)" for promise in PROMISES)
    print(f"| data | pairs | moved | draws | {promises} | kept |")
    print("|---" * (5 + len(PROMISES)) + "|")
    for setting in SETTINGS:
        if not options.sets or setting.name in options.sets:
            print(row(setting, -(-options.seeds // 2) if setting.slow else options.seeds), flush=True)


def row(setting: Setting, draws: int) -> str:
    results, known, sizes = [], [], []
    for seed in range(draws):
        draw = planted(setting, seed)
        learned, faults, judgement = judged(draw)
        results.append(measure(draw, learned, faults, judgement))
        known.append(exact(draw, learned))
        sizes.append(len(draw.pairs))
    found, emitted, right = np.array(results).transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        at = right.sum(0) / emitted.sum(0)
    there, best = found.mean(0), np.mean(known, axis=0)
    cells = [
        f"{f:.2f} at {'-' if np.isnan(p) else f'{p:.2f}'} ({e:.2f})" for f, p, e in zip(there, at, best, strict=True)
    ]
    orphans = " (half of them orphans)" if setting.orphans else ""
    name = f"{setting.name}, {setting.captions}" if setting.captions else setting.name
    return (
        f"| {name} | {sizes[0]:,} | {setting.rate:g}{orphans} | {draws} | {' | '.join(cells)} | "
        f"{kept(there, at, best)} |"
    )


if __name__ == "__main__":
    main()
