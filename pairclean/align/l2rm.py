"""L2RM: learning to rematch mismatched pairs (Han et al., CVPR 2024), on embeddings.

The paper's loop can be read in `fit`: warm up, split the pairs, learn on the clean ones, and teach the noisy ones with
a masked partial transport plan between the images and captions of a batch. What differs from the publication, and why,
is listed in docs/methods.md.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..arrays import Rows, chunks
from ..pairs import UserError
from .cost import ContextCost, plant_matches
from .losses import info_nce, symmetric_kl, targets_from_plan, triplet_per_pair, warm_up_loss
from .mixtures import split_clean
from .training import TEMPERATURE, Pairs, Trainer
from .transport import partial_plan, standardise

#: Noisy pairs a plan; its cost is quadratic, and it needs no more than soft labels from it.
NOISY_BATCH = 512
WARM_UP_EPOCHS, EPOCHS = 5, 10
MARGIN = 0.2
#: Entropic regularisation: of the fixed cost 1 - s in its standard deviations, of the learned one in its own unit.
REGULARISATION = {"fixed": 0.3, "learned": 1.0}
REMATCH_WEIGHT = 0.5
QUEUE = 128  # noisy images among which the cost learns to find clean ones
FEWEST_NOISY = 16  # pairs; a plan between fewer teaches nothing


class L2RM(Trainer):
    """Linear start, residual heads, and the paper's loop on top of it.

    cost: of moving a caption: learned (step 4), fixed at 1 - s, or none to leave the noisy pairs out.
    """

    def __init__(
        self,
        *,
        comparable: bool,
        cost: Literal["learned", "fixed", "none"] = "learned",
        device: str = "cpu",
        seed: int = 0,
    ):
        super().__init__(comparable=comparable, device=device, seed=seed)
        self.cost = cost
        self.context_cost = ContextCost(seed=seed).to(device)
        self.generator = torch.Generator().manual_seed(seed)

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
        judged = None if clean_probability is None else clean_probability[rows]
        warm_up = WARM_UP_EPOCHS if judged is None else 0
        weight = np.ones(len(rows)) if judged is None else _clean(judged).astype(float)
        pairs = self._begin(image, text, image_id, caption_id, rows, weight, warm_up + EPOCHS)
        for epoch in range(warm_up):
            self._warm_up(pairs, epoch)
        for epoch in range(warm_up, warm_up + EPOCHS):
            self._rematch(pairs, _clean(self._split(pairs) if judged is None else judged), epoch)
        return self

    def _warm_up(self, pairs: Pairs, epoch: int) -> None:
        """Step 1: the warm-up loss on everything."""
        self.image.train(), self.text.train()
        for batch in pairs.batches(epoch):
            self._step(warm_up_loss(pairs.similarity(batch), TEMPERATURE))

    def _split(self, pairs: Pairs) -> np.ndarray:
        """Step 2: the posterior of being clean, (n,), from a beta mixture on the per-pair triplet losses."""
        self.image.eval(), self.text.eval()
        loss = torch.zeros(len(pairs))
        with torch.no_grad():
            for batch in pairs.batches(0, most=len(pairs)):
                loss[batch] = triplet_per_pair(pairs.similarity(batch), MARGIN).cpu()
        return split_clean(loss.numpy())

    def _rematch(self, pairs: Pairs, clean: np.ndarray, epoch: int) -> None:
        """Steps 5 and 6: contrast on clean pairs, transported soft targets on noisy ones.  clean: (n,) bool."""
        noisy = torch.from_numpy(np.flatnonzero(~clean))
        noisy = noisy[torch.randperm(len(noisy), generator=torch.Generator().manual_seed(self.seed + epoch))]
        noisy_batches = list(chunks(len(noisy), NOISY_BATCH))
        self.image.train(), self.text.train()
        transported = self.cost != "none" and len(noisy) >= FEWEST_NOISY
        for step, batch in enumerate(pairs.batches(epoch, torch.from_numpy(np.flatnonzero(clean)))):
            loss = info_nce(self._logits(pairs.similarity(batch)), pairs.same(batch))
            if transported:
                suspects = noisy[noisy_batches[step % len(noisy_batches)]]
                if self.cost == "learned":
                    self._learn_cost(pairs, suspects, batch)
                loss = loss + REMATCH_WEIGHT * self._rematching_loss(pairs, suspects, len(suspects) / len(noisy))
            self._step(loss)

    @torch.no_grad()
    def _learn_cost(self, pairs: Pairs, suspects: Tensor, clean: Tensor) -> None:
        """Steps 3 and 4: images of clean pairs take places among the noisy ones; the cost has to tell who fits whom."""
        suspects, clean = suspects[:QUEUE], clean[:NOISY_BATCH]
        queue, images = (self.image.finish(pairs.image[batch]) for batch in (suspects, clean))
        captions = self.text.finish(pairs.text[clean])
        queue, target = plant_matches(queue, images, generator=self.generator)
        copies = pairs.same(clean).float()  # of a pair's caption belong to its image as well
        with torch.enable_grad():
            self.context_cost.learn(self._logits(queue @ captions.T), target @ copies)

    def _rematching_loss(self, pairs: Pairs, suspects: Tensor, present: float) -> Tensor:
        """present: the share of the suspects' true partners that the batch can hold, which bounds the mass to move."""
        similarity = pairs.similarity(suspects)
        forbidden = pairs.same(suspects)
        with torch.no_grad():
            if self.cost == "learned":
                cost = self.context_cost(self._logits(similarity))
            else:
                cost = standardise(1 - similarity, forbidden)
            reg = REGULARISATION[self.cost]
            try:
                plan = partial_plan(cost, min(0.5, 0.5 * present), reg=reg, forbidden=forbidden, tol=1e-2)
            except UserError:  # most of the batch are copies of each other: nothing to rematch
                return similarity.new_zeros(())
            by_row, by_column, rows, columns = targets_from_plan(plan, mass_threshold=0.1)
        temperature = 1 / self.log_scale.exp().item()
        return symmetric_kl(similarity, by_row, by_column, temperature, row_mask=rows, column_mask=columns)


def _clean(probability: np.ndarray) -> np.ndarray:
    """(n,) bool, the pairs to learn from as they are: likelier clean than not; all of them where hardly any is."""
    clean = probability >= 0.5
    return clean if clean.sum() >= FEWEST_NOISY else np.ones(len(clean), bool)
