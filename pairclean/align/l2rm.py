"""L2RM: learning to rematch mismatched pairs (Han et al., CVPR 2024), on embeddings.

The paper's loop can be read in `fit`: warm up, split the pairs, learn on the clean ones, and teach the noisy ones with
a masked partial transport plan between the images and captions of a batch. What differs from the publication, and why,
is listed in docs/methods.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..pairs import UserError
from .alignment import Alignment, Head
from .arrays import Rows, chunks
from .canonical import canonical_maps
from .losses import info_nce, same_identity, symmetric_kl, targets_from_plan, triplet_per_pair, warm_up_loss
from .mixtures import split_clean
from .transport import partial_plan, standardise

BATCH = 1024
#: Noisy pairs a plan; its cost is quadratic, and it needs no more than soft labels from it.
NOISY_BATCH = 512
WARM_UP_EPOCHS, EPOCHS = 5, 10
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 1e-2, 2.0
TEMPERATURE, MARGIN = 0.05, 0.2
#: Entropic regularisation, in standard deviations of the cost.
REGULARISATION = 0.3
REMATCH_WEIGHT = 0.5


class L2RM(Alignment):
    """Linear start, residual heads, and the paper's loop on top of it.

    comparable: whether the encoder's two spaces are one already; learning then starts at the identity."""

    image: Head
    text: Head

    def __init__(self, *, comparable: bool, device: str = "cpu", seed: int = 0):
        super().__init__(device=device)
        self.comparable, self.seed = comparable, seed

    def fit(
        self,
        image: Rows,
        text: Rows,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        *,
        rows: np.ndarray,
        clean_probability: np.ndarray | None = None,
    ) -> L2RM:
        """image: (N, d), text: (N, e), image_id and caption_id: (N,) int64; rows: (n,) int64, the pairs to learn from.

        clean_probability: (N,) in [0, 1], what a judge found before; it then stands for the warm-up and for the
        method's own split, which see each pair's loss under a model that trained on it.
        """
        weight = np.ones(len(rows)) if clean_probability is None else clean_probability[rows]
        warm_up = WARM_UP_EPOCHS if clean_probability is None else 0
        pairs = self._begin(image, text, image_id, caption_id, rows, weight, warm_up + EPOCHS)
        for epoch in range(warm_up):
            self._warm_up(pairs, epoch)
        for epoch in range(warm_up, warm_up + EPOCHS):
            clean = self._split(pairs) if clean_probability is None else torch.from_numpy(weight).float()
            self._rematch(pairs, clean.to(self.device), epoch)
        return self

    def _begin(
        self,
        image: Rows,
        text: Rows,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        rows: np.ndarray,
        weight: np.ndarray,
        epochs: int,
    ) -> _Pairs:
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
        steps = max(1, round(len(rows) / BATCH))
        self.optimiser = torch.optim.AdamW(
            [{"params": learned, "weight_decay": WEIGHT_DECAY}, {"params": [self.log_scale], "weight_decay": 0.0}]
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.15
        )
        return _Pairs(image, text, image_id, caption_id, rows, self)

    def _warm_up(self, pairs: _Pairs, epoch: int) -> None:
        """Step 1: the warm-up loss on everything."""
        self.image.train(), self.text.train()
        for batch in pairs.batches(epoch):
            self._step(warm_up_loss(pairs.similarity(batch), TEMPERATURE))

    def _split(self, pairs: _Pairs) -> Tensor:
        """Step 2: the posterior of being clean, (n,), from a beta mixture on the per-pair triplet losses."""
        self.image.eval(), self.text.eval()
        loss = torch.zeros(len(pairs))
        with torch.no_grad():
            for batch in pairs.batches(0):
                loss[batch] = triplet_per_pair(pairs.similarity(batch), MARGIN).cpu()
        return torch.as_tensor(split_clean(loss.numpy()), dtype=torch.float32)

    def _rematch(self, pairs: _Pairs, clean: Tensor, epoch: int) -> None:
        """Steps 5 and 6: contrast on clean pairs, transported soft targets on noisy ones."""
        noisy = torch.nonzero(clean < 0.5).squeeze(1).cpu()
        noisy = noisy[torch.randperm(len(noisy), generator=torch.Generator().manual_seed(self.seed + epoch))]
        noisy_batches = list(chunks(len(noisy), NOISY_BATCH))
        self.image.train(), self.text.train()
        for step, batch in enumerate(pairs.batches(epoch)):
            logits = pairs.similarity(batch) * self.log_scale.exp().clamp(max=100)
            loss = info_nce(logits, pairs.same(batch), clean[batch])
            if REMATCH_WEIGHT and len(noisy) >= 16:
                suspects = noisy[noisy_batches[step % len(noisy_batches)]]
                loss = loss + REMATCH_WEIGHT * self._rematching_loss(pairs, suspects, len(suspects) / len(noisy))
            self._step(loss)

    def _rematching_loss(self, pairs: _Pairs, suspects: Tensor, present: float) -> Tensor:
        """present: the share of the suspects' true partners that the batch can hold, which bounds the mass to move."""
        similarity = pairs.similarity(suspects)
        forbidden = pairs.same(suspects)
        with torch.no_grad():
            cost = standardise(1 - similarity, forbidden)
            try:
                plan = partial_plan(cost, min(0.5, 0.5 * present), reg=REGULARISATION, forbidden=forbidden, tol=1e-2)
            except UserError:  # most of the batch are copies of each other: nothing to rematch
                return similarity.new_zeros(())
            by_row, by_column, rows, columns = targets_from_plan(plan, mass_threshold=0.1)
        temperature = 1 / self.log_scale.exp().item()
        return symmetric_kl(similarity, by_row, by_column, temperature, row_mask=rows, column_mask=columns)

    def _step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], CLIP)
        self.optimiser.step()
        self.schedule.step()


class _Pairs:
    """The pairs to learn from, as batches; an index below is a position in `rows`."""

    def __init__(
        self, image: Rows, text: Rows, image_id: np.ndarray, caption_id: np.ndarray, rows: np.ndarray, owner: L2RM
    ):
        self.rows, self.owner = rows, owner
        self.image_id, self.caption_id = torch.from_numpy(image_id[rows]), torch.from_numpy(caption_id[rows])
        self.image, self.text = _Coordinates(owner.image, image, rows), _Coordinates(owner.text, text, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int) -> list[Tensor]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self.owner.seed + epoch))
        return list(order.tensor_split(max(1, round(len(self.rows) / BATCH))))

    def similarity(self, batch: Tensor) -> Tensor:
        """(B, B) cosines of the batch's images (rows) and captions."""
        return self.owner.image.finish(self.image[batch]) @ self.owner.text.finish(self.text[batch]).T

    def same(self, batch: Tensor) -> Tensor:
        return same_identity(self.image_id[batch], self.caption_id[batch]).to(self.owner.device)


class _Coordinates:
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
