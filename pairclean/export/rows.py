"""Rows of any source as Parquet, for layouts that are no tables themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..pairs import Row, Shard
from ..sources import Source
from .kept import ADDED, added, adds, as_lists, captions_now, changed, column
from .parquet import write_tables

_BATCH = 64  # images that are in memory at once


@dataclass(frozen=True)
class TablesOfRows:
    """`<shard>.parquet`: the id, the image's bytes, the caption (or list of captions), the source's other columns.

    The image's column is called `image`, the others like the source's roles.
    """

    source: Source

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.parquet"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        rows, starts = np.unique(column(kept, "row").to_numpy(), return_index=True)
        more = self._more(shard, rows)
        schema = self._schema(more.schema, adds(kept))
        write_tables(out / self.files(shard)[0], self._tables(shard, kept, rows, starts, more, schema), schema)

    def _more(self, shard: Shard, rows: np.ndarray) -> pa.Table:
        """The source's other columns of these rows."""
        roles = self.source.roles
        taken = {roles.image, roles.caption, roles.id, "id", "image", *ADDED.names}
        names = [name for name in self.source.columns if name not in taken]
        if not names or not shard.rows:
            return pa.table({})
        return pa.Table.from_batches(self.source.batches(shard, names)).take(pa.array(rows))

    def _schema(self, more: pa.Schema, with_added: bool) -> pa.Schema:
        def kind(of: pa.DataType) -> pa.DataType:
            return pa.list_(of) if self.source.many else of

        return pa.schema(
            [
                pa.field(self.source.roles.id or "id", pa.string()),
                pa.field("image", pa.binary()),
                pa.field(self.source.roles.caption, kind(pa.string())),
                *more,
                *([pa.field(field.name, kind(field.type)) for field in ADDED] if with_added else []),
            ]
        )

    def _tables(
        self, shard: Shard, kept: pa.Table, rows: np.ndarray, starts: np.ndarray, more: pa.Table, schema: pa.Schema
    ) -> Iterator[pa.Table]:
        wanted, done = set(rows.tolist()), 0
        there = (row for row in self.source.rows(shard) if row.row in wanted)
        ends = np.append(starts, len(kept))[1:]
        while found := list(islice(there, _BATCH)):
            here = slice(done, done + len(found))
            if [row.row for row in found] != rows[here].tolist():
                raise changed(shard)
            first, last = int(starts[here][0]), int(ends[here][-1])
            columns = self._captions(shard, found, kept.slice(first, last - first), ends[here] - first)
            columns[schema.names[0]] = pa.array([row.id for row in found])
            columns["image"] = pa.array([row.image for row in found], pa.binary())
            columns |= {name: column(more.slice(done, len(found)), name) for name in more.column_names}
            yield pa.table({field.name: columns[field.name].cast(field.type) for field in schema}, schema=schema)
            done += len(found)
        if done < len(rows):
            raise changed(shard)

    def _captions(self, shard: Shard, found: Sequence[Row], kept: pa.Table, ends: np.ndarray) -> dict[str, pa.Array]:
        """The captions that are left of these rows, and the added columns."""
        by_row = {row.row: row.captions for row in found}
        places = list(zip(column(kept, "row").to_pylist(), column(kept, "caption_index").to_pylist(), strict=True))
        if any(index >= len(by_row[row]) for row, index in places):
            raise changed(shard)
        originals = pa.array([by_row[row][index] for row, index in places], pa.string())
        columns = {**added(kept, originals), self.source.roles.caption: captions_now(kept, originals)}
        return {name: as_lists(values, ends) for name, values in columns.items()} if self.source.many else columns

    def finish(self, out: Path) -> None: ...
