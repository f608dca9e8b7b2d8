"""Planted mismatches: captions moved between pairs at a known rate, before anything else sees the data.

What was planted is the truth that `evaluate.detection` compares a run with; it never reaches a method.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairclean.pairs import UserError


def plant(groups: NDArray[np.generic], rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw which caption each pair carries: a cycle through a random choice of every group's members.

    groups: (n,) labels; captions move only between pairs of one label.  rate: share of each group to move, in [0, 1].
    Returns (n,) int64, the index of the caption that each pair carries. Of each group round(rate * members) move and
    none of those keeps its own; one alone has nowhere to go and stays.
    Raises UserError if rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise UserError(f"The rate of planted mismatches is a share between 0 and 1, not {rate}.")
    carried = np.arange(len(groups), dtype=np.int64)
    _, label, members = np.unique(groups, return_inverse=True, return_counts=True)
    for group in np.split(np.argsort(label, kind="stable"), np.cumsum(members)[:-1]):
        moved = rng.permutation(group)[: round(rate * len(group))]
        carried[moved] = np.roll(moved, 1)
    return carried


def _captions(files: list[Path]) -> tuple[list[str], list[str | None]]:
    """Keys and captions of all shards, in order."""
    keys: list[str] = []
    captions: list[str | None] = []
    for file in files:
        schema = pq.read_schema(file)
        for column in ("key", "caption"):
            if column not in schema.names or not _is_string(schema.field(column).type):
                raise UserError(f"{file} needs a column '{column}' of strings for captions to be moved in it.")
        table = pq.read_table(file, columns=["key", "caption"])
        keys += table["key"].to_pylist()
        captions += table["caption"].to_pylist()
    if len(set(keys)) < len(keys):
        raise UserError("Keys are not unique, so that the truth could not be told by key; rename the repeated ones.")
    return keys, captions


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def plant_shards(source_dir: Path, out_dir: Path, *, rate: float, seed: int) -> pa.Table:
    """Copy the img2dataset-style Parquet shards of a folder with captions moved between randomly chosen pairs.

    rate: share of the pairs to move, in [0, 1].  All but the captions stays as it was, row order and row groups too.
    Returns the truth, a row for each pair in input order, all strings: `key`, `caption_key` (whose caption the pair
    carries now), `caption` (its own) and `carried_caption`. Two pairs may share a text, so that a moved caption can
    still be right.
    Raises UserError if there are no shards, `key` or `caption` is missing or not of strings, keys repeat, or the two
    folders are one.
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    if source_dir.resolve() == out_dir.resolve():
        raise UserError(f"Captions are moved in a copy; name another folder than {source_dir} for it.")
    files = sorted(source_dir.glob("*.parquet"))
    if not files:
        raise UserError(f"There are no Parquet files in {source_dir}; name the folder that holds the shards.")
    keys, captions = _captions(files)
    carried = pa.array(plant(np.zeros(len(keys)), rate, np.random.default_rng(seed)))
    text = pa.array(captions, pa.string())
    moved = text.take(carried)
    out_dir.mkdir(parents=True, exist_ok=True)
    start = 0
    for file in files:
        start = _rewrite(file, out_dir / file.name, moved, start)
    key = pa.array(keys, pa.string())
    return pa.table({"key": key, "caption_key": key.take(carried), "caption": text, "carried_caption": moved})


def _rewrite(source: Path, target: Path, captions: pa.Array, start: int) -> int:
    """Copy one shard by row groups with `captions[start:]`; returns where the next shard's captions begin."""
    shard = pq.ParquetFile(source)
    schema = shard.schema_arrow
    column = schema.get_field_index("caption")
    with pq.ParquetWriter(target, schema) as writer:
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group)
            new = captions.slice(start, len(table)).cast(schema.field(column).type)
            writer.write_table(table.set_column(column, schema.field(column), new))
            start += len(table)
    return start
