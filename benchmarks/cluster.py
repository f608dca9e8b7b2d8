"""How long does a cluster take, beside the least that it could take?  A simulation:  python -m benchmarks.cluster

    python -m benchmarks.cluster [--parts 100000] [--workers 1000] [--seeds 5]

How long parts take is measured first: 60 shards of 100 drawn scenes are embedded here with the built-in encoder, and
the time of each part, over their mean, is drawn from in the simulation. Everything else is assumed, not measured:

- a machine has eight workers; its speed is drawn from a log-normal distribution with deviation SPREAD,
- *slow*: so many machines have a third of the speed,
- *preempted*: every worker loses its machine once in so many parts, on average, and with it what it has made of the
  part in hand; another one stands ready after AWAY parts' time,
- *lost*: in the middle of the run one machine is gone for good; its jobs are started again elsewhere.

Policies: `array`: job I of N makes the parts I, I + N, ... (`--shard-index`), as many jobs as workers, and a job that
died is started again by the cluster; `array, 20 parts each`: so many jobs, queued on the same workers, as a Slurm array
with more tasks than nodes; `queue`: a free worker takes the next part (`--engine ray`).

`makespan / ideal`: the time until the last part is there, over that of all work spread evenly over all workers, at
their speeds, without preemption. The time that a job takes to start is left out.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairclean.config import Config
from pairclean.execution import Execution
from pairclean.pipeline import advance
from pairclean.run import Run
from pairclean.run.parts import part_file
from pairclean.synthetic.scenes import draw_scenes, write_shards

SHARDS, PAIRS = 60, 100
MACHINE, SPREAD, AWAY = 8, 0.1, 3.0


@dataclass(frozen=True)
class World:
    """What goes wrong.  slow: share of the machines.  lifetime: parts between preemptions of a worker, None for none.
    lost: whether a machine is lost."""

    name: str
    slow: float = 0.0
    lifetime: float | None = None
    lost: bool = False


WORLDS = [
    World("nothing goes wrong"),
    World("2% of the machines slow", slow=0.02),
    World("preempted every 50 parts", lifetime=50.0),
    World("a machine lost", lost=True),
    World("all three", slow=0.02, lifetime=50.0, lost=True),
]


def measured(home: Path) -> np.ndarray:
    """Seconds of each part but the first, over their mean."""
    write_shards(draw_scenes(SHARDS * PAIRS, 0), home / "shards", shard_size=PAIRS)
    run = Run.create(home / "run", home / "shards", Config.make(model="hog-tfidf"))
    advance(run, ["embed"], Execution(workers=1))
    written = np.sort([part_file(run, "embed", shard).stat().st_mtime for shard in run.manifest["shards"]])
    seconds = np.diff(written)
    return np.asarray(seconds / seconds.mean())


def makespan(tasks: Sequence[np.ndarray], world: World, workers: int, rng: np.random.Generator) -> float:
    """The time until all is done, over the ideal.

    tasks: what workers take one after the other; each is the lengths of its parts, in parts' mean time. A part that was
    complete stays complete, and a task that lost its worker goes on with the part in hand.
    """
    machines = -(-workers // MACHINE)
    speed = np.exp(SPREAD * rng.standard_normal(machines))
    speed[rng.random(machines) < world.slow] /= 3
    speed = np.repeat(speed, MACHINE)[:workers]
    ideal = sum(float(task.sum()) for task in tasks) / float(speed.sum())
    gone = ideal / 2 if world.lost else np.inf
    waiting = list(reversed([list(task) for task in tasks]))
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    last = 0.0
    while waiting:
        now, worker = heapq.heappop(free)
        dies = np.inf if world.lifetime is None else now + rng.exponential(world.lifetime) / speed[worker]
        dies = min(dies, gone if worker < MACHINE else np.inf)
        if dies <= now:
            continue  # a worker of the machine that is gone
        task = waiting.pop()
        while task and now + task[-1] / speed[worker] <= dies:
            now += task.pop() / speed[worker]
        if not task:
            last = max(last, now)
            heapq.heappush(free, (now, worker))
            continue
        waiting.append(task)  # first in the queue again
        if dies < gone or worker >= MACHINE:
            heapq.heappush(free, (dies + AWAY, worker))
    return last / ideal


def policies(lengths: np.ndarray, workers: int) -> dict[str, list[np.ndarray]]:
    """The tasks of each policy."""
    shares = {"array": workers, "array, 20 parts each": len(lengths) // 20, "queue": len(lengths)}
    return {name: [lengths[k::count] for k in range(count)] for name, count in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pairclean-cluster-") as home:
        seconds = measured(Path(home))
    print(
        f"{len(seconds)} parts measured: deviation {seconds.std():.2f} of the mean, the longest {seconds.max():.2f}. "
        f"Simulated: {options.parts:,} parts on {options.workers:,} workers, {options.seeds} seeds."
    )
    names = list(policies(np.ones(options.parts), options.workers))
    print(f"\n| makespan / ideal: median (worst) | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
    for world in WORLDS:
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(options.seeds):
            rng = np.random.default_rng(seed)
            lengths = rng.choice(seconds, options.parts)
            for name, tasks in policies(lengths, options.workers).items():
                found[name].append(makespan(tasks, world, options.workers, np.random.default_rng(seed)))
        shown = " | ".join(f"{np.median(x):.2f} ({max(x):.2f})" for x in found.values())
        print(f"| {world.name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
