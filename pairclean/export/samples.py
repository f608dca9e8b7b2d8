"""Tars of webdataset: their samples copied as they are, with the captions that the pairs carry now."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..pairs import Shard
from ..sources.encoding import decode, encode
from ..sources.tables import Gap, nulls, read_schema, readable_batches
from ..sources.webdataset import Sample, WebdatasetSource
from .kept import ADDED, added, adds, as_lists, captions_now, changed, column
from .parquet import output_schema, write_tables
from .tar import add, as_json, opened, opened_folder

_BATCH = 64  # images that are in memory at once
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Tars:
    """`<shard>.tar` with the samples that are left, and the sidecar `<shard>.parquet` with the added columns.

    Members are copied byte for byte, but for KEY.txt and the caption in KEY.json, if they held the old one, where it is
    a new one. The sidecar has the columns of the source's, or the key and the caption where it has none (then only if
    there is something to add). A key that was there before, which webdataset refuses, gets a number.
    """

    source: WebdatasetSource

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.tar", f"{shard.name}.parquet"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        texts = _Texts.read(self.source, shard, kept)
        tar, sidecar = (out / name for name in self.files(shard))
        keys: dict[int, str] = {}
        taken: set[str] = set()
        with self._opened(tar) as file:
            for row, sample in self.source.samples(shard):
                if row in texts.new:
                    keys[row] = _free(sample.key, taken)
                    for name, data in self._members(sample, texts.old[row], texts.new[row]):
                        add(file, keys[row] + name[len(sample.key) :], data)
            if adds(kept) and len(keys) < len(texts.new):
                raise changed(shard)
        if adds(kept) or shard.name in self.source.sidecars:
            table = texts.table(keys)
            write_tables(sidecar, iter([table] if len(table) else []), table.schema)

    def _opened(self, path: Path) -> AbstractContextManager[tarfile.TarFile | Path]:
        return opened(path)

    def _members(
        self, sample: Sample, old: list[str | None], new: list[str | None] | None
    ) -> Iterator[tuple[str, bytes]]:
        """old, new: the captions of the source, and those that there are instead; None where these are the same."""
        if new is None:
            yield from sample.members
            return
        was, caption = (old, new) if self.source.many else (old[0], new[0])
        where = self.source.captions
        for name, data in sample.members:
            extension = name[len(sample.key) + 1 :].lower()
            # `str` is what img2dataset makes of a list.
            if (where.place == "member" and extension == where.name) or (
                extension == "txt" and (decode(data, self.source.encoding) or "").strip() == str(was).strip()
            ):
                data = encode(str(caption), data, self.source.encoding)
            elif extension == "json":
                data = _recaptioned(data, where.name if where.place == "json" else None, was, caption)
            yield name, data

    def finish(self, out: Path) -> None: ...


class Folders(Tars):
    """The same as files: `<shard>/KEY.jpg`, `<shard>/KEY.txt` and so on, and the sidecar beside the folder."""

    def files(self, shard: Shard) -> list[str]:
        return [shard.name, f"{shard.name}.parquet"]

    def _opened(self, path: Path) -> AbstractContextManager[tarfile.TarFile | Path]:
        return opened_folder(path)


def _free(key: str, taken: set[str]) -> str:
    """The key, with a number where it is taken; then it is."""
    free, number = key, 1
    while free in taken:
        number += 1
        free = f"{key}-{number}"
    taken.add(free)
    return free


def _recaptioned(data: bytes, place: str | None, was: Any, caption: Any) -> bytes:
    """KEY.json with another caption: in the field `place`, where captions are read from, and where `caption` agrees."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(fields, dict):
        return data
    names = {place} & fields.keys()
    if "caption" in fields and fields["caption"] == was:
        names.add("caption")
    return as_json({name: caption if name in names else value for name, value in fields.items()}) if names else data


@dataclass(frozen=True)
class TablesOfTars:
    """`<shard>.parquet` of a tar: the sidecar's columns (or key and caption), the image as bytes, the added columns."""

    source: WebdatasetSource

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.parquet"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        texts = _Texts.read(self.source, shard, kept)
        table = texts.table()
        place = len(table.schema) - (len(ADDED) if adds(kept) else 0)
        image = pa.field(self.source.roles.image or "jpg", pa.binary())
        if image.name in table.column_names:  # the sidecar holds the images too: those of the tar were judged
            place = table.schema.get_field_index(image.name)
            table = table.drop_columns([image.name])
        write_tables(
            out / self.files(shard)[0],
            self._tables(shard, texts, table, place, image),
            table.schema.insert(place, image),
        )

    def _tables(self, shard: Shard, texts: _Texts, table: pa.Table, place: int, field: pa.Field) -> Iterator[pa.Table]:
        done = 0
        there = ((row, sample) for row, sample in self.source.samples(shard) if row in texts.new)
        while found := list(islice(there, _BATCH)):
            images = pa.array([self._image(sample) for _, sample in found], field.type)
            part = table.slice(done, len(found))
            if texts.rows[done : done + len(found)] != [row for row, _ in found]:
                raise changed(shard)
            yield part.add_column(place, field, images)
            done += len(found)
        if done < len(table):
            raise changed(shard)

    def _image(self, sample: Sample) -> bytes | None:
        extensions = {name[len(sample.key) + 1 :].lower(): data for name, data in sample.members}
        return next((extensions[kind] for kind in self.source.images if kind in extensions), None)

    def finish(self, out: Path) -> None: ...


