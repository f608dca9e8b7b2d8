"""Stage five: a verdict for every pair, and the cleaned data in the source's layout or another. Shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..embed import Embeddings
from ..export import Findings, kept_pairs, open_writer, verdict_table
from ..files import written_whole
from ..run import Execution, Run
from ..run.common import embedded_source, emptied, flag_below, load_array, open_embeddings
from .judge import NOISE_KINDS


def export(run: Run, execution: Execution) -> None:
    emb, config, progress = open_embeddings(run), run.config, execution.progress
    source = embedded_source(run)
    progress.start("export", len(source.shards))
    verdicts, cleaned = emptied(run.path / "verdicts"), emptied(run.path / "cleaned")
    partner = load_array(run.path / "rematch" / "partner.npy")
    donors = np.asarray(partner[np.flatnonzero(partner >= 0)])
    own = open_writer(source, config.to, offsets=emb.shard_offsets, donors=donors, home=run.path / "moved", emb=emb)
    with own if run.writer is None else nullcontext(run.writer) as writer:
        for i, (shard, table) in enumerate(zip(source.shards, verdict_tables(run, emb), strict=True)):
            start, stop = (int(offset) for offset in emb.shard_offsets[i : i + 2])
            with written_whole(verdicts / f"{shard.name}.parquet") as file:
                pq.write_table(table, file)
            if not shard.broken:
                writer.write(shard, kept_pairs(table, start=start, donor=np.asarray(partner[start:stop])), cleaned)
            progress.advance()
        writer.finish(cleaned)


def verdict_tables(run: Run, emb: Embeddings) -> Iterator[pa.Table]:
    """The verdicts of each shard in order, `pairs.VERDICT_SCHEMA`, from what the stages before have found."""
    judge, found = run.path / "judge", run.path / "rematch"
    similarity, aligned = (load_array(judge / f"{name}.npy") for name in ("similarity", "aligned_similarity"))
    clean, partner, probability, reason = (
        load_array(found / f"{name}.npy") for name in ("clean_probability", "partner", "probability", "reason")
    )
    kinds, kind = np.array(NOISE_KINDS, object), _noise_kind(run, len(emb))
    unjudged = json.loads((judge / "judge.json").read_text(encoding="utf-8"))["unjudged"]
    reasons = np.array(json.loads((found / "rematch.json").read_text(encoding="utf-8"))["reasons"], object)
    ids, threshold = _PairIds(run), flag_below(run)
    partners = np.unique(partner[partner >= 0])
    captions = np.array(emb.captions(partners), object)  # of any shard, so that each is read once
    for i, shard in enumerate(emb.shard_names):
        part = slice(int(emb.shard_offsets[i]), int(emb.shard_offsets[i + 1]))
        to = np.asarray(partner[part])
        there = np.flatnonzero(to >= 0)
        partner_id, partner_caption = np.full(len(to), None, object), np.full(len(to), None, object)
        partner_id[there] = ids.of(to[there])
        partner_caption[there] = captions[np.searchsorted(partners, to[there])]
        yield verdict_table(
            emb.pair_table(shard),
            Findings(
                clean[part],
                similarity[part],
                aligned[part],
                partner_id,
                partner_caption,
                probability[part],
                reasons[reason[part]],
                kinds[kind[part]],
                unjudged,
                threshold,
            ),
        )


def _noise_kind(run: Run, pairs: int) -> np.ndarray:
    """(N,) int8, an index into NOISE_KINDS; nothing is told where nothing was judged."""
    path = run.path / "judge" / "noise_kind.npy"
    return load_array(path) if path.exists() else np.zeros(pairs, np.int8)


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
