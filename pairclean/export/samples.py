"""Tars of webdataset: their samples copied as they are, with the captions that the pairs carry now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..pairs import Shard
from ..sources.roles import CAPTION_NAMES, caption_kind
from ..sources.tables import Gap, nulls, read_schema, readable_batches
from ..sources.webdataset import Sample, WebdatasetSource
from .kept import ADDED, added, adds, as_lists, captions_now, changed, column
from .parquet import output_schema, write_tables
from .tar import add, as_json, encoded, opened

_BATCH = 64  # images that are in memory at once


@dataclass(frozen=True)
class Tars:
    """`<shard>.tar` with the samples that are left, and the sidecar `<shard>.parquet` with the added columns.

    Members are copied byte for byte, but for KEY.txt and the caption in KEY.json where it is a new one. The sidecar has
    the columns of the source's, or the key and the caption where it has none (then only if there is something to add).
    """

    source: WebdatasetSource

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.tar", f"{shard.name}.parquet"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        texts = _Texts.read(self.source, shard, kept)
        tar, sidecar = (out / name for name in self.files(shard))
        keys: dict[int, str] = {}
        with opened(tar) as file:
            for row, sample in self.source.samples(shard):
                if row in texts.new:
                    keys[row] = sample.key
                    for name, data in self._members(sample, texts.new[row]):
                        add(file, name, data)
            if adds(kept) and len(keys) < len(texts.new):
                raise changed(shard)
        if adds(kept) or shard.name in self.source.sidecars:
            table = texts.table(keys)
            write_tables(sidecar, iter([table] if len(table) else []), table.schema)

    def _members(self, sample: Sample, new: list[str | None] | None) -> Iterator[tuple[str, bytes]]:
        """new: the captions, where they are not those that the sample has."""
        if new is None:
            yield from sample.members
            return
        caption = new if self.source.many else new[0]
        where = self.source.captions
        texts = {"txt", where.name} if where.place == "member" else {"txt"}
        for name, data in sample.members:
            extension = name[len(sample.key) + 1 :].lower()
            if extension in texts:
                data = encoded(str(caption))  # which is what img2dataset makes of a list
            elif extension == "json":
                data = _recaptioned(data, {"caption", where.name}, caption)
            yield name, data

    def finish(self, out: Path) -> None: ...


def _recaptioned(data: bytes, names: set[str], caption: Any) -> bytes:
    """KEY.json with another caption, if it has one."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(fields, dict) or not names & fields.keys():
        return data
    return as_json({name: caption if name in names else value for name, value in fields.items()})


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

    rows: their numbers, ascending.  new: by row, its captions where they are not the source's any more, else None.
    columns: the caption, and the added columns.
    """

    source: WebdatasetSource
    shard: Shard
    rows: list[int]
    ids: list[str]
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
        return cls(source, shard, list(new), [there[row].id for row in new], new, now, columns)

    def table(self, keys: Mapping[int, str] | None = None) -> pa.Table:
        """One row each: the sidecar's columns, or key and caption, and the added columns.

        keys: of the samples, by row, where the sidecar does not have them.
        """
        sidecar = self.source.sidecars.get(self.shard.name)
        schema = pa.schema([("key", pa.string())]) if sidecar is None else read_schema(sidecar)
        name = _caption_column(schema)
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
        kind = pa.list_(pa.string()) if self.source.many else schema.field(name).type
        place = schema.get_field_index(name)
        schema = schema.set(place, pa.field(name, kind))
        schema = output_schema(schema, name, self.source.many, bool(self.columns))
        found = self._of_sidecar(sidecar, schema) if sidecar else {"key": pa.nulls(len(self.rows), pa.string())}
        columns = {**found, **self.columns, name: self.caption}
        key = columns[self.source.key]
        if key.null_count:  # the sidecar does not have these rows, or they cannot be read
            named = [(keys or {}).get(row, key_id) for row, key_id in zip(self.rows, self.ids, strict=True)]
            columns[self.source.key] = pc.coalesce(key, pa.array(named, pa.string()).cast(key.type))
        arrays = [columns[field.name].cast(field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

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


def _caption_column(schema: pa.Schema) -> str:
    """The column of captions; what it is to be called where there is none."""
    return next((f.name for f in schema if f.name.lower() in CAPTION_NAMES and caption_kind(f.type)), "caption")
