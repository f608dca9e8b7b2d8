"""Parquet in the source's columns, order and types, with the captions that the pairs carry now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..pairs import Shard
from ..sources import Source
from ..sources.roles import huggingface_features, is_one_of
from ..sources.storage import CorruptFile
from ..sources.tables import Gap, read_schema, readable_batches
from .kept import ADDED, added, adds, as_lists, captions_now, changed, column, whole

#: A row group ends when it has this much: what is in memory at once, and what a reader has to load for one row.
GROUP_ROWS = 10_000
GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class Tables:
    """Shards of Parquet as Parquet: `<shard>.parquet`.

    The source's rows are streamed and keep their columns, order and types; those that an earlier cleaning added are
    replaced or, where none are to be added, left out. Where captions are lists, they stay lists without the dropped
    ones, rows that have none left go, and the added columns are lists beside them. A shard that nothing is left of
    becomes a file without rows.
    """

    source: Source
    prefix: str = ""  # of the files' names

    def files(self, shard: Shard) -> list[str]:
        return [f"{self.prefix}{shard.name}.parquet"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        caption, many = self.source.roles.caption, self.source.many
        schema = output_schema(read_schema(shard.path), caption, many, adds(kept))
        write_tables(
            out / self.files(shard)[0], _rewritten(shard, kept, caption, many, schema, self.source.encoding), schema
        )

    def finish(self, out: Path) -> None: ...


def write_tables(path: Path, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    """A Parquet file of these tables, in row groups bounded by GROUP_ROWS and GROUP_BYTES."""
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    with (
        whole(path) as file,
        # Images do not compress into a dictionary; small write batches keep pages, and what reads them, small.
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=texts, write_batch_size=64) as writer,
    ):
        for table in _row_groups(tables):
            writer.write_table(table, row_group_size=len(table))


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer and larger tables, bounded by GROUP_ROWS and GROUP_BYTES."""
    group: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        group.append(table)
        rows, size = rows + len(table), size + table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(group)
            group, rows, size = [], 0, 0
    if group:
        yield pa.concat_tables(group)


def _rewritten(
    shard: Shard, kept: pa.Table, caption: str, many: bool, schema: pa.Schema, encoding: str | None
) -> Iterator[pa.Table]:
    """The output, a table for each batch of source rows of which something is left."""
    rows = column(kept, "row").to_numpy()
    written = 0
    for start, batch in readable_batches(shard.path):
        first, last = np.searchsorted(rows, [start, start + (batch.rows if isinstance(batch, Gap) else len(batch))])
        if isinstance(batch, Gap):
            if first < last:
                raise _damaged(shard, batch)
            continue
        part, owner = kept.slice(first, last - first), rows[first:last] - start
        if not len(part):
            continue
        written += len(part)
        index = column(part, "caption_index").to_numpy()
        left, counts = np.unique(owner, return_counts=True)
        captions = _cast(batch.column(caption), schema.field(caption))
        if many:
            originals = _list_elements(captions, owner, index, shard)
        elif len(left) == len(owner) and not index.any():
            originals = captions.take(pa.array(owner))
        else:
            raise changed(shard)
        columns = {**added(part, originals, encoding), caption: captions_now(part, originals, encoding)}
        if many:
            ends = np.cumsum(counts)
            columns = {name: as_lists(values, ends) for name, values in columns.items()}
        # Cast before `take`, which does not know every type that a source may have.
        arrays = [
            _cast(columns[field.name], field)
            if field.name in columns
            else _cast(batch.column(field.name), field).take(left)
            for field in schema
        ]
        yield pa.Table.from_arrays(arrays, schema=schema)
    if written != len(kept):
        raise changed(shard)


def _damaged(shard: Shard, gap: Gap) -> CorruptFile:
    """What is wrong with rows that could be judged, but have something else that cannot be read."""
    broken = [
        name
        for name in read_schema(shard.path).names
        if any(isinstance(piece, Gap) for _, piece in readable_batches(shard.path, [name], groups=[gap.group]))
    ]
    what = f"column {broken[0]!r}" if broken else "the data"
    return CorruptFile(shard.path, f"is damaged in {what} of row group {gap.group}, so that its rows cannot be copied")


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    return array if array.type == field.type else array.cast(field.type)


def _list_elements(lists: pa.Array, owner: np.ndarray, index: np.ndarray, shard: Shard) -> pa.Array:
    """The index-th caption of each owner's list; null where the list is null or empty, and the pair has no caption."""
    lists = lists.cast(pa.large_list(lists.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    starts = np.cumsum(lengths) - lengths
    if (index >= np.maximum(lengths[owner], 1)).any():
        raise changed(shard)
    return lists.flatten().take(pa.array(starts[owner] + index, mask=lengths[owner] == 0))


def output_schema(schema: pa.Schema, caption: str, many: bool, adds: bool) -> pa.Schema:
    """The schema of the output.  many: whether captions are lists.  adds: whether the ADDED columns are written."""
    fields = [field.with_type(_output_type(field.type)) for field in schema if field.name not in ADDED.names]
    if many:  # some lists get shorter, so that their length cannot be fixed any more
        fields = [_free_length(field) if field.name == caption else field for field in fields]
    if pa.types.is_null(schema.field(caption).type):  # nothing but nulls, here; other shards have captions
        kind = pa.list_(pa.string()) if many else pa.string()
        fields = [field.with_type(kind) if field.name == caption else field for field in fields]
    new = [pa.field(field.name, pa.list_(field.type)) if many else field for field in ADDED] if adds else []
    return pa.schema([*fields, *new], metadata=_metadata(schema, caption, many, adds))


def _free_length(field: pa.Field) -> pa.Field:
    kind = field.type
    return field.with_type(pa.list_(kind.value_field)) if pa.types.is_fixed_size_list(kind) else field


def _output_type(kind: pa.DataType) -> pa.DataType:
    """The same type, but for some that could not hold the output, or that few programs can work with."""
    if pa.types.is_dictionary(kind):
        # One row group here may join several of the source's, with more values than a narrow index can count.
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    if is_one_of(kind, "list_view", "large_list_view"):
        return pa.large_list(kind.value_field)
    if is_one_of(kind, "string_view"):
        return pa.large_string()
    return pa.large_binary() if is_one_of(kind, "binary_view") else kind


def _metadata(schema: pa.Schema, caption: str, many: bool, adds: bool) -> dict[bytes, bytes] | None:
    """The schema's metadata; what `datasets` wrote there also describes the new columns."""
    metadata = dict(schema.metadata or {})
    features = huggingface_features(schema)
    if not features:
        return metadata or None
    lists = features.get(caption)
    if many and isinstance(lists, dict) and "length" in lists:
        lists["length"] = -1  # of one fixed length until some captions were dropped
    for field in ADDED:
        value = {"dtype": "float32" if pa.types.is_float32(field.type) else "string", "_type": "Value"}
        features.pop(field.name, None)  # an earlier cleaning's: the new column comes last
        if adds:
            features[field.name] = {"feature": value, "_type": "Sequence"} if many else value
    document = json.loads(metadata[b"huggingface"])
    document["info"]["features"] = features
    document.pop("fingerprint", None)  # that of other rows, under which `datasets` would look for cached results
    metadata[b"huggingface"] = json.dumps(document).encode()
    return metadata
