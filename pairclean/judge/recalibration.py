"""A logistic correction of clean probabilities, and how it is fitted to labels.

    logit p' = intercept + slope logit p

by the greatest likelihood of the labels (Platt 1999, *Probabilistic outputs for support vector machines*), each label
weighted by the number of pairs that it stands for in the sample's design. A prior pulls towards p' = p: it counts as
much as PRIOR_LABELS labels that are spread over all judged pairs and agree with p. The slope is positive, so that the
order of the pairs stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PRIOR_LABELS = 20.0
LEAST_SLOPE = 0.01
_EDGE = 1e-6  # nearest to 0 and 1 that a probability is taken to be


@dataclass(frozen=True)
class Recalibration:
    """What was fitted; it refits any clean probability of the same calibration.

    labels: how many it rests on.  rate: the mismatch rate of the labels, which the refitted probabilities contain.
    by_scores: the mismatch rate of the scores alone {estimate, low, high, level}.
    """

    intercept: float
    slope: float
    labels: int
    rate: float
    by_scores: dict[str, Any]

    def __call__(self, clean_probability: np.ndarray) -> np.ndarray:
        """(n,) float64, NaN where not judged."""
        from scipy.special import expit

        refitted: np.ndarray = expit(self.intercept + self.slope * log_odds(clean_probability))
        return refitted


def log_odds(probability: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    found: np.ndarray = logit(np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE))
    return found


def fit(
    clean_probability: np.ndarray, matched: np.ndarray, weight: np.ndarray, points: np.ndarray
) -> tuple[float, float]:
    """Intercept and slope.

    clean_probability, matched, weight: (n,) of the labelled pairs; only the ratios of the weights matter.
    points: (k,) clean probabilities that stand for all judged pairs.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    x = np.concatenate([log_odds(clean_probability), log_odds(points)])
    target = np.concatenate([matched.astype(float), expit(log_odds(points))])
    relative = weight / weight.mean() if len(weight) else weight
    counts = np.concatenate([relative, np.full(len(points), PRIOR_LABELS / len(points))])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] + parameters[1] * x
        slack = counts * (expit(z) - target)
        return float(counts @ (np.logaddexp(0, z) - target * z)), np.array([slack.sum(), slack @ x])

    found = minimize(loss, [0.0, 1.0], jac=True, bounds=[(None, None), (LEAST_SLOPE, None)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])
