"""Clean pairs that lie in a layout of your own, with an encoder of your own: here an SQLite database of pictures."""

# %% A small database to try it on: drawn scenes, every third caption moved.

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pairclean
from pairclean.pairs import Roles, Row, Shard
from pairclean.sources import Source
from pairclean.synthetic.scenes import draw_scenes

home = Path("example_source")
home.mkdir(exist_ok=True)
database = home / "pairs.sqlite"
if not database.exists():
    scenes = list(draw_scenes(600, seed=0))
    captions = [scene.caption for scene in scenes]
    captions[::3] = captions[3::3] + captions[:1]
    with sqlite3.connect(database) as connection:
        connection.execute("create table pairs (number integer primary key, picture blob, caption text)")
        for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
            connection.execute("insert into pairs values (?, ?, ?)", (number, scene.image, caption))


# %% A source: shards with their fingerprints, and the rows of one. Everything else has a default.


class Database(Source):
    """The pairs of a database, 250 a shard."""

    roles = Roles("picture", "caption", "number")

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        with sqlite3.connect(path) as connection:
            (count,) = connection.execute("select count(*) from pairs").fetchone()
        # A shard whose fingerprint changes is embedded again; here the whole database is taken as one.
        state = path.stat()
        fingerprint = f"{state.st_size}:{state.st_mtime_ns}"
        self.shards = [
            Shard(f"{first:06d}", self.path, min(250, count - first), fingerprint) for first in range(0, count, 250)
        ]

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        picture = "picture" if images else "null"
        query = f"select number, {picture}, caption from pairs where number >= ? order by number limit ?"
        with sqlite3.connect(self.path) as connection:
            for row, found in enumerate(connection.execute(query, (int(shard.name), shard.rows))):
                number, image, caption = found
                reason = "the picture is null" if images and image is None else None
                yield Row(row, str(number), image, (caption,), reason=reason)


# %% An encoder: pictures and captions in, unit vectors out. `description` is what tells it from others.


class Thumbnails:
    """Colours on a coarse grid, and counts of hashed words."""

    image_dim, text_dim = 192, 256
    comparable = False  # a cosine between these two kinds of vectors means nothing until an alignment is learned
    description = {"name": "thumbnails", "version": 1}  # noqa: RUF012
    device = "cpu"
    least_side = 8

    def prepare(self, image) -> np.ndarray:
        return np.asarray(image.resize((8, 8)), np.float32).ravel()

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        return unit(np.stack(prepared) - 127.5)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        counts = np.zeros((len(captions), self.text_dim), np.float32)
        for row, caption in enumerate(captions):
            for word in caption.lower().split():
                counts[row, sum(word.encode()) % self.text_dim] += 1
        return unit(counts)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# %% One call. To resume the run, hand in the same objects again.

run = pairclean.clean(Database(database), home / "run", encoder=Thumbnails(), method="canonical")
print("verdicts:", run.report["verdicts"])
print("cleaned:", *sorted(file.name for file in (run.path / "cleaned").iterdir()))
