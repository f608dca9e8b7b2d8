"""How true rates and flags are for mismatches of several kinds, and for encoders of several strengths.

    python -m benchmarks.kinds [--seeds 3] [--weak]

Captions are moved at random, within a product type, within one of them only, first at random and then within, or at
rates that differ between types; a slogan and a placeholder replace captions and pictures. --weak takes photos of
scenes, and the built-in encoder, which needs a learned space, instead. The development data have to be there
(PAIRCLEAN_TEST_DATA). Medians over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.audit import uneven
from benchmarks.common import Data, load, moved
from pairclean.arrays import Pairs
from pairclean.judge import Judgement, judge, learn
from pairclean.metrics.detection import auroc, expected_calibration_error


@dataclass(frozen=True)
class Case:
    """pairs: as a run would see them.  noisy: (n,) bool.  kind: (n,) kinds that the data bring along, or None."""

    name: str
    pairs: Pairs
    noisy: np.ndarray
    kind: np.ndarray | None = None
    method: str = "zero-shot"


def cases(seed: int) -> Iterator[Case]:
    data = load("fashion_unseen")
    types = np.unique(np.array(data.table["article_type"].to_pylist(), str), return_inverse=True)[1]
    every = np.arange(len(data.image))
    yield _case("random 0", data, every)
    for rate in (0.2, 0.4, 0.6, 0.8):
        yield _case(f"random {rate}", data, moved(data, rate, seed))
    within = moved(data, 0.4, seed, within="article_type")
    yield _case("within type 0.4", data, within)
    yield _case("within type 0.4, column named", data, within, types)
    yield _case("within one type 0.9", data, _within_one(data, types, seed))
    first = moved(data, 0.2, seed)
    still = np.flatnonzero(first == every)
    both = first.copy()
    both[still] = still[moved(data.take(still), 0.2, seed, within="article_type")]
    yield _case("random 0.2, then within type 0.2", data, both)
    yield _case("0 to 0.8 by type", data, uneven(data, seed))
    rng = np.random.default_rng(seed)
    for rate in (0.05, 0.3):
        rows = rng.choice(every, round(rate * len(every)), replace=False)
        carried = every.copy()
        carried[rows] = rows[0]
        yield _case(f"one caption on {rate}", data, carried)
        image = np.arange(len(every))
        image[rows] = rows[0]
        ids = data.image_id[image], data.caption_id
        noisy = np.isin(every, rows[1:])
        yield Case(f"one picture with {rate}", Pairs(data.image[image], data.text, *ids), noisy)


def weak_cases(seed: int) -> Iterator[Case]:
    scenes = load("coco2k")
    for rate in (0.0, 0.1, 0.3, 0.6):
        yield _case(f"coco2k, tinyclip, random {rate}", scenes, moved(scenes, rate, seed))
    data = load("fashion")
    types = np.unique(np.array(data.table["article_type"].to_pylist(), str), return_inverse=True)[1]
    within = moved(data, 0.4, seed, within="article_type")
    yield _case("fashion, hog-tfidf, within type 0.4", data, within, method="canonical")
    yield _case("fashion, hog-tfidf, within type 0.4, column named", data, within, types, method="canonical")
    yield _case("fashion, hog-tfidf, random 0.4", data, moved(data, 0.4, seed), method="canonical")
    yield _case("fashion, hog-tfidf, 0 to 0.8 by type", data, uneven(data, seed), method="canonical")


def _within_one(data: Data, types: np.ndarray, seed: int) -> np.ndarray:
    """Nine in ten captions of the second most common type are moved within it, and no others."""
    carried = np.arange(len(types))
    members = np.flatnonzero(types == np.argsort(-np.bincount(types))[1])
    rows = np.random.default_rng(seed).permutation(members)[: round(0.9 * len(members))]
    carried[rows] = np.roll(rows, 1)
    return carried


def _case(
    name: str, data: Data, carried: np.ndarray, kind: np.ndarray | None = None, method: str = "zero-shot"
) -> Case:
    now = data.carrying(carried)
    pairs = Pairs(now.image, now.text, now.image_id, now.caption_id)
    return Case(name, pairs, now.caption != data.caption, kind, method)


def measure(case: Case) -> tuple[float, ...]:
    """What `figures` says of the case, judged."""
    rows = np.arange(len(case.pairs))
    comparable = case.method == "zero-shot"
    learned = learn(case.pairs, rows, method=case.method, comparable=comparable, kind_column=case.kind)
    return figures(judge(case.pairs, rows, learned, comparable=comparable), case.noisy)


def figures(found: Judgement, noisy: np.ndarray) -> tuple[float, ...]:
    """True rate, estimate, low, high, AUROC, flag precision, flag recall, right pairs flagged, ECE; of judged pairs."""
    assert found.rate is not None
    judged = ~np.isnan(found.clean_probability)
    p, noisy = found.clean_probability[judged], noisy[judged]
    flagged = p < 0.5
    return (
        float(noisy.mean()),
        found.rate.estimate,
        found.rate.low,
        found.rate.high,
        auroc(-p, noisy),
        float(noisy[flagged].mean()) if flagged.any() else float("nan"),
        float(flagged[noisy].mean()) if noisy.any() else float("nan"),
        float(flagged[~noisy].mean()),
        expected_calibration_error(p, ~noisy),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weak", action="store_true")
    options = parser.parse_args()
    seeds = options.seeds
    results: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        for case in (weak_cases if options.weak else cases)(seed):
            results.setdefault(case.name, []).append(measure(case))
    print("| planted | true | estimate (range) | held | AUROC | flags P / R | right pairs flagged | ECE |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in results.items():
        held = sum(low <= true <= high for true, _, low, high, *_ in found)
        true, estimate, low, high, area, precision, recall, wrong, error = np.median(found, axis=0)
        print(
            f"| {name} | {true:.3f} | {estimate:.3f} ({low:.3f} to {high:.3f}) | {held} of {seeds} | {area:.4f} | "
            f"{precision:.2f} / {recall:.2f} | {wrong:.4f} | {error:.3f} |"
        )


if __name__ == "__main__":
    main()
