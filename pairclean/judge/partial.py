"""Captions that are half right: how they would score, and which mismatches score as they do.

A caption of which half belongs to another picture has about the mean of two captions' vectors. Such mixtures, made of
likely matches, stand for partial mismatches as random re-pairings stand for complete ones. They lie between complete
mismatches and matches and overlap with both; how many there are in the data cannot be told, only what one would
look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..align.alignment import Alignment
from ..arrays import Rows, chunks, unit
from .crossfit import Scores
from .scores import Scorer

#: Mixtures that are made.
MIXTURES = 20_000
#: Least difference between the shares of mixtures and of decoys on one side of the cut; below, kinds are not told.
TELLING = 0.5
CHUNK = 16_384


def mixed_scores(
    models: Sequence[Alignment],
    scores: Scores,
    image: Rows,
    text: Rows,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rows: np.ndarray,
    fold: np.ndarray,
    clean_probability: np.ndarray,
    *,
    seed: int = 0,
) -> np.ndarray:
    """(m,) float64, scores of images with the mean of their own caption's vector and a random other's.

    Arguments as for `cross_scores`, which gave `scores`; clean_probability: (n,) of `rows`, by which pairs are drawn.
    Empty where the score is not a `Scorer`'s, or no pair is likely to be matched.
    """
    likely = np.where(clean_probability >= 0.5, clean_probability, 0.0)
    if not likely.any() or not all(isinstance(scorer, Scorer) for scorer in scores.scorers) or not scores.scorers:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(rows), min(MIXTURES, 10 * len(rows)), p=likely / likely.sum())
    other = rng.choice(len(rows), len(drawn))
    out = []
    # In two halves, so that the captions of one can be left out of its reference: a mixed-up pair lost its own there.
    _, text_of = np.unique(caption_id[rows[drawn]], return_inverse=True)
    for half, k in product(range(2), range(len(models))):
        model, mine = models[k], np.flatnonzero((fold[drawn] % len(models) == k) & (text_of % 2 == half))
        scorer = scores.scorers[k].without(np.zeros(0, np.int64), caption_id[rows[drawn[mine]]])
        for part in chunks(len(mine) if len(scorer.reference.text) else 0, CHUNK):
            at, foreign = rows[drawn[mine[part]]], rows[other[mine[part]]]
            own, theirs = (unit(np.asarray(text[pair], np.float32)) for pair in (at, foreign))
            x, y = model.embed_image(image[at]), model.embed_text(unit(own + theirs))
            similarity = np.einsum("ij,ij->i", x, y)
            nowhere = np.zeros(len(at), np.int64)  # the identity of no readable caption
            out.append(scorer.combine(similarity, *scorer.levels(x, y), image_id[at], nowhere))
    return np.concatenate(out) if out else np.zeros(0)


def kind_cut(mixed: np.ndarray, decoys: np.ndarray) -> float | None:
    """The score that tells mixtures from decoys best: where one becomes likelier than the other.

    None where it tells too few of them apart (TELLING), or there are none.
    """
    if not len(mixed) or not len(decoys):
        return None
    cuts = np.quantile(mixed, np.linspace(0, 1, 513))
    above = [1 - np.searchsorted(np.sort(x), cuts) / len(x) for x in (mixed, decoys)]
    told = above[0] - above[1]
    return float(cuts[told.argmax()]) if told.max() >= TELLING else None
