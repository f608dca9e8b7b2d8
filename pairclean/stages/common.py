"""What several stages need of a run directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..embed import Embeddings, resolve_devices
from ..files import written_whole
from ..run import Execution, Run


def open_embeddings(run: Run) -> Embeddings:
    return Embeddings.open(run.embeddings, run.shards)


def learning_device(execution: Execution) -> str:
    return resolve_devices(execution.device)[0]


def emptied(folder: Path) -> Path:
    """A stage's own folder, without what an earlier pass left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def save_array(path: Path, array: np.ndarray) -> None:
    with written_whole(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
