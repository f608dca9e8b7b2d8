"""Vectors that are there already become parts of vectors: nothing is encoded."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..pairs import PAIR_SCHEMA, Row, Shard, caption_id, content_id
from ..sources.base import CorruptFile, Vectors, VectorSource
from .embed import PAUSE, _claim_any, _ignore, why_no_caption
from .store import part_is_done, write_part


def keep_source(
    source: VectorSource,
    root: Path,
    fingerprint_of: Callable[[Shard], str],
    *,
    advance: Callable[[int], None] = _ignore,
    claim: Callable[[Shard], AbstractContextManager[bool]] = _claim_any,
) -> None:
    """Writes the parts that are not done under their fingerprint.  advance, claim: as for `embed_source`."""
    waiting = deque(source.shards)
    while waiting:
        shard = waiting.popleft()
        with claim(shard) as mine:
            if mine and not part_is_done(root, shard.name, fingerprint_of(shard)):
                keep_shard(source, shard, root, fingerprint_of(shard))
        if mine:
            advance(shard.rows)
        else:  # whoever has it may not live to finish it
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
                reasons = [found.reason or why_no_caption(found.captions[0]) for found in chunk.rows]
                readable = np.array([reason is None for reason in reasons], bool)[:, None]
                image[part], text[part] = (_unit(vectors, readable) for vectors in (chunk.image, chunk.text))
                tables.append(_pairs(shard, chunk, reasons))
                row = part.stop
        except CorruptFile as error:
            if source.strict:
                raise
            image[:] = text[:] = 0
            rows = list(source.rows(shard))
            tables = [_pairs(shard, Vectors(rows, image, text), [error.reason] * len(rows))]
        write_part(root, shard.name, fingerprint, pa.concat_tables(tables or [PAIR_SCHEMA.empty_table()]), image, text)


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


def _pairs(shard: Shard, chunk: Vectors, reasons: list[str | None]) -> pa.Table:
    """PAIR_SCHEMA, a pair a row."""
    images = (
        [0 if why else content_id(vector.tobytes()) for vector, why in zip(chunk.image, reasons, strict=True)]
        if chunk.image_id is None
        else np.where([why is None for why in reasons], chunk.image_id, 0)
    )
    columns = {
        "pair_id": [row.pair_id(0) for row in chunk.rows],
        "shard": [shard.name] * len(chunk.rows),
        "row": [row.row for row in chunk.rows],
        "caption_index": [0] * len(chunk.rows),
        "caption": [row.captions[0] for row in chunk.rows],
        "image_id": images,
        "caption_id": [0 if why else _caption_id(row) for row, why in zip(chunk.rows, reasons, strict=True)],
        "reason": reasons,
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def _caption_id(row: Row) -> int:
    caption = row.captions[0]
    return 0 if caption is None else caption_id(caption)
