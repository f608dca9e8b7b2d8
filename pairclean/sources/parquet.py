"""Parquet shards, as img2dataset, `datasets` and pandas write them, streamed batch by batch."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..pairs import UNKNOWN_ENCODING, Columns, Roles, Row, Shard, UserError
from .base import Faults, UniqueIds, counted, lost_row, shard_names
from .documents import Document
from .encoding import decode, guess, needs_guess
from .roles import ENCODINGS, caption_kind, detect_roles, id_kind, image_kind, marked_images, only_urls
from .storage import CorruptFile, absolute, file_fingerprint, is_folder, is_remote, parent, stem
from .tables import (
    IMAGE_BATCH,
    TEXT_BATCH,
    Gap,
    column_types,
    columns_of,
    holds_nothing,
    is_utf8,
    lost_columns,
    opened,
    raw_texts,
    read_schema,
    readable_batches,
    record_batches,
    texts,
)
from .values import ONE_IMAGE, fetch_inside, from_base64, from_bytes, is_address, is_in, looks_like_image, read_inside

__all__ = ["ParquetSource", "open_parquet_source", "read_schema", "record_batches"]

#: How `datasets` calls the files of a split.
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$")
#: How many values of a column are looked at, in each of how many shards.
_LOOKED_AT, _SHARDS_LOOKED_AT = 16, 4
_NULL = "the image is null"


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
    root = None if columns.image_root is None else _folder(columns.image_root)
    detect = functools.partial(
        detect_roles,
        path=first,
        marked=marked,
        columns=replace(columns, image_root=root),
        holds_image=_evidence(shards, "image", root),
        holds_text=_evidence(shards, "caption"),
    )
    try:
        roles = detect(types)
    except UserError:
        _check_splits(schemas, detect(column_types(schemas, everything=True)))
        raise
    image = roles.image
    assert image is not None
    kind = image_kind(types[image])
    folders = {parent(file) for file in schemas}
    beside = kind in ("path", "list") and roles.image_root is None
    if beside and len(folders) == 1:
        roles = replace(roles, image_root=folders.pop())
    check_same_roles(schemas, types, {roles.image: image_kind, roles.caption: caption_kind, roles.id: id_kind})
    source = ParquetSource(
        path=path,
        layout=_layout(image, kind, marked),
        roles=roles,
        shards=[shard for shard in shards if shard.rows or not shard.broken],
        columns=list(schemas[first].names),
        many=caption_kind(types[roles.caption]) == "list",
        strict=strict,
        beside=beside,
        broken=faults.found,
        notes=faults.notes,
    )
    if kind == "path":
        _check_paths(source)
    source.encoding = caption_encoding(source.shards, roles.caption)
    check_ids(source.path, source.shards, roles.id)
    return source


def _shard(name: str, path: str, faults: Faults) -> Shard:
    try:
        with opened(path) as parquet:
            rows = parquet.metadata.num_rows
            if isinstance(parquet, Document) and parquet.note:
                faults.note(path, parquet.note)
        broken = None
    except CorruptFile as error:
        faults.add(error)
        rows, broken = counted(path), error.reason
    return Shard(name, path, rows, file_fingerprint(path), broken)


def _folder(path: str) -> str:
    folder = absolute(path)
    if not is_folder(folder):
        raise UserError(f"the image root {path} is not a folder: name the one that the image paths are relative to")
    return folder


def _check_splits(schemas: Mapping[str, pa.Schema], roles: Roles) -> None:
    """Raises UserError where the first files lack what others have: a split without captions, say."""
    needed = [name for name in (roles.image, roles.caption) if name]
    lacking = [file for file, schema in schemas.items() if not set(needed) <= set(schema.names)]
    if not lacking:
        return
    file, others = lacking[0], [other for other in schemas if other not in lacking]
    name = next(name for name in needed if name not in schemas[file].names)
    prefixes = {match[1] for other in others if (match := _SPLIT.match(stem(other)))}
    alone = f"'{parent(file)}/{prefixes.pop()}-*'" if len(prefixes) == 1 else "those that have it"
    raise UserError(
        f"{file} has no column {name!r}, which {os.path.basename(others[0])} has: name {alone} alone, as a pattern in "
        "quotes"
    )


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
                other = next(path for path, found in schemas.items() if found.field(name).type == types[name])
                raise UserError(
                    f"column {name!r} is {kind} in {file} and {types[name]} in {os.path.basename(other)}: write all "
                    "shards with one schema"
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
    shard = next(shard for shard in source.shards if not shard.broken)
    values = [value for value in _first_values(shard, image) if isinstance(value, str)]
    root = source.image_root(shard)
    if values and all(is_address(value) and not is_in(root, value) for value in values):
        raise only_urls(shard.path, image)


def _first_values(shard: Shard, column: str) -> list[Any]:
    """Some values of a column that are not null; of lists, their elements."""
    found: list[Any] = []
    for batch in columns_of(shard.path, [column], _LOOKED_AT):
        for value in texts(batch.column(column)):
            found += value if isinstance(value, list) else [value]
    return [value for value in found if value is not None and value != {}]


def _evidence(shards: Sequence[Shard], role: str, root: str | None = None) -> Callable[[str], float | None]:
    """How much of a column can play a role: the share of some of its values, None where these are all null.

    role: "image" or "caption".  root: the folder that paths are relative to; without it, that of each shard.
    """
    whole = [shard for shard in shards if not shard.broken and shard.rows]

    @functools.cache
    def share(column: str) -> float | None:
        fits: list[bool] = []
        for shard in whole[:: max(1, -(-len(whole) // _SHARDS_LOOKED_AT))]:
            if column in read_schema(shard.path).names:
                values = _first_values(shard, column)
                here = root or parent(shard.path)
                fits += [_is_text(value) if role == "caption" else _is_image(here, value) for value in values]
        return sum(fits) / len(fits) if fits else None

    return share


def _is_image(root: str, value: Any) -> bool:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, bytes):
        return looks_like_image(from_bytes(data))
    path = data if isinstance(data, str) else path
    if not isinstance(path, str):
        return False
    return from_base64(path) is not None or read_inside(root, path)[0] is not None


def _is_text(value: Any) -> bool:
    """Whether it can be a caption: numbers, as text tables have them, cannot."""
    if isinstance(value, str):
        return any(map(str.isalpha, value))
    return isinstance(value, bytes) and not looks_like_image(value) and b"\0" not in value


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
        ((shard.path, str(value)) for shard in shards for ids in _ids(shard, column) for value in ids),
        f"ids in column {column!r} of {path}",
        "name another with --id-column, or number the rows with --id-column none",
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
    shard: Shard,
    roles: Roles,
    many: bool,
    *,
    more: Sequence[str] = (),
    batch_rows: int = TEXT_BATCH,
    encoding: str | None = None,
) -> Iterator[tuple[list[Row], pa.RecordBatch | None]]:
    """The first `shard.rows` rows of a Parquet file without their images, each batch with what it was made of.

    more: further columns of that batch, which is None where rows are lost. Where only these cannot be read, captions
    and ids still are.  encoding: that of captions that are not UTF-8.
    """
    if shard.broken:
        yield [lost_row(shard, row, shard.broken, many) for row in range(shard.rows)], None
        return
    named = [roles.caption, *([roles.id] if roles.id else [])]
    for row, piece in readable_batches(shard.path, [*named, *more], batch_rows=batch_rows):
        if row >= shard.rows:
            return
        if isinstance(piece, Gap):
            rows = [
                replace(found, reason=piece.reason) for found in _lost_rows(shard, roles, many, named, piece, encoding)
            ]
            yield rows[: shard.rows - row], None
        else:
            piece = piece.slice(0, shard.rows - row)
            yield _text_rows(shard, roles, many, row, piece, encoding), piece


def _lost_rows(
    shard: Shard, roles: Roles, many: bool, named: Sequence[str], gap: Gap, encoding: str | None
) -> list[Row]:
    """The rows of a gap, with their captions and ids if these can be read."""
    rows: list[Row] = []
    for row, piece in readable_batches(shard.path, named, batch_rows=TEXT_BATCH, groups=[gap.group]):
        if isinstance(piece, Gap):
            rows += [lost_row(shard, row + i, gap.reason, many) for i in range(piece.rows)]
        else:
            rows += _text_rows(shard, roles, many, row, piece, encoding)
    return rows[gap.offset :]


def _text_rows(
    shard: Shard, roles: Roles, many: bool, row: int, batch: pa.RecordBatch, encoding: str | None
) -> list[Row]:
    captions = raw_texts(batch.column(roles.caption))
    ids = texts(batch.column(roles.id)) if roles.id else [f"{shard.name}:{row + i}" for i in range(len(batch))]
    rows = []
    for i, (identifier, caption) in enumerate(zip(ids, captions, strict=True)):
        found = tuple(caption or ()) or (None,) if many else (caption,)
        read = tuple(decode(text, encoding) if isinstance(text, bytes) else text for text in found)
        undecided = any(text is None and raw is not None for text, raw in zip(read, found, strict=True))
        why = UNKNOWN_ENCODING if undecided and not many else None
        rows.append(Row(row + i, str(identifier), None, read, many, why))
    return rows


def caption_encoding(shards: Sequence[Shard], column: str) -> str | None:
    """The encoding of the captions that are not UTF-8, decided from all of them together (remote: from some shards)."""
    whole = [shard for shard in shards if not shard.broken]
    remote = bool(whole) and is_remote(whole[0].path)
    looked_at = whole[:: max(1, -(-len(whole) // _SHARDS_LOOKED_AT))] if remote else whole
    return guess(text for shard in looked_at for text in _not_utf8(shard, column))


def _not_utf8(shard: Shard, column: str) -> Iterator[bytes]:
    """Captions whose encoding is told by nothing but what they look like."""
    for _, piece in readable_batches(shard.path, [column], batch_rows=TEXT_BATCH):
        if isinstance(piece, Gap) or is_utf8(piece.column(column)):
            continue
        for value in raw_texts(piece.column(column)):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, bytes) and needs_guess(text):
                    yield text


@dataclass
class ParquetSource:
    """Parquet shards; see `Source`. Holds no open file, so that it can be sent to other processes.

    encoding: that of the captions that are not UTF-8, None where it is not recognised or not needed.
    beside: whether image paths are relative to the folder of their own shard.
    """

    path: str
    layout: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]
    many: bool
    strict: bool = False
    encoding: str | None = None
    beside: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    vectors: str | None = None

    def image_root(self, shard: Shard) -> str | None:
        """The folder that the shard's image paths are relative to, None where they cannot be read."""
        return self.roles.image_root or (parent(shard.path) if self.beside else None)

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        more, batch_rows = (self._image_columns, IMAGE_BATCH) if images else ((), TEXT_BATCH)
        for rows, batch in table_rows(
            shard, self.roles, self.many, more=more, batch_rows=batch_rows, encoding=self.encoding
        ):
            if batch is None and self.strict:
                raise UserError(f"{shard.path} has rows that cannot be read: {rows[0].reason}")
            if batch is None or not images:
                yield from rows
            else:
                for row, (image, reason, absent) in zip(rows, self._images(batch, shard), strict=True):
                    yield replace(row, image=image, reason=reason or row.reason, absent=absent)

    def sample(self, shard: Shard, count: int) -> Iterator[Row]:
        starts = _spread(shard, count)
        for group, first, rows in starts:
            columns = [self.roles.caption, *([self.roles.id] if self.roles.id else []), *self._image_columns]
            pieces = readable_batches(shard.path, columns, batch_rows=max(1, count // len(starts)), groups=[group])
            _, piece = next(pieces, (0, None))
            if isinstance(piece, pa.RecordBatch):
                piece = piece.slice(0, rows)
                found = _text_rows(shard, self.roles, self.many, first, piece, self.encoding)
                for row, (image, reason, absent) in zip(found, self._images(piece, shard), strict=True):
                    yield replace(row, image=image, reason=reason or row.reason, absent=absent)

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
                image, reason, _ = next(self._images(batch.slice(row - start, 1), shard))
                if image is None:
                    raise UserError(f"row {row} of {shard.path} has no image to show: {reason}")
                return image
            start += len(batch)
        raise UserError(f"{shard.path} has no row {row}")

    @property
    def _image_columns(self) -> list[str]:
        assert self.roles.image is not None
        return [self.roles.image, *(name for name in self.columns if name.lower() in ("status", "error_message"))]

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

    def _images(self, batch: pa.RecordBatch, shard: Shard) -> Iterator[tuple[bytes | None, str | None, bool]]:
        """A batch's images one by one: the bytes, or why there are none and whether the source itself says so."""
        nothing: list[None] = [None] * len(batch)
        told = {name.lower(): texts(batch.column(name)) for name in batch.schema.names if name != self.roles.image}
        status, message = told.get("status", nothing), told.get("error_message", nothing)
        values = _image_values(batch.column(self.roles.image))
        read = _reader(self.image_root(shard), values)
        for value, state, error in zip(values, status, message, strict=True):
            image, reason = _image(value, read)
            why = failed(state, error) if image is None else None
            yield image, why or reason, why is not None or reason == _NULL


def _image_values(column: pa.Array) -> list[Any]:
    """Bytes, text, or None for each row; of a struct its bytes, else its path; of a list its elements as a list."""
    kind = image_kind(column.type)
    if kind == "list":
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
        elements = iter(_image_values(pc.list_flatten(column)))
        return [[next(elements) for _ in range(length)] or None for length in lengths]
    if kind != "struct":
        return texts(column)
    images = pc.struct_field(column, "bytes").to_pylist()
    if "path" not in [field.name for field in column.type]:
        return images
    paths = texts(pc.struct_field(column, "path"))
    return [path if image is None and path else image for image, path in zip(images, paths, strict=True)]


_Reader = Callable[[str], tuple[bytes | None, str | None]]


def _reader(root: str | None, values: Iterable[Any]) -> _Reader | None:
    """What reads the image files that values name; from a remote root, all of them at once."""
    if root is None or not is_remote(root):
        return None if root is None else functools.partial(read_inside, root)
    single = (value[0] if isinstance(value, list) and len(value) == 1 else value for value in values)
    paths = [value for value in single if isinstance(value, str) and value and from_base64(value) is None]
    return fetch_inside(root, paths).__getitem__


def _image(value: Any, read: _Reader | None) -> tuple[bytes | None, str | None]:
    """The image that a value holds, or why it does not."""
    if isinstance(value, list):
        if len(value) != 1:
            return None, f"it has {len(value)} {ONE_IMAGE}"
        value = value[0]
    if value is None:
        return None, _NULL
    if not value:
        return None, "the image is empty"
    if isinstance(value, bytes):
        return from_bytes(value), None
    image = from_base64(value)
    if image is not None:
        return image, None
    if read is None:
        return None, "no image bytes, only a path (name its folder with --image-root)"
    return read(value)


def _spread(shard: Shard, count: int) -> list[tuple[int, int, int]]:
    """Some row groups from all over a shard, at most `count`: the group, its first row, and how many of its rows."""
    found, first = [], 0
    with opened(shard.path) as table:
        for group in range(table.num_row_groups):
            rows = min(table.metadata.row_group(group).num_rows, shard.rows - first)
            if rows > 0:
                found.append((group, first, rows))
            first += rows
    return found[:: max(1, -(-len(found) // min(4, count)))]


def failed(status: Any, error: Any) -> str | None:
    """What img2dataset says of a download that failed; None where it did not."""
    if not status or status == "success":
        return None
    return f"{status}: {error}" if error else str(status)
