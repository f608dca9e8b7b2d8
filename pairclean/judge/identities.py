"""Images and captions that say nothing of their partners: a placeholder with many captions, a slogan with many images.

A repeated identity is either ordinary, with the mismatch rate of all ordinary ones, or meaningless, with nearly all of
its pairs mismatched (a two-groups model, fitted by EM). How well the encoder knows an image shifts the evidence of all
of its matched captions together:

    log P(evidence | ordinary) = log sum_d P(d) prod_i (r f0(z_i) + (1 - r) f1(z_i - d)),    d ~ N(0, SHIFT)

Ordinary ones are judged as all other pairs are. They get no mismatch rate of their own, since low evidence of all pairs
of one image would then be taken for mismatches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from .binormal import Binormal, ratio_to_random
from .evidence import Scored

#: MEANINGLESS: the mismatch rate of meaningless identities before each gets its own. ORDINARY: the prior mismatch rate
#: of ordinary ones, which weighs as much as PRIOR_ORDINARY pairs. SHARE: the prior share of meaningless ones, which
#: weighs as much as PRIOR_IDENTITIES identities.
MEANINGLESS, ORDINARY, SHARE = 0.9, 0.1, 0.1
PRIOR_ORDINARY, PRIOR_IDENTITIES = 20.0, 10.0
#: The rate of all meaningless identities together weighs as much as so many pairs in the rate of each.
PRIOR_PAIRS = 2.0
#: The standard deviation of d, in the unit of the evidence, and the values of d that are summed over. It was .5 on
#: photos with fifteen captions each.
SHIFT, SHIFTS = 0.5, np.linspace(-1, 1, 5)
ROUNDS = 200


@dataclass(frozen=True)
class Identities:
    """The mismatch rates of meaningless identities.

    clusters: of images and of captions; kinds from these numbers on are repeated identities.
    image, text: (r,) float64 rate of every repeated identity, NaN where it is ordinary.
    """

    clusters: tuple[int, int]
    image: np.ndarray
    text: np.ndarray

    @staticmethod
    def none() -> Identities:
        return Identities((1, 1), np.zeros(0), np.zeros(0))

    @staticmethod
    def fit(
        scored: Scored, clusters: tuple[int, int], model: Binormal, z: np.ndarray, weight: np.ndarray
    ) -> Identities:
        """Which identities are meaningless.  model, z, weight: as in `with_rates`."""
        sides = zip((scored.image_kind, scored.text_kind), clusters, strict=True)
        image, text = (_meaningless(kind - first, model, z, weight) for kind, first in sides)
        return Identities(clusters, image, text)

    def group(self, scored: Scored) -> np.ndarray:
        """(n,) int64, the meaningless identity of each pair, images before texts; -1 for none."""
        image, text = self._places(scored)
        return np.where(image >= 0, image, np.where(text >= 0, len(self.image) + text, -1))

    def with_rates(self, scored: Scored, model: Binormal, z: np.ndarray, weight: np.ndarray) -> Identities:
        """The same, each with its own rate, drawn towards that of all of them.

        model: of the evidence.  z: (n,) float64 evidence; weight: (n,) float64 of the pairs.
        """
        group = self.group(scored)
        members = np.flatnonzero(group >= 0)
        at, of, w = group[members], ratio_to_random(model, z[members]), weight[members]
        size = np.bincount(at, w, len(self.image) + len(self.text))
        rate = np.full(len(size), MEANINGLESS)
        for _ in range(ROUNDS if len(members) else 0):
            noisy = w * rate[at] / (rate[at] + (1 - rate[at]) * of)
            overall = noisy.sum() / w.sum()
            rate = (np.bincount(at, noisy, len(size)) + PRIOR_PAIRS * overall) / (size + PRIOR_PAIRS)
        image, text = np.split(np.clip(rate, 1e-6, 1 - 1e-6), [len(self.image)])
        return Identities(
            self.clusters,
            np.where(np.isnan(self.image), np.nan, image),
            np.where(np.isnan(self.text), np.nan, text),
        )

    def rate(self, scored: Scored) -> np.ndarray:
        """(n,) the mismatch rate of each pair's meaningless identity, NaN where it has none."""
        group = self.group(scored)
        return np.where(group >= 0, np.concatenate([self.image, self.text, [np.nan]])[group], np.nan)

    def generic(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs whose caption says nothing of the many images that it is with."""
        return self._places(scored)[1] >= 0

    def placeholder(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs whose image fits none of the many captions that it is with."""
        return self._places(scored)[0] >= 0

    def _places(self, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 of each side: the place of the meaningless identity in `image` and in `text`, -1 for none."""
        places = []
        sides = (scored.image_kind, self.clusters[0], self.image), (scored.text_kind, self.clusters[1], self.text)
        for kind, first, rates in sides:
            at = np.clip(kind - first, -1, len(rates))
            places.append(np.where(np.isnan(np.concatenate([rates, [np.nan]]))[at], -1, at))
        return places[0], places[1]

    def to_json(self) -> dict[str, Any]:
        def side(rates: np.ndarray) -> list[float | None]:
            return [None if np.isnan(rate) else float(rate) for rate in rates]

        return {"clusters": list(self.clusters), "image": side(self.image), "text": side(self.text)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Identities:
        image, text = (np.array(data[side], np.float64) for side in ("image", "text"))
        return Identities((data["clusters"][0], data["clusters"][1]), image, text)


def _meaningless(identity: np.ndarray, model: Binormal, z: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(r,) float64, MEANINGLESS for the identities that are so, NaN for the others.

    identity: (n,) int64, negative for pairs that have none.
    """
    members = np.flatnonzero(identity >= 0)
    at, z, w = identity[members], z[members], weight[members]
    count = int(at.max(initial=-1)) + 1
    # f1(z - d) / f0(z)
    ratios = [ratio_to_random(model, z - d) * np.exp(z * d - d**2 / 2) for d in SHIFTS]
    prior = -0.5 * (SHIFTS / SHIFT) ** 2
    prior -= logsumexp(prior)

    def evidence(rate: float, ratio: np.ndarray) -> np.ndarray:
        return np.bincount(at, w * np.log(rate + (1 - rate) * ratio), count)

    wrong = evidence(MEANINGLESS, ratio_to_random(model, z))
    rate, share, odds = ORDINARY, SHARE, np.zeros(count)
    for _ in range(ROUNDS if count else 0):
        each = np.stack([evidence(rate, ratio) for ratio in ratios]) + prior[:, None]
        usual = logsumexp(each, axis=0)
        odds = expit(wrong - usual + np.log(share) - np.log1p(-share))
        of_shift = np.exp(each - usual) * (1 - odds)
        noisy = pairs = 0.0
        for ratio, p in zip(ratios, of_shift, strict=True):
            noisy += float((w * p[at] * rate / (rate + (1 - rate) * ratio)).sum())
            pairs += float((w * p[at]).sum())
        found = share, rate
        share = float((odds.sum() + SHARE * PRIOR_IDENTITIES) / (count + PRIOR_IDENTITIES))
        rate = (noisy + ORDINARY * PRIOR_ORDINARY) / (pairs + PRIOR_ORDINARY)
        if np.abs(np.subtract(found, (share, rate))).max() < 1e-4:
            break
    return np.where(odds > 0.5, MEANINGLESS, np.nan)
