"""Does the memory that a run takes grow with the number of shards?

    python -m benchmarks.memory [LEAST [MOST]]     # shards of 500 pairs; 1 and 20 unless given

Drawn scenes, one shard of them repeated with other keys, captions and bytes; `hog-tfidf` and `canonical`. Each stage is
a process of its own and measured at its highest resident set.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pairclean.pipeline import redo

SHARD = 500


def make(folder: Path, shards: int) -> None:
    """One shard drawn, and copied under other keys."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pairclean.synthetic.scenes import draw_scenes, write_shards

    write_shards(draw_scenes(SHARD, 0), folder, shard_size=SHARD)
    first = pq.read_table(folder / "00000.parquet")
    captions = first["caption"].to_pylist()
    for k in range(1, shards):
        keys = pa.array([f"{k:05d}{row:04d}" for row in range(SHARD)])
        texts = pa.array([f"{caption} {k}" for caption in captions])
        images = [None if image is None else image + k.to_bytes(4, "big") for image in first["jpg"].to_pylist()]
        table = first.set_column(first.schema.get_field_index("key"), "key", keys)
        table = table.set_column(table.schema.get_field_index("caption"), "caption", texts)
        table = table.set_column(table.schema.get_field_index("jpg"), "jpg", pa.array(images, pa.binary()))
        pq.write_table(table, folder / f"{k:05d}.parquet", row_group_size=100)


def measure(stage: str, shards: Path, run: Path) -> None:
    """Does one stage, in this process; prints MiB before it and at the highest."""
    from pairclean import pipeline, stages
    from pairclean.execution import Execution
    from pairclean.run import Run

    assert callable(stages.align)  # imported by now: what that takes is not the data's

    before = peak()
    if stage == "embed":
        pipeline.embed(shards, run, model="hog-tfidf")
    else:
        redo(Run.open(run), stage, Execution(), method="canonical" if stage == "align" else None)
    print(before, peak())


def peak() -> int:
    """The highest resident set of this process so far, MiB."""
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main(least: int = 1, most: int = 20) -> None:
    from pairclean.options import STAGES

    home = Path(tempfile.mkdtemp(prefix="pairclean-memory-"))
    found: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for shards in (least, most):
        make(home / f"in{shards}", shards)
        for stage in STAGES:
            command = [sys.executable, "-m", "benchmarks.memory", stage, home / f"in{shards}", home / f"run{shards}"]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[stage].append(int(out.split()[-1]))
            print(f"{shards} shards, {stage}: {out.strip()} MiB", file=sys.stderr)
    shutil.rmtree(home)
    print(
        f"| stage | {least * SHARD:,} pairs, MiB | {most * SHARD:,} pairs, MiB | times |\n| --- | ---: | ---: | ---: |"
    )
    for stage, (small, large) in found.items():
        print(f"| {stage} | {small:,} | {large:,} | {large / small:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
