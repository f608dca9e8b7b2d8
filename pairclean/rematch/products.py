"""Inner products in half precision, where the processor multiplies that faster than single precision.

bfloat16 keeps eight bits of a number. What vectors have in common (the gap between images and captions, what all images
show) is subtracted before and added in single precision afterwards, so that these bits describe what tells them apart.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import InnerProduct

if TYPE_CHECKING:
    from torch import Tensor


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


class HalfProduct(InnerProduct):
    """`InnerProduct` that is computed in half precision where many vectors are compared with many."""

    def with_texts(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        return _products(image, text)

    def with_images(self, text: np.ndarray, image: np.ndarray) -> np.ndarray:
        return _products(text, image)


HALF_PRODUCT = HalfProduct()


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x y = (x - x')(y - y') + x' (y - y') + x y', with means x' and y'."""
    mean, rest = x.mean(0), y.mean(0)
    y = y - rest
    found: np.ndarray = (half(x - mean) @ half(y).T).float().numpy()
    found += (x @ rest)[:, None]
    found += y @ mean
    return found
