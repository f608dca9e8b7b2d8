"""Parquet shards, as img2dataset, `datasets` and pandas write them, streamed batch by batch."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..pairs import Columns, Roles, Row, Shard, UserError
from .base import (
    MAX_BYTES,
    CorruptFile,
    Faults,
    UniqueIds,
    counted,
    file_fingerprint,
    is_remote,
    local_path,
    lost_row,
    parent,
    shard_names,
    stem,
)
from .roles import ENCODINGS, caption_kind, detect_roles, id_kind, image_kind, marked_images, only_urls
from .tables import (
    IMAGE_BATCH,
    TEXT_BATCH,
    Gap,
    column_types,
    columns_of,
    holds_nothing,
    lost_columns,
    opened,
    read_schema,
    readable_batches,
    record_batches,
    texts,
)

__all__ = ["ParquetSource", "open_parquet_source", "read_schema", "record_batches"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def open_parquet_source(
    path: str,
    files: Sequence[str],
    columns: Columns,
    *,
    strict: bool = False,
) -> ParquetSource:
    """Open Parquet files as one source; see `pairclean.sources.open_source`."""
    faults = Faults(strict)
    shards = [_shard(name, file, faults) for name, file in zip(shard_names(map(stem, files)), files, strict=True)]
    faults.check(path, shards)
    schemas = {shard.path: read_schema(shard.path) for shard in shards if not shard.broken}
    first = next(iter(schemas))
    types = column_types(schemas)
    marked = marked_images(schemas[first])
    roles = detect_roles(
        types,
        path=path,
        marked=marked,
        columns=replace(columns, image_root=None if columns.image_root is None else _folder(columns.image_root)),
    )
    image = roles.image
    assert image is not None
    kind = image_kind(types[image])
    if kind == "path" and roles.image_root is None and not is_remote(first):
        roles = replace(roles, image_root=parent(first))
    check_same_roles(schemas, types, {roles.image: image_kind, roles.caption: caption_kind, roles.id: id_kind})
    source = ParquetSource(
        path=path,
        layout=_layout(image, kind, marked),
        roles=roles,
        shards=[shard for shard in shards if shard.rows or not shard.broken],
        columns=list(schemas[first].names),
        many=caption_kind(types[roles.caption]) == "list",
        strict=strict,
        broken=faults.found,
    )
    if kind == "path":
        _check_paths(source)
    check_ids(source.path, source.shards, roles.id)
    return source


def _shard(name: str, path: str, faults: Faults) -> Shard:
    try:
        with opened(path) as parquet:
            rows = parquet.metadata.num_rows
        broken = None
    except CorruptFile as error:
        faults.add(error)
        rows, broken = counted(path), error.reason
    return Shard(name, path, rows, file_fingerprint(path), broken)


def _folder(path: str) -> str:
    folder = local_path(path, "the image root")
    if not folder.is_dir():
        raise UserError(f"the image root {path} is not a folder: name the one that the image paths are relative to")
    return str(folder)


def check_same_roles(
    schemas: Mapping[str, pa.Schema], types: Mapping[str, pa.DataType], kinds: Mapping[str | None, Any]
) -> None:
    """All files have these columns, of the same kind.  kinds: by column, what tells a type's kind."""
    first = os.path.basename(next(iter(schemas)))
    for file, schema in schemas.items():
        for name, kind_of in kinds.items():
            if name is None:
                continue
            if name not in schema.names:
                raise UserError(
                    f"{file} has no column {name!r}, which {first} has: give shards of different columns separate runs"
                )
            kind = schema.field(name).type
            if not holds_nothing(kind) and kind_of(kind) != kind_of(types[name]):
                raise UserError(
                    f"column {name!r} is {kind} in {file} and {types[name]} elsewhere: write all shards with one schema"
                )


def _layout(image: str, kind: str | None, marked: Collection[str]) -> str:
    if kind == "struct" or image in marked:
        return "huggingface"
    if kind == "path":
        return "folder"
    return "img2dataset" if image in ENCODINGS else "parquet"


