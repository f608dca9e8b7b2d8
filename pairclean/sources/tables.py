"""Parquet files as tables: streamed, and read as far as they can be where they are broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..pairs import Shard, UserError
from .documents import ENDINGS, Document, open_document
from .roles import is_list, is_text
from .storage import CorruptFile, ending, head, open_file

#: Rows that are in memory at once: with images, and without.
IMAGE_BATCH = 64
TEXT_BATCH = 8192


@dataclass(frozen=True)
class Gap:
    """Rows that cannot be read: `rows` of them from `row` on, which are in this row group from `offset` on."""

    row: int
    rows: int
    group: int
    offset: int
    reason: str


def read_schema(path: str) -> pa.Schema:
    """The Arrow schema of a shard. Raises UserError where it cannot be read."""
    with opened(path) as parquet:
        return parquet.schema_arrow


def record_batches(
    path: str,
    columns: Sequence[str] | None = None,
    *,
    batch_rows: int = IMAGE_BATCH,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """A shard's record batches in file order, of at most `batch_rows` rows; columns that it does not have are left out.

    Raises UserError where the file cannot be read.
    """
    with opened(path) as parquet:
        yield from parquet.iter_batches(batch_rows, row_groups=row_groups, columns=columns)


def readable_batches(
    path: str, columns: Sequence[str] | None = None, *, batch_rows: int = IMAGE_BATCH, groups: Sequence[int] = ()
) -> Iterator[tuple[int, pa.RecordBatch | Gap]]:
    """The same, each with its first row, and with a `Gap` where rows cannot be read: the rest of their row group.

    groups: only these row groups.  Raises UserError where the footer cannot be read.
    """
    row = 0
    with opened(path) as parquet:
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            done = 0
            if not groups or group in groups:
                try:
                    with _reading(path):
                        for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=columns):
                            yield row + done, batch
                            done += len(batch)
                        if done != rows:
                            raise CorruptFile(path, f"has {done} rows in a group of {rows}")
                except CorruptFile as error:
                    yield row + done, Gap(row + done, rows - done, group, done, error.reason)
            row += rows


@contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile | Document]:
    """A Parquet file, or another table. Raises CorruptFile where it is broken, also inside the block."""
    if ending(path) in ENDINGS and head(path, 4) != b"PAR1":
        yield open_document(path)
        return
    with _reading(path), open_file(path) as file:
        # Buffered, a column chunk is read page by page; otherwise the whole of it would be in memory.
        found = pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False, page_checksum_verification=True)
        _check_counts(path, found.metadata)
        yield found


def _check_counts(path: str, footer: pq.FileMetaData) -> None:
    """A damaged count could make a gap of billions of rows. Raises CorruptFile where the footer contradicts itself."""
    groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if sum(groups) != footer.num_rows or min(groups, default=0) < 0:
        raise CorruptFile(path, f"has a footer of {footer.num_rows} rows, but {sum(groups)} in its row groups")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:  # a column's name can be damaged, too
        raise _corrupt(path, error) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Arrow's word for data that make no sense
            raise _corrupt(path, error) from error
        raise UserError(f"{path} cannot be read ({_first_line(error)}): try again when it can be reached") from error


def _corrupt(path: str, error: Exception) -> CorruptFile:
    return CorruptFile(path, f"cannot be read as Parquet ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def column_types(schemas: Mapping[str, pa.Schema], *, everything: bool = False) -> dict[str, pa.DataType]:
    """The type of each of the first file's columns; where that is null (nothing but nulls), another file's.

    schemas: by path.  everything: also the columns that the first file does not have, after its own.
    A list of nothing but nulls counts as nothing but nulls.
    """
    types: dict[str, pa.DataType] = {}
    for file, schema in schemas.items():
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise UserError(f"{file} has more than one column called {min(twice)!r}: rename one of them")
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    for name in names if everything else next(iter(schemas.values())).names:
        there = [schema.field(name).type for schema in schemas.values() if name in schema.names]
        types[name] = min(there, key=_nullness)
    return types


def _nullness(kind: pa.DataType) -> int:
    """0 for a type, 1 for lists of nulls, 2 for nulls: what pandas writes where it has seen no value."""
    if pa.types.is_null(kind):
        return 2
    return 1 if is_list(kind) and pa.types.is_null(kind.value_type) else 0


def holds_nothing(kind: pa.DataType) -> bool:
    return _nullness(kind) > 0


def texts(column: pa.Array) -> list[Any]:
    """An array as Python objects. Bytes that are not UTF-8, which Parquet does not refuse, become U+FFFD."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = raw_texts(column)
        return [[_decode(text) for text in found] if isinstance(found, list) else _decode(found) for found in values]


def raw_texts(column: pa.Array) -> list[Any]:
    """The same with bytes, all of them, where some are not UTF-8: what they are is decided from several together."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if is_list(column.type):
            return column.cast(pa.large_list(pa.large_string())).cast(pa.large_list(pa.large_binary())).to_pylist()
        return column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()


def is_utf8(column: pa.Array) -> bool:
    """Whether all texts of an array of texts, bytes or lists of these are UTF-8, without making Python objects."""
    try:
        if is_list(column.type):
            return is_utf8(column.flatten())
        column.validate(full=True)
        if not is_text(column.type):
            column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _decode(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "replace")


def limited(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches up to so many rows."""
    for batch in batches:
        if rows <= 0:
            return
        yield batch.slice(0, rows)
        rows -= len(batch)


def columns_of(path: str, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """These columns of the first rows, null where they cannot be read. Raises UserError where there is none such."""
    wanted = schema_of(path, columns)
    found = (piece for _, piece in readable_batches(path, columns, batch_rows=TEXT_BATCH))
    whole = (nulls(wanted, piece.rows) if isinstance(piece, Gap) else piece.select(list(columns)) for piece in found)
    yield from limited(whole, rows)


def schema_of(path: str, columns: Sequence[str]) -> pa.Schema:
    """The types of these columns of a file. Raises UserError where there is none such."""
    schema = read_schema(path)
    missing = sorted(set(columns) - set(schema.names))
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; there are {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in columns])


def lost_columns(shards: Sequence[Shard], columns: Sequence[str], rows: int) -> pa.RecordBatch:
    """So many rows of a broken file, of the types that another of the shards has."""
    there = next((shard.path for shard in shards if not shard.broken), None)
    return nulls(schema_of(there, columns) if there else pa.schema([(name, pa.null()) for name in columns]), rows)


def nulls(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """So many rows of nothing but nulls."""
    arrays = [pa.nulls(rows, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([field.with_nullable(True) for field in schema]))
