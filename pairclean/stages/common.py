"""What several stages need of a run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
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


def flag_below(run: Run) -> float:
    """Below which pairs are flagged: the threshold that was given, or the one that keeps the share asked for."""
    found = json.loads((run.path / "rematch" / "rematch.json").read_text(encoding="utf-8"))
    return float(found["flag_below"])


def learning_device(execution: Execution) -> str:
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

    def single() -> None:
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(min(count, available_cores()), initializer=single)
    try:
        with threadpool_limits(1):
            return kept(pool.map(work, range(count)))
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
