"""From scores to what is said about each pair, or to the sentence why nothing can be said."""

from __future__ import annotations

import numpy as np

from .crossfit import Scores
from .decoys import Calibration, DecoyScale, calibrate

FOLDS = 5
FEWEST = 100  # readable pairs; fewer say nothing about a rate
SEPARATION = 4.0  # standard errors by which observed pairs must score above decoys


def judge_scores(scores: Scores, untouched: Scores, *, seed: int = 0) -> Calibration:
    """Calibrate `scores`, with the mismatch rate taken from `untouched`.

    untouched: scores of models that no judgement of these pairs has reached. Retrained models rank pairs better, but
    what they learned from was found by models that had seen the pairs they now score, and so they underrate mismatches.
    """
    first = calibrate(untouched.score, untouched.decoys, seed=seed)
    if scores is untouched:
        return first
    return calibrate(scores.score, scores.decoys, rate=first.rate, seed=seed)


def all_alike(scores: Scores) -> str | None:
    """Why nothing can be calibrated, be the pairs matched or not; None if it can."""
    finite = np.isfinite(scores.score).all() and np.isfinite(scores.decoys).all()
    if not finite or not len(scores.decoys) or len(DecoyScale.fit(scores.decoys).score) < 2:
        return "every pair scores the same: the encoder tells nothing apart"
    return None


def cannot_judge(scores: Scores) -> str | None:
    """Why the data cannot support a judgement; None if they can."""
    why = all_alike(scores)
    if why:
        return why
    rank = scores.rank()
    margin = (float(rank.mean()) - 0.5) * np.sqrt(12 * len(rank))
    if margin < SEPARATION:
        return (
            "the pairs score no higher than random re-pairings: the encoder does not tell matches from mismatches here"
        )
    return None
