"""RCAR: robust cross-modal retrieval by alignment refurbishment (FITEE 24(10), 2023), on embeddings.

`fit` follows the publication's steps: a multi-task warm-up that delays memorisation, a beta mixture on the loss of each
pair, labels refurbished by its posterior, and a matching loss with these soft labels. The exact published losses were
not available: the second task (consistency within a modality) and the sharpened belief are ours; see docs/methods.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..arrays import Pairs
from .alignment import Head
from .losses import info_nce, same_identity
from .mixtures import fit_beta_mixture
from .training import TEMPERATURE, Batches, Coordinates, Trainer

WARM_UP_EPOCHS, EPOCHS = 5, 10
#: Weight of the consistency task, and the share of coordinates that each of its two views drops.
CONSISTENCY, DROPPED = 0.1, 0.3
#: Exponent of the model's own belief; at 1 the refurbished part of a label would have no gradient.
SHARPNESS = 2.0


class RCAR(Trainer):
    """The publication's loop over a linear start with residual heads."""

    def fit(self, pairs: Pairs, rows: np.ndarray, clean_probability: np.ndarray | None = None) -> RCAR:
        """Arguments as in `Method`.

        Given clean probabilities replace the warm-up and the beta mixture, which fits each pair's loss under a model
        that has trained on that pair.
        """
        clean = None if clean_probability is None else clean_probability[rows]
        warm_up = WARM_UP_EPOCHS if clean is None else 0
        weight = np.ones(len(rows)) if clean is None else clean
        data = self._begin(pairs, rows, weight, warm_up + EPOCHS)
        self.image.train(), self.text.train()
        for epoch in range(warm_up):
            for batch in data.batches(epoch):
                matching = info_nce(self._logits(data.similarity(batch)), data.same(batch))
                self._step(matching + CONSISTENCY * self._consistency(data, batch, epoch))
        for epoch in range(warm_up, warm_up + EPOCHS):
            noisy = self._noisy(data) if clean is None else torch.from_numpy(1 - clean)
            noisy = noisy.float().to(self.device)
            for batch in data.batches(epoch):
                logits = self._logits(data.similarity(batch))
                self._step(refurbished_loss(logits, noisy[batch], data.same(batch)))
        return self

    def _noisy(self, data: Batches) -> Tensor:
        """(n,) posterior of being noisy, from a beta mixture on the matching loss of each pair."""
        loss = torch.zeros(len(data))
        with torch.no_grad():
            for batch in data.batches(0, most=len(data)):
                loss[batch] = matching_loss(self._logits(data.similarity(batch)), data.same(batch)).cpu()
        return torch.from_numpy(fit_beta_mixture(loss.numpy(), steps=100).posterior_noisy(loss.numpy()))

    def _consistency(self, data: Batches, batch: Tensor, epoch: int) -> Tensor:
        """The second task, which trusts no pair: two views of one vector, each without some of its coordinates, have to
        find each other within the batch. The mean over both modalities.
        """
        generator = torch.Generator().manual_seed(int(batch[0]) + len(data) * (epoch + 1))

        def views(head: Head, start: Coordinates, identity: Tensor) -> Tensor:
            z = start[batch]
            one, two = (head.finish(z * _kept(z, generator)) for _ in range(2))
            return info_nce(one @ two.T / TEMPERATURE, same_identity(identity, identity).to(self.device))

        image = views(self.image, data.image, data.image_id[batch])
        return (image + views(self.text, data.text, data.caption_id[batch])) / 2


def _kept(z: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(z.shape, generator=generator) >= DROPPED).to(z)


def matching_loss(logits: Tensor, same: Tensor) -> Tensor:
    """(B,) symmetric InfoNCE of each pair.  logits: (B, B), similarities over the temperature; same: (B, B) bool."""
    logits = _without_copies(logits, same)
    return (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()


def refurbished_loss(logits: Tensor, noisy: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy with the labels y* = (1 - w) y + w ŷ, the mean of both directions and of the pairs.

    logits: (B, B) float32, similarities over the temperature; noisy: (B,) w, the posterior of being noisy; same: (B, B)
    bool, copies, which are left out.  y is the pair itself; ŷ the model's own belief, its softmax raised to SHARPNESS
    and scaled to sum to one, without gradient.  Returns a scalar.  The belief is ours; see docs/methods.md.
    """
    logits = _without_copies(logits, same)
    loss = logits.new_zeros(())
    for scores in (logits, logits.T):
        log_p = scores.log_softmax(1)
        belief = (SHARPNESS * scores.detach()).softmax(1)
        guessed = -(belief * log_p.masked_fill(belief == 0, 0)).sum(1)
        loss = loss + (-(1 - noisy) * log_p.diagonal() + noisy * guessed).mean()
    return loss / 2


def _without_copies(logits: Tensor, same: Tensor) -> Tensor:
    copies = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    return logits.masked_fill(copies, -torch.inf)
