"""The built-in encoder: hand-crafted image features and hashed n-grams. Needs no download and no GPU.

Stateless: no vocabulary, no document frequencies, no mean is fitted, so that shards embed alike wherever they are
embedded. The two spaces have nothing to do with each other until an alignment is learned (`comparable` is False);
centring, whitening and with them the inverse document frequencies are the alignment's.

Image: histograms of oriented gradients over 8x8 cells (Dalal and Triggs 2005), an 8x8 colour thumbnail, colour
histograms of the whole, the middle and the four quadrants. Caption: words, pairs of neighbouring words and character
n-grams, each hashed with a sign into a fixed number of dimensions (Weinberger et al. 2009). The counts are those of
scikit-learn's HashingVectorizer, which is not used because importing it takes longer than embedding a hundred pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import mmh3
import numpy as np
from PIL import Image

SIDE = 128  # pixels the picture is resized to, both ways
CELLS = 8
ORIENTATIONS = 9
WORD_DIM, PAIR_DIM, CHAR_DIM = 1024, 512, 512
_WORD = re.compile(r"\w+")


class HogTfidf:
    """See the module's text. Satisfies `pairclean.embed.Encoder`."""

    comparable = False
    device = "cpu"
    least_side: int | None = None
    image_dim = CELLS * CELLS * ORIENTATIONS + CELLS * CELLS * 3 + 6 * 64
    text_dim = WORD_DIM + PAIR_DIM + CHAR_DIM

    def __init__(self) -> None:
        self.description: dict[str, Any] = {"model": "hog-tfidf", "version": 1}

    def prepare(self, image: Image.Image) -> np.ndarray:
        """RGB picture -> (image_dim,) float32 features, each of the three groups of unit length."""
        pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0), np.float32) / 255
        groups = [_gradients(pixels), _thumbnail(pixels), _colours(pixels)]
        return np.concatenate([_unit(g) for g in groups])

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        return _unit(np.stack(prepared))

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        texts = [caption.lower() for caption in captions]
        groups = ((_words, WORD_DIM), (_pairs, PAIR_DIM), (_characters, CHAR_DIM))
        return _unit(np.hstack([_unit(_hashed(texts, features, dim)) for features, dim in groups]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _pairs(text: str) -> Iterator[str]:
    return (f"{first} {second}" for first, second in pairwise(_words(text)))


def _characters(text: str) -> Iterator[str]:
    """Three and four neighbouring characters within a word, or with the space before or after it."""
    for word in text.split():
        spaced = f" {word} "
        for size in (3, 4):
            for start in range(max(1, len(spaced) - size + 1)):
                yield spaced[start : start + size]
            if len(spaced) <= size:  # it is one feature, not two
                break


def _hashed(texts: list[str], features: Callable[[str], Iterable[str]], dim: int) -> np.ndarray:
    """(n, dim) float32 counts of the features of n texts: hashed to a place, and added or subtracted by the sign."""
    rows = []
    for text in texts:
        code = np.array([mmh3.hash(feature) for feature in features(text)], np.int64)
        rows.append(np.bincount(np.abs(code) % dim, np.where(code < 0, -1.0, 1.0), dim))
    return np.stack(rows).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _cells(x: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, c) -> (CELLS, CELLS, c), the mean over each cell."""
    step = SIDE // CELLS
    return x.reshape(CELLS, step, CELLS, step, -1).mean((1, 3))


def _gradients(pixels: np.ndarray) -> np.ndarray:
    """Unsigned orientations, each pixel split between its two nearest bins; cells normalised by their neighbourhood."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    dy, dx = np.gradient(grey)
    magnitude = np.hypot(dx, dy)
    position = (np.arctan2(dy, dx) % np.pi) * (ORIENTATIONS / np.pi)
    low = position.astype(np.intp) % ORIENTATIONS
    share = position - np.floor(position)
    step = SIDE // CELLS
    cell = (np.arange(SIDE) // step)[:, None] * CELLS + np.arange(SIDE) // step
    size = CELLS * CELLS * ORIENTATIONS
    histogram = np.bincount((cell * ORIENTATIONS + low).ravel(), (magnitude * (1 - share)).ravel(), size)
    histogram += np.bincount(
        (cell * ORIENTATIONS + (low + 1) % ORIENTATIONS).ravel(), (magnitude * share).ravel(), size
    )
    histogram = np.sqrt(histogram.reshape(CELLS, CELLS, ORIENTATIONS))
    energy = (histogram**2).sum(-1)
    padded = np.pad(energy, 1, mode="edge")
    around = sum(padded[i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)) / 9
    return (histogram / np.sqrt(around + 0.1 * energy.mean() + 1e-6)[..., None]).ravel().astype(np.float32)


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    return (_cells(pixels) - 0.5).ravel()


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Square roots of 4x4x4 RGB histograms of the whole, the middle and the quadrants."""
    index = (np.minimum((pixels * 4).astype(np.intp), 3) * np.array([16, 4, 1])).sum(-1)
    half, quarter = SIDE // 2, SIDE // 4
    regions = [
        index,
        index[quarter:-quarter, quarter:-quarter],
        *(index[i : i + half, j : j + half] for i in (0, half) for j in (0, half)),
    ]
    return np.concatenate([np.sqrt(np.bincount(r.ravel(), minlength=64) / r.size) for r in regions]).astype(np.float32)