def _check_paths(source: ParquetSource) -> None:
    """A column called `image` may hold addresses; then nothing could be read, so say it now."""
    image = source.roles.image
    assert image is not None
    for shard in source.shards:
        for batch in [] if shard.broken else columns_of(shard.path, [image], shard.rows):
            path = next((path for path in texts(batch.column(image)) if path), None)
            if path is not None:
                if _URL.match(path):
                    raise only_urls(source.path, image)
                if source.roles.image_root is None:
                    raise UserError(
                        f"column {image!r} of {source.path} holds paths of images, which are read from this machine "
                        "only: copy them here and name their folder with --image-root"
                    )
                return


def check_ids(path: str, shards: Sequence[Shard], column: str | None) -> None:
    """Identifiers are there and unique, as far as they can be read."""
    if column is None:
        return
    unique = UniqueIds()
    for shard in shards:
        for ids in _ids(shard, column):
            if None in ids:
                raise UserError(
                    f"column {column!r} of {shard.path} has nulls and cannot be the id: name another with --id-column, "
                    "or number the rows with --id-column none"
                )
            unique.add([str(value) for value in ids])
    unique.check(
        (str(value) for shard in shards for ids in _ids(shard, column) for value in ids),
        f"ids in column {column!r} of {path}",
    )


def _ids(shard: Shard, column: str) -> Iterator[list[str | None]]:
    if shard.broken:
        return
    for row, piece in readable_batches(shard.path, [column], batch_rows=TEXT_BATCH):
        if isinstance(piece, Gap):
            yield [f"{shard.name}:{row + i}" for i in range(piece.rows)]
        else:
            yield [None if value is None else str(value) for value in texts(piece.column(column))]


def table_rows(
    shard: Shard, roles: Roles, many: bool, *, more: Sequence[str] = (), batch_rows: int = TEXT_BATCH
) -> Iterator[tuple[list[Row], pa.RecordBatch | None]]:
    """The first `shard.rows` rows of a Parquet file without their images, each batch with what it was made of.

    more: further columns of that batch, which is None where rows are lost. Where only these cannot be read, captions
    and ids still are.
    """
    if shard.broken:
        yield [lost_row(shard, row, shard.broken, many) for row in range(shard.rows)], None
        return
    named = [roles.caption, *([roles.id] if roles.id else [])]
    for row, piece in readable_batches(shard.path, [*named, *more], batch_rows=batch_rows):
        if row >= shard.rows:
            return
        if isinstance(piece, Gap):
            rows = [replace(found, reason=piece.reason) for found in _lost_rows(shard, roles, many, named, piece)]
            yield rows[: shard.rows - row], None
        else:
            piece = piece.slice(0, shard.rows - row)
            yield _text_rows(shard, roles, many, row, piece), piece


def _lost_rows(shard: Shard, roles: Roles, many: bool, named: Sequence[str], gap: Gap) -> list[Row]:
    """The rows of a gap, with their captions and ids if these can be read."""
    rows: list[Row] = []
    for row, piece in readable_batches(shard.path, named, batch_rows=TEXT_BATCH, groups=[gap.group]):
        if isinstance(piece, Gap):
            rows += [lost_row(shard, row + i, gap.reason, many) for i in range(piece.rows)]
        else:
            rows += _text_rows(shard, roles, many, row, piece)
    return rows[gap.offset :]


def _text_rows(shard: Shard, roles: Roles, many: bool, row: int, batch: pa.RecordBatch) -> list[Row]:
    captions = texts(batch.column(roles.caption))
    ids = texts(batch.column(roles.id)) if roles.id else [f"{shard.name}:{row + i}" for i in range(len(batch))]
    return [
        Row(row + i, str(identifier), None, (tuple(caption or ()) or (None,)) if many else (caption,), many)
        for i, (identifier, caption) in enumerate(zip(ids, captions, strict=True))
    ]


