"""Stage five: a verdict for every pair, and the cleaned data in the source's layout. Shard by shard."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..export import Findings, export_shard, verdict_table
from ..files import written_whole
from ..run import Execution, Run
from .common import embedded_source, emptied, load_array, open_embeddings


def export(run: Run, execution: Execution) -> None:
    emb, config, progress = open_embeddings(run), run.config, execution.progress
    source = embedded_source(run)
    progress.start("export", len(source.shards))
    judge, found = run.path / "judge", run.path / "rematch"
    clean, similarity, aligned = (
        load_array(judge / f"{name}.npy") for name in ("clean_probability", "similarity", "aligned_similarity")
    )
    partner, probability, reason = (load_array(found / f"{name}.npy") for name in ("partner", "probability", "reason"))
    unjudged = json.loads((judge / "judge.json").read_text(encoding="utf-8"))["unjudged"]
    reasons = np.array(json.loads((found / "rematch.json").read_text(encoding="utf-8"))["reasons"], object)
    verdicts, cleaned = emptied(run.path / "verdicts"), emptied(run.path / "cleaned")
    ids = _PairIds(run)
    for i, shard in enumerate(source.shards):
        part = slice(int(emb.shard_offsets[i]), int(emb.shard_offsets[i + 1]))
        to = np.asarray(partner[part])
        there = np.flatnonzero(to >= 0)
        partner_id, partner_caption = np.full(len(to), None, object), np.full(len(to), None, object)
        partner_id[there] = ids.of(to[there])
        partner_caption[there] = emb.captions(to[there])
        table = verdict_table(
            emb.pair_table(shard.name),
            Findings(
                clean[part],
                similarity[part],
                aligned[part],
                partner_id,
                partner_caption,
                probability[part],
                reasons[reason[part]],
                unjudged,
                config.flag_below,
            ),
        )
        with written_whole(verdicts / f"{shard.name}.parquet") as file:
            pq.write_table(table, file)
        export_shard(source, shard, table, cleaned)
        progress.advance()


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
