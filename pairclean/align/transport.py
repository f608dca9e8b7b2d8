"""Masked entropic partial optimal transport over a batch, in the log domain."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..pairs import UserError

CHECK_EVERY = 20  # iterations between checks of the error: each check makes the accelerator wait for the host
#: Over-relaxation factor of each step. Below 2 it converges locally (Thibault et al. 2017, Lehmann et al. 2021), in a
#: third of the iterations where plain steps need many.
RELAXATION = 1.5
LEAST = 1e-30  # smallest mass to divide by


class Infeasible(ValueError):
    """The entries that are not forbidden cannot carry the mass."""


def standardise(cost: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """The cost in units of its own standard deviation, shifted so that the cheapest allowed entry costs 0.

    Whether a `reg` blurs everything or nothing depends only on the spread of the cost, so give it in this unit.
    cost: (Q, B) float32.  forbidden: (Q, B) bool, entries that are left out of the deviation and of the minimum.
    Returns (Q, B) float32, non-negative; all zero where the allowed entries do not differ.
    """
    allowed = torch.ones_like(cost, dtype=torch.bool) if forbidden is None else ~forbidden
    count = allowed.sum().clamp(min=1)
    mean = torch.where(allowed, cost, 0).sum() / count
    deviation = (torch.where(allowed, cost - mean, 0).square().sum() / count).sqrt()
    smallest = torch.where(allowed, cost, torch.inf).amin()
    flat = deviation <= 1e-6 * torch.where(allowed, cost, 0).abs().amax()  # only rounding
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
    and one dummy column of mass 1 - mass take the rest; Sinkhorn iterations in the log domain, then the dummies
    are dropped.  What they receive is regularised too, so at reg > 0 this is near, not equal to, the minimiser.

    cost: (Q, B) float32, any unit; reg is in the same unit (see `standardise`).  mass: in (0, 1].
    forbidden: (Q, B) bool, True where nothing may move; a row or column that is forbidden throughout stays empty.
    tol: the total error of the marginals (in mass) at which to stop, or float32's rounding at this cost and reg where
    that is coarser.  Warns where max_iter leaves an error above mass / 1000: use a larger reg then.
    Returns (Q, B) float32, non-negative, summing to mass; rows <= 1/Q, columns <= 1/B (up to the error above).
    Raises Infeasible if the unmasked entries cannot carry the mass, UserError if `mass` or `reg` is out of range.
    Source: Han et al. 2024, section 3.3; dummy points after Chapel et al. 2020.

    Against the published code: the corner where the dummies meet is forbidden (A = infinity), so the sum is `mass`;
    the cost ξ of the dummies then shifts potentials and never the plan, and is 0 (ξ = 2·max C takes as many iterations
    and rounds ten times coarser, ξ = 100·max C worse).  The published stop rule leaves 0.101 to 0.135 instead of 0.1
    and is not offered.  Its converged reference plans sum to up to 0.10024 at reg 0.01; with their own sum as `mass`
    they are reproduced to 1e-3 of the largest entry, with 0.1 to 6e-3.
    """
    rows, columns = cost.shape
    _check(rows, columns, mass, reg, forbidden)
    kernel = cost.new_empty((rows + 1, columns + 1))
    inner = kernel[:rows, :columns]
    torch.mul(cost, -1 / reg, out=inner)
    if forbidden is not None:
        inner.masked_fill_(forbidden, -torch.inf)
    # The dummies at the cost of the cheapest entry: a shift of all costs changes nothing, and keeps numbers small.
    kernel[rows], kernel[:, columns], kernel[rows, columns] = (top := inner.amax()), top, -torch.inf
    in_rows = cost.new_tensor([1 / rows] * rows + [1 - mass])
    in_columns = cost.new_tensor([1 / columns] * columns + [1 - mass])

    # Potentials are in the log domain. Between two checks of the error, iterations scale a plan that has absorbed them,
    # in which every row and column has an entry of moderate size: a matrix-vector product instead of a log-sum-exp. A
    # factor that leaves its range within one block is absorbed, and so corrected, by the next block.
    u = -kernel.amax(1)
    v = -(kernel + u[:, None]).amax(0)
    error, relaxation = math.inf, RELAXATION
    for _ in range(0, max_iter, CHECK_EVERY):
        plan = kernel + u[:, None]
        plan.add_(v).exp_()
        a, b = torch.ones_like(u), torch.ones_like(v)
        for step in range(CHECK_EVERY):
            # Plain steps at the start, where factors are far off, and at the end, so that the rows are exact.
            beyond = relaxation - 1 if 0 < step < CHECK_EVERY - 1 else 0.0
            b = _scaled(b, in_columns / (plan.T @ a).clamp(min=LEAST), beyond)
            a = _scaled(a, in_rows / (plan @ b).clamp(min=LEAST), beyond)
        u, v = u + a.log(), v + b.log()
        by_column = b * (plan.T @ a)
        before, error = error, float((by_column - in_columns).abs().sum())
        enough = max(tol, torch.finfo(cost.dtype).eps * float(u[:rows].abs().amax() + v[:columns].abs().amax()))
        if error <= enough:
            break
        if not error < before:
            relaxation = 1.0
    if not error <= max(enough, mass / 1000):
        message = f"the transport plan is off by {error:.1e} after {max_iter} iterations"
        warnings.warn(message, RuntimeWarning, stacklevel=3)  # the caller, behind torch's decorator

    b = b * (in_columns / by_column.clamp(min=LEAST)).clamp(max=1)  # the rows are exact, the columns to the error
    plan, a, b = plan[:rows, :columns], a[:rows], b[:columns]
    a = a * (mass / (a @ (plan @ b)))
    return plan.mul_(b).mul_(a[:, None]).contiguous()


def _scaled(factor: Tensor, plain: Tensor, beyond: float) -> Tensor:
    """A factor's next value: the plain step, extrapolated by `beyond`, but never by orders of magnitude."""
    if not beyond:
        return plain
    return plain * (plain / factor.clamp(min=LEAST)).clamp(0.1, 10) ** beyond


def _check(rows: int, columns: int, mass: float, reg: float, forbidden: Tensor | None) -> None:
    if not 0 < mass <= 1:
        raise UserError(f"The mass to transport is {mass:g}; choose one above 0 and at most 1.")
    if not reg > 0:
        raise UserError(f"The entropic regularisation is {reg:g}; choose one above 0.")
    if forbidden is None:
        return
    enough = mass * (1 - 1e-4)  # well within the tolerance of `mass`, well above rounding
    if float((~forbidden).sum()) / (rows * columns) >= enough:  # every entry can carry 1 / (Q B)
        return
    allowed = ~forbidden
    # If each allowed entry carries the smaller of its row's and its column's even share, that is feasible, and mostly
    # enough.
    by_row = 1 / (rows * allowed.sum(1, keepdim=True).clamp(min=1))
    by_column = 1 / (columns * allowed.sum(0, keepdim=True).clamp(min=1))
    if float((torch.minimum(by_row, by_column) * allowed).sum()) >= enough:
        return
    most = _largest_mass(allowed)
    if most < enough:
        raise Infeasible(
            f"The pairs that are not masked can carry at most {most:.4g} of the mass, not {mass:g}; "
            "lower the mass or mask fewer pairs."
        )


def _largest_mass(allowed: Tensor) -> float:
    """The most that allowed (Q, B) entries carry with 1/Q per row and 1/B per column: a maximum flow, on the host."""
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
