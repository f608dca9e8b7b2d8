"""Training from start to end: the model that is best on dev, and a checkpoint after every epoch to resume from."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..execution import Progress
from ..files import fingerprint, written_whole
from ..pairs import UserError
from .data import RegionCaptions
from .evaluation import Recalls, recalls, similarities
from .networks import Architecture, RetrievalModel
from .training import Training

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.  number: from 0, the warm-up included.  loss: the mean over its steps; None without any.
    dev: the recalls afterwards.  seconds: of training and of evaluation.
    """

    number: int
    warm_up: bool
    steps: int
    loss: float | None
    dev: Recalls
    seconds: float


def fit(training: Training, dev: RegionCaptions, home: Path, progress: Progress | None = None) -> list[Epoch]:
    """Train to the end, and keep the model whose sum of recalls on dev is the largest, as published: the first of equal
    ones, and epochs of the warm-up count too.

    training: new.  If `home` has a checkpoint of the same training, it is resumed; the result is then that of an
    uninterrupted run.
    Writes `checkpoint.safetensors` (the whole state) and `best.safetensors` (`load_model` reads it) into home.
    Raises UserError if the checkpoint in `home` is of another training.
    """
    progress = progress or Progress()
    home.mkdir(parents=True, exist_ok=True)
    known = _fingerprint(training, dev)
    history = _resume(training, home / CHECKPOINT, known)
    while not training.done:
        number, begun = training.epoch, time.perf_counter()
        warm_up = number < training.settings.warm_up
        progress.start(f"{'warm-up' if warm_up else 'training'}, epoch {number + 1}", _steps(training))
        losses = []
        for step in training.run_epoch():
            losses.append(step.loss)
            progress.advance()
        found = recalls(similarities(training.model, dev, half=training.settings.half), dev.per_image)
        seconds = time.perf_counter() - begun
        epoch = Epoch(number, warm_up, len(losses), float(np.mean(losses)) if losses else None, found, seconds)
        if found.rsum > max((earlier.dev.rsum for earlier in history), default=-np.inf):
            _save(home / BEST, _of_model(training), {"architecture": asdict(training.model.architecture)})
        history.append(epoch)
        about = {"fingerprint": known, "history": [asdict(epoch) for epoch in history]}
        _save(home / CHECKPOINT, training.tensors(), about)
        progress.finish("epoch", seconds)
        loss = "no step" if epoch.loss is None else f"loss {epoch.loss:.3f}"
        progress.say(f"epoch {number + 1}: {loss}, rSum on dev {found.rsum:.1f}, {seconds:.0f} s")
    return history


def load_model(path: Path) -> RetrievalModel:
    """The model in `best.safetensors`, in eval mode, on the CPU."""
    tensors, about = _read(path)
    model = RetrievalModel(Architecture(**about["architecture"]))
    model.load_state_dict(tensors)
    return model.eval()


def _steps(training: Training) -> int:
    """About how many steps an epoch has: all pairs by batches, fewer where some are left out."""
    return -(-len(training.data) // training.settings.batch)


def _of_model(training: Training) -> dict[str, Tensor]:
    return dict(training.model.state_dict())


def _fingerprint(training: Training, dev: RegionCaptions) -> str:
    data, judged = training.data, training.clean_probability
    words = np.concatenate(data.captions)
    return fingerprint(
        type(training).__name__,
        asdict(training.model.architecture),
        asdict(training.settings),
        training.draws.identity,
        [list(part.images.shape) for part in (data, dev)],
        [None if x is None else sha256(np.ascontiguousarray(x)).hexdigest() for x in (data.image_of, words, judged)],
    )


def _resume(training: Training, path: Path, known: str) -> list[Epoch]:
    if not path.exists():
        return []
    tensors, about = _read(path)
    if about["fingerprint"] != known:
        raise UserError(f"{path} is of another training: choose another folder, or remove it")
    training.load(tensors)
    return [Epoch(**{**epoch, "dev": _recalls(epoch["dev"])}) for epoch in about["history"]]


def _recalls(of: dict[str, list[float]]) -> Recalls:
    return Recalls(tuple(of["i2t"]), tuple(of["t2i"]))


def _save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    with written_whole(path) as file:
        file.write(save(contiguous, {"about": json.dumps(about)}))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return tensors, json.loads(file.metadata()["about"])
