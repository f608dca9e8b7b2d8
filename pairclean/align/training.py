"""What methods that learn heads by batches share: the pairs, their coordinates, the steps of an optimiser."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Rows, chunks
from .alignment import Alignment, Head
from .canonical import canonical_maps
from .losses import same_identity

BATCH = 1024
#: Pairs in an epoch at the most, drawn anew for each: what bounds the cost of learning from millions of pairs.
LARGEST_EPOCH = 2**17
#: An encoder that is aligned already is only tuned: at the rate of a fresh start a few thousand pairs undo more than
#: they teach, without any noise too.
LEARNING_RATE, TUNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 1e-4, 1e-2, 2.0
#: Of the similarity, where learning starts.
TEMPERATURE = 0.05


class Trainer(Alignment):
    """Linear start and residual heads; `_begin` makes them, and a method's `fit` learns them by `_step`s.

    comparable: whether the encoder's two spaces are one already; learning then starts at the identity."""

    image: Head
    text: Head

    def __init__(self, *, comparable: bool, device: str = "cpu", seed: int = 0):
        super().__init__(device=device)
        self.comparable, self.seed = comparable, seed

    def _begin(
        self,
        image: Rows,
        text: Rows,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        rows: np.ndarray,
        weight: np.ndarray,
        epochs: int,
    ) -> Pairs:
        """weight: (n,) of the rows in the linear start, zero for those that no step contrasts; epochs: over which the
        learning rate rises and falls.
        """
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
        steps = _steps(int(np.count_nonzero(weight)))
        self.optimiser = torch.optim.AdamW(
            [{"params": learned, "weight_decay": WEIGHT_DECAY}, {"params": [self.log_scale], "weight_decay": 0.0}]
        )
        rate = TUNING_RATE if self.comparable else LEARNING_RATE
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, rate, total_steps=epochs * steps, pct_start=0.15
        )
        return Pairs(image, text, image_id, caption_id, rows, self)

    def _logits(self, similarity: Tensor) -> Tensor:
        """Similarities divided by the temperature, which is learned too."""
        return similarity * self.log_scale.exp().clamp(max=100)

    def _step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], CLIP)
        self.optimiser.step()
        self.schedule.step()


def _steps(pairs: int, most: int = LARGEST_EPOCH) -> int:
    """An epoch's batches."""
    return max(1, round(min(pairs, most) / BATCH))


class Pairs:
    """The pairs to learn from, as batches; an index below is a position in `rows`."""

    def __init__(
        self, image: Rows, text: Rows, image_id: np.ndarray, caption_id: np.ndarray, rows: np.ndarray, owner: Trainer
    ):
        self.rows, self.owner = rows, owner
        self.image_id, self.caption_id = torch.from_numpy(image_id[rows]), torch.from_numpy(caption_id[rows])
        self.image, self.text = Coordinates(owner.image, image, rows), Coordinates(owner.text, text, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, among: Tensor | None = None, *, most: int = LARGEST_EPOCH) -> list[Tensor]:
        """among: (m,) int64, the positions to draw from; None is all.  most: how many of them."""
        chosen = torch.arange(len(self.rows)) if among is None else among
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(self.owner.seed + epoch))
        return list(chosen[order[:most]].tensor_split(_steps(len(chosen), most)))

    def similarity(self, batch: Tensor) -> Tensor:
        """(B, B) cosines of the batch's images (rows) and captions."""
        return self.owner.image.finish(self.image[batch]) @ self.owner.text.finish(self.text[batch]).T

    def same(self, batch: Tensor) -> Tensor:
        return same_identity(self.image_id[batch], self.caption_id[batch]).to(self.owner.device)


class Coordinates:
    """Where each pair starts in the common space, (n, k). It does not change while learning: a linear start, which is
    small, is computed once and held; the encoder's own space is read from disk a batch at a time.
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
            return self.head.start(torch.from_numpy(np.asarray(self.x[rows], np.float32)).to(self.head.scale.device))
