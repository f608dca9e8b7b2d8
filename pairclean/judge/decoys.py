"""The mismatch rate and the probability that a pair is matched, calibrated by decoys.

Random re-pairings sample the scores of mismatched pairs exactly, when mismatches are random. Write p for the share of
decoys that score at least as high as a pair: p is uniform over mismatched pairs, and small for matched ones. Observed
pairs then have the density

    g(p) = r + (1 - r) h(p),        h(p) = sum_k w_k a_k (1 - p)^(a_k - 1)

with r the mismatch rate and h, the matched pairs' density, a mixture of decreasing densities whose weights are fitted
by maximum likelihood (the beta-uniform mixture of Pounds and Morris 2003, with the one beta replaced by a mixture).
It needs no bandwidth, and the posterior r / g(p) is strictly monotone in the score by construction.

Where mismatches resemble matches they score higher than decoys, and the rate is a lower bound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

#: The flattest matched component: at A_MIN = 4 the worst half of the decoys' range holds 6% of its pairs. Flatter
#: components cannot be distinguished from the mismatched pairs.
A_MIN = 4.0
BINS = 400
ITERATIONS = 500
BOOTSTRAPS = 200
LEVEL = 0.95
#: The share of `clean_probability` that is a plain logistic of the score. It keeps the order of pairs near 0 and 1,
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
    def fit(decoys: np.ndarray) -> DecoyScale:
        """decoys: (m,) scores. Knots are quantiles, evenly spaced in the logit, up to ten decoys from either end."""
        edge = np.log(max(len(decoys), 40) / 10 - 1)
        logit = np.linspace(edge, -edge, 256)
        score = np.quantile(decoys, 1 - _sigmoid(logit))
        keep = np.concatenate([[True], np.diff(score) > 1e-9 * max(1e-9, float(np.ptp(score)))])
        return DecoyScale(score[keep], logit[keep])

    def __call__(self, score: np.ndarray) -> np.ndarray:
        out = np.interp(score, self.score, self.logit)
        step = min(4, len(self.score) - 1)
        for end, inner, beyond in ((0, step, score < self.score[0]), (-1, -1 - step, score > self.score[-1])):
            slope = (self.logit[end] - self.logit[inner]) / (self.score[end] - self.score[inner])
            out = np.where(beyond, self.logit[end] + slope * (score - self.score[end]), out)
        return out


@dataclass(frozen=True)
class Rate:
    """The mismatch rate, and its interval of confidence `level`."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True)
class DecoyCalibration:
    """What was fitted; it gives the probability for any score, also of pairs that it was not fitted on.

    prior: P(mismatched) before the score is seen: the rate, but half a pair away from 0 and 1.
    sharpness: (k,) the a_k; weight: (k,) the w_k, summing to 1.  centre, width: of the observed scores, for TIE_BREAK.
    """

    kind: ClassVar[Literal["decoy"]] = "decoy"
    scale: DecoyScale
    rate: Rate
    prior: float
    sharpness: np.ndarray
    weight: np.ndarray
    centre: float
    width: float

    def likelihood_ratio(self, score: np.ndarray) -> np.ndarray:
        """Density of the score among matched pairs over that among decoys.  (n,) -> (n,) float64, increasing."""
        log_q = _log_complement(self.scale(score))
        return np.exp(log_q[:, None] * (self.sharpness - 1)) @ (self.weight * self.sharpness)

    def clean_probability(self, score: np.ndarray) -> np.ndarray:
        """P(matched | score), strictly increasing.  (n,) float64 -> (n,) float64."""
        matched = (1 - self.prior) * self.likelihood_ratio(score)
        return tie_break(matched / (matched + self.prior), (score - self.centre) / self.width)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "mismatch_rate": asdict(self.rate),
            "prior": self.prior,
            "centre": self.centre,
            "width": self.width,
            "sharpness": self.sharpness.tolist(),
            "weight": self.weight.tolist(),
            "knots": {"score": self.scale.score.tolist(), "logit": self.scale.logit.tolist()},
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> DecoyCalibration:
        knots = data["knots"]
        return DecoyCalibration(
            DecoyScale(np.array(knots["score"]), np.array(knots["logit"])),
            Rate(**data["mismatch_rate"]),
            data["prior"],
            np.array(data["sharpness"]),
            np.array(data["weight"]),
            data["centre"],
            data["width"],
        )


