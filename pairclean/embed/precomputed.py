"""Vectors that are there already become parts of vectors: nothing is encoded."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..pairs import PAIR_SCHEMA, Shard, content_id
from ..pairs import caption_id as caption_identity
from ..sources.base import Vectors, VectorSource
from ..sources.storage import CorruptFile
from .embed import PAUSE, _claim_any, _ignore, why_no_caption
from .store import part_is_done, write_part


def keep_source(
    source: VectorSource,
    root: Path,
    fingerprint_of: Callable[[Shard], str],
    *,
    shards: Sequence[Shard] | None = None,
    wait_for_others: bool = True,
    advance: Callable[[int], None] = _ignore,
    claim: Callable[[Shard], AbstractContextManager[bool]] = _claim_any,
) -> None:
    """Writes the parts that are not done under their fingerprint; the arguments are as for `embed_source`."""
    waiting = deque(source.shards if shards is None else shards)
    while waiting:
        shard = waiting.popleft()
        with claim(shard) as mine:
            if mine and not part_is_done(root, shard.name, fingerprint_of(shard)):
                keep_shard(source, shard, root, fingerprint_of(shard))
        if mine:
            advance(shard.rows)
        elif wait_for_others:  # whoever has it may not live to finish it
            waiting.append(shard)
            time.sleep(PAUSE)


def keep_shard(source: VectorSource, shard: Shard, root: Path, fingerprint: str) -> None:
    """Writes one shard's part: its vectors, of unit length and in half precision, and what they are of.

    A pair without a caption, or with a vector that is zero or not finite, has zero vectors and a reason; so have all
    pairs of a shard whose vectors are broken. Images are the same by the bytes of their vectors, where the source does
    not know them better.
    Raises CorruptFile where a file is broken and the source was opened as strict.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root) as image_file, tempfile.TemporaryFile(dir=root) as text_file:
        image, text = (
            _on_disk(file, shard.rows, dim) for file, dim in zip((image_file, text_file), source.dims, strict=True)
        )
        tables = []
        row = 0
        try:
            for chunk in source.embedded(shard):
                part = slice(row, row + len(chunk.rows))
                table, image[part], text[part] = prepared(shard.name, chunk)
                tables.append(table)
                row = part.stop
        except CorruptFile as error:
            if source.strict:
                raise
            image[:] = text[:] = 0
            rows = list(source.rows(shard))
            tables = [_pairs(shard.name, Vectors(rows, image, text), [error.reason] * len(rows))]
        write_part(root, shard.name, fingerprint, pa.concat_tables(tables or [PAIR_SCHEMA.empty_table()]), image, text)


def prepared(shard_name: str, chunk: Vectors) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """PAIR_SCHEMA, and the vectors of images and captions, (n, d) each, of unit length, or zero where unreadable."""
    by_text = chunk.caption_id is None  # otherwise a caption needs no text
    reasons = [row.reason or (why_no_caption(row.captions[0]) if by_text else None) for row in chunk.rows]
    readable = np.array([reason is None for reason in reasons], bool)[:, None]
    return _pairs(shard_name, chunk, reasons), _unit(chunk.image, readable), _unit(chunk.text, readable)


def _on_disk(file: Any, rows: int, dim: int) -> np.ndarray:
    """A shard may have more vectors than memory.  (rows, dim) float16, zero."""
    if rows == 0:
        return np.zeros((0, dim), np.float16)
    return np.memmap(file, np.float16, "w+", shape=(rows, dim))


def _unit(vectors: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """Of unit length, and zero where not readable.  vectors: (n, d) float32, readable: (n, 1) bool."""
    wide = np.where(readable, vectors, 0).astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = wide / np.where(length > 0, length, 1)
    return unit


def _pairs(shard_name: str, chunk: Vectors, reasons: list[str | None]) -> pa.Table:
    """PAIR_SCHEMA, one row per pair."""
    readable = [reason is None for reason in reasons]
    image_id, caption_id = chunk.image_id, chunk.caption_id
    if image_id is None:
        image_id = _ids(readable, lambda i: content_id(chunk.image[i].tobytes()))
    if caption_id is None:
        caption_id = _ids(readable, lambda i: caption_identity(chunk.rows[i].captions[0] or ""))
    columns = {
        "pair_id": [row.pair_id(0) for row in chunk.rows],
        "shard": [shard_name] * len(chunk.rows),
        "row": [row.row for row in chunk.rows],
        "caption_index": [0] * len(chunk.rows),
        "caption": [row.captions[0] for row in chunk.rows],
        "image_id": np.where(readable, image_id, 0),
        "caption_id": np.where(readable, caption_id, 0),
        "reason": reasons,
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def _ids(readable: list[bool], identity: Callable[[int], int]) -> np.ndarray:
    return np.array([identity(i) if there else 0 for i, there in enumerate(readable)], np.int64)
