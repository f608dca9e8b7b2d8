"""Vectors on disk, in clip-retrieval's layout: one part a shard, memory-mapped, complete or not there.

ROOT/img_emb/img_emb_SHARD.npy        (n, d) float16
ROOT/text_emb/text_emb_SHARD.npy      (n, d') float16
ROOT/metadata/metadata_SHARD.parquet  PAIR_SCHEMA, aligned by position; written last, with the part's fingerprint
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..arrays import Pairs
from ..files import written_whole
from ..pairs import PAIR_SCHEMA

_KEY = b"pairclean"
# Python holds a file descriptor for every mapped file, and 1,024 of them is a common limit.
_MAPPED_FILES = 384


def image_path(root: Path, shard_name: str) -> Path:
    return root / "img_emb" / f"img_emb_{shard_name}.npy"


def text_path(root: Path, shard_name: str) -> Path:
    return root / "text_emb" / f"text_emb_{shard_name}.npy"


def metadata_path(root: Path, shard_name: str) -> Path:
    return root / "metadata" / f"metadata_{shard_name}.parquet"


def part_is_done(root: Path, shard_name: str, fingerprint: str) -> bool:
    """Whether the shard's part is complete and was written under this fingerprint."""
    try:
        metadata = pq.read_metadata(metadata_path(root, shard_name))
        rows = {len(_map(path(root, shard_name))) for path in (image_path, text_path)}
    except (OSError, EOFError, ValueError, pa.ArrowInvalid):  # missing, or not written by us
        return False
    return fingerprint_in(metadata.metadata) == fingerprint and rows == {metadata.num_rows}


def fingerprint_in(metadata: Mapping[bytes, bytes] | None) -> str | None:
    """The fingerprint of a part, from the metadata of its Parquet file; None if it has none."""
    found = (metadata or {}).get(_KEY)
    return None if found is None else found.decode()


def write_part(
    root: Path, shard_name: str, fingerprint: str, pairs: pa.Table, image: np.ndarray, text: np.ndarray
) -> None:
    """Writes one shard's part; a kill at any moment leaves no part or a whole one.

    pairs: PAIR_SCHEMA, n rows.  image: (n, d), text: (n, d'), any float; stored as float16.
    """
    table = pairs.cast(PAIR_SCHEMA).replace_schema_metadata({_KEY: fingerprint.encode()})
    if not len(table) == len(image) == len(text):
        raise ValueError(f"{len(table)} pairs, {len(image)} image and {len(text)} text vectors are not aligned")
    # A part of another fingerprint stops being one before its vectors change.
    metadata_path(root, shard_name).unlink(missing_ok=True)
    for path, vectors in ((image_path(root, shard_name), image), (text_path(root, shard_name), text)):
        with written_whole(path) as file:
            np.save(file, vectors.astype(np.float16, copy=False), allow_pickle=False)
    with written_whole(metadata_path(root, shard_name)) as file:
        pq.write_table(table, file)


def prune_parts(root: Path, shard_names: Sequence[str]) -> None:
    """Removes what belongs to no shard any more, so that the folder is indexed as what the run holds."""
    for path_of in (metadata_path, image_path, text_path):
        kept = {path_of(root, name) for name in shard_names}
        folder = path_of(root, "").parent
        for path in folder.iterdir() if folder.is_dir() else ():
            if path not in kept:
                path.unlink(missing_ok=True)  # another process may tidy up too


