"""The learned cost of moving an image to a caption, as published with L2RM (METHODS, steps 3 and 4).

Kept to reproduce the publication.  It is tied to one batch size and to positions in the batch, hardly moves at the
published learning rate, and its loss knows no negatives, so that its optimum is a cost of zero everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEARNING_RATE = 2e-6  # of Adam, as published


class LinearCost(nn.Module):
    """`relu(S Wᵀ + b)`, one linear layer along the caption axis; W = -I and b = 1 at the start, so the cost is 1 - s.

    batch_size: B, the number of captions, fixed.  The number of images is free.
    Source: Han et al. 2024, section 3.3 and published code; `cost_init` of the reference vectors.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(batch_size, batch_size)
        with torch.no_grad():
            self.linear.weight.copy_(-torch.eye(batch_size))
            self.linear.bias.fill_(1.0)

    def forward(self, similarity: Tensor) -> Tensor:
        """similarity: (Q, B) float32.  Returns the cost, (Q, B) float32, non-negative; differentiable in both."""
        return torch.relu(self.linear(similarity))


def supervision(slot: Tensor, caption: Tensor, *, rows: int, columns: int) -> Tensor:
    """Π*: 1 where a planted slot of the queue meets its own caption, else 0.

    slot, caption: (k,) int64, the row and the column of each planted pair.  Returns (rows, columns) float32.
    """
    target = torch.zeros(rows, columns, device=slot.device)
    target[slot, caption] = 1
    return target


def plant_matches(queue: Tensor, image: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Put the images of a few clean pairs into random places of a copy of the queue, for their captions to find.

    queue: (Q, d) float32, recent noisy images.  image: (B, d) float32, the images of the clean batch.
    generator: of the CPU; draws k in 1..max(1, B // 10) (at most Q), the pairs and the slots, without repetition.
    Returns the new queue (Q, d) and its supervision (Q, B) against the captions of the clean batch.
    Source: METHODS, L2RM step 4.
    """
    rows, columns = len(queue), len(image)
    k = int(torch.randint(1, min(rows, max(1, columns // 10)) + 1, (), generator=generator))
    slot = torch.randperm(rows, generator=generator)[:k].to(queue.device)
    pair = torch.randperm(columns, generator=generator)[:k].to(queue.device)
    planted = queue.clone()
    planted[slot] = image[pair]
    return planted, supervision(slot, pair, rows=rows, columns=columns)


def cost_step(cost: nn.Module, optimiser: torch.optim.Optimizer, similarity: Tensor, target: Tensor) -> Tensor:
    """One step of the self-supervision: lower `Σ Π* ⊙ f(S)`, the total cost (a sum) of the planted pairs, over f alone.

    similarity: (Q, B) float32, of the planted queue and the clean captions; gets no gradient.
    target: (Q, B) float32, Π*.
    optimiser: over the parameters of `cost`; published: Adam at `LEARNING_RATE`.
    Returns the loss before the step, a detached scalar.
    Source: METHODS, L2RM step 4; `cost_losses_10_steps` and `cost_after_10_steps` of the reference vectors.
    """
    loss = (target * cost(similarity.detach())).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