def calibrate(observed: np.ndarray, decoys: np.ndarray, *, rate: Rate | None = None, seed: int = 0) -> DecoyCalibration:
    """observed: (n,) scores of the pairs, decoys: (m,) scores of random re-pairings by the same formula.

    rate: the mismatch rate, if a better estimate than these scores give is known; None estimates it from them.
    """
    scale = DecoyScale.fit(decoys)
    logit = scale(observed)
    edges = np.linspace(min(logit.min(), scale.logit[-1]) - 1e-6, max(logit.max(), scale.logit[0]) + 1e-6, BINS + 1)
    counts = np.histogram(logit, edges)[0].astype(float)
    sharpness = np.geomspace(A_MIN, max(len(decoys) / 10, 10 * A_MIN), 24)
    # Mass of each component in each bin; the first column is the uniform, the mismatched.
    log_q = _log_complement(edges)
    mass = np.column_stack([-np.diff(np.exp(log_q * a)) for a in (1.0, *sharpness)]) + 1e-300
    even = np.full((1, mass.shape[1]), 1 / mass.shape[1])
    if rate is None:
        weight = _mixture(counts[None], mass, even)
        rng = np.random.default_rng(seed)
        again = rng.multinomial(len(observed), counts / counts.sum(), size=BOOTSTRAPS).astype(float)
        rates = _mixture(again, mass, np.repeat(0.9 * weight + 0.1 * even, BOOTSTRAPS, axis=0))[:, 0]
        low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        estimate = float(weight[0, 0])
        half = 0.5 / len(observed)  # less than half a pair counts as none
        # If all samples agree, as for data without a mismatch, the interval is that of none seen among n.
        sure = ((1 - LEVEL) / 2) ** (1 / len(observed))
        low, high = min(float(low), estimate, sure), max(float(high), estimate, 1 - sure)
        rate = Rate(estimate, low if low > half else 0.0, high if high < 1 - half else 1.0)
    else:
        weight = _mixture(counts[None], mass, even, fixed=rate.estimate)
    matched = weight[0, 1:] / max(float(weight[0, 1:].sum()), 1e-12)
    width = float(observed.std()) or 1.0
    prior = float(np.clip(rate.estimate, 0.5 / len(observed), 1 - 0.5 / len(observed)))
    return DecoyCalibration(scale, rate, prior, sharpness, matched, float(np.median(observed)), width)


def _mixture(counts: np.ndarray, mass: np.ndarray, start: np.ndarray, fixed: float | None = None) -> np.ndarray:
    """EM for the weights of fixed components.  counts: (b, bins), mass: (bins, k), start: (b, k) -> (b, k).

    fixed: the first component's weight, if it is not fitted.
    """
    weight = start
    share = counts / counts.sum(1, keepdims=True)
    for _ in range(ITERATIONS):
        weight = weight * ((share / (weight @ mass.T)) @ mass)
        if fixed is not None:
            weight[:, 1:] *= (1 - fixed) / np.maximum(weight[:, 1:].sum(1, keepdims=True), 1e-300)
            weight[:, 0] = fixed
    return weight / weight.sum(1, keepdims=True)


def tie_break(posterior: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Make a posterior that is non-decreasing in the standardised score strictly increasing."""
    return (1 - TIE_BREAK) * posterior + TIE_BREAK * _sigmoid(score)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(x)


def _log_complement(logit: np.ndarray) -> np.ndarray:
    """log(1 - p) from the logit of p, exact at both ends."""
    return -np.logaddexp(0, logit)
