"""What is random in training, in one place, so that a run can be resumed and a published one replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .data import Ints
from .split import k_means_start


class Draws(Protocol):
    """Every random choice of `Training` but dropout, which torch's own generator makes."""

    @property
    def identity(self) -> str:
        """The same for the same draws: a checkpoint is resumed only with those that it was made with."""

    def begin(self, epoch: int) -> None:
        """Called before every epoch; the warm-up comes first."""

    def batches(self, use: Literal["warm up", "split", "clean", "noisy"], among: Ints, size: int) -> Iterable[Ints]:
        """One pass over the pairs `among` in random order, (size,) each; the last may be smaller."""

    def queue(self, images: int, length: int) -> Ints:
        """(length,) different images of all, with which the queue begins."""

    def planted(self, pairs: int, slots: int) -> tuple[Ints, Ints]:
        """(k,) pairs of a clean batch and as many slots of the queue, k from 1 to a tenth of the pairs."""

    def mixture_start(self, loss: NDArray[np.float32]) -> Ints:
        """The component, 0 or 1, in which each loss starts, (n,)."""


class SeededDraws:
    """Draws from a seed. Every epoch has generators of its own, so that training can resume between two epochs.

    `begin` also seeds torch's global generator, for dropout.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = np.random.default_rng(seed)

    @property
    def identity(self) -> str:
        return f"seed {self.seed}"

    def begin(self, epoch: int) -> None:
        self.random = np.random.default_rng((self.seed, epoch))
        torch.manual_seed(int(self.random.integers(2**31)))

    def batches(self, use: str, among: Ints, size: int) -> Iterable[Ints]:
        order = self.random.permutation(among)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def queue(self, images: int, length: int) -> Ints:
        return self.random.permutation(images)[:length]

    def planted(self, pairs: int, slots: int) -> tuple[Ints, Ints]:
        k = min(slots, int(self.random.integers(1, max(1, pairs // 10) + 1)))
        return self.random.permutation(pairs)[:k], self.random.permutation(slots)[:k]

    def mixture_start(self, loss: NDArray[np.float32]) -> Ints:
        return k_means_start(loss, int(self.random.integers(2**31)))
