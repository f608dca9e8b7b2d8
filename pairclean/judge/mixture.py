"""The mismatch rate and the clean probability by a two-component mixture of the scores, without decoys.

The component of lower scores is assumed to be the mismatched pairs. Nothing guarantees that: clean data are split into
two components as well, and the rate depends on the shapes that two beta or Gaussian densities can have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..align.mixtures import BetaMixture, GaussianMixture, fit_beta_mixture, fit_gaussian_mixture
from .decoys import LEVEL, Rate, tie_break
from .evidence import Scored

Kind = Literal["beta", "gauss"]
#: Bootstrap samples, and the pairs in one; of more pairs, the rate's spread is scaled down (m out of n bootstrap).
BOOTSTRAPS, SAMPLE = 60, 1000


@dataclass(frozen=True)
class MixtureCalibration:
    """Two components over the loss, which is the negative score.  centre, width: of the observed scores."""

    kind: Kind
    mixture: BetaMixture | GaussianMixture
    rate: Rate
    centre: float
    width: float

    @property
    def prior(self) -> float:
        return self.rate.estimate

    def clean_probability(self, scored: Scored) -> np.ndarray:
        """P(matched), (n,) float64, strictly increasing in the score; kinds play no part."""
        score = scored.score
        return tie_break(1 - self.mixture.posterior_noisy(-score), (score - self.centre) / self.width)

    def to_json(self) -> dict[str, Any]:
        fields = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.mixture).items()}
        return {
            "kind": self.kind,
            "mismatch_rate": asdict(self.rate),
            "centre": self.centre,
            "width": self.width,
            "mixture": fields,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> MixtureCalibration:
        fields: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in data["mixture"].items()}
        mixture = (BetaMixture if data["kind"] == "beta" else GaussianMixture)(**fields)
        return MixtureCalibration(data["kind"], mixture, Rate(**data["mismatch_rate"]), data["centre"], data["width"])


def calibrate_mixture(
    observed: np.ndarray, kind: Kind, *, rate: Rate | None = None, seed: int = 0
) -> MixtureCalibration:
    """observed: (n,) scores of the pairs.  rate: as in `decoys.calibrate`; it replaces the fitted weights.

    The rate is the weight of the component of lower scores; its interval is from bootstrap samples.
    """
    mixture = _fit(observed, kind)
    if rate is None:
        estimate, rng = float(mixture.weight[1]), np.random.default_rng(seed)
        size = min(len(observed), SAMPLE)
        again = np.array([_fit(rng.choice(observed, size), kind).weight[1] for _ in range(BOOTSTRAPS)])
        again = estimate + (again - np.median(again)) * np.sqrt(size / len(observed))
        low, high = np.clip(np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]), 0, 1)
        rate = Rate(estimate, min(float(low), estimate), max(float(high), estimate))
    else:
        noisy = float(np.clip(rate.estimate, 0.5 / len(observed), 1 - 0.5 / len(observed)))
        mixture = replace(mixture, weight=np.array([1 - noisy, noisy]))
    return MixtureCalibration(kind, mixture, rate, float(np.median(observed)), float(observed.std()) or 1.0)


def _fit(observed: np.ndarray, kind: Kind) -> BetaMixture | GaussianMixture:
    """With each fit's own number of steps: at convergence, the two beta densities can coincide."""
    return (fit_beta_mixture if kind == "beta" else fit_gaussian_mixture)(-observed)
