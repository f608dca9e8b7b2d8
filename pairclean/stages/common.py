"""What several stages need of a run directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..embed import Embeddings, resolve_devices
from ..embed.embed import available_cores
from ..files import fingerprint, written_whole
from ..pairs import UserError
from ..run import Execution, Run
from ..sources import Source

T = TypeVar("T")


def open_embeddings(run: Run) -> Embeddings:
    return Embeddings.open(run.embeddings, run.shards)


def part_fingerprints(source: Source, encoder: dict[str, Any]) -> dict[str, str]:
    """What a shard's vectors depend on, by the shard's name."""
    roles = asdict(source.roles)
    return {shard.name: fingerprint(shard.fingerprint, shard.rows, roles, encoder) for shard in source.shards}


def embedded_source(run: Run) -> Source:
    """The source, which has to be what it was when it was embedded: verdicts go to its rows by position."""
    source = run.open_source()
    if part_fingerprints(source, run.manifest["encoder"]) != run.manifest["parts"]:
        raise UserError(f"{source.path} has changed since {run.path} was embedded: run `pairclean clean` on it again")
    return source


def learning_device(execution: Execution) -> str:
    return resolve_devices(execution.device)[0]


def side_by_side(work: Callable[[int], T], count: int, device: str) -> list[T]:
    """work(0) to work(count - 1): on a CPU one a core, each on a single thread.

    Small models gain little from more threads, and threads that wait for each other lose far more than that where
    something else wants the cores: a fit took eight times as long beside one other busy process.
    """
    if device != "cpu":
        return [work(k) for k in range(count)]
    import torch
    from threadpoolctl import threadpool_limits

    def single() -> None:
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(min(count, available_cores()), initializer=single)
    try:
        with threadpool_limits(1):
            return list(pool.map(work, range(count)))
    finally:  # not `with`: an interrupt shall not wait for models nobody wants any more
        pool.shutdown(wait=False, cancel_futures=True)


def emptied(folder: Path) -> Path:
    """A stage's own folder, without what an earlier pass left in it; a link to another disk stays one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for old in folder.iterdir():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
    except OSError as error:
        raise UserError(f"cannot empty {folder}: {error.strerror}") from None
    return folder


def save_array(path: Path, array: np.ndarray) -> None:
    with written_whole(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
