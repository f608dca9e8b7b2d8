"""How a run is executed: device, threads, progress. Nothing here changes its results."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar, get_args

from .options import Engine
from .pairs import UserError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")

_devices: dict[str, threading.RLock] = {}
_thread = threading.local()


class Progress:
    """What a run reports while it works. This one is silent; the command line draws one."""

    def start(self, stage: str, total: int | None = None) -> None: ...
    def advance(self, steps: int = 1) -> None: ...
    def finish(self, stage: str, seconds: float) -> None: ...
    def say(self, sentence: str) -> None: ...


@dataclass
class Execution:
    """How a run is executed; nothing here changes its results.

    engine, ray_address: who writes the parts of the stages that work shard by shard: this process ("local"), or workers
    of a Ray cluster ("ray") at this address; without an address Ray starts on this machine.
    shard_index, num_shards: this process is one of num_shards that share a stage, and makes the parts shard_index,
    shard_index + num_shards, and so on; without them it makes all.
    """

    device: str = "auto"
    workers: int | None = None
    strict: bool = False
    force: bool = False  # embed also where a sample of the rows could not be read
    progress: Progress = field(default_factory=Progress)
    engine: Engine = "local"
    ray_address: str | None = None
    shard_index: int | None = None
    num_shards: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not (isinstance(self.workers, int) and self.workers >= 1):
            raise UserError(f"--workers {self.workers}: it should be a number from 1 on")
        if self.engine not in get_args(Engine):
            raise UserError(f"--engine {self.engine}: it should be one of {', '.join(get_args(Engine))}")
        if self.engine == "local" and self.ray_address is not None:
            raise UserError("--ray-address goes with --engine ray: give both, or leave it out")
        if self.engine == "ray" and self.num_shards is not None:
            raise UserError("--engine ray shares the parts among its workers: leave --shard-index and --num-shards out")
        if (self.shard_index is None) != (self.num_shards is None):
            raise UserError("--shard-index and --num-shards go together: give both, or neither")
        if self.num_shards is not None and self.num_shards < 1:
            raise UserError(f"--num-shards {self.num_shards}: it should be a number from 1 on")
        if self.num_shards is not None and not 0 <= (self.shard_index or 0) < self.num_shards:
            raise UserError(
                f"--shard-index {self.shard_index}: with --num-shards {self.num_shards} it should be a number "
                f"from 0 to {self.num_shards - 1}"
            )
        if self.engine == "ray" and find_spec("ray") is None:  # said before a run directory is made
            raise UserError("--engine ray needs Ray: install it with `pip install 'pairclean[ray]'`")

    @property
    def is_array_job(self) -> bool:
        """Whether this process makes only its own share of the parts, and leaves the rest to others."""
        return self.num_shards is not None

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts that are this process's to make."""
        return parts[self.shard_index :: self.num_shards]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alone_on(device: str) -> AbstractContextManager[object]:
    """Lets one thread at a time compute on a device of torch, and as many as want to on the CPU.

    A GPU does one thing after another anyway, and every thread's similarities would take memory there.
    """
    return nullcontext() if device == "cpu" else _devices.setdefault(device, threading.RLock())


def single_thread() -> None:
    """Make torch and FAISS compute on the calling thread alone, if they are there; other threads are left as they are.

    Otherwise every thread has a team of as many OpenMP threads as there are cores, which spin while they wait. Where
    threads decode pictures, one of them took 3.3 to 3.9 ms of processor time like that for a picture of 512x384, and
    takes 1.7 without; where another process was busy it fell from 570 pictures a second to 126.
    """
    if "torch" in sys.modules:  # to import it takes seconds
        import torch

        torch.get_num_threads()  # torch sets the number of a thread when it is first used there, and would do so later
    if "torch" in sys.modules or "faiss" in sys.modules:
        _libraries().limit(limits=1, user_api="openmp")


def _libraries() -> ThreadpoolController:
    """Those with threads of their own that are loaded by now."""
    return _libraries_of(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _libraries_of(modules: int) -> ThreadpoolController:
    """To look for them takes milliseconds, and is done again only after something was imported."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def side_by_side(
    work: Callable[[int, str], T], count: int, devices: Sequence[str], done: Callable[[], object] = lambda: None
) -> list[T]:
    """The results of work(k, device) for k from 0 to count - 1, in order.

    devices: of torch. Each of several devices does one piece of work at a time, in a thread of its own; what is free
    takes the next piece. A single CPU does as many at a time as it has cores, each on a single thread; a piece of such
    work that asks for the cores itself is done on its own thread, since the others are at work.
    done: called in the calling thread for each result, in order.

    On a CPU, small models and products of small matrices gain little from more threads, and lose much to threads that
    wait for each other: one fit took eight times as long beside one other busy process, and hubness on two idle cores
    three times as long with two threads as with one.
    """

    def collected(results: Iterable[T]) -> list[T]:
        found = []
        for result in results:
            found.append(result)
            done()
        return found

    on_cores = list(devices) == ["cpu"]
    if len(devices) == 1 and (not on_cores or getattr(_thread, "on_core", False)):
        return collected(work(k, devices[0]) for k in range(count))
    workers = ["cpu"] * available_cores() if on_cores else list(devices)
    free: SimpleQueue[str] = SimpleQueue()
    for device in workers:
        free.put(device)

    def on_free_device(k: int) -> T:
        device = free.get()
        try:
            return work(k, device)
        finally:
            free.put(device)

    def on_core() -> None:
        _thread.on_core = True
        single_thread()

    pool = ThreadPoolExecutor(max(1, min(count, len(workers))), initializer=on_core if on_cores else None)
    try:
        with _libraries().limit(limits=1) if on_cores else nullcontext():
            return collected(pool.map(on_free_device, range(count)))
    finally:  # not `with`: an interrupt must not wait for models that nobody needs any more
        pool.shutdown(wait=False, cancel_futures=True)
