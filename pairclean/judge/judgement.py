"""From scores to what is said about each pair, or to the sentence why nothing can be said."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from .crossfit import Scores
from .decoys import DecoyCalibration, DecoyScale, Rate, calibrate
from .mixture import MixtureCalibration, calibrate_mixture

FOLDS = 5
FEWEST = 100  # readable pairs; fewer say nothing about a rate
SEPARATION = 4.0  # standard errors by which observed pairs must score above decoys

#: Scores in the encoder's own space; the others, "first" and "aligned", are in one that was learned.
ENCODER_SCORES = ("clip", "negclip", "lemon")
#: How scores become probabilities.
Kind = Literal["decoy", "beta", "gauss"]


class Calibration(Protocol):
    """What was fitted: enough to judge any score, also of pairs that were not there then."""

    @property
    def rate(self) -> Rate: ...

    def clean_probability(self, score: np.ndarray) -> np.ndarray:
        """P(matched | score), strictly increasing.  (n,) float64 -> (n,) float64."""

    def to_json(self) -> dict[str, Any]: ...


def calibrate_scores(scores: Scores, kind: Kind = "decoy", *, rate: Rate | None = None, seed: int = 0) -> Calibration:
    """rate: the mismatch rate where it is known better than these scores tell it; None estimates it from them."""
    if kind == "decoy":
        return calibrate(scores.score, scores.decoys, rate=rate, seed=seed)
    return calibrate_mixture(scores.score, kind, rate=rate, seed=seed)


def read_calibration(data: dict[str, Any]) -> Calibration:
    """What `to_json` gave."""
    return (DecoyCalibration if data["kind"] == "decoy" else MixtureCalibration).from_json(data)


def judge_scores(scores: Scores, untouched: Scores, kind: Kind = "decoy", *, seed: int = 0) -> Calibration:
    """Calibrate `scores`, with the mismatch rate taken from `untouched`.

    untouched: scores of models that no judgement of these pairs has reached. Retrained models rank pairs better, but
    what they learned from was found by models that had seen the pairs they now score, and so they underrate mismatches.
    """
    first = calibrate_scores(untouched, kind, seed=seed)
    if scores is untouched:
        return first
    return calibrate_scores(scores, kind, rate=first.rate, seed=seed)


def keeping(clean_probability: np.ndarray, fraction: float) -> float:
    """The threshold below which pairs are flagged so that the likeliest `fraction` of those judged are not.

    clean_probability: (N,) float32 or values of it, NaN where not judged.  fraction: in (0, 1].
    At least one pair stays; such as tie with the last to stay do so too.  0 where nothing is judged.
    """
    judged = np.sort(clean_probability[~np.isnan(clean_probability)])
    if not len(judged):
        return 0.0
    return float(judged[len(judged) - max(1, round(fraction * len(judged)))])


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
