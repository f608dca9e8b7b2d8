"""Which systematic faults are found, how exactly, and how many captions come home; and how often none is there.

    python -m benchmarks.faults [--seeds 5] [--stages]

Captions of fashion_unseen (in the order of its keys, in which neighbours are alike, and shuffled) and of coco2k are
shifted by 1, 2 and 7 rows (all, one shard of ten, a block of 300 rows), reversed, or exchanged between two blocks of
300 rows; and 40% are moved at random, which is no systematic fault. Without --stages only the search and the giving
back; with it the stages from `align` to `rematch` with --repair, so that what comes home is what the cleaned data would
hold. The development data have to be there (PAIRCLEAN_TEST_DATA).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Data, load, moved, planted_run
from pairclean.align import ZeroShot
from pairclean.execution import Execution
from pairclean.judge import Faults, Finding
from pairclean.pipeline import advance
from pairclean.run.results import open_faults, open_judgement, open_rematches

BLOCK, SHARDS, NEAR = 300, 10, 20
FALSE_SEEDS = 20


@dataclass(frozen=True)
class Fault:
    """name: of a row of the table.  captions: (N,) which caption each image carries.  ranges: the rows of the fault."""

    name: str
    captions: np.ndarray
    ranges: list[tuple[int, int]]

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate([np.arange(*of) for of in self.ranges])

    def missed_by(self, findings: list[Finding]) -> int:
        """The largest distance between an end of a range and that of the finding that fits it best, in rows."""
        return max(
            min((max(abs(f.start - a), abs(f.stop - b)) for f in findings), default=len(self.captions))
            for a, b in self.ranges
        )


def faults(n: int, seed: int) -> Iterator[Fault]:
    rng = np.random.default_rng(seed)
    shard = rng.integers(SHARDS)
    start, stop = shard * n // SHARDS, (shard + 1) * n // SHARDS
    block = int(rng.integers(n - BLOCK))
    first, second = int(rng.integers(n // 2 - BLOCK)), int(rng.integers(n // 2, n - BLOCK))
    for what, a, b in (("all", 0, n), ("a shard", start, stop), ("a block", block, block + BLOCK)):
        for by in (1, 2, 7):
            yield _within(f"{what}, by {by}", n, a, b, np.roll(np.arange(a, b), by))
        if what != "a shard":
            yield _within(f"{what}, reversed", n, a, b, np.arange(a, b)[::-1])
    captions, size = np.arange(n), np.arange(BLOCK)
    captions[first + size], captions[second + size] = second + size, first + size
    yield Fault("two blocks swapped", captions, [(first, first + BLOCK), (second, second + BLOCK)])


def _within(name: str, n: int, start: int, stop: int, rows: np.ndarray) -> Fault:
    captions = np.arange(n)
    captions[start:stop] = rows
    return Fault(name, captions, [(start, stop)])


def sets() -> Iterator[tuple[str, Data]]:
    fashion = load("fashion_unseen")
    order = np.argsort(np.array(fashion.table["key"].to_pylist(), str), kind="stable")
    yield "fashion_unseen", fashion.take(order)
    yield "fashion_unseen, shuffled", fashion.take(np.random.default_rng(5).permutation(len(order)))
    yield "coco2k", load("coco2k")


@dataclass(frozen=True)
class Outcome:
    """missed: rows by which a range is missed.  home: share of the fault's images that have a caption like their own.
    astray: images outside the fault with another caption than before.  sure: mean probability of what was given back.
    rate: the mismatch rate of the repaired pairs."""

    missed: int
    home: float
    astray: int
    sure: float
    rate: float = float("nan")


def searched(data: Data, fault: Fault) -> Outcome:
    """The search, and the captions given back."""
    found = Faults.of(data.carrying(fault.captions).pairs, np.ones(len(data.image), bool), ZeroShot(), repair=True)
    return _outcome(data, fault, found, fault.captions[found.caption], np.nanmean(found.probability[found.moved]))


def repaired(data: Data, fault: Fault) -> Outcome:
    """The stages from `align` to `rematch`; an image that is flagged and gets no caption has none."""
    with tempfile.TemporaryDirectory() as home:
        run = planted_run(Path(home) / "run", data.carrying(fault.captions), repair=True)
        advance(run, ("align", "judge", "rematch"), Execution())
        found, rematches, rate = open_faults(run), open_rematches(run), open_judgement(run).rate
        partner, rows = np.asarray(rematches.partner), np.arange(len(data.image))
        kept = np.asarray(rematches.clean_probability) >= rematches.flag_below
        now = np.where(partner >= 0, fault.captions[partner], np.where(kept, fault.captions[rows], -1))
        sure = float(np.asarray(rematches.probability)[partner >= 0].mean())
        return _outcome(data, fault, found, now, sure, float("nan") if rate is None else rate.estimate)


def _outcome(data: Data, fault: Fault, found: Faults, now: np.ndarray, sure: float, rate: float = np.nan) -> Outcome:
    """now: (N,) the pair whose caption each image has, -1 for none."""
    right = (now >= 0) & (data.caption_id[now] == data.caption_id)
    outside = np.setdiff1d(np.arange(len(now)), fault.rows)
    astray = int(((now >= 0) & ~right)[outside].sum())
    return Outcome(fault.missed_by(list(found.findings)), float(right[fault.rows].mean()), astray, float(sure), rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stages", action="store_true", help="run the stages from align to rematch")
    given = parser.parse_args()
    measure = repaired if given.stages else searched
    print(
        f"| set | fault | found within {NEAR} rows | rows off, most | home, least | home, mean | astray | sure | rate |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, data in sets():
        every: dict[str, list[Outcome]] = {}
        for seed in range(given.seeds):
            for fault in faults(len(data.image), seed):
                every.setdefault(fault.name, []).append(measure(data, fault))
        for fault_name, found in every.items():
            missed, home = [f.missed for f in found], [f.home for f in found]
            near = f"{sum(m <= NEAR for m in missed)} of {len(found)} | {max(missed)}"
            means = [np.mean([getattr(f, what) for f in found]) for what in ("home", "astray", "sure", "rate")]
            rest = " | ".join("–" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
            print(f"| {name} | {fault_name} | {near} | {min(home):.3f} | {rest} |", flush=True)
    print("\n| set | runs of random 0.4 with a finding |\n|---|---|")
    for name, data in sets():
        false = 0
        for seed in range(FALSE_SEEDS):
            pairs = data.carrying(moved(data, 0.4, seed)).pairs
            false += bool(Faults.of(pairs, np.ones(len(pairs), bool), ZeroShot()).findings)
        print(f"| {name} | {false} of {FALSE_SEEDS} |", flush=True)


if __name__ == "__main__":
    main()
