"""How a run is executed: device, workers, progress. Nothing here changes its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ..pairs import UserError

T = TypeVar("T")


class Progress:
    """What a run tells while it works; this one is silent. The command line draws one."""

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


def learning_device(execution: Execution) -> str:
    from ..embed import resolve_devices

    return resolve_devices(execution.device)[0]


def side_by_side(
    work: Callable[[int], T], count: int, device: str, keep: Callable[[int, T], None] = lambda k, result: None
) -> list[T]:
    """work(0) to work(count - 1): on a CPU one a core, each on a single thread.

    keep: called in this thread with each result, in order. What is written belongs here: an interrupt stops no other
    thread, but after it nothing is written any more.

    Small models gain little from more threads, and threads that wait for each other lose far more than that where
    something else wants the cores: a fit took eight times as long beside one other busy process.
    """

    def kept(results: Iterable[T]) -> list[T]:
        found = []
        for k, result in enumerate(results):
            keep(k, result)
            found.append(result)
        return found

    if device != "cpu":
        return kept(map(work, range(count)))
    import torch
    from threadpoolctl import threadpool_limits

    from ..embed.embed import available_cores

    def single() -> None:
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(min(count, available_cores()), initializer=single)
    try:
        with threadpool_limits(1):
            return kept(pool.map(work, range(count)))
    finally:  # not `with`: an interrupt shall not wait for models nobody wants any more
        pool.shutdown(wait=False, cancel_futures=True)
