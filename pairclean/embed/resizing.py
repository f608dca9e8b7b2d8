"""Resizing and cropping as open_clip's preprocessing does, on the bytes of the pixels instead of Pillow's images.

torchvision's antialiased resize of uint8 tensors takes a quarter of the time of Pillow's. The filter is the same. Both
round between their passes over rows and columns, so that a pixel differs by less than a third of one of 255 levels on
average.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from open_clip.transform import MaybeConvertMode
from PIL import Image
from torch.utils.dlpack import from_dlpack
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from torchvision.transforms.v2 import functional

_SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)

Prepare = Callable[[Image.Image], np.ndarray]


def by_pillow(steps: Sequence[Callable[[Image.Image], Image.Image]]) -> Prepare:
    """RGB picture -> (height, width, 3) uint8: the steps of a transform, one after another."""

    def prepare(image: Image.Image) -> np.ndarray:
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return prepare


def by_torchvision(steps: Sequence[object]) -> Prepare | None:
    """The same on tensors; None if a step is another one than resizing smoothly, cropping, or converting to RGB."""
    on_tensors: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for step in steps:
        if isinstance(step, Resize) and step.interpolation in _SMOOTH and step.antialias:
            on_tensors.append(functools.partial(_resize, step))
        elif isinstance(step, CenterCrop):
            on_tensors.append(functools.partial(functional.center_crop, output_size=list(step.size)))
        elif not isinstance(step, MaybeConvertMode):
            return None

    def prepare(image: Image.Image) -> np.ndarray:
        pixels = _pixels(image)
        for step in on_tensors:
            pixels = step(pixels)
        array: np.ndarray = pixels[:3].permute(1, 2, 0).contiguous().numpy()
        return array

    return prepare


def _pixels(image: Image.Image) -> torch.Tensor:
    """RGB picture -> (4, height, width) uint8: the channels and a fourth byte, as Pillow has them in memory.

    To pack three bytes a pixel, as `np.array` does, holds Python's lock for longer than all else together, and threads
    that decode would wait for each other.
    """
    width, height = image.size
    try:  # no copy, where Pillow is 11.3 or newer and the rows lie one after another
        held = from_dlpack(pa.array(image).flatten())
    except (TypeError, ValueError, pa.ArrowException):
        held = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    return held.view(height, width, 4).permute(2, 0, 1)


def _resize(step: Resize, pixels: torch.Tensor) -> torch.Tensor:
    size = [step.size] if isinstance(step.size, int) else list(step.size)
    resized: torch.Tensor = functional.resize(pixels, size, step.interpolation, step.max_size, antialias=True)
    return resized
