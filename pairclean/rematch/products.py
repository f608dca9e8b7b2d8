"""Inner products in half precision, where the processor multiplies that faster than single precision.

bfloat16 keeps eight bits of a number. What vectors have in common (the gap between images and captions, what all images
show) is subtracted before and added in single precision afterwards, so that these bits describe what tells them apart:
with x' and y' taken off the two sides,

    x y = (x - x')(y - y') + x' (y - y') + x y'
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Rows, chunks
from ..execution import side_by_side
from ..judge.scores import Scorer

if TYPE_CHECKING:
    from torch import Tensor

#: Vectors and references that are compared at once: their similarities stay in the cache.
TILE = 512, 1024
#: Vectors by whose mean a side is centred.
CENTRED = 8192


@cache
def half_precision() -> Any:
    """torch.bfloat16 if this processor has instructions for it; otherwise torch.float32: it would take longer."""
    import torch

    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


def half(x: np.ndarray) -> Tensor:
    """(n, k) float32 -> the same in `half_precision`."""
    import torch

    return torch.from_numpy(x).to(half_precision())


@dataclass(frozen=True)
class HalfScorer(Scorer):
    """`Scorer` of inner products that computes hubness on a CPU in half precision."""

    def hubness(self, image: Rows, text: Rows) -> tuple[np.ndarray, np.ndarray]:
        r = self.reference
        return half_hubness(image, r.text, self.temperature), half_hubness(text, r.image, self.temperature)


def half_hubness(x: Rows, other: np.ndarray, temperature: float) -> np.ndarray:
    """`judge.scores.hubness` by products in half precision.  x: (n, k), other: (R, k) -> (n,) float64."""
    import torch

    mean, rest = x[:CENTRED].mean(0) if x.shape[0] else np.zeros(x.shape[1], np.float32), other.mean(0)
    centred = other - rest
    others = half(centred).split(TILE[1])
    bonuses = torch.from_numpy(centred @ mean / np.float32(temperature)).split(TILE[1])
    rows = list(chunks(x.shape[0], TILE[0]))

    def of_rows(k: int, _: str) -> np.ndarray:
        vectors = x[rows[k]]
        left, total = half(vectors - mean), np.full(len(vectors), -np.inf)
        for right, bonus in zip(others, bonuses, strict=True):
            logits = torch.add(bonus, left @ right.T, alpha=1 / temperature)
            top = logits.amax(1)
            logits -= top[:, None]
            summed = logits.exp_().sum(1).double()
            total = np.logaddexp(total, (top + summed.log()).numpy())
        return total + vectors @ rest / temperature

    return np.concatenate(side_by_side(of_rows, len(rows), ["cpu"]) or [np.zeros(0)]) - np.log(len(other))


def largest(x: Tensor, k: int, group: int) -> Tensor:
    """The columns of the k largest of every row, (n, k), in any order.  x: (n, m) on any device.

    If m is a multiple of `group`, they are looked for in the k groups of columns whose maxima are largest; to sort all
    columns takes several times as long.
    """
    groups, left = divmod(x.shape[1], group)
    if left or groups <= k:
        return x.topk(k, sorted=False).indices
    grouped = x.view(len(x), group, groups)  # columns that are `groups` apart are one group: maxima then read in order
    best = grouped.amax(1).topk(k, sorted=False).indices
    few = grouped.gather(2, best[:, None].expand(-1, group, -1)).flatten(1)
    at = few.topk(k, sorted=False).indices
    return at // k * groups + best.gather(1, at % k)