@dataclass
class ParquetSource:
    """Parquet shards; see `Source`. Holds no open file, so that it can be sent to other processes."""

    path: str
    layout: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]
    many: bool
    strict: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    vectors: str | None = None

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        more, batch_rows = (self._image_columns, IMAGE_BATCH) if images else ((), TEXT_BATCH)
        for rows, batch in table_rows(shard, self.roles, self.many, more=more, batch_rows=batch_rows):
            if batch is None and self.strict:
                raise UserError(f"{shard.path} has rows that cannot be read: {rows[0].reason}")
            if batch is None or not images:
                yield from rows
            else:
                for row, (image, reason) in zip(rows, self._images(batch), strict=True):
                    yield replace(row, image=image, reason=reason)

    def batches(self, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if shard.broken:
            yield lost_columns(self.shards, columns, shard.rows)
        else:
            yield from columns_of(shard.path, columns, shard.rows)

    def image(self, shard: Shard, row: int) -> bytes:
        if shard.broken:
            raise UserError(f"row {row} of {shard.path} has no image to show: {shard.broken}")
        group, start = self._row_group(shard, row)
        for batch in record_batches(shard.path, self._image_columns, row_groups=[group]):
            if row < start + len(batch):
                image, reason = next(self._images(batch.slice(row - start, 1)))
                if image is None:
                    raise UserError(f"row {row} of {shard.path} has no image to show: {reason}")
                return image
            start += len(batch)
        raise UserError(f"{shard.path} has no row {row}")

    @property
    def _image_columns(self) -> list[str]:
        assert self.roles.image is not None
        return [self.roles.image, "status", "error_message"]

    def _row_group(self, shard: Shard, row: int) -> tuple[int, int]:
        """The row group that a row is in, and that group's first row."""
        start = 0
        with opened(shard.path) as parquet:
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if 0 <= row < start + rows:
                    return group, start
                start += rows
        raise UserError(f"{shard.path} has no row {row}")

    def _images(self, batch: pa.RecordBatch) -> Iterator[tuple[bytes | None, str | None]]:
        """A batch's images one by one, each with None, or None with the reason why it cannot be had."""
        column = batch.column(self.roles.image)
        kind = image_kind(column.type)
        nothing: list[None] = [None] * len(batch)
        images, paths = nothing, nothing
        if kind == "bytes":
            images = column.to_pylist()
        elif kind == "path":
            paths = texts(column)
        elif kind == "struct":
            images = pc.struct_field(column, "bytes").to_pylist()
            if "path" in [field.name for field in column.type]:
                paths = texts(pc.struct_field(column, "path"))
        status = texts(batch.column("status")) if "status" in batch.schema.names else nothing
        message = texts(batch.column("error_message")) if "error_message" in batch.schema.names else nothing
        for image, path, state, error in zip(images, paths, status, message, strict=True):
            if image:
                yield image, None
            elif path and self.roles.image_root:
                yield _read_inside(self.roles.image_root, path)
            elif path:
                yield None, f"no image bytes, only the path {path!r} (name its folder with --image-root)"
            else:
                yield None, failed(state, error) or ("the image is null" if image is None else "the image is empty")


def failed(status: Any, error: Any) -> str | None:
    """What img2dataset says of a download that failed; None where it did not."""
    if not status or status == "success":
        return None
    return f"{status}: {error}" if error else str(status)


def _read_inside(root: str, path: str) -> tuple[bytes | None, str | None]:
    """A file's bytes, or the reason why not; never one outside the root, by `..`, absolute path or symbolic link."""
    try:
        top = os.path.realpath(root)
        real = os.path.realpath(os.path.join(top, path))
        if os.path.isabs(path):
            return None, f"the image path {path!r} is absolute: image paths have to be relative to the image root"
        if os.path.commonpath([top, real]) != top:
            return None, f"the image path {path!r} leaves the image root"
        if not os.path.isfile(real):  # reading a pipe or a device could wait for ever
            return None, f"there is no image file {path!r}"
        if os.path.getsize(real) > MAX_BYTES:
            return None, f"the image file {path!r} is too large"
        with open(real, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        return None, f"the image file {path!r} cannot be read: {getattr(error, 'strerror', None) or error}"
    return (data, None) if data else (None, f"the image file {path!r} is empty")
