"""How a run is executed: device, threads, progress. Nothing here changes its results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from .pairs import UserError

T = TypeVar("T")


class Progress:
    """What a run reports while it works. This one is silent; the command line draws one."""

    def start(self, stage: str, total: int | None = None) -> None: ...
    def advance(self, steps: int = 1) -> None: ...
    def finish(self, stage: str, seconds: float) -> None: ...
    def say(self, sentence: str) -> None: ...


@dataclass
class Execution:
    """How a run is executed; nothing here changes its results."""

    device: str = "auto"
    workers: int | None = None
    strict: bool = False
    force: bool = False  # embed also where a sample of the rows could not be read
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        if self.workers is not None and not (isinstance(self.workers, int) and self.workers >= 1):
            raise UserError(f"--workers {self.workers}: it should be a number from 1 on")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(
    work: Callable[[int], T], count: int, device: str, done: Callable[[], object] = lambda: None
) -> list[T]:
    """The results of work(0) to work(count - 1), in order.  On a CPU they run in parallel, each on a single thread.

    done: called in the calling thread for each result, in order.

    Small models gain little from more threads, and lose much to threads that wait for each other on busy cores: one fit
    took eight times as long beside one other busy process.
    """

    def collected(results: Iterable[T]) -> list[T]:
        found = []
        for result in results:
            found.append(result)
            done()
        return found

    if device != "cpu":
        return collected(map(work, range(count)))
    import torch
    from threadpoolctl import threadpool_limits

    def single() -> None:
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(min(count, available_cores()), initializer=single)
    try:
        with threadpool_limits(1):
            return collected(pool.map(work, range(count)))
    finally:  # not `with`: an interrupt must not wait for models that nobody needs any more
        pool.shutdown(wait=False, cancel_futures=True)
