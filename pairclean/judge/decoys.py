"""The scale that random re-pairings give to scores, and what is said of the mismatch rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.95
#: The share of `clean_probability` that is a plain logistic of the evidence. It keeps the order of pairs near 0 and 1,
#: where posteriors would round to the same float32.
TIE_BREAK = 5e-3


@dataclass(frozen=True)
class DecoyScale:
    """Scores -> the logit of p, the share of decoys that score at least as high.

    score, logit: (k,) knots, score increasing and logit decreasing; linear between and beyond them.
    """

    score: np.ndarray
    logit: np.ndarray

    @staticmethod
    def fit(decoys: np.ndarray, *, knots: int = 256) -> DecoyScale:
        """decoys: (m,) scores. Knots are quantiles, evenly spaced in the logit, up to ten decoys from either end."""
        edge = np.log(max(len(decoys), 40) / 10 - 1)
        logit = np.linspace(edge, -edge, knots)
        score = np.quantile(decoys, 1 - _sigmoid(logit))
        keep = np.concatenate([[True], np.diff(score) > 1e-9 * max(1e-9, float(np.ptp(score)))])
        return DecoyScale(score[keep], logit[keep])

    def __call__(self, score: np.ndarray) -> np.ndarray:
        out = np.interp(score, self.score, self.logit)
        step = min(4, len(self.score) - 1)
        if not step:  # all decoys score alike
            return out - (score - self.score[0])
        for end, inner, beyond in ((0, step, score < self.score[0]), (-1, -1 - step, score > self.score[-1])):
            slope = (self.logit[end] - self.logit[inner]) / (self.score[end] - self.score[inner])
            out = np.where(beyond, self.logit[end] + slope * (score - self.score[end]), out)
        return out

    def to_json(self) -> dict[str, Any]:
        return {"score": self.score.tolist(), "logit": self.logit.tolist()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> DecoyScale:
        return DecoyScale(np.array(data["score"]), np.array(data["logit"]))


@dataclass(frozen=True)
class Rate:
    """The mismatch rate, and its interval of confidence `level`.

    why_wide: why `low` and `high` are a range and no plain confidence interval; None if they are one.
    parts: what the rate is made of: `random`, `within_kind`, `generic` (captions), `placeholder` (images), `shifted`
    (captions that moved together), each with `estimate`, `low` and `high`; empty where the calibration does not
    distinguish them.
    """

    estimate: float
    low: float
    high: float
    level: float = LEVEL
    why_wide: str | None = None
    parts: dict[str, dict[str, float]] = field(default_factory=dict)


def tie_break(posterior: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """A posterior that never falls in the standardised evidence, made to rise in it."""
    return (1 - TIE_BREAK) * posterior + TIE_BREAK * _sigmoid(evidence)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(x)
