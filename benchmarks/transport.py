"""How fast is a masked partial transport plan?  python -m benchmarks.transport [--device cpu|cuda]

Against the loop that the publication has, in NumPy and in the log domain, stopped at the same error of the marginals
and checked as seldom. POT's `entropic_partial_wasserstein` stands beside it with the error it reaches. Similarities
of noisy views of one latent space, the diagonal masked, mass 0.1, reg 0.3 standard deviations. Small plans are made
several times a turn, as a clock cannot time a single one.
"""

from __future__ import annotations

import argparse

import numpy as np
import ot
import torch

from benchmarks.timing import in_turn
from pairclean.align.transport import CHECK_EVERY, partial_plan, standardise

MASS, REG, TOLERANCE = 0.1, 0.3, 1e-5


def numpy_plan(cost: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """The same plan by log-sum-exps in NumPy, one dummy row and column."""
    rows, columns = cost.shape
    kernel = np.zeros((rows + 1, columns + 1), np.float32)
    kernel[:rows, :columns] = np.where(forbidden, -np.inf, -cost / REG)
    kernel[rows, columns] = -np.inf
    log_rows = np.log(np.append(np.full(rows, 1 / rows), 1 - MASS)).astype(np.float32)
    log_columns = np.log(np.append(np.full(columns, 1 / columns), 1 - MASS)).astype(np.float32)
    v = np.zeros_like(log_columns)
    for iteration in range(1, 1001):
        u = log_rows - _logsumexp(kernel + v, 1)
        reached = _logsumexp(kernel + u[:, None], 0)
        if iteration % CHECK_EVERY == 0 and np.abs(np.exp(v + reached) - np.exp(log_columns)).sum() <= TOLERANCE:
            break
        v = log_columns - reached
    return np.exp(u[:, None] + kernel + v)[:rows, :columns]


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis, keepdims=True))).squeeze(axis)


def error(plan: np.ndarray) -> float:
    """By how much the plan misses its mass and exceeds its marginals, in mass."""
    rows, columns = plan.shape
    over = np.maximum(plan.sum(1) - 1 / rows, 0).sum() + np.maximum(plan.sum(0) - 1 / columns, 0).sum()
    return float(abs(plan.sum() - MASS) + over)


def measure(size: int, device: str) -> str:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 64, generator=generator)
    y = x / 2 + torch.randn(size, 64, generator=generator)
    x, y = (torch.nn.functional.normalize(v, dim=1) for v in (x, y))
    forbidden = torch.eye(size, dtype=torch.bool)
    cost = standardise(1 - x @ y.T, forbidden)
    cost_there, forbidden_there = cost.to(device), forbidden.to(device)
    masked = np.where(forbidden, float(cost.max()) + 20 * REG, cost).astype(np.float64)  # POT knows no mask
    even = np.full(size, 1 / size)

    def ours() -> np.ndarray:
        return partial_plan(cost_there, MASS, reg=REG, forbidden=forbidden_there, tol=TOLERANCE).cpu().numpy()

    def theirs() -> np.ndarray:
        return numpy_plan(cost.numpy(), forbidden.numpy())

    def pot() -> np.ndarray:
        plan = ot.partial.entropic_partial_wasserstein(even, even, masked, reg=REG, m=MASS, stopThr=TOLERANCE)
        return np.asarray(plan)

    times = max(1, (512 // size) ** 2)
    mine, numpy, ratio = in_turn(lambda: [ours() for _ in range(times)], lambda: [theirs() for _ in range(times)])
    mine, numpy = mine / times, numpy / times
    pots = in_turn(ours, pot, 1)[1]
    errors = " | ".join(f"{error(f()):.1e}" for f in (ours, theirs, pot))
    return f"| {size} | {1e3 * mine:.1f} | {1e3 * numpy:.1f} | {ratio} | {1e3 * pots:.0f} | {errors} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 512, 2048])
    options = parser.parse_args()
    print("| B | ours, ms | NumPy, ms | NumPy / ours | POT, ms | error of ours | of NumPy | of POT |")
    print("|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        print(measure(size, options.device), flush=True)


if __name__ == "__main__":
    main()
