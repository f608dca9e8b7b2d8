"""How well are planted mismatches found?  python -m benchmarks.planted [SET ...]

Runs `clean` on the development data (PAIRCLEAN_TEST_DATA, else ../shared) with captions moved as its noise files say,
and prints one row a noise file: what was planted, what was found. Sets: fashion (hog-tfidf), fashion_unseen (tinyclip).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pairclean
from pairclean.metrics.detection import score_run

SHARED = Path(os.environ.get("PAIRCLEAN_TEST_DATA", "../shared")).resolve()
NOISES = (
    "random_0.2_0",
    "random_0.4_0",
    "random_0.6_0",
    "random_0.8_0",
    "article_type_0.4_0",
    "random_orphans_0.4_0",
)
MODELS = {"fashion": "hog-tfidf", "fashion_unseen": f"local-dir:{SHARED}/models/tinyclip"}
SHOWN = ("auroc", "average_precision", "flag_precision", "flag_recall", "ece", "rematch_emitted", "rematch_precision")


def plant(shards: Path, noise: Path, out: Path) -> pa.Table:
    """The shards with their captions moved, and the truth about them."""
    moved = pq.read_table(noise).to_pydict()
    files = sorted(shards.glob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    caption = {k: c for t in tables for k, c in zip(t["key"].to_pylist(), t["caption"].to_pylist(), strict=True)}
    carried = {key: caption[other] for key, other in zip(moved["key"], moved["caption_key"], strict=True)}
    out.mkdir()
    for file, table in zip(files, tables, strict=True):
        table = table.filter(pa.array([key in carried for key in table["key"].to_pylist()]))
        now = pa.array([carried[key] for key in table["key"].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("caption"), "caption", now)
        pq.write_table(table, out / file.name, row_group_size=100)
    truth = {**moved, "caption": [caption[k] for k in moved["key"]], "carried_caption": list(carried.values())}
    return pa.table(truth)


def main(sets: list[str]) -> None:
    print(f"| data | noise | true rate | estimate (95% interval) | {' | '.join(SHOWN)} | seconds |")
    print("|---" * (len(SHOWN) + 5) + "|")
    for name in sets or list(MODELS):
        for noise in NOISES:
            with tempfile.TemporaryDirectory() as folder:
                home = Path(folder)
                truth = plant(SHARED / "data" / name, SHARED / "data/noise" / name / f"{noise}.parquet", home / "in")
                begun = time.perf_counter()
                run = pairclean.clean(home / "in", home / "run", model=MODELS[name])
                seconds = time.perf_counter() - begun
                found, rate = score_run(run.verdicts(), truth), run.report["mismatch_rate"]
                cells = [f"{found[key]:.3f}" if isinstance(found[key], float) else str(found[key]) for key in SHOWN]
                interval = f"{rate['estimate']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
                row = [name, noise, f"{found['true_mismatch_rate']:.3f}", interval, *cells, f"{seconds:.0f}"]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