def _map(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


class ShardedArray:
    """Several (n_i, d) arrays on disk as one read-only (N, d) array; only what is asked for is read.

    Indexed by a slice, or by an integer array of any order (repeats and negatives allowed); gives an ndarray, which is
    a view of the file for a slice within one shard.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._part = functools.lru_cache(maxsize=_MAPPED_FILES)(lambda shard: _map(self._paths[shard]))
        lengths: list[int] = []
        kinds: set[tuple[int, np.dtype]] = set()
        for path in self._paths:
            part = _map(path)
            lengths.append(len(part))
            kinds.add((part.shape[1], part.dtype))
        if len(kinds) > 1:
            raise ValueError("the parts differ in length or type of their vectors: they are of different encoders")
        dim, dtype = kinds.pop() if kinds else (0, np.dtype(np.float16))
        self.dtype: np.dtype = dtype
        self.offsets = np.cumsum([0, *lengths], dtype=np.int64)
        self.shape = (int(self.offsets[-1]), dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._span(start, max(start, stop))
            rows = np.arange(start, stop, step)
        return self._gather(np.asarray(rows))

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _span(self, start: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(self.offsets, [start, stop - 1], side="right") - 1
        if start >= stop:
            return np.empty((0, self.shape[1]), self.dtype)
        pieces = [
            self._part(shard)[max(start - self.offsets[shard], 0) : stop - self.offsets[shard]]
            for shard in range(first, last + 1)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype == np.bool_ or rows.ndim != 1:
            raise IndexError("rows are a slice or a one-dimensional integer array")
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"a row is out of range for {len(self)} rows")
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        ascending = bool((rows[1:] >= rows[:-1]).all())
        for shard, places, local in _by_shard(self.offsets, rows):
            if ascending:  # then they need not be copied twice
                np.take(self._part(shard), local, axis=0, out=out[places[0] : places[-1] + 1], mode="clip")
            else:
                out[places] = self._part(shard)[local]
        return out


def _by_shard(offsets: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(shard, positions in `rows`, rows within the shard) for each shard that occurs, the rows ascending."""
    order = np.argsort(rows, kind="stable")
    shards = np.searchsorted(offsets, rows[order], side="right") - 1
    for places in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
        if len(places):
            shard = int(np.searchsorted(offsets, rows[places[0]], side="right")) - 1
            yield shard, places, rows[places] - offsets[shard]


@dataclass(frozen=True)
class Embeddings:
    """All pairs of a run, by row: vectors and captions stay on disk, identities are in memory.

    image: (N, d), text: (N, d') float16, unit length, zero where unreadable.
    image_id, caption_id: (N,) int64.  readable: (N,) bool.
    shard_offsets: (S + 1,) int64; shard s has the rows shard_offsets[s] to shard_offsets[s + 1].
    """

    root: Path
    shard_names: tuple[str, ...]
    image: ShardedArray
    text: ShardedArray
    image_id: np.ndarray
    caption_id: np.ndarray
    readable: np.ndarray
    shard_offsets: np.ndarray

    @classmethod
    def open(cls, root: Path, shard_names: Sequence[str], *, vectors: bool = True) -> Embeddings:
        """The parts of these shards, in this order; all have to be there.

        vectors: False for those who read only the pairs; `image` and `text` are then empty.
        """
        with_vectors = shard_names if vectors else ()
        image = ShardedArray([image_path(root, name) for name in with_vectors])
        text = ShardedArray([text_path(root, name) for name in with_vectors])
        columns = ["image_id", "caption_id", "reason"]
        parts = [pq.read_table(metadata_path(root, name), columns=columns) for name in shard_names]
        pairs = pa.concat_tables(parts or [PAIR_SCHEMA.empty_table()])
        if vectors and not len(pairs) == len(image) == len(text):
            raise ValueError(f"{root}: {len(pairs)} pairs, {len(image)} image and {len(text)} text vectors")
        return cls(
            root,
            tuple(shard_names),
            image,
            text,
            pairs["image_id"].to_numpy(),
            pairs["caption_id"].to_numpy(),
            pc.is_null(pairs["reason"]).to_numpy(),
            np.cumsum([0, *map(len, parts)], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def pairs(self) -> Pairs:
        """All pairs, with their vectors on disk, and identities that are equal for exact copies."""
        return Pairs(self.image, self.text, self.image_id, self.caption_id)

    def pair_table(self, shard_name: str, columns: list[str] | None = None) -> pa.Table:
        """One shard's pairs, PAIR_SCHEMA or some of its columns."""
        return pq.read_table(metadata_path(self.root, shard_name), columns=columns).replace_schema_metadata(None)

    def captions(self, rows: np.ndarray) -> list[str]:
        """The captions of some rows, in their order ("" where there is none); reads the shards that they are in."""
        return self.texts("caption", rows)

    def texts(self, column: str, rows: np.ndarray) -> list[str]:
        """The same of any column of PAIR_SCHEMA that has text."""
        found = [""] * len(rows)
        for shard, places, local in _by_shard(self.shard_offsets, np.asarray(rows)):
            path = metadata_path(self.root, self.shard_names[shard])
            texts = pq.read_table(path, columns=[column])[column].take(pa.array(local)).to_pylist()
            for place, text in zip(places, texts, strict=True):
                found[place] = text or ""
        return found
