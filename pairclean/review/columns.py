"""The columns by which the pairs of a run are grouped: those of its source, and those that a run knows by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..pairs import Shard, UserError
from ..run import Run
from ..run.source import embedded_source
from ..sources import Source
from ..sources.roles import same
from ..sources.tables import texts
from .kinds import KINDS, kind_columns

DOMAIN, URL, SHARD = "domain", "url", "shard"


@dataclass(frozen=True)
class Columns:
    """The columns of a run.  given: its source, if it is open already.

    Besides the source's columns there are `shard`, the file of a pair, and, unless the source has columns of these
    names, `domain`, the host in its column `url`, and the judge's `kind` and `picture_kind`.
    """

    run: Run
    given: Source | None = None

    @cached_property
    def source(self) -> Source:
        """Raises UserError where the source has changed."""
        return self.given or embedded_source(self.run)

    @cached_property
    def kinds(self) -> dict[str, np.ndarray]:
        return kind_columns(self.run)

    def is_kind(self, column: str) -> bool:
        return column in KINDS and column not in self.source.columns

    def parts(self, by: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Of each shard its name, and the columns `by`, (n,) object with None for null, of its n pairs.

        Raises UserError where the source has changed, or there is no such column.
        """
        shards = {shard.name: shard for shard in self.source.shards} if set(by) - {SHARD} else {}
        start = 0
        for name in self.run.shards:
            rows = pq.read_table(self.run.path / "verdicts" / f"{name}.parquet", columns=["row"])["row"].to_numpy()
            part = slice(start, start + len(rows))
            start = part.stop
            columns = {}
            for column in by:
                if column == SHARD:
                    columns[column] = np.full(len(rows), name, object)
                elif self.is_kind(column):
                    columns[column] = self.kinds[column][part]
                else:
                    columns[column] = values_of(self.source, shards[name], column, rows)
            yield name, columns


def column_values(run: Run, column: str) -> np.ndarray:
    """(N,) object: a column for every pair of the run, None for null.

    Raises UserError where the source has changed, or there is no such column.
    """
    return np.concatenate([np.empty(0, object), *(part[column] for _, part in Columns(run).parts([column]))])


def values_of(source: Source, shard: Shard, column: str, rows: np.ndarray) -> np.ndarray:
    """The values of a column in these rows, as objects; None for null."""
    from ..metrics.group_rates import domain_of

    derived = column == DOMAIN and DOMAIN not in source.columns
    url = same(source.columns, URL)
    if derived and url is None:
        raise UserError(f"{source.path} has no column 'domain', and no 'url' to take it from: name another column")
    batches = list(source.batches(shard, [url if derived and url else column]))
    chunks = [batch.column(0) for batch in batches]
    if not chunks:
        return np.empty(0, object)
    kind = chunks[0].type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise UserError(f"pairs cannot be grouped by {column!r}, which holds {kind}: name a column with plain values")
    if pa.types.is_dictionary(kind):
        chunks = [chunk.dictionary_decode() for chunk in chunks]
    values = np.array([value for chunk in chunks for value in texts(chunk)], object)[rows]
    return np.array([domain_of(value) for value in values], object) if derived else values
