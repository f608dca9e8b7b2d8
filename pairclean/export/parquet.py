"""Cleaned Parquet: the source's columns, order and types, without the noisy pairs and with what was found beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import written_whole
from ..pairs import Shard, UserError, Verdict
from ..sources import Source
from ..sources.parquet import read_schema, record_batches
from ..sources.roles import huggingface_features, is_list, is_one_of

#: The columns that are added, one value a pair, and their types.
ADDED = pa.schema(
    [
        pa.field("pairclean_pair_id", pa.string()),
        pa.field("pairclean_verdict", pa.string()),
        pa.field("pairclean_clean_probability", pa.float32()),
        pa.field("pairclean_original_caption", pa.string()),
        pa.field("pairclean_caption_pair_id", pa.string()),
    ]
)
#: A row group ends when it has this much: what is in memory at once, and what a reader has to load for one row.
GROUP_ROWS = 10_000
GROUP_BYTES = 32 << 20


def export_shard(source: Source, shard: Shard, verdicts: pa.Table, out: Path) -> int:
    """Write one shard's clean and rematched pairs to `out/<shard.name>.parquet`, all of it or nothing.

    The source's rows are streamed a second time and keep their columns, order and types; a rematched pair gets its new
    caption; the `pairclean_` columns follow (those of an earlier cleaning are replaced). Where captions are lists, they
    stay lists without the dropped ones, rows that have none left go, and the `pairclean_` columns are lists beside
    them. A shard that nothing is left of becomes a file without rows.

    verdicts: `VERDICT_SCHEMA`, this shard's pairs in input order.  out: a folder, made if need be.
    Returns the number of pairs written.
    Raises UserError where the shard cannot be read, is no longer the one that was judged, or `out` cannot be written.
    """
    kept = pa.array([Verdict.CLEAN.value, Verdict.REMATCHED.value])
    pairs = verdicts.filter(pc.is_in(verdicts["verdict"], kept)).combine_chunks()
    schema = _output_schema(read_schema(shard.path), source.roles.caption)
    written = 0
    with (
        _written_whole(out / f"{shard.name}.parquet") as file,
        # Images do not compress into a dictionary; small write batches keep pages, and what reads them, small.
        pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=_texts_of(schema), write_batch_size=64
        ) as writer,
    ):
        for table in _row_groups(_cleaned(shard, pairs, source.roles.caption, schema)):
            writer.write_table(table, row_group_size=len(table))
            written += _count_pairs(table)
        if written != len(pairs):
            raise _changed(shard)
    return written


def _changed(shard: Shard) -> UserError:
    return UserError(f"{shard.path} is not what was judged, it has changed since: run `pairclean clean` again")


def _texts_of(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _count_pairs(table: pa.Table) -> int:
    verdicts = table["pairclean_verdict"]
    return int(pc.sum(pc.list_value_length(verdicts)).as_py() or 0) if is_list(verdicts.type) else len(verdicts)


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


def _cleaned(shard: Shard, pairs: pa.Table, caption: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The output, a table for each batch of source rows of which something is left."""
    many = is_list(schema.field(caption).type)
    rows = pairs["row"].to_numpy()
    start = 0
    for batch in record_batches(shard.path):
        first, last = np.searchsorted(rows, [start, start + len(batch)])
        part, owner = pairs.slice(first, last - first), rows[first:last] - start
        start += len(batch)
        if not len(part):
            continue
        index = part["caption_index"].to_numpy()
        left, counts = np.unique(owner, return_counts=True)
        captions = _cast(batch.column(caption), schema.field(caption))
        if many:
            originals = _list_elements(captions, owner, index, shard)
        elif len(left) == len(owner) and not index.any():
            originals = captions.take(pa.array(owner))
        else:
            raise _changed(shard)
        columns = _added(part, originals)
        columns[caption] = _recaptioned(part, originals)
        if many:
            ends = np.cumsum(counts)
            columns = {name: _as_lists(values, ends) for name, values in columns.items()}
        # Cast before `take`, which does not know every type that a source may have.
        arrays = [
            _cast(columns[field.name], field)
            if field.name in columns
            else _cast(batch.column(field.name), field).take(left)
            for field in schema
        ]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    return array if array.type == field.type else array.cast(field.type)


def _list_elements(lists: pa.Array, owner: np.ndarray, index: np.ndarray, shard: Shard) -> pa.Array:
    """The index-th caption of each owner's list; null where the list is null or empty, and the pair has no caption."""
    lists = lists.cast(pa.large_list(lists.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    starts = np.cumsum(lengths) - lengths
    if (index >= np.maximum(lengths[owner], 1)).any():
        raise _changed(shard)
    return lists.flatten().take(pa.array(starts[owner] + index, mask=lengths[owner] == 0))


def _added(pairs: pa.Table, originals: pa.Array) -> dict[str, pa.Array]:
    """The ADDED columns, one value a pair."""
    pair_id, rematched = pairs["pair_id"].combine_chunks(), _rematched(pairs)
    values = [
        pair_id,
        pairs["verdict"].combine_chunks(),
        pairs["clean_probability"].combine_chunks(),
        pc.if_else(rematched, originals.cast(pa.string()), pa.scalar(None, pa.string())),
        pc.if_else(rematched, pairs["rematch_pair_id"].combine_chunks(), pair_id),
    ]
    return {field.name: array.cast(field.type) for field, array in zip(ADDED, values, strict=True)}


def _recaptioned(pairs: pa.Table, originals: pa.Array) -> pa.Array:
    """The captions that the pairs carry now; untouched, byte for byte, where nothing was rematched."""
    rematched = _rematched(pairs)
    if not pc.any(rematched).as_py():
        return originals
    return pc.if_else(rematched, pairs["rematch_caption"].combine_chunks(), originals.cast(pa.string())).cast(
        originals.type
    )


def _rematched(pairs: pa.Table) -> pa.Array:
    return pc.equal(pairs["verdict"].combine_chunks(), Verdict.REMATCHED.value)


def _as_lists(values: pa.Array, ends: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int64()), values)


def _output_schema(schema: pa.Schema, caption: str) -> pa.Schema:
    many = is_list(schema.field(caption).type)
    fields = [field.with_type(_output_type(field.type)) for field in schema if field.name not in ADDED.names]
    if many:  # some lists get shorter, so that their length cannot be fixed any more
        fields = [_free_length(field) if field.name == caption else field for field in fields]
    added = [pa.field(field.name, pa.list_(field.type)) if many else field for field in ADDED]
    return pa.schema([*fields, *added], metadata=_metadata(schema, caption, many))


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


def _metadata(schema: pa.Schema, caption: str, many: bool) -> dict[bytes, bytes] | None:
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
        features[field.name] = {"feature": value, "_type": "Sequence"} if many else value
    document = json.loads(metadata[b"huggingface"])
    document["info"]["features"] = features
    document.pop("fingerprint", None)  # that of other rows, under which `datasets` would look for cached results
    metadata[b"huggingface"] = json.dumps(document).encode()
    return metadata


@contextmanager
def _written_whole(path: Path) -> Iterator[IO[bytes]]:
    """`files.written_whole`, with a sentence for a full disk and the like."""
    try:
        with written_whole(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
