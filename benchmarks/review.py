"""Do the intervals of reviewed rates hold, and how wide are they?  python -m benchmarks.review [--repetitions N]

`fashion_unseen` with captions moved in six ways, judged once each; then simulated reviewers who answer as it was
planted, as many times as asked. A row is a noise and a number of labels: how often the 95% interval of the stratified
estimate held the true rate, its mean half width, that of a simple random sample, the bias, and the coverage and half
width of the prediction-powered estimate.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairclean.review.rates import Estimate, Strata, allocate, difference, rate
from pairclean.review.strata import draw_strata

from .audit import uneven
from .common import Data, judged, load, moved, planted_run

LABELS = (50, 100, 200, 400)
BATCH = 10


def noises(data: Data) -> Iterator[tuple[str, np.ndarray]]:
    """By name: which caption each pair carries."""
    n = len(data.image)
    half = np.random.default_rng(3).random(n) < 0.5
    random, within = moved(data, 0.4, 0), moved(data, 0.4, 0, within="article_type")
    yield "random .4", random
    yield "within type .4", within
    mixed = np.arange(n)
    for rows, column in ((np.flatnonzero(half), None), (np.flatnonzero(~half), "article_type")):
        mixed[rows] = rows[moved(data.take(rows), 0.4, 1, within=column)]
    yield "mixture .4", mixed
    yield "uneven by type", uneven(data, 1)
    yield "random .005", moved(data, 0.005, 0)
    yield "none", np.arange(n)


@dataclass
class Tally:
    """What repetitions found: estimates, ends of intervals, each (R,)."""

    truth: float
    estimate: list[float]
    low: list[float]
    high: list[float]

    def add(self, found: Estimate | None) -> None:
        assert found is not None
        for values, value in zip(
            (self.estimate, self.low, self.high), (found.estimate, found.low, found.high), strict=True
        ):
            values.append(value)

    @property
    def coverage(self) -> float:
        return float(np.mean([low <= self.truth <= high for low, high in zip(self.low, self.high, strict=True)]))

    @property
    def half_width(self) -> float:
        return float(np.mean(self.high) - np.mean(self.low)) / 2

    @property
    def bias(self) -> float:
        return float(np.mean(self.estimate)) - self.truth


def simulate(clean: np.ndarray, noisy: np.ndarray, labels: int, repetitions: int, seed: int) -> list[Tally]:
    """The stratified estimate, the prediction-powered one and that of a simple random sample."""
    everyone = np.ones(len(clean), bool)
    stratum, about = draw_strata(clean, everyone, labels=labels)
    prediction = 1 - np.where(np.isnan(clean), np.nanmean(clean) if (~np.isnan(clean)).any() else 0.5, clean)
    tallies = [Tally(float(noisy.mean()), [], [], []) for _ in range(3)]
    rng = np.random.default_rng(seed)
    for _ in range(repetitions):
        rows, found = sampled(stratum, len(about), noisy, labels, rng)
        tallies[0].add(rate(found))
        tallies[1].add(difference(stratum, prediction, rows, noisy[rows]))
        drawn = rng.choice(len(clean), labels, replace=False)
        tallies[2].add(rate(Strata(*(np.array([x]) for x in (len(clean), labels, noisy[drawn].sum())))))
    return tallies


def sampled(
    stratum: np.ndarray, strata: int, noisy: np.ndarray, labels: int, rng: np.random.Generator
) -> tuple[np.ndarray, Strata]:
    """The rows that are drawn and labelled, and what their labels say of the strata."""
    size = np.bincount(stratum, minlength=strata)
    start = np.cumsum(size) - size
    order = np.lexsort((rng.random(len(stratum)), stratum))
    labelled = np.zeros(len(size), np.int64)
    rows, found = np.zeros(0, np.int64), Strata(size, labelled, labelled)
    while labelled.sum() < labels:
        labelled = labelled + allocate(found, min(BATCH, labels - int(labelled.sum())))
        rows = np.concatenate([order[s : s + n] for s, n in zip(start, labelled, strict=True)])
        found = Strata.counted(stratum, rows, noisy[rows])
    return rows, found


def judged_noises(data: Data, cache: Path | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """By name: the clean probability of each pair, and whether its caption was moved."""
    for name, carried in noises(data):
        noisy = (data.caption[carried] != data.caption) & (data.image_id[carried] != data.image_id)
        kept = None if cache is None else cache / f"{name.replace(' ', '_')}.npy"
        if kept is not None and kept.exists():
            yield name, np.load(kept), noisy
            continue
        with tempfile.TemporaryDirectory() as home:
            clean = judged(planted_run(Path(home) / "run", data.carrying(carried)))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, clean)
        yield name, clean, noisy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--probabilities", type=Path, help="a folder to keep the clean probabilities in")
    options = parser.parse_args()
    heads = "noise | true rate | scores say | labels | held | +- | simple sample +- | ratio | bias | ppi held | ppi +-"
    print(f"| {heads} |\n|{11 * '---|'}")
    for name, clean, noisy in judged_noises(load("fashion_unseen"), options.probabilities):
        for labels in LABELS:
            ours, powered, simple = simulate(clean, noisy, labels, options.repetitions, seed=labels)
            cells = (
                f"{ours.truth:.4f}", f"{1 - clean.mean():.4f}", labels, f"{ours.coverage:.1%}",
                f"{ours.half_width:.4f}", f"{simple.half_width:.4f}", f"{ours.half_width / simple.half_width:.2f}",
                f"{ours.bias:+.4f}", f"{powered.coverage:.1%}", f"{powered.half_width:.4f}",
            )  # fmt: skip
            print("|", name, "|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
