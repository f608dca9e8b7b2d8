"""What is gained by a second process, and what does Ray cost against plain processes?

    python -m benchmarks.processes [--parts 40] [--model hog-tfidf] [--runs 1]

`embed` of drawn scenes, 500 to a part: by one process on one core; by two array jobs on a core each, started together;
and by two workers of a Ray cluster that is running already. Every process computes on one thread. `efficiency` is the
time of one process over twice that of two; `overhead` is what Ray takes more than the two array jobs. Times are from
the start of the command to its end, so that what a process imports counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .memory import SHARD, make

CORES = sorted(os.sched_getaffinity(0))[:2]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def embed(shards: Path, run: Path, model: str, *options: str, cores: list[int]) -> subprocess.Popen[bytes]:
    command = ["pairclean", "embed", str(shards), str(run), "--quiet", "--model", model, "--workers", "1", *options]
    return subprocess.Popen(
        command,
        env={**os.environ, **ONE_THREAD},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.DEVNULL,
    )


def seconds(*processes: subprocess.Popen[bytes], begun: float) -> float:
    assert [process.wait() for process in processes] == [0] * len(processes)
    return time.perf_counter() - begun


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a cluster with a node for each core."""
    from ray.cluster_utils import Cluster

    os.environ.update(ONE_THREAD)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        nodes.shutdown()


def measure(shards: Path, home: Path, model: str, address: str) -> tuple[float, float, float]:
    begun = time.perf_counter()
    one = seconds(embed(shards, home / "one", model, cores=CORES[:1]), begun=begun)
    begun = time.perf_counter()
    jobs = [
        embed(shards, home / "two", model, "--shard-index", str(k), "--num-shards", "2", cores=[core])
        for k, core in enumerate(CORES)
    ]
    two = seconds(*jobs, begun=begun)
    begun = time.perf_counter()
    on_ray = embed(shards, home / "ray", model, "--engine", "ray", "--ray-address", address, cores=CORES)
    return one, two, seconds(on_ray, begun=begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=40)
    parser.add_argument("--model", default="hog-tfidf")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pairclean-processes-") as folder, cluster() as address:
        make(Path(folder) / "shards", options.parts)
        found = [
            measure(Path(folder) / "shards", Path(folder) / str(run), options.model, address)
            for run in range(options.runs)
        ]
    one, two, on_ray = np.median(found, axis=0)
    titles = ("parts", "pairs", "one process", "two", "efficiency", "two workers of Ray", "overhead")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    shown = f"{one:.1f} s | {two:.1f} s | {one / two / 2:.3f} | {on_ray:.1f} s | {on_ray / two - 1:+.1%}"
    print(f"| {options.parts} | {options.parts * SHARD:,} | {shown} |")


if __name__ == "__main__":
    main()
