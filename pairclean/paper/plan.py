"""The masked partial transport plan with the published stop rule, to reproduce the publication.

`align.transport.partial_plan` is the same plan run to convergence, by faster and finer steps.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_ITERATIONS = 1000
#: The iterations stop when the potentials of the rows move by less than this, in the unit of the cost.
STOP = 1e-3
#: The logarithm of the kernel where nothing may move.
FORBIDDEN = -1e6


def released_plan(cost: Tensor, mass: float, reg: float, *, masked: bool) -> Tensor:
    """The plan as published: it moves 0.101 to 0.135 instead of 0.1, and rows without mass are left in.

    cost: (Q, B) float32, positive, without gradient, Q >= B where masked.  mass, reg: as in `partial_plan`.
    masked: whether the observed pairs (i, i), i < B, get no mass.
    Returns (Q, B) float32, on the device of the cost; computed in float64 on the CPU, as published.
    Source: Han et al. 2024, and its published code: dummies at ξ = 100 max C, their corner at 2ξ + max C, potentials of
    the rows first, 1e-10 inside the logarithm.
    """
    rows, columns = cost.shape
    inner = cost.double().cpu().numpy()
    highest = inner.max()
    log_kernel = np.full((rows + 1, columns + 1), -100 * highest / reg)
    log_kernel[:rows, :columns] = -inner / reg
    log_kernel[rows, columns] = -201 * highest / reg
    observed = np.arange(columns if masked else 0)
    log_rows = np.log([1 / rows] * rows + [1 - mass])
    log_columns = np.log(np.array([1 / columns] * columns + [1 - mass], np.float32)).astype(np.float64)

    def log_plan() -> NDArray[np.float64]:
        plan = log_kernel + u[:, None] + v
        plan[observed, observed] = FORBIDDEN
        return plan

    u, v = np.zeros(rows + 1), np.zeros(columns + 1)  # potentials over reg
    for _ in range(MOST_ITERATIONS):
        move = log_rows - _log_sum_exp(log_plan(), 1)
        u = u + move
        v = v + log_columns - _log_sum_exp(log_plan(), 0)
        if reg * np.linalg.norm(move) < STOP:
            break
    return torch.from_numpy(np.exp(log_plan())[:rows, :columns]).float().to(cost.device)


def _log_sum_exp(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    top = x.max(axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis) + 1e-10) + top.squeeze(axis)
