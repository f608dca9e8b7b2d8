"""What methods that learn heads by batches share: batches of pairs, their coordinates, optimiser steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Pairs, Rows, chunks, single
from .alignment import Alignment, Head
from .canonical import canonical_maps
from .losses import same_identity

BATCH = 1024
#: The most pairs in one epoch, drawn anew for each epoch: this bounds the cost of learning from millions of pairs.
LARGEST_EPOCH = 2**17
#: An encoder that is already aligned is only tuned. At the rate for a fresh start, a few thousand pairs make it worse,
#: even without noise.
LEARNING_RATE, TUNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 1e-4, 1e-2, 2.0
#: The initial temperature of the similarities.
TEMPERATURE = 0.05


class Trainer(Alignment):
    """Residual heads on a linear start.  `_begin` makes them, and a method's `fit` trains them by `_step`s.

    comparable: whether images and captions already share the encoder's space; training then starts at the identity.
    """

    image: Head
    text: Head
    largest_epoch: int = LARGEST_EPOCH

    def __init__(self, *, comparable: bool, device: str = "cpu", seed: int = 0):
        super().__init__(device=device)
        self.comparable, self.seed = comparable, seed

    def _begin(self, pairs: Pairs, rows: np.ndarray, weight: np.ndarray, epochs: int) -> Batches:
        """weight: (n,) of the rows in the linear start, zero for pairs that no step contrasts.  epochs: the length of
        the learning rate's schedule.
        """
        image, text = pairs.image, pairs.text
        if self.comparable:
            self.image = Head(image.shape[1], seed=self.seed)
            self.text = Head(text.shape[1], seed=self.seed + 1)
        else:
            to_image, to_text, correlation = canonical_maps(image, text, rows, weight)
            self.image = Head(image.shape[1], to_image, correlation, seed=self.seed)
            self.text = Head(text.shape[1], to_text, correlation, seed=self.seed + 1)
        self.image.to(self.device), self.text.to(self.device)
        self.log_scale = nn.Parameter(torch.tensor(-np.log(TEMPERATURE), dtype=torch.float32, device=self.device))
        learned = [p for h in (self.image, self.text) for p in h.parameters()]
        steps = _steps(int(np.count_nonzero(weight)), self.largest_epoch)
        self.optimiser = torch.optim.AdamW(
            [{"params": learned, "weight_decay": WEIGHT_DECAY}, {"params": [self.log_scale], "weight_decay": 0.0}]
        )
        rate = TUNING_RATE if self.comparable else LEARNING_RATE
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, rate, total_steps=epochs * steps, pct_start=0.15
        )
        return Batches(pairs, rows, self)

    def _logits(self, similarity: Tensor) -> Tensor:
        """Similarities divided by the temperature, which is also learned."""
        return similarity * self.log_scale.exp().clamp(max=100)

    def _step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], CLIP)
        self.optimiser.step()
        self.schedule.step()


def _steps(pairs: int, most: int) -> int:
    """The number of batches in an epoch."""
    return max(1, round(min(pairs, most) / BATCH))


class Batches:
    """The pairs to learn from, in batches; an index below is a position in `rows`."""

    def __init__(self, pairs: Pairs, rows: np.ndarray, owner: Trainer):
        self.rows, self.owner = rows, owner
        self.image_id, self.caption_id = (torch.from_numpy(ids[rows]) for ids in (pairs.image_id, pairs.caption_id))
        self.image, self.text = Coordinates(owner.image, pairs.image, rows), Coordinates(owner.text, pairs.text, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, among: Tensor | None = None, *, most: int | None = None) -> list[Tensor]:
        """One epoch.  among: (m,) int64, the positions to draw from; None means all.  most: the most to draw; None
        means the owner's `largest_epoch`.
        """
        most = self.owner.largest_epoch if most is None else most
        chosen = torch.arange(len(self.rows)) if among is None else among
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(self.owner.seed + epoch))
        return list(chosen[order[:most]].tensor_split(_steps(len(chosen), most)))

    def similarity(self, batch: Tensor) -> Tensor:
        """(B, B) cosines of the batch's images (rows) and captions."""
        images, captions = self.embedded(batch)
        return images @ captions.T

    def embedded(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """(B, k) unit rows in the common space: the batch's images, and its captions."""
        return self.owner.image.finish(self.image[batch]), self.owner.text.finish(self.text[batch])

    def same(self, batch: Tensor) -> Tensor:
        return same_identity(self.image_id[batch], self.caption_id[batch]).to(self.owner.device)


class Coordinates:
    """Each pair's coordinates before its head's learned part, (n, k). They do not change during training: those of a
    linear start are small, computed once and kept; those of the encoder's own space are read batch by batch.
    """

    def __init__(self, head: Head, x: Rows, rows: np.ndarray):
        self.head, self.x, self.rows = head, x, rows
        self.held: Tensor | None = None
        if head.matrix is not None:
            self.held = torch.cat([self._start(rows[part]) for part in chunks(len(rows), 16384)])

    def __getitem__(self, batch: Tensor) -> Tensor:
        if self.held is not None:
            return self.held[batch.to(self.held.device)]
        return self._start(self.rows[batch.numpy()])

    def _start(self, rows: np.ndarray) -> Tensor:
        with torch.no_grad():
            return self.head.start(torch.from_numpy(single(self.x[rows])).to(self.head.scale.device))
