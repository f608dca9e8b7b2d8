"""Captions that are half right: how they would score, and which mismatches score like them.

A caption of which half belongs to another image has about the mean of two captions' vectors. Such mixtures, made from
likely matches, represent partial mismatches as random re-pairings represent complete ones. They lie between complete
mismatches and matches and overlap with both: how many there are in the data cannot be estimated, only how they would
score.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Pairs, chunks, unit
from .crossfit import CrossFit, Scores
from .scores import Scorer

#: Number of mixtures.
MIXTURES = 20_000
#: Least difference between the shares of mixtures and of decoys above the cut; below it, kinds are not reported.
TELLING = 0.5
CHUNK = 16_384


def mixed_scores(
    cross_fit: CrossFit, pairs: Pairs, scores: Scores, clean_probability: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """(m,) float64, scores of images with the mean of their own caption's vector and a random other caption's.

    scores: of `cross_fit` over `pairs`.  clean_probability: (n,) of the pairs scored, by which images are drawn.
    Empty where the scores are not a `Scorer`'s, or no pair is likely to be matched.
    """
    rows, scorers = cross_fit.rows, scores.scorers
    likely = np.where(clean_probability >= 0.5, clean_probability, 0.0)
    if not likely.any() or not scorers or not all(isinstance(scorer, Scorer) for scorer in scorers):
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(rows), min(MIXTURES, 10 * len(rows)), p=likely / likely.sum())
    other = rng.choice(len(rows), len(drawn))
    drawn_from = cross_fit.take(drawn)
    out = []
    # In two halves, so that the captions of each half can be left out of its reference: the true caption of a
    # mismatched pair is not there either.
    _, text_of = np.unique(pairs.caption_id[rows[drawn]], return_inverse=True)
    for half in range(2):
        for (model, members), scorer in zip(drawn_from.members(), scorers, strict=True):
            mine = members[text_of[members] % 2 == half]
            blind = scorer.without(np.zeros(0, np.int64), pairs.caption_id[rows[drawn[mine]]])
            for part in chunks(len(mine) if len(blind.reference.text) else 0, CHUNK):
                at, foreign = rows[drawn[mine[part]]], rows[other[mine[part]]]
                own, theirs = (unit(np.asarray(pairs.text[rows_of], np.float32)) for rows_of in (at, foreign))
                x, y = model.embed_image(pairs.image[at]), model.embed_text(unit(own + theirs))
                similarity = np.einsum("ij,ij->i", x, y)
                nowhere = np.zeros(len(at), np.int64)  # the identity of no readable caption
                out.append(blind.combine(similarity, *blind.hubness(x, y), pairs.image_id[at], nowhere))
    return np.concatenate(out) if out else np.zeros(0)


def kind_cut(mixed: np.ndarray, decoys: np.ndarray) -> float | None:
    """The score that best separates mixtures from decoys; above it a mixture is likelier.

    None where it separates too few of them (TELLING), or there are none.
    """
    if not len(mixed) or not len(decoys):
        return None
    cuts = np.quantile(mixed, np.linspace(0, 1, 513))
    above = [1 - np.searchsorted(np.sort(x), cuts) / len(x) for x in (mixed, decoys)]
    told = above[0] - above[1]
    return float(cuts[told.argmax()]) if told.max() >= TELLING else None
