"""How often the intervals of `pairclean audit` hold a group's true mismatch rate.

    python -m benchmarks.audit

Captions of the product photos are moved at random, 0.4 of all (even), or at a rate between 0 and 0.8 for each article
type, with the caption of any pair of the data (uneven).  Counted are groups of 50 pairs or more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pairclean.metrics.group_rates import SMALL, audit, tally
from pairclean.run.results import open_judgement

from .common import Data, judged, load, moved, planted_run

COLUMNS = ("article_type", "base_colour", "gender")


def uneven(data: Data, seed: int) -> np.ndarray:
    """Which caption each pair carries, (N,) int64."""
    rng = np.random.default_rng(seed)
    kinds, kind = np.unique(np.array(data.table["article_type"].to_pylist(), str), return_inverse=True)
    rates = rng.permutation(np.linspace(0, 0.8, len(kinds)))
    carried = np.arange(len(kind))
    chosen = np.flatnonzero(rng.random(len(kind)) < rates[kind])
    carried[chosen] = rng.integers(0, len(kind), len(chosen))
    return carried


def main() -> None:
    data = load("fashion")
    print("| planted | seed | true rate | found | by | groups | hold the truth | mean error |")
    print("|---|---|---|---|---|---|---|---|")
    for name, seed in (("even", 1), ("even", 2), ("uneven", 1)):
        carried = moved(data, 0.4, seed) if name == "even" else uneven(data, seed)
        noisy = data.caption_id[carried] != data.caption_id
        with tempfile.TemporaryDirectory() as home:
            run = planted_run(Path(home) / "run", data.carrying(carried))
            probability = judged(run)
            found = open_judgement(run)
            assert found.rate is not None
            assert found.calibration is not None
        for column in COLUMNS:
            group = pd.DataFrame({column: data.table[column].to_pylist()})
            table = audit(
                [tally(group, probability, np.zeros(len(group), bool))],
                [column],
                prior=found.calibration.prior,
                whole=found.mismatch_rate,
            )
            truth = group.assign(truth=noisy).groupby(column)["truth"].mean().reset_index()
            table = table[table["judged"] >= SMALL].merge(truth, on=column)
            inside = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
            error = (table["rate"] - table["truth"]).abs().mean()
            print(
                f"| {name} | {seed} | {noisy.mean():.3f} | {found.rate.estimate:.3f} | {column} | "
                f"{len(table)} | {inside.mean():.0%} | {error:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
