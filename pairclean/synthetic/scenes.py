"""A synthetic data set for demonstrations and tests: drawn scenes with true captions, and the flaws of crawled data.

A scene is one to three groups of coloured things on a coloured, textured background. Its caption is always true, and as
detailed or as brief as people write captions. Among the plain pairs are near-duplicates, captions without content
("IMG_2041.jpg"), files that cannot be decoded, and failed downloads.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pairclean.pairs import UserError
from pairclean.synthetic.captions import caption_scene, pick
from pairclean.synthetic.drawing import SIDE, Rng, Scene, draw_picture, sample_scene

#: Share of each kind of pair; the rest is plain. Web crawls also contain a few per cent of near-duplicates.
SHARES = {"near_duplicate": 0.04, "boilerplate": 0.02, "corrupt": 0.003, "missing": 0.002}


BOILERPLATE = [  # the bare word is the most frequent
    "IMG_{:04d}.jpg",
    "DSC{:05d}.JPG",
    "picture{:d}.jpeg",
    "image",
    "image",
    "photo",
    "untitled",
    "product photo",
    "click to enlarge",
    "stock illustration",
]


@dataclass(frozen=True)
class Example:
    """One pair. kind: 'plain', 'near_duplicate', 'boilerplate', 'corrupt' (bytes that do not decode) or 'missing'.

    image: JPEG bytes; None where kind is 'missing' (a failed download).
    description: a caption that is true of the scene: `caption`, unless kind is 'boilerplate'.
    scene: its number; a near-duplicate has that of the pair that it resembles.  subject: what its first group shows.
    """

    image: bytes | None
    caption: str
    kind: str
    description: str = ""
    scene: int = -1
    subject: str = ""


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _kinds(n: int, rng: Rng) -> list[str]:
    """The kind of each of n pairs, as in `SHARES`; the first is plain, as near-duplicates resemble an earlier pair."""
    if n == 0:
        return []
    special = [kind for kind, share in SHARES.items() for _ in range(round(share * n))]
    rest = special + ["plain"] * (n - 1 - len(special))
    return ["plain", *(str(kind) for kind in rng.permutation(rest))]


def _duplicate(seed: int, original: int, rng: Rng) -> tuple[Scene, bytes, str]:
    """A copy, a re-encoding or another drawing of the pair `original`, with its caption or a differently worded one."""
    scene, image, caption = _plain(seed, original)
    manner = int(rng.integers(3))
    if manner == 1:
        image = _jpeg(Image.open(io.BytesIO(image)), int(rng.integers(55, 80)))
    elif manner == 2:
        image = _jpeg(draw_picture(scene, rng), 88)
    return scene, image, (caption if rng.random() < 0.5 else caption_scene(scene, rng))


def _plain(seed: int, index: int) -> tuple[Scene, bytes, str]:
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    return scene, _jpeg(draw_picture(scene, rng), 88), caption_scene(scene, rng)


def _corrupt(image: bytes, rng: Rng) -> bytes:
    page = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>"
    return [image[: len(image) // 3], b"", page][int(rng.integers(3))]


def draw_scenes(n: int, seed: int) -> Iterator[Example]:
    """Draw n pairs, one at a time; the same n and seed give the same bytes with the same version of Pillow.

    The shares of the kinds of pairs are `SHARES`. A near-duplicate resembles an earlier plain pair.

    >>> [example.kind for example in draw_scenes(3, seed=0)]
    ['plain', 'plain', 'plain']
    """
    kinds = _kinds(n, np.random.default_rng(seed))
    plain: list[int] = []
    for index, kind in enumerate(kinds):
        rng = np.random.default_rng([seed, index, 1])  # independent of the scene's own random numbers
        number = index
        if kind == "near_duplicate":
            number = plain[int(rng.integers(len(plain)))]
            scene, image, description = _duplicate(seed, number, rng)
        else:
            scene, image, description = _plain(seed, index)
        caption = description
        if kind == "plain":
            plain.append(index)
        elif kind == "boilerplate":
            caption = pick(rng, BOILERPLATE).format(int(rng.integers(1, 10_000)))
        elif kind == "corrupt":
            image = _corrupt(image, rng)
        picture = None if kind == "missing" else image
        yield Example(picture, caption, kind, description, number, scene.groups[0].kind)


SHARD_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
        ("jpg", pa.binary()),
    ]
)


def _shard_row(example: Example, key: str) -> dict[str, object]:
    """A row as img2dataset writes it: a failed download keeps its caption and says why there is no image."""
    row: dict[str, object] = {"key": key, "caption": example.caption, "url": f"https://scenes.example/{key}.jpg"}
    if example.image is None:
        return row | {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), SIDE)
    digest = hashlib.sha256(example.image).hexdigest()
    return row | sizes | {"status": "success", "exif": "{}", "sha256": digest, "jpg": example.image}


def write_shards(examples: Iterable[Example], out: Path, *, shard_size: int = 1000) -> None:
    """Write `00000.parquet`, `00000_stats.json`, ... as img2dataset does.

    examples: what `draw_scenes` yields.  out: the folder, made if it is missing.
    shard_size: rows per shard, 1 to 10,000.
    Raises UserError if shard_size does not fit the four digits that a key has for the row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_shards(draw_scenes(3, seed=0), Path(folder), shard_size=2)
    ...     sorted(file.name for file in Path(folder).glob("*.parquet"))
    ['00000.parquet', '00001.parquet']
    """
    if not 1 <= shard_size <= 10_000:
        raise UserError(f"a shard holds 1 to 10,000 pairs, not {shard_size:,}: choose a shard size in between")
    out.mkdir(parents=True, exist_ok=True)
    rest = iter(examples)
    shard = 0
    while batch := list(islice(rest, shard_size)):
        rows = [_shard_row(example, f"{shard:05d}{index:04d}") for index, example in enumerate(batch)]
        pq.write_table(pa.Table.from_pylist(rows, SHARD_SCHEMA), out / f"{shard:05d}.parquet", row_group_size=100)
        successes = sum(example.image is not None for example in batch)
        failed = len(batch) - successes
        stats = {
            "count": len(batch),
            "successes": successes,
            "failed_to_download": failed,
            "failed_to_resize": 0,
            "duration": 0.0,  # nothing was downloaded
            "status_dict": {"success": successes} | ({"HTTP Error 404: Not Found": failed} if failed else {}),
        }
        (out / f"{shard:05d}_stats.json").write_text(json.dumps(stats, indent=4))
        shard += 1
