"""A data set and an encoder that leave nearly nothing to compute, for tests that run many times over."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.embed.hog_tfidf import HogTfidf
from pairclean.synthetic.scenes import Example, write_shards

OPTIONS = {"model": "hog-tfidf", "method": "canonical"}
BARS = 14


def draw_bars(n: int) -> list[Example]:
    """Grey bars, and captions that say how bright each is; every fourth caption is another picture's."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 10, (n, BARS))
    captions = [" ".join(f"bar{level}" for level in row) for row in levels]
    moved = np.arange(0, n, 4)
    for i, j in zip(moved, np.roll(moved, 1), strict=True):
        captions[i] = " ".join(f"bar{level}" for level in levels[j])
    return [Example(bars(row), caption, "plain") for row, caption in zip(levels, captions, strict=True)]


def bars(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.tile((levels * 25).astype(np.uint8).repeat(2), (16, 1))).save(file, "PNG")
    return file.getvalue()


def write_bars(n: int, folder: Path, shard_size: int) -> Path:
    """Of the columns of img2dataset only these: the report compares the groups of every other one."""
    write_shards(draw_bars(n), folder, shard_size=shard_size)
    for file in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(file, columns=["key", "jpg", "caption"]), file)
    return folder


class Small(HogTfidf):
    """Takes the place of the built-in encoder: the brightness of bars, and what a caption says of it."""

    image_dim = text_dim = BARS

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("L").resize((BARS, 1), Image.Resampling.BOX), np.float32)[0] / 25

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        return unit(np.stack(prepared))

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        numbers = [[float(word[3:]) for word in caption.split() if word[3:].isdigit()] for caption in captions]
        return -unit(np.array([(row + [0.0] * BARS)[:BARS] for row in numbers], np.float32))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x + 1e-6, axis=1, keepdims=True)


def use_small(patch: pytest.MonkeyPatch) -> None:
    from pairclean.stages import embed

    patch.setattr(embed, "load_encoder", lambda *_, **__: Small())
