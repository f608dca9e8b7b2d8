"""Which pairs a model never learned from: what a run's retrieval is measured on."""

from __future__ import annotations

import numpy as np

from ..embed import Embeddings
from ..judge import FOLDS, assign_folds, fold_of
from ..run import Run
from ..run.common import load_array
from .identities import identities

PAIRS = 1000  # a fold, at the most


def folds_of(run: Run, emb: Embeddings, rows: np.ndarray) -> np.ndarray:
    """(n,) the fold of each of the pairs `rows`: model k of the run never saw the images of fold k."""
    image_id = emb.image_id[rows]
    if run.frozen_from is None:
        image, caption = identities(run, emb)
        return assign_folds(image[rows], caption[rows], FOLDS)
    theirs = run.frozen_from.path / "judge"
    fold = fold_of(image_id, FOLDS)
    # Images that were learned from in another fold than their own hash says: never by a model that knows them.
    tied, where = np.unique(load_array(theirs / "tied_image_id.npy"), return_index=True)
    known = np.isin(image_id, tied)
    fold[known] = load_array(theirs / "tied_fold.npy")[where[np.searchsorted(tied, image_id[known])]]
    return fold


def clean_by_fold(
    rows: np.ndarray, fold: np.ndarray, clean_probability: np.ndarray, *, models: int, seed: int
) -> list[np.ndarray]:
    """The judged-clean pairs of each model's fold, ascending; at most `PAIRS` of each, drawn at random.

    rows, fold: (n,).  clean_probability: (N,), nan where nothing was judged.  models: as many as folds, or one for all.
    """
    rng = np.random.default_rng(seed)
    found = []
    for k in range(models):
        clean = rows[(fold % models == k) & (clean_probability[rows] >= 0.5)]
        found.append(np.sort(rng.choice(clean, PAIRS, replace=False)) if len(clean) > PAIRS else clean)
    return found
