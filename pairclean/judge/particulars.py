"""Whether a space knows a pair's particulars, and not only its kind: how captions like its own fit its image.

A model can separate random re-pairings better and yet know less. From pairs that were swapped within one kind it learns
the kinds and forgets the particulars. Random decoys do not show that; captions like the pair's own do.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Pairs, unit
from .crossfit import CrossFit, Scores
from .embedded import embedded
from .scores import hubness, reference_rows

NEAR = 20  # captions most like a pair's own
CHUNK = 4096  # pairs compared at once
#: The most pairs that are compared, drawn at random: the standard error of a mean rank is then about .002.
COMPARED = 20_000


def near_ranks(cross_fit: CrossFit, pairs: Pairs, scores: Scores, *, seed: int = 0) -> np.ndarray:
    """(m,) the share of the captions most like a pair's own that fit its image less well than its own does.

    Of all pairs of `cross_fit`, or of a sample of COMPARED of them, which depends on the seed alone.
    scores: of `cross_fit` over `pairs`, with the same seed.  Which captions are alike is decided by the encoder's own
    vectors, so that different models are compared on the same ones; they are from the reference sample, and never the
    same text.
    """
    sample = reference_rows(cross_fit.rows, np.random.default_rng(seed))
    if len(cross_fit.rows) > COMPARED:
        some = np.random.default_rng(seed).choice(len(cross_fit.rows), COMPARED, replace=False)
        cross_fit = cross_fit.take(np.sort(some))
    rows = cross_fit.rows
    alike = unit(np.asarray(pairs.text[sample], np.float32))
    out = np.empty(len(rows))
    for (model, place), scorer in zip(cross_fit.members(), scores.scorers, strict=True):
        r, t = scorer.reference, scorer.temperature
        penalty = t / 2 * hubness(r.text, r.image, t, model.device)
        for part, x, y in embedded(model, pairs, rows[place], size=CHUNK):
            at = place[part]
            likeness = unit(np.asarray(pairs.text[rows[at]], np.float32)) @ alike.T
            likeness[pairs.caption_id[rows[at]][:, None] == r.caption_id] = -np.inf
            near = np.argpartition(-likeness, min(NEAR, len(sample)) - 1, axis=1)[:, :NEAR]
            own = np.einsum("ij,ij->i", x, y) - t / 2 * hubness(y, r.image, t, model.device)
            fit = np.einsum("ik,ijk->ij", x, r.text[near]) - penalty[near]
            out[at] = (fit < own[:, None]).mean(1)
    return out


def keeps_particulars(learned: np.ndarray, plain: np.ndarray) -> bool:
    """Whether the `near_ranks` of a learned space are no worse than those of another, up to one standard error."""
    difference = learned - plain
    return bool(difference.mean() > -difference.std() / np.sqrt(len(difference)))
