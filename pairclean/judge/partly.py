"""Captions that are partly wrong, by the fit of the whole caption (s) and that of its weakest phrase (u).

The model is that of `bivariate`, with u in place of the standing, and captions of which a phrase was exchanged in place
of re-pairings within kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import binormal, bivariate
from .bivariate import Bivariate
from .crossfit import Scores
from .decoys import DecoyScale
from .evidence import probit

#: Evidence for captions that are partly wrong, per pair: without any the gain was at most .0014, with 20% of them (and
#: 20% random mismatches) .005, with 40% .008 in a learned space and .025 in an encoder's own.
PARTLY_PER_PAIR = 0.003
#: With fewer captions read by phrases, or exchanged, nothing is said of captions that are partly wrong: of 300 pairs
#: without a mismatch, many were taken for such in a learned space.
FEWEST_READ = 1000


@dataclass(frozen=True)
class ByPhrase:
    """The sample of pairs that was read by phrases.

    phrases: the scale of weakest phrases.  s, u: fits of the caption and of its weakest phrase, of the n pairs.
    weight: (n,) of the pairs, 0 where they take no part.
    counts, random: histograms of pairs and of re-pairings, by s and u.
    within, partial: s and u of re-pairings within kinds, and of captions of which a phrase was exchanged, (m,) each.
    source: (m,) the pairs that the latter were.
    """

    phrases: DecoyScale
    s: np.ndarray
    u: np.ndarray
    weight: np.ndarray
    counts: np.ndarray
    random: np.ndarray
    within: tuple[np.ndarray, np.ndarray]
    partial: tuple[np.ndarray, np.ndarray]
    source: np.ndarray

    @staticmethod
    def of(scores: Scores, overall: DecoyScale, single: np.ndarray, weight: np.ndarray) -> ByPhrase | None:
        """None where too little could be read.

        overall: the scale of all random re-pairings.  single: (n,) bool, pairs without a meaningless identity.
        weight: (n,) of the pairs.
        """
        read = scores.phrased
        assert read is not None
        decoys = read.decoys[~np.isnan(read.decoys[:, 1])]
        enough = (single & ~np.isnan(read.weakest)).sum() >= FEWEST_READ and len(read.source) >= FEWEST_READ
        if not enough or np.ptp(decoys[:, 1]) < 1e-9:
            return None
        phrases = DecoyScale.fit(decoys[:, 1])

        def fits(score: np.ndarray, weakest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return probit(overall(score)), probit(phrases(weakest))

        s, u = fits(scores.score, read.weakest)
        weight = np.where(single, weight, 0.0)
        counts = bivariate.histogram(s, u, weight, axis=bivariate.WEAKEST)
        random, within, partial = (fits(*drawn.T) for drawn in (decoys, read.within, read.partial))
        return ByPhrase(phrases, s, u, weight, counts, _mass(random), within, partial, read.source)

    def found(self, right: np.ndarray, least_gain: float) -> bool:
        """Whether there is evidence for captions that are partly wrong, and more than for mismatches within kinds.

        right: (n,) P(matched) by the evidence alone.  least_gain: in log likelihood, at least.
        """
        masses = self._exchanged(right), _mass(self.within)
        without = self._fitted(None).log_likelihood
        gains = [self._fitted(mass).log_likelihood - without for mass in masses]
        return gains[0] > max(least_gain, PARTLY_PER_PAIR * float(self.counts.sum()), gains[1])

    def fit(
        self, right: np.ndarray, mismatched: float | None = None
    ) -> tuple[Bivariate, np.ndarray, tuple[float, float]]:
        """The model, the mass of such captions by s alone (cells of `binormal`), and the range of the mismatched share.

        right: as in `found`.  mismatched: the share, where it is known.

        The captions of which a phrase is exchanged should be right before. They are weighted by what is known of this:
        first by the evidence, then by the fit that results. The range goes as far again as that moves the share.
        """
        shares, right, known = [], right.copy(), ~np.isnan(self.u)
        for _ in range(2):
            model = self._fitted(self._exchanged(right), mismatched)
            shares.append(model.mismatched)
            right[known] = model.clean_probability(self.s[known], self.u[known])
        model = bivariate.with_errors(self.counts, model)
        moved, error = abs(shares[1] - shares[0]), model.errors[0]
        ends = max(0.0, min(shares) - error), min(1.0, max(shares) + moved + error)
        by_s = binormal.smoothed(binormal.histogram(self.partial[0], right[self.source]))
        return model, by_s, ends

    def _exchanged(self, right: np.ndarray) -> np.ndarray:
        """Mass of captions of which a phrase was exchanged, if they were right before.  right: as in `found`."""
        return _mass(self.partial, (right * (self.weight > 0))[self.source])

    def _fitted(self, mass: np.ndarray | None, mismatched: float | None = None) -> Bivariate:
        """mass: of mismatches of another sort; None fits none."""
        return bivariate.fit(self.counts, self.random, mass, mismatched=mismatched, axis="weakest")


def _mass(fits: tuple[np.ndarray, np.ndarray], weight: np.ndarray | None = None) -> np.ndarray:
    """Of the fits of captions and of their weakest phrases, (m,) each."""
    axis = bivariate.WEAKEST
    return bivariate.smoothed(bivariate.histogram(*fits, weight, axis=axis), axis=axis)
