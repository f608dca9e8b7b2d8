"""Stage five: a verdict for every pair, and the cleaned data in the source's layout or another, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..embed import Embeddings
from ..execution import Execution
from ..export import kept_pairs, open_writer
from ..export import verdict_tables as tables_of
from ..files import written_whole
from ..run import Run
from ..run.results import emptied, open_embeddings, open_judgement, open_rematches
from ..run.source import embedded_source


def export(run: Run, execution: Execution) -> None:
    emb, config, progress = open_embeddings(run), run.config, execution.progress
    source = embedded_source(run)
    progress.start("export", len(source.shards))
    verdicts, cleaned = emptied(run.path / "verdicts"), emptied(run.path / "cleaned")
    partner = open_rematches(run).partner
    donors = np.asarray(partner[np.flatnonzero(partner >= 0)])
    own = open_writer(source, config.to, offsets=emb.shard_offsets, donors=donors, home=run.path / "moved", emb=emb)
    with own if run.writer is None else nullcontext(run.writer) as writer:
        for i, (shard, table) in enumerate(zip(source.shards, verdict_tables(run, emb), strict=True)):
            start, stop = (int(offset) for offset in emb.shard_offsets[i : i + 2])
            with written_whole(verdicts / f"{shard.name}.parquet") as file:
                pq.write_table(table, file)
            if not shard.broken:
                donor = np.asarray(partner[start:stop])
                kept = kept_pairs(table, start=start, donor=donor, best=config.captions == "best")
                writer.write(shard, kept, cleaned)
            progress.advance()
        writer.finish(cleaned)


def verdict_tables(run: Run, emb: Embeddings) -> Iterator[pa.Table]:
    """The verdicts of each shard in order, `pairs.VERDICT_SCHEMA`, from what the earlier stages found."""
    tables = (emb.pair_table(shard) for shard in emb.shard_names)
    pair_ids = _PairIds(run).of
    return tables_of(tables, open_judgement(run), open_rematches(run), pair_ids=pair_ids, captions=emb.captions)


class _PairIds:
    """Pair ids by row, read once: rematches point anywhere in the data."""

    def __init__(self, run: Run):
        parts = [
            pq.read_table(run.embeddings / "metadata" / f"metadata_{name}.parquet", columns=["pair_id"])["pair_id"]
            for name in run.shards
        ]
        self.ids = pa.chunked_array([c for part in parts for c in part.chunks], pa.string())

    def of(self, rows: np.ndarray) -> list[str]:
        return self.ids.take(pa.array(rows)).to_pylist()
