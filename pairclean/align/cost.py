"""The learned cost of moving an image to a caption: L2RM's steps 3 and 4, as published and as used here.

`LinearCost` reproduces the publication.  It is tied to one batch size and to positions in the batch, hardly changes at
the published learning rate, and its loss has no negatives, so that a cost of zero everywhere is optimal.
`ContextCost`, which `L2RM` uses, has the same self-supervision and none of these faults.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEARNING_RATE = 2e-6  # of Adam, as published
CONTEXT_LEARNING_RATE = 1e-2  # of Adam, for `ContextCost`
HIDDEN = 8


class LinearCost(nn.Module):
    """`relu(S Wᵀ + b)`, one linear layer along the caption axis; W = -I and b = 1 at the start, so the cost is 1 - s.

    batch_size: B, the number of captions, fixed.  The number of images is free.
    Source: Han et al. 2024, section 3.3, and its published code.
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


class ContextCost(nn.Module):
    """The negative log odds that a caption is an image's own rather than any, from their similarity and its context.

    For each entry of the logits A = S / temperature the network sees the entry, and how far it stands out in its row
    and in its column, `A_ij - log mean_k exp A_ik` and `A_ij - log mean_k exp A_kj`.  All entries go through the
    same small network, so that the cost is permutation-equivariant and free of the batch size (a DeepSets form: Zaheer
    et al. 2017; for matrices Hartford et al. 2018).  It starts at -A plus a constant, the cost 1 - s in the unit in
    which `reg` = 1 turns the plan's entries into probabilities.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.slope = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))
        self.weight = nn.Parameter((torch.rand(HIDDEN, 3, generator=generator) - 0.5) / 5)
        self.bias = nn.Parameter(torch.rand(HIDDEN, generator=generator) - 0.5)
        self.out = nn.Parameter(torch.zeros(HIDDEN))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=CONTEXT_LEARNING_RATE)

    def forward(self, logits: Tensor) -> Tensor:
        """logits: (Q, B) float32, similarities divided by the temperature.  Returns (Q, B) float32."""
        row, column = _log_mean_exp(logits, 1), _log_mean_exp(logits, 0)

        def seen(weight: Tensor, bias: Tensor) -> Tensor:
            """weight: (3,), of the entry and of its excess over row and column; bias: a scalar.  Returns (Q, B)."""
            own, by_row, by_column = weight
            return (own + by_row + by_column) * logits - (by_row * row - bias) - by_column * column

        cost = -seen(self.slope, self.slope.new_zeros(()))
        # One hidden unit at a time: its (Q, B) array stays in the cache, that of all units does not.
        for weight, bias, out in zip(self.weight, self.bias, self.out, strict=True):
            cost = cost - out * torch.relu(seen(weight, bias))
        return cost

    def learn(self, logits: Tensor, target: Tensor) -> Tensor:
        """One step of the self-supervision: separate the planted pairs from all other entries, by logistic loss.

        Both kinds have the same total weight, so that the optimum is the log of their density ratio. A cost that is the
        same everywhere is worse than any that separates them.

        logits: (Q, B) float32 of the planted queue and the clean captions; gets no gradient.
        target: (Q, B) float32, Π* of `plant_matches`.  Returns the loss before the step, a detached scalar.
        """
        cost = self(logits.detach())
        planted, others = target > 0, target == 0
        loss = (nn.functional.softplus(cost) * planted).sum() / planted.sum().clamp(min=1)
        loss = loss + (nn.functional.softplus(-cost) * others).sum() / others.sum().clamp(min=1)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def _log_mean_exp(x: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(x, dim, keepdim=True) - math.log(x.shape[dim])


def supervision(slot: Tensor, caption: Tensor, *, rows: int, columns: int) -> Tensor:
    """Π*: 1 where a planted slot of the queue meets its own caption, else 0.

    slot, caption: (k,) int64, the row and the column of each planted pair.  Returns (rows, columns) float32.
    """
    target = torch.zeros(rows, columns, device=slot.device)
    target[slot, caption] = 1
    return target


def plant_matches(queue: Tensor, image: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Put the images of a few clean pairs into random slots of a copy of the queue, for their captions to find.

    queue: (Q, d) float32, recent noisy images.  image: (B, d) float32, the images of the clean batch.
    generator: of the CPU; draws k in 1..max(1, B // 10) (at most Q), the pairs and the slots, without repetition.
    Returns the new queue (Q, d) and its supervision (Q, B) against the captions of the clean batch.
    Source: Han et al. 2024, and its published code.
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
    Source: Han et al. 2024, and its published code.
    """
    loss = (target * cost(similarity.detach())).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
