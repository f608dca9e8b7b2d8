"""The parts of a stage on a Ray cluster: each worker loads what it needs once, and then makes part after part.

The driver is the process that has the run; workers write the same part files, under the same claims, as any other
process that shares the stage. All nodes have to see the disks of the source and of the run.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..execution import Execution, Progress
from ..pairs import UserError
from ..run import Run
from ..run.directory import Objects
from ..run.parts import named
from ..sources.storage import is_remote

#: Parts that a worker has in hand: one that it makes, and one so that it need not wait for the driver.
IN_FLIGHT = 2
#: How often a part may be lost with its worker before the run ends.
TRIES = 4
#: How long a cluster may take to answer.
SECONDS_TO_ANSWER = 10


class Worker:
    """What runs in the cluster: makes parts of one stage."""

    def __init__(self, path: Path, stage: str, execution: Execution):
        self._path, self._stage, self._execution = path, stage, execution
        self._open = ExitStack()

    def prepare(self) -> None:
        """Open the source, load the encoder. Not in the constructor, whose errors Ray reports without their type."""
        maker = import_module(f"pairclean.stages.{self._stage}").part_maker
        self._make = self._open.enter_context(maker(Run.open(self._path), self._execution))

    def make(self, part: str) -> int:
        done: int = self._make(part)
        return done


def check_engine(run: Run, execution: Execution) -> None:
    """Raises UserError if the engine cannot work on this run, or no Ray cluster answers at the given address."""
    if execution.engine == "ray" and is_remote(run.name):
        raise UserError(f"--engine ray needs a run directory on a disk, and {run.name} is none: use array jobs there")
    if execution.engine == "ray" and run.objects != Objects():
        raise UserError("Python objects that were handed in stay in this process: use the engine 'local' with them")
    if execution.ray_address is not None:
        import ray

        with _connected(ray, execution.ray_address):
            pass


@contextmanager
def workers_of(run: Run, stage: str, execution: Execution) -> Iterator[Callable[[Sequence[str]], None] | None]:
    """What makes parts, by their names, on the workers of a Ray cluster; None with the engine "local".

    A part that is lost with its worker is made by another one. At most IN_FLIGHT parts per worker are handed out at a
    time.
    Raises UserError at once if no cluster answers, or it has no room for a worker. What makes parts raises what a
    worker raises.
    """
    if execution.engine == "local":
        yield None
        return
    import ray

    cores = execution.workers or 1
    with _connected(ray, execution.ray_address):
        has = ray.cluster_resources()
        gpus = int(_wants_gpu(run, stage, execution.device, has))
        room = int(min(has.get("CPU", 0) // cores, has.get("GPU", 0) if gpus else has.get("CPU", 0)))
        if not room:
            raise UserError(
                f"the Ray cluster has {has.get('CPU', 0):.0f} cores and {has.get('GPU', 0):.0f} GPUs, and a worker "
                f"needs {cores} and {gpus}: choose others with --workers and --device"
            )
        device = "cuda" if gpus else execution.device  # a worker sees only the GPU that is its own
        there = replace(execution, device=device, engine="local", ray_address=None, workers=cores, progress=Progress())
        worker = ray.remote(num_cpus=cores, num_gpus=gpus)(Worker)
        path = run.path.absolute()

        def make(parts: Sequence[str]) -> None:
            if not parts:
                return
            count = min(room, len(parts))
            execution.progress.say(f"{stage} on {count} workers of Ray, at most {IN_FLIGHT * count} parts at a time")
            _Driver(ray, lambda: worker.remote(path, stage, there), execution.progress).run(parts, count)

        yield make


def _wants_gpu(run: Run, stage: str, device: str, resources: dict[str, float]) -> bool:
    if stage != "embed" or not run.has_encoder or run.config.model == "hog-tfidf":
        return False
    return device.startswith("cuda") or (device == "auto" and resources.get("GPU", 0) >= 1)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, that of the caller if there is one."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report what it is used for
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        _check_that_it_answers(address)
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address or 'this machine'} ({error}): start one, or name another --ray-address"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_that_it_answers(address: str | None) -> None:
    """Raises OSError if nothing listens at a host and port: Ray itself would try for more than ten minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


class _Driver:
    """Hands out parts, takes back those of workers that are lost, and starts others in their place."""

    def __init__(self, ray: Any, start: Callable[[], Any], progress: Progress):
        self._ray, self._start, self._progress = ray, start, progress
        self._calls: dict[Any, tuple[Any, str | None]] = {}  # by reference: the worker, and the part (None: preparing)
        self._in_hand: dict[Any, set[str]] = {}  # by worker that is ready
        self._waiting: deque[str] = deque()
        self._lost: Counter[str | None] = Counter()

    def run(self, parts: Sequence[str], count: int) -> None:
        self._waiting.extend(parts)
        for _ in range(count):
            self._add_worker()
        try:
            while self._waiting or any(self._in_hand.values()):
                (ready,), _ = self._ray.wait(list(self._calls), num_returns=1)
                worker, part = self._calls.pop(ready)
                try:
                    done = self._ray.get(ready)
                except self._ray.exceptions.RayActorError:
                    self._replace(worker, part)
                    continue
                except self._ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from None
                if part is None:
                    self._in_hand[worker] = set()
                else:
                    self._in_hand[worker].remove(part)
                    self._progress.advance(done)
                self._hand_out(worker)
        finally:
            for worker in {*self._in_hand, *(worker for worker, _ in self._calls.values())}:
                self._ray.kill(worker)

    def _add_worker(self) -> None:
        worker = self._start()
        self._calls[worker.prepare.remote()] = worker, None

    def _hand_out(self, worker: Any) -> None:
        mine = self._in_hand[worker]
        while self._waiting and len(mine) < IN_FLIGHT:
            part = self._waiting.popleft()
            mine.add(part)
            self._calls[worker.make.remote(part)] = worker, part

    def _replace(self, worker: Any, part: str | None) -> None:
        """Have others make the parts of a worker that was lost.  Raises UserError if that has happened too often."""
        self._calls = {call: of for call, of in self._calls.items() if of[0] != worker}
        parts = sorted(self._in_hand.pop(worker, ()))
        for lost in [None] if part is None else parts:
            self._lost[lost] += 1
            if self._lost[lost] == TRIES:
                what = "they prepare" if lost is None else f"they make {lost}"
                raise UserError(
                    f"workers of Ray have died {TRIES} times while {what}: look for the reason in Ray's logs"
                )
        self._progress.say(f"a worker of Ray was lost; others make its parts: {named(parts) or 'none yet'}")
        self._waiting.extendleft(reversed(parts))
        self._add_worker()
        for other in self._in_hand:
            self._hand_out(other)
