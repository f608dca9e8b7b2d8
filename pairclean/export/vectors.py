"""Vectors beside their metadata, in the layouts of DataComp and of clip-retrieval."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..embed import Embeddings
from ..embed.store import image_path, metadata_path, text_path
from ..pairs import Shard
from ..sources.embedded import EmbeddedSource
from .kept import added, captions_now, changed, column, whole
from .parquet import Tables


class Donors:
    """Caption vectors that move: gathered on disk shard by shard, as they can come from anywhere and go anywhere."""

    def __init__(self, rows: np.ndarray):
        self._rows = rows
        self._gathered: dict[str, np.ndarray] = {}

    @classmethod
    @contextmanager
    def gathered(cls, folder: Path, source: EmbeddedSource, offsets: np.ndarray, rows: np.ndarray) -> Iterator[Donors]:
        """folder: in which the files lie, in a folder of their own, while the block lasts.  offsets: (S + 1,) int64,
        where the shards begin among all pairs.  rows: the pairs whose caption vectors will be asked for.
        """
        donors = cls(np.unique(rows))
        folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=folder))  # other processes may export other shards at the same time
        try:
            for i, shard in enumerate(source.shards):
                first, last = np.searchsorted(donors._rows, offsets[i : i + 2])
                if first < last:
                    local = donors._rows[first:last] - offsets[i]
                    for name, array in source.arrays(shard).items():
                        if is_text(name):
                            donors._into(folder, name, array)[first:last] = array[local]
            yield donors
        finally:
            donors._gathered.clear()
            shutil.rmtree(folder, ignore_errors=True)

    def _into(self, folder: Path, name: str, like: np.ndarray) -> np.ndarray:
        if name not in self._gathered:
            shape = (len(self._rows), like.shape[1])
            self._gathered[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", like.dtype, shape)
        return self._gathered[name]

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(n, d): the vectors called `name` of these pairs."""
        found: np.ndarray = self._gathered[name][np.searchsorted(self._rows, rows)]
        return found


def is_text(name: str) -> bool:
    """Whether vectors of this name are of captions: `b32_txt` and the like, or `text_emb`."""
    return name.endswith("_txt") or name == "text_emb"


def left_of(arrays: dict[str, np.ndarray], kept: pa.Table, donors: Donors, shard: Shard) -> dict[str, np.ndarray]:
    """The vectors of the pairs that are left; where the caption is new, its own ones."""
    rows, donor = column(kept, "row").to_numpy(), column(kept, "donor").to_numpy()
    new = np.flatnonzero(column(kept, "caption").is_valid().to_numpy(zero_copy_only=False))
    left = {}
    for name, array in arrays.items():
        if len(rows) and rows[-1] >= len(array):
            raise changed(shard)
        left[name] = array[rows]
        if is_text(name) and len(new):
            left[name][new] = donors.take(name, donor[new])
    return left


@dataclass(frozen=True)
class DataComp:
    """`<shard>.npz` with all the vectors that the source has, and `<shard>.parquet` beside, aligned by position."""

    source: EmbeddedSource
    donors: Donors

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.npz", *Tables(self.source).files(shard)]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        left = left_of(self.source.arrays(shard, empty=not len(kept)), kept, self.donors, shard)
        with whole(out / f"{shard.name}.npz") as file:
            np.savez(file, **left)  # type: ignore[arg-type]
        Tables(self.source).write(shard, kept, out)

    def finish(self, out: Path) -> None: ...


class _ClipRetrieval:
    """`img_emb/`, `text_emb/` and `metadata/`, aligned by position."""

    def files(self, shard: Shard) -> list[str]:
        return [str(path(Path(), shard.name)) for path in (image_path, text_path, metadata_path)]

    def finish(self, out: Path) -> None: ...


@dataclass(frozen=True)
class ClipRetrieval(_ClipRetrieval):
    """A folder of clip-retrieval's again."""

    source: EmbeddedSource
    donors: Donors

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        left = left_of(self.source.arrays(shard, empty=not len(kept)), kept, self.donors, shard)
        _save(image_path(out, shard.name), left["img_emb"])
        _save(text_path(out, shard.name), left["text_emb"])
        Tables(self.source, "metadata_").write(shard, kept, out / "metadata")


@dataclass(frozen=True)
class RunVectors(_ClipRetrieval):
    """A run's own vectors, unit length and float16, in the layout of clip-retrieval, for sources of any kind.

    The metadata say where each pair comes from and what its caption is now, with the added columns; where that is a new
    one, the text vector is the new one's.
    """

    emb: Embeddings

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        here = self.emb.pair_table(shard.name)
        first = self.emb.shard_offsets[self.emb.shard_names.index(shard.name)]
        pairs = here.take(pa.array(column(kept, "pair").to_numpy() - first))
        _save(image_path(out, shard.name), self.emb.image[column(kept, "pair").to_numpy()])
        _save(text_path(out, shard.name), self.emb.text[column(kept, "donor").to_numpy()])
        own = column(pairs, "caption")
        where = {name: pairs[name] for name in ("shard", "row", "caption_index")}
        with whole(metadata_path(out, shard.name)) as file:
            pq.write_table(pa.table({"caption": captions_now(kept, own), **where, **added(kept, own)}), file)


def _save(path: Path, array: np.ndarray) -> None:
    with whole(path) as file:
        np.save(file, array, allow_pickle=False)
