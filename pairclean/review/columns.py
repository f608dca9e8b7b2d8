"""Columns of a run's source, by which its pairs are grouped."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..pairs import Shard, UserError
from ..run import Run
from ..run.source import embedded_source
from ..sources import Source
from ..sources.roles import same
from ..sources.tables import texts

DOMAIN, URL, SHARD = "domain", "url", "shard"


def column_values(run: Run, column: str) -> np.ndarray:
    """(N,) object: a column of the source for every pair of the run, None for null; also `shard` and `domain`.

    Raises UserError where the source has changed, or there is no such column.
    """
    source = None if column == SHARD else embedded_source(run)
    shards = {} if source is None else {shard.name: shard for shard in source.shards}
    parts = []
    for name in run.shards:
        rows = pq.read_table(run.path / "verdicts" / f"{name}.parquet", columns=["row"])["row"].to_numpy()
        shard = np.full(len(rows), name, object)
        parts.append(shard if source is None else values_of(source, shards[name], column, rows))
    return np.concatenate([np.empty(0, object), *parts])


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
