"""Whether two spaces agree although no pair does: an encoder that works, on data whose captions are all wrong.

Images and captions that are each other's nearest are counted, and counted again after random rotations of the
captions' space. Foreign spaces have as many such pairs before as after; spaces that were learned together have more,
whoever is paired with whom.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Pairs, Rows, unit

SAMPLE, ROTATIONS = 2000, 8
#: Standard deviations of the rotations' counts by which the spaces' own has to exceed their mean.
AGREES = 6.0


def spaces_agree(pairs: Pairs, rows: np.ndarray, *, seed: int = 0) -> bool:
    """Whether images and captions of `rows` (n,) find each other in the encoder's own space; d has to equal e.

    Distinct images and captions count, at most SAMPLE of each.
    """
    rng = np.random.default_rng(seed)
    image = _distinct(pairs.image, pairs.image_id, rows, rng)
    text = _distinct(pairs.text, pairs.caption_id, rows, rng)
    own = _mutual(image, text)
    turned = []
    for _ in range(ROTATIONS):
        rotation = np.linalg.qr(rng.standard_normal((text.shape[1],) * 2))[0].astype(np.float32)
        turned.append(_mutual(image, text @ rotation))
    # Of independent pairs the count is about binomial: that is the least it varies by.
    spread = max(float(np.std(turned)), float(np.sqrt(np.mean(turned) + 1)))
    return bool(own > np.mean(turned) + AGREES * spread)


def _distinct(vectors: Rows, ids: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(m, d) float32 centred unit rows, one per identity."""
    _, first = np.unique(ids[rows], return_index=True)
    chosen = rows[np.sort(rng.choice(first, min(SAMPLE, len(first)), replace=False))]
    x = unit(np.asarray(vectors[chosen], np.float32))
    return unit(x - x.mean(0))


def _mutual(image: np.ndarray, text: np.ndarray) -> int:
    """How many images and captions are each other's nearest."""
    similarity = image @ text.T
    of_image, of_text = similarity.argmax(1), similarity.argmax(0)
    return int((of_text[of_image] == np.arange(len(image))).sum())
