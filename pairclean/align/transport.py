"""Masked entropic partial optimal transport over a batch, in the log domain."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from pairclean.pairs import UserError

CHECK_EVERY = 20  # iterations between looks at the error: each look makes an accelerator wait for the host
LEAST = 1e-30  # mass by which is divided


def standardise(cost: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """The cost in units of its own standard deviation, shifted so that the cheapest allowed entry costs 0.

    Whether a `reg` blurs everything or nothing depends on the spread of the cost alone, so give it in this unit.
    cost: (Q, B) float32.  forbidden: (Q, B) bool, entries that count neither for the deviation nor for the minimum.
    Returns (Q, B) float32, non-negative; all zero where the allowed entries do not differ.
    """
    allowed = torch.ones_like(cost, dtype=torch.bool) if forbidden is None else ~forbidden
    count = allowed.sum().clamp(min=1)
    mean = torch.where(allowed, cost, 0).sum() / count
    deviation = (torch.where(allowed, cost - mean, 0).square().sum() / count).sqrt()
    smallest = torch.where(allowed, cost, torch.inf).amin()
    flat = deviation <= 1e-6 * torch.where(allowed, cost, 0).abs().amax()  # nothing but rounding
    return torch.where(flat, 0, (cost - smallest).clamp(min=0) / deviation)


@torch.no_grad()
def partial_plan(
    cost: Tensor,
    mass: float,
    *,
    reg: float,
    forbidden: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> Tensor:
    """Entropic partial optimal transport: move `mass` of the total at least cost.

    `min_Π <C, Π> - reg·H(Π)` with `Π1 <= 1/Q`, `Πᵀ1 <= 1/B`, `1ᵀΠ1 = mass` and Π = 0 where forbidden.  One dummy row
    and one dummy column of mass 1 - mass take up what stays; Sinkhorn iterations in the log domain, then the dummies
    are dropped.  What they receive is regularised too, so at reg > 0 this is near, not equal to, the minimiser.

    cost: (Q, B) float32, any unit; reg is in the same unit (see `standardise`).  mass: in (0, 1].
    forbidden: (Q, B) bool, True where nothing may move; a row or column that is forbidden throughout stays empty.
    tol: the total error of the marginals (in mass) at which to stop, or float32's rounding at this cost and reg where
    that is coarser.  Warns where max_iter leaves an error above mass / 1000: use a larger reg then.
    Returns (Q, B) float32, non-negative, summing to mass; rows <= 1/Q, columns <= 1/B (up to the error above).
    Raises UserError if the unmasked entries cannot carry the mass.
    Source: Han et al. 2024, section 3.3; dummy points after Chapel et al. 2020.

    Against the published code: the corner where the dummies meet is forbidden (A = infinity), so the sum is `mass`;
    the cost ξ of the dummies then shifts potentials and never the plan, and is 0 (ξ = 2·max C takes as many iterations
    and rounds ten times coarser, ξ = 100·max C worse).  The published stop rule leaves 0.101 to 0.135 instead of 0.1
    and is not offered.  Its converged reference plans sum to up to 0.10024 at reg 0.01; with their own sum as `mass`
    they are reproduced to 1e-3 of the largest entry, with 0.1 to 6e-3.
    """
    rows, columns = cost.shape
    _check(rows, columns, mass, reg, forbidden)
    if forbidden is not None:
        cost = cost.masked_fill(forbidden, torch.inf)
    least = cost.amin()  # a shift of all costs changes nothing, and keeps numbers small
    spread = float(torch.where(cost < torch.inf, cost, least).amax() - least)
    rounding = torch.finfo(cost.dtype).eps * spread / reg
    kernel = cost.new_zeros((rows + 1, columns + 1))
    kernel[:rows, :columns] = (least - cost) / reg
    kernel[rows, columns] = -torch.inf
    in_rows = cost.new_tensor([1 / rows] * rows + [1 - mass])
    in_columns = cost.new_tensor([1 / columns] * columns + [1 - mass])

    # Potentials in the log domain; between two looks at the error their factors go on as plain products with a plan
    # that has them absorbed, whose entries are therefore near the marginals: a matrix-vector product in place of a
    # log-sum-exp. A factor that outgrows its range within one block is absorbed, and so mended, by the next.
    u = in_rows.log() - torch.logsumexp(kernel, 1)
    v = in_columns.log() - torch.logsumexp(kernel + u[:, None], 0)
    error = math.inf
    for _ in range(0, max_iter, CHECK_EVERY):
        plan = torch.exp(u[:, None] + kernel + v)
        by_column = plan.T.contiguous()
        a = torch.ones_like(u)
        for _ in range(CHECK_EVERY):
            b = in_columns / (by_column @ a).clamp(min=LEAST)
            a = in_rows / (plan @ b).clamp(min=LEAST)
        u, v = u + a.log(), v + b.log()
        error = float((b * (by_column @ a) - in_columns).abs().sum())
        if error <= max(tol, rounding):
            break
    if not error <= max(tol, rounding, mass / 1000):
        message = f"the transport plan is off by {error:.1e} after {max_iter} iterations"
        warnings.warn(message, RuntimeWarning, stacklevel=3)  # the caller, behind torch's decorator

    plan = (a[:, None] * plan * b)[:rows, :columns]  # its rows are exact, its columns to within the error
    plan = plan * (1 / (columns * plan.sum(0))).clamp(max=1)
    return plan * (mass / plan.sum())


def _check(rows: int, columns: int, mass: float, reg: float, forbidden: Tensor | None) -> None:
    if not 0 < mass <= 1:
        raise UserError(f"The mass to transport is {mass:g}; choose one above 0 and at most 1.")
    if not reg > 0:
        raise UserError(f"The entropic regularisation is {reg:g}; choose one above 0.")
    if forbidden is None:
        return
    allowed = ~forbidden
    # Each allowed entry carrying the lesser of its row's and its column's even share is feasible, mostly enough.
    by_row = 1 / (rows * allowed.sum(1, keepdim=True).clamp(min=1))
    by_column = 1 / (columns * allowed.sum(0, keepdim=True).clamp(min=1))
    enough = mass * (1 - 1e-4)  # far inside what `mass` is kept to, far outside rounding
    if float((torch.minimum(by_row, by_column) * allowed).sum()) >= enough:
        return
    most = _largest_mass(allowed)
    if most < enough:
        raise UserError(
            f"The pairs that are not masked can carry at most {most:.4g} of the mass, not {mass:g}; "
            "lower the mass or mask fewer pairs."
        )


def _largest_mass(allowed: Tensor) -> float:
    """The most that the allowed (Q, B) entries carry with 1/Q a row and 1/B a column: a maximum flow, on the host."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    rows, columns = allowed.shape
    common = math.gcd(rows, columns)
    row_capacity, column_capacity = columns // common, rows // common  # 1/Q and 1/B in whole units
    i, j = np.nonzero(allowed.cpu().numpy())
    source, sink = rows + columns, rows + columns + 1
    start = np.concatenate([np.full(rows, source), i, rows + np.arange(columns)])
    end = np.concatenate([np.arange(rows), rows + j, np.full(columns, sink)])
    capacity = np.concatenate(
        [
            np.full(rows, row_capacity),
            np.full(len(i), min(row_capacity, column_capacity)),
            np.full(columns, column_capacity),
        ]
    )
    graph = csr_array((capacity.astype(np.int32), (start, end)), shape=(sink + 1, sink + 1))
    return float(maximum_flow(graph, source, sink).flow_value / (rows * row_capacity))
