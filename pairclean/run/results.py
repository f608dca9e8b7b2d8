"""The results in a run directory: the only place that writes and opens what the learning stages leave there.

faults/    faults.json, one array per file
model/     learned.json, first_K.safetensors, aligned_K.safetensors, one array per file
judge/     judgement.json, scorer_K.safetensors, one array per file
rematch/   rematches.json, one array per file

Arrays are `.npy` files, named like the fields of `Faults`, `Learned`, `Judgement` and `Rematches`, and memory-mapped
when they are opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..align import Alignment
from ..embed import Embeddings
from ..files import write_json, written_whole
from ..judge import (
    Faults,
    Finding,
    Folds,
    HeldOutRetrieval,
    Histogram,
    Judgement,
    Learned,
    NeighbourIndex,
    Partition,
    Rate,
    Recalibration,
    Scorer,
    read_calibration,
)
from ..pairs import UserError
from ..rematch import Rematches
from .directory import Run


def open_embeddings(run: Run, *, vectors: bool = True) -> Embeddings:
    return Embeddings.open(run.embeddings, run.shards, vectors=vectors)


# --- systematic faults ------------------------------------------------------------------------------------------------


def save_faults(run: Run, faults: Faults) -> None:
    home = emptied(run.path / "faults")
    _save_arrays(home, _arrays_of(faults))
    findings = [asdict(finding) for finding in faults.findings]
    write_json(home / "faults.json", {"repaired": faults.repaired, "findings": findings})


def open_faults(run: Run) -> Faults:
    home = run.path / "faults"
    about = _read_json(home / "faults.json")
    findings = [Finding(**finding) for finding in about["findings"]]
    return Faults(findings, **_load_arrays(home, Faults), repaired=about["repaired"])


# --- what was learned -------------------------------------------------------------------------------------------------


def save_learned(run: Run, learned: Learned) -> None:
    home = emptied(run.path / "model")
    _save_numbered(home, "first", learned.first)
    _save_numbered(home, "aligned", learned.aligned)
    arrays = {"image_id": learned.image_id, "caption_id": learned.caption_id}
    arrays |= {"tied_image_id": learned.folds.image_id, "tied_fold": learned.folds.fold}
    if learned.kind_column is not None:
        arrays["kind_column"] = learned.kind_column
    if learned.held_out is not None:
        arrays["held_out"] = learned.held_out
    _save_arrays(home, arrays)
    learned.partition.save(home / "kinds.safetensors")
    write_json(home / "learned.json", {"method": learned.method})


def open_learned(run: Run, device: str = "cpu") -> Learned:
    home = run.path / "model"
    return Learned(
        method=_read_json(home / "learned.json")["method"],
        first=[Alignment.load(path, device) for path in _numbered(home, "first")],
        aligned=[Alignment.load(path, device) for path in _numbered(home, "aligned")],
        folds=Folds(_load_array(home, "tied_image_id"), _load_array(home, "tied_fold")),
        image_id=_load_array(home, "image_id"),
        caption_id=_load_array(home, "caption_id"),
        partition=Partition.load(home / "kinds.safetensors"),
        kind_column=_load_if_there(home, "kind_column"),
        held_out=_load_if_there(home, "held_out"),
    )


# --- what was judged --------------------------------------------------------------------------------------------------


def save_judgement(run: Run, judgement: Judgement) -> None:
    home = emptied(run.path / "judge")
    _save_numbered(home, "scorer", judgement.scorers)
    _save_arrays(home, _arrays_of(judgement))
    content = {
        "unjudged": judgement.unjudged,
        "notes": judgement.notes,
        "score": judgement.score,
        "separation": judgement.separation,
        "mismatch_rate": judgement.rate and asdict(judgement.rate),
        "calibration": judgement.calibration and judgement.calibration.to_json(),
        "histogram": judgement.histogram and asdict(judgement.histogram),
        "retrieval": judgement.retrieval and asdict(judgement.retrieval),
        "recalibration": judgement.recalibration and asdict(judgement.recalibration),
    }
    write_json(home / "judgement.json", content)


def open_judgement(run: Run) -> Judgement:
    home = run.path / "judge"
    about = _read_json(home / "judgement.json")
    rate, calibration, histogram, retrieval, recalibration = (
        about[name] for name in ("mismatch_rate", "calibration", "histogram", "retrieval", "recalibration")
    )
    scorer = NeighbourIndex if about["score"] == "lemon" else Scorer
    return Judgement(
        unjudged=about["unjudged"],
        notes=about["notes"],
        **_load_arrays(home, Judgement),
        score=about["score"],
        scorers=[scorer.load(path) for path in _numbered(home, "scorer")],
        calibration=calibration and read_calibration(calibration),
        rate=rate and Rate(**rate),
        separation=about["separation"],
        histogram=histogram and Histogram(**histogram),
        retrieval=retrieval and HeldOutRetrieval(**retrieval),
        recalibration=recalibration and Recalibration(**recalibration),
    )


# --- what was rematched -----------------------------------------------------------------------------------------------


def save_rematches(run: Run, rematches: Rematches) -> None:
    home = emptied(run.path / "rematch")
    arrays = _arrays_of(rematches)
    _save_arrays(home, arrays)
    write_json(home / "rematches.json", {k: v for k, v in vars(rematches).items() if k not in arrays})


def open_rematches(run: Run) -> Rematches:
    home = run.path / "rematch"
    return Rematches(**_load_arrays(home, Rematches), **_read_json(home / "rematches.json"))


# --- files ------------------------------------------------------------------------------------------------------------


def emptied(folder: Path) -> Path:
    """A stage's own folder, without what an earlier pass left in it; a link to another disk is kept.

    Raises UserError if it cannot be emptied.
    """
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


class _Saved(Protocol):
    def save(self, path: Path) -> None: ...


def _save_numbered(home: Path, name: str, parts: Iterable[_Saved]) -> None:
    for k, part in enumerate(parts):
        part.save(home / f"{name}_{k}.safetensors")


def _numbered(home: Path, name: str) -> list[Path]:
    return sorted(home.glob(f"{name}_*.safetensors"))


def _array_names(result: Any) -> list[str]:
    return [field.name for field in fields(result) if field.type == "np.ndarray"]


def _arrays_of(result: Any) -> dict[str, np.ndarray]:
    return {name: getattr(result, name) for name in _array_names(result)}


def _save_arrays(home: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        with written_whole(home / f"{name}.npy") as file:
            np.save(file, array, allow_pickle=False)


def _load_arrays(home: Path, result: type) -> dict[str, Any]:
    return {name: _load_array(home, name) for name in _array_names(result)}


def _load_array(home: Path, name: str) -> np.ndarray:
    array: np.ndarray = np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return array


def _load_if_there(home: Path, name: str) -> np.ndarray | None:
    return _load_array(home, name) if (home / f"{name}.npy").exists() else None


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
