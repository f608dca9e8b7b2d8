"""What several stages need of a run directory."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..embed import Embeddings
from ..files import fingerprint, written_whole
from ..pairs import UserError
from ..sources import Source
from .directory import Run


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
