"""Retrieval by the publication's protocol: recalls of the similarity matrix, ensembles, MS-COCO's five folds.

The published code prints a wrong sum and swapped averages in the five-fold evaluation: its "rsum" is six times the mean
image-to-text recall, and the averages stand under each other's names. Here the sum is that of the six recalls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import chunks
from .data import Ints, RegionCaptions
from .networks import RetrievalModel

Floats = NDArray[np.floating[Any]]
RECALLS = (1, 5, 10)
FOLD_IMAGES = 1000
#: Images and captions that are compared at once.
IMAGES, CAPTIONS = 500, 256


@dataclass(frozen=True)
class Recalls:
    """In percent, at 1, 5 and 10: from an image to its captions (the best of them counts), and from a caption to its
    image.
    """

    i2t: tuple[float, ...]
    t2i: tuple[float, ...]

    @property
    def six(self) -> tuple[float, ...]:
        return self.i2t + self.t2i

    @property
    def rsum(self) -> float:
        return sum(self.six)


def ranks(similarity: Floats, per_image: int) -> tuple[Ints, Ints]:
    """The rank of the best caption of every image, (I,), and of the image of every caption, (C,), counted from 1.

    similarity: (I, C); captions i * per_image up to (i + 1) * per_image belong to image i.
    The order of ties is undefined in the published code; here half of them come first, rounded up.
    """
    images, captions = similarity.shape
    own = similarity.reshape(images, images, per_image)[np.arange(images), np.arange(images)]  # (I, per_image)
    best, caption = own.max(1, keepdims=True), own.reshape(1, captions)
    tied = (similarity == best).sum(1) - (own == best).sum(1)
    i2t = 1 + (similarity > best).sum(1) + (tied + 1) // 2
    tied = (similarity == caption).sum(0) - 1
    t2i = 1 + (similarity > caption).sum(0) + (tied + 1) // 2
    return i2t, t2i


def recalls(similarity: Floats, per_image: int) -> Recalls:
    """The recalls of one similarity matrix, as for `ranks`; the mean of two matrices is the ensemble of two models."""
    i2t, t2i = (rank <= np.array(RECALLS)[:, None] for rank in ranks(similarity, per_image))
    return Recalls(tuple((100 * i2t.mean(1)).tolist()), tuple((100 * t2i.mean(1)).tolist()))


def mean(of: list[Recalls]) -> Recalls:
    """The mean of each recall, over MS-COCO's folds."""
    return Recalls(*(tuple(np.mean([getattr(fold, way) for fold in of], 0).tolist()) for way in ("i2t", "t2i")))


@torch.no_grad()
def similarities(model: RetrievalModel, data: RegionCaptions, *, half: bool = False) -> NDArray[np.float32]:
    """Of all images and all captions, (I, C) float32, in eval mode, whose mode is restored.

    half: compute in bfloat16.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = np.empty((len(data.images), len(data)), np.float32)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        for images in chunks(len(out), IMAGES):
            regions = model.img_enc(data.regions(images).to(device))
            for part in chunks(len(data), CAPTIONS):
                captions, lengths = data.words(np.arange(len(data))[part])
                words = model.txt_enc(captions.to(device), lengths)
                out[images, part] = model.sim_enc(regions, words, lengths).float().cpu().numpy()
    model.train(was_training)
    return out
