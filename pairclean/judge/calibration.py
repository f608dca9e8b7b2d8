"""From scores to probabilities, or to the reason why the data do not support any."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from .crossfit import Scores
from .decoy_calibration import DecoyCalibration
from .decoy_fit import calibrate
from .decoys import DecoyScale, Rate
from .evidence import Scored
from .mixture import MixtureCalibration, calibrate_mixture

FEWEST = 100  # readable pairs; with fewer no rate can be estimated
SEPARATION = 4.0  # standard errors by which observed pairs must score above decoys
#: How scores become probabilities.
Kind = Literal["decoy", "beta", "gauss"]


class Calibration(Protocol):
    """What was fitted; it gives the probability for any score, also of pairs that it was not fitted on.

    rate: the mismatch rate.  prior: P(mismatched) before the score is seen.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def rate(self) -> Rate: ...

    @property
    def prior(self) -> float: ...

    def clean_probability(self, scored: Scored) -> np.ndarray:
        """P(matched), (n,) float64, strictly increasing in the score among pairs of the same kinds."""

    def to_json(self) -> dict[str, Any]: ...


def calibrate_scores(
    scores: Scores, kind: Kind = "decoy", *, like: Calibration | None = None, seed: int = 0
) -> Calibration:
    """like: a calibration of the same pairs by other scores, whose mismatch rate is kept; None estimates the rate."""
    if kind == "decoy":
        assert like is None or isinstance(like, DecoyCalibration)
        return calibrate(scores, like=like)
    return calibrate_mixture(scores.score, kind, rate=None if like is None else like.rate, seed=seed)


def read_calibration(data: dict[str, Any]) -> Calibration:
    """The inverse of `Calibration.to_json`."""
    return (DecoyCalibration if data["kind"] == "decoy" else MixtureCalibration).from_json(data)


def judge_scores(scores: Scores, unbiased: Scores, kind: Kind = "decoy", *, seed: int = 0) -> Calibration:
    """Calibrate `scores`, with the mismatch rate estimated from `unbiased`.

    unbiased: scores of models that did not use any judgement of these pairs. Models of the second round rank pairs
    better, but they learned from probabilities that came from models which had seen the pairs that they now score, and
    so they underestimate the mismatch rate.
    """
    first = calibrate_scores(unbiased, kind, seed=seed)
    if scores is unbiased:
        return first
    return calibrate_scores(scores, kind, like=first, seed=seed)


def keeping(clean_probability: np.ndarray, fraction: float) -> float:
    """The threshold that keeps the likeliest `fraction` of the judged pairs: those below it are flagged.

    clean_probability: (N,) float32 or values of it, NaN where not judged.  fraction: in (0, 1].
    At least one pair is kept, and ties with the last one kept are kept.  0 if nothing is judged.
    """
    judged = np.sort(clean_probability[~np.isnan(clean_probability)])
    if not len(judged):
        return 0.0
    return float(judged[len(judged) - max(1, round(fraction * len(judged)))])


def all_alike(scores: Scores) -> str | None:
    """Why these scores cannot be calibrated, whether the pairs are matched or not; None if they can."""
    finite = np.isfinite(scores.score).all() and np.isfinite(scores.decoys).all()
    if not finite or not len(scores.decoys) or len(DecoyScale.fit(scores.decoys).score) < 2:
        return "every pair scores the same: the encoder tells nothing apart"
    return None


def cannot_judge(scores: Scores) -> str | None:
    """Why the data do not support a judgement; None if they do."""
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