@dataclass(frozen=True)
class _Texts:
    """All of a shard's rows that stay, but for the images.

    rows: their numbers, ascending.  old: by row, the source's captions.  new: by row, its captions where they are not
    the source's any more, else None.
    columns: the caption, and the added columns.
    """

    source: WebdatasetSource
    shard: Shard
    rows: list[int]
    ids: list[str]
    old: dict[int, list[str | None]]
    new: dict[int, list[str | None] | None]
    caption: pa.Array
    columns: dict[str, pa.Array]

    @classmethod
    def read(cls, source: WebdatasetSource, shard: Shard, kept: pa.Table) -> _Texts:
        owner, index = column(kept, "row").to_numpy(), column(kept, "caption_index").to_numpy()
        wanted, starts = np.unique(owner, return_index=True)
        left = set(wanted.tolist())
        there = {row.row: row for row in source.rows(shard, images=False) if row.row in left}
        if len(there) < len(left) or any(i >= len(there[row].captions) for row, i in zip(owner, index, strict=True)):
            raise changed(shard)
        own = pa.array([there[row].captions[i] for row, i in zip(owner, index, strict=True)], pa.string())
        now, columns = captions_now(kept, own), added(kept, own)
        ends = np.append(starts, len(owner))[1:]
        captions = now.to_pylist()
        new: dict[int, list[str | None] | None] = {}
        for row, start, end in zip(wanted.tolist(), starts, ends, strict=True):
            same = captions[start:end] == list(there[row].captions)
            new[row] = None if same else captions[start:end]
        if source.many:
            now, columns = as_lists(now, ends), {name: as_lists(values, ends) for name, values in columns.items()}
        old = {row: list(there[row].captions) for row in new}
        return cls(source, shard, list(new), [there[row].id for row in new], old, new, now, columns)

    def table(self, keys: Mapping[int, str] | None = None) -> pa.Table:
        """One row each: the sidecar's columns, or key and caption, and the added columns.

        keys: of the samples in the new tar, by row.
        """
        sidecar = self.source.sidecars.get(self.shard.name)
        schema = pa.schema([(self.source.key, pa.string())]) if sidecar is None else read_schema(sidecar)
        name = self.source.sidecar_caption(schema) or "caption"
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
        kind = pa.list_(pa.string()) if self.source.many else schema.field(name).type
        place = schema.get_field_index(name)
        schema = schema.set(place, pa.field(name, kind))
        schema = output_schema(schema, name, self.source.many, bool(self.columns))
        found = self._of_sidecar(sidecar, schema) if sidecar else {}
        columns = {**found, **self.columns, name: self.caption}
        columns[self.source.key] = self._keys(found.get(self.source.key), keys or {})
        place = schema.get_field_index(self.source.key)
        schema = schema.set(place, schema.field(place).with_type(columns[self.source.key].type))
        arrays = [columns[field.name].cast(field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _keys(self, there: pa.Array | None, keys: Mapping[int, str]) -> pa.Array:
        """The column of keys.  there: the sidecar's, null for rows that it does not have.  keys: as for `table`."""
        own = self.ids if there is None else there.cast(pa.string()).to_pylist()
        named = [keys.get(row, key or name) for row, key, name in zip(self.rows, own, self.ids, strict=True)]
        if there is not None and named == own:
            return there
        texts = pa.array(named, pa.string())
        if there is None or (pa.types.is_integer(there.type) and not all(map(_INTEGER.fullmatch, named))):
            return texts
        return texts.cast(there.type)

    def _of_sidecar(self, sidecar: str, like: pa.Schema) -> dict[str, pa.Array]:
        """The sidecar's columns of these rows; nulls where it does not have them."""
        schema = read_schema(sidecar)
        rows = np.array(self.rows)
        parts, last = [schema.empty_table()], 0
        for start, piece in readable_batches(sidecar):
            end = start + (piece.rows if isinstance(piece, Gap) else len(piece))
            here = rows[(rows >= start) & (rows < end)] - start
            batch = nulls(schema, len(here)) if isinstance(piece, Gap) else piece.take(pa.array(here))
            parts.append(pa.Table.from_batches([batch]))
            last = end
        parts.append(pa.Table.from_batches([nulls(schema, int((rows >= last).sum()))]))
        table = pa.concat_tables(parts, promote_options="permissive")
        return {name: column(table, name) for name in table.column_names if name in like.names}
