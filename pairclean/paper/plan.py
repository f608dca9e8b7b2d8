"""The masked partial transport plan with the published stop rule, to reproduce the publication.

`align.transport.partial_plan` is the same plan run to convergence, by faster and finer steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_ITERATIONS = 1000
#: The iterations stop when the potentials of the rows move by less than this, in the unit of the cost.
STOP = 1e-3
#: The logarithm of the kernel where nothing may move.
FORBIDDEN = -1e6


@torch.no_grad()
def released_plan(cost: Tensor, mass: float, reg: float, *, masked: bool) -> Tensor:
    """The plan as published: it moves 0.101 to 0.135 instead of 0.1, and rows without mass are left in.

    cost: (Q, B) float32, positive, Q >= B where masked.  mass, reg: as in `partial_plan`.  masked: whether the observed
    pairs (i, i), i < B, get no mass.  Returns (Q, B) float32, on the device of the cost; computed in float64.
    Source: Han et al. 2024, and its published code: dummies at ξ = 100 max C, their corner at 2ξ + max C, potentials of
    the rows first, 1e-10 inside the logarithm.
    """
    rows, columns = cost.shape
    highest = cost.amax().double()
    extended = (100 * highest).expand(rows + 1, columns + 1).clone()
    extended[:rows, :columns] = cost
    extended[rows, columns] = 201 * highest
    kernel = -extended / reg
    forbidden = torch.zeros_like(kernel, dtype=torch.bool)
    forbidden[:columns, :columns].fill_diagonal_(masked)
    # In float32 where the published code has it, which moves the 1e-3 of the stop rule.
    in_rows = kernel.new_tensor([1 / rows] * rows + [1 - mass])
    in_columns = torch.tensor([1 / columns] * columns + [1 - mass]).to(kernel)

    def log_plan(u: Tensor, v: Tensor) -> Tensor:
        return (kernel + u[:, None] + v).masked_fill(forbidden, FORBIDDEN)

    u, v = torch.zeros_like(in_rows), torch.zeros_like(in_columns)  # over reg
    for _ in range(MOST_ITERATIONS):
        before = u
        u = u + in_rows.log() - _log_sum_exp(log_plan(u, v), 1)
        v = v + in_columns.log() - _log_sum_exp(log_plan(u, v), 0)
        if reg * (u - before).norm() < STOP:
            break
    return log_plan(u, v).exp()[:rows, :columns].float()


def _log_sum_exp(x: Tensor, axis: int) -> Tensor:
    top = x.amax(axis, keepdim=True)
    return ((x - top).exp().sum(axis) + 1e-10).log() + top.squeeze(axis)
