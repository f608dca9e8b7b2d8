"""Which pairs of the data a model never trained on, drawn to measure retrieval on and to calibrate rematching with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..align.zero_shot import ZeroShot
from ..arrays import Pairs
from ..metrics.retrieval import retrieval
from .crossfit import CrossFit
from .scores import Model

PAIRS = 1000  # per fold, at most
MOST_SURE = 4000


@dataclass(frozen=True)
class HeldOutRetrieval:
    """Recall among the judged-clean pairs of each fold, by the model that never saw them; the mean over the folds.

    pairs: how many.  learned: whether the space in use differs from the encoder's.  zero_shot, aligned: what
    `metrics.retrieval.retrieval` gives, in the encoder's space and in the one in use; None where it cannot be measured.
    """

    pairs: int
    learned: bool
    zero_shot: dict[str, float] | None
    aligned: dict[str, float] | None


def clean_by_fold(
    cross_fit: CrossFit, clean_probability: np.ndarray, *, seed: int = 0
) -> Iterator[tuple[Model, np.ndarray]]:
    """Each model with the judged-clean pairs of its fold: rows, ascending, at most `PAIRS`, drawn at random.

    clean_probability: (N,), NaN where nothing was judged.
    """
    rng = np.random.default_rng(seed)
    for model, place in cross_fit.members():
        rows = cross_fit.rows[place]
        clean = rows[clean_probability[rows] >= 0.5]
        yield model, np.sort(rng.choice(clean, PAIRS, replace=False)) if len(clean) > PAIRS else clean


def draw_sure(clean_probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of likely matched pairs, ascending, at most MOST_SURE.

    Each is drawn with its own probability of being clean, so that there are difficult matched pairs among them, and not
    only the most certain ones.

    clean_probability: (N,), NaN where not judged.
    """
    likely = np.flatnonzero(clean_probability >= 0.5)
    drawn = likely[rng.random(len(likely)) < clean_probability[likely]]
    return np.sort(rng.choice(drawn, MOST_SURE, replace=False)) if len(drawn) > MOST_SURE else drawn


def held_out_retrieval(
    cross_fit: CrossFit, pairs: Pairs, clean_probability: np.ndarray, comparable: bool, seed: int
) -> HeldOutRetrieval:
    found: dict[str, list[dict[str, float]]] = {"zero_shot": [], "aligned": []}
    count = 0
    for model, clean in clean_by_fold(cross_fit, clean_probability, seed=seed):
        if len(clean) < 2:
            continue
        count += len(clean)
        held_out = pairs.take(clean)
        for name, space in (("aligned", model), *([("zero_shot", ZeroShot())] if comparable else [])):
            x, y = space.embed_image(held_out.image), space.embed_text(held_out.text)
            found[name].append(retrieval(x, y, image_id=held_out.image_id, caption_id=held_out.caption_id))
    means = {
        name: {key: float(np.mean([r[key] for r in folds])) for key in folds[0] if key != "queries"} if folds else None
        for name, folds in found.items()
    }
    return HeldOutRetrieval(count, cross_fit.learned, **means)
