"""Generated embeddings whose captions were moved."""

from __future__ import annotations

import numpy as np

from pairclean.arrays import Pairs
from pairclean.judge import Reference, Scorer
from pairclean.rematch import CandidatePool, Pool, calibrate_rematching, emit, fit_temperature, propose

DECOY_CLEAN = np.linspace(0.001, 0.2, 100)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Aligned embeddings; the suspects' captions are moved in a cycle, the sure ones are in place.

    orphans: share of the suspects whose caption has been replaced by one of a picture that is not there.
    """

    def __init__(self, suspects: int = 300, sure: int = 300, noise: float = 0.8, orphans: float = 0.0, seed: int = 0):
        rng = np.random.default_rng(seed)
        n, k = 2 * suspects + sure, 24
        latent = rng.standard_normal((n, k))
        image, text = (unit(latent + noise * rng.standard_normal((n, k))) for _ in range(2))
        carried = np.roll(np.arange(suspects), 1)  # suspect i has the caption of suspect i - 1
        gone = rng.permutation(suspects)[: round(orphans * suspects)]
        carried[gone] = suspects + gone  # captions of nobody here
        self.home = np.full(suspects, -1)  # who carries one's own caption
        for i, c in enumerate(carried):
            if c < suspects:
                self.home[c] = i
        rows = np.arange(suspects)
        pairs = Pairs(image[rows], text[carried], rows, carried + 10_000)
        self.suspects = Pool(pairs, rng.choice(DECOY_CLEAN, suspects))
        rows = np.arange(2 * suspects, n)
        self.sure = Pool(Pairs(image[rows], text[rows], rows, rows + 10_000), np.full(sure, 0.99))
        reference = Reference.of(Pool.joined(self.suspects, self.sure).pairs)
        self.scorer = Scorer(reference, fit_temperature(self.sure.pairs.image[:], self.sure.pairs.text[:]))

    def emitted(self, precision: float = 0.9, seed: int = 0) -> tuple[int, float, float]:
        """How many rematches, how many of them right, and the expected precision."""
        found = calibrate_rematching(CandidatePool(self.suspects, self.scorer), self.sure, DECOY_CLEAN, seed=seed)
        assert found is not None
        proposals = propose(self.suspects, self.scorer, found.options)
        chance = np.where(proposals.partner >= 0, found(proposals.mass), 0)
        chosen = emit(chance, precision)
        right = proposals.partner[chosen] == self.home[chosen]
        if not chosen.any():
            return 0, 1.0, 1.0
        return int(chosen.sum()), float(right.mean()), float(chance[chosen].mean())
