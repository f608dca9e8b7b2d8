"""Parquet shards, as img2dataset, `datasets` and pandas write them, streamed batch by batch."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..pairs import Roles, Row, Shard, UserError
from .base import file_fingerprint, local_path, open_file, shard_names
from .roles import ENCODINGS, caption_kind, detect_roles, id_kind, image_kind, is_list, marked_images, only_urls

#: Rows that are in memory at once: with images, and without.
IMAGE_BATCH = 64
TEXT_BATCH = 8192
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_schema(path: str) -> pa.Schema:
    """The Arrow schema of a shard. Raises UserError where it cannot be read."""
    with _parquet(path) as parquet:
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
    with _parquet(path) as parquet:
        yield from parquet.iter_batches(batch_rows, row_groups=row_groups, columns=columns)


@contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with open_file(path) as file:
            # Buffered, a column chunk is read page by page; otherwise the whole of it would be in memory.
            yield pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({_first_line(error)}): repair it or move it elsewhere"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def open_parquet_source(
    path: Path,
    *,
    image_column: str | None,
    caption_column: str | None,
    id_column: str | None,
    image_root: str | Path | None,
) -> ParquetSource:
    """Open a folder of Parquet files, or one; see `pairclean.sources.open_source`."""
    files = _files(path)
    schemas = [read_schema(str(file)) for file in files]
    types = _column_types(files, schemas)
    marked = marked_images(schemas[0])
    roles = detect_roles(
        types,
        path=str(path),
        marked=marked,
        image_column=image_column,
        caption_column=caption_column,
        id_column=id_column,
        image_root=None if image_root is None else str(_folder(image_root)),
    )
    image = roles.image
    assert image is not None
    kind = image_kind(types[image])
    if kind == "path" and roles.image_root is None:
        roles = Roles(image, roles.caption, roles.id, image_root=str(files[0].parent))
    _check_same_roles(files, schemas, types, roles)

    names = shard_names(file.stem for file in files)
    shards = [_shard(name, str(file)) for name, file in zip(names, files, strict=True)]
    source = ParquetSource(
        path=str(path),
        layout=_layout(image, kind, marked),
        roles=roles,
        shards=shards,
        columns=list(schemas[0].names),
        many=caption_kind(types[roles.caption]) == "list",
    )
    if not any(shard.rows for shard in shards):
        raise UserError(f"{path} holds no rows: name a folder with pairs in its shards")
    if kind == "path":
        _check_paths(source)
    _check_ids(source)
    return source


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    # Hidden files are other programs' (macOS leaves `._00000.parquet` beside `00000.parquet`).
    files = [entry for entry in entries if entry.suffix == ".parquet" and entry.name[0] != "." and entry.is_file()]
    if not entries:
        raise UserError(f"{path} is empty: name a folder with Parquet shards")
    if not files:
        raise UserError(
            f"{path} has no .parquet files of its own (sub-folders are not searched): name the folder that has"
        )
    return files


def _folder(path: str | Path) -> Path:
    folder = local_path(path)
    if not folder.is_dir():
        raise UserError(f"the image root {path} is not a folder: name the one that the image paths are relative to")
    return folder


def _column_types(files: list[Path], schemas: list[pa.Schema]) -> dict[str, pa.DataType]:
    """The type of each of the first shard's columns; where that is null (nothing but nulls), another shard's."""
    types: dict[str, pa.DataType] = {}
    for file, schema in zip(files, schemas, strict=True):
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise UserError(f"{file} has more than one column called {min(twice)!r}: rename one of them")
    for field in schemas[0]:
        there = (schema.field(field.name).type for schema in schemas if field.name in schema.names)
        types[field.name] = next((kind for kind in there if not pa.types.is_null(kind)), field.type)
    return types


def _check_same_roles(files: list[Path], schemas: list[pa.Schema], types: dict[str, pa.DataType], roles: Roles) -> None:
    kinds = {roles.image: image_kind, roles.caption: caption_kind, roles.id: id_kind}
    for file, schema in zip(files, schemas, strict=True):
        for name, kind_of in kinds.items():
            if name is None:
                continue
            if name not in schema.names:
                raise UserError(
                    f"{file} has no column {name!r}, which {files[0].name} has: give shards of different columns "
                    "separate runs"
                )
            kind = schema.field(name).type
            if not pa.types.is_null(kind) and kind_of(kind) != kind_of(types[name]):
                raise UserError(
                    f"column {name!r} is {kind} in {file} and {types[name]} elsewhere: write all shards with one schema"
                )


def _shard(name: str, path: str) -> Shard:
    with _parquet(path) as parquet:
        return Shard(name=name, path=path, rows=parquet.metadata.num_rows, fingerprint=file_fingerprint(path))


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
        for batch in record_batches(shard.path, [image], batch_rows=TEXT_BATCH):
            path = next((path for path in _texts(batch.column(image)) if path), None)
            if path is not None:
                if _URL.match(path):
                    raise only_urls(source.path, image)
                return


def _check_ids(source: ParquetSource) -> None:
    """Identifiers are there and unique. Only hashes are kept; where two agree, a second pass compares the texts."""
    column = source.roles.id
    if column is None:
        return
    batches: list[np.ndarray] = []
    for shard in source.shards:
        for ids in _ids(shard.path, column):
            if None in ids:
                raise UserError(
                    f"column {column!r} of {shard.path} has nulls and cannot be the id: name another with --id-column, "
                    "or number the rows with --id-column none"
                )
            batches.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
    hashes = np.sort(np.concatenate(batches)) if batches else np.empty(0, np.int64)
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return
    seen: set[str | None] = set()
    twice: dict[str | None, None] = {}  # a set that keeps its order
    for shard in source.shards:
        for ids in _ids(shard.path, column):
            for value in ids:
                if hash(value) in suspects:
                    if value in seen:
                        twice[value] = None
                    seen.add(value)
    if twice:
        examples = ", ".join([repr(value) for value in list(twice)[:3]] + ["..."] * (len(twice) > 3))
        raise UserError(
            f"ids in column {column!r} of {source.path} are not unique ({examples}): "
            "name another with --id-column, or number the rows with --id-column none"
        )


def _ids(path: str, column: str) -> Iterator[list[str | None]]:
    for batch in record_batches(path, [column], batch_rows=TEXT_BATCH):
        yield [None if value is None else str(value) for value in _texts(batch.column(column))]


@dataclass
class ParquetSource:
    """Parquet shards; see `Source`. Holds no open file, so that it can be sent to other processes.

    many: whether the caption column holds lists.
    """

    path: str
    layout: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]
    many: bool

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        roles = self.roles
        row = 0
        wanted = [roles.caption, *([roles.id] if roles.id else []), *(self._image_columns if images else [])]
        for batch in record_batches(shard.path, wanted, batch_rows=IMAGE_BATCH if images else TEXT_BATCH):
            batch = batch.slice(0, shard.rows - row)
            captions = _texts(batch.column(roles.caption))
            ids = _texts(batch.column(roles.id)) if roles.id else [f"{shard.name}:{row + i}" for i in range(len(batch))]
            found = self._images(batch) if images else iter([(None, None)] * len(batch))
            for identifier, caption, (image, reason) in zip(ids, captions, found, strict=True):
                texts = (tuple(caption or ()) or (None,)) if self.many else (caption,)
                yield Row(row, str(identifier), image, texts, self.many, reason)
                row += 1
            if row >= shard.rows:
                return

    def image(self, shard: Shard, row: int) -> bytes:
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
        with _parquet(shard.path) as parquet:
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
        nulls: list[None] = [None] * len(batch)
        images, paths = nulls, nulls
        if kind == "bytes":
            images = column.to_pylist()
        elif kind == "path":
            paths = _texts(column)
        elif kind == "struct":
            images = pc.struct_field(column, "bytes").to_pylist()
            if "path" in [field.name for field in column.type]:
                paths = _texts(pc.struct_field(column, "path"))
        status = _texts(batch.column("status")) if "status" in batch.schema.names else nulls
        message = _texts(batch.column("error_message")) if "error_message" in batch.schema.names else nulls
        for image, path, state, error in zip(images, paths, status, message, strict=True):
            if image:
                yield image, None
            elif path and self.roles.image_root:
                yield _read_inside(self.roles.image_root, path)
            elif path:
                yield None, f"no image bytes, only the path {path!r} (name its folder with --image-root)"
            elif state and state != "success":
                yield None, f"{state}: {error}" if error else str(state)
            else:
                yield None, "the image is null" if image is None else "the image is empty"


def _read_inside(root: str, path: str) -> tuple[bytes | None, str | None]:
    """A file's bytes, or the reason why not; never one outside the root, by `..`, absolute path or symbolic link."""
    try:
        top = os.path.realpath(root)
        real = os.path.realpath(os.path.join(top, path))
        if os.path.isabs(path) or os.path.commonpath([top, real]) != top:
            return None, f"the image path {path!r} leaves the image root"
        if not os.path.isfile(real):  # reading a pipe or a device could wait for ever
            return None, f"there is no image file {path!r}"
        with open(real, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        return None, f"the image file {path!r} cannot be read: {getattr(error, 'strerror', None) or error}"
    return (data, None) if data else (None, f"the image file {path!r} is empty")


def _texts(column: pa.Array) -> list[Any]:
    """An array as Python objects. Bytes that are not UTF-8, which Parquet does not refuse, become U+FFFD."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if is_list(column.type):
            values = column.cast(pa.large_list(pa.large_string())).cast(pa.large_list(pa.large_binary())).to_pylist()
            return [None if texts is None else [_decode(text) for text in texts] for texts in values]
        return [_decode(text) for text in column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()]


def _decode(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "replace")
