"""Which pictures and captions count as one: copies, and near-copies by their vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..embed import Embeddings
from ..judge import near_identities
from ..run import Run
from ..run.common import load_array, save_array

_FILES = ("near_image_id.npy", "near_caption_id.npy")


def find_identities(emb: Embeddings, rows: np.ndarray, home: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) image and caption identities in which near-copies share one; kept in `home`, the run's model folder."""
    found = near_identities(emb.image, emb.image_id, rows), near_identities(emb.text, emb.caption_id, rows)
    for name, ids in zip(_FILES, found, strict=True):
        save_array(home / name, ids)
    return found


def identities(run: Run, emb: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Those that the run was aligned by; of a run that another one judges, exact copies alone."""
    if run.frozen_from is not None:
        return emb.image_id, emb.caption_id
    image_id, caption_id = (np.asarray(load_array(run.path / "model" / name)) for name in _FILES)
    return image_id, caption_id
