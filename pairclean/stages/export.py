"""Stage five: a verdict for every pair, and the cleaned data in the source's layout or another, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..embed import Embeddings
from ..execution import Execution
from ..export import Destination, Writer, kept_pairs, open_writer
from ..export.copies import Copies
from ..export.verdicts import verdict_tables as tables_of
from ..files import written_whole
from ..pairs import UserError
from ..run import Run
from ..run.results import emptied, open_embeddings, open_faults, open_judgement, open_learned, open_rematches
from ..run.source import embedded_source
from ..sources import Source


def export(run: Run, execution: Execution) -> None:
    emb, config, progress = open_embeddings(run), run.config, execution.progress
    source = embedded_source(run)
    progress.start("export", len(source.shards))
    verdicts, cleaned = emptied(run.path / "verdicts"), emptied(run.path / "cleaned")
    partner = open_rematches(run).partner
    donors = np.asarray(partner[np.flatnonzero(partner >= 0)])
    own = open_writer(source, config.to, offsets=emb.shard_offsets, donors=donors, home=run.path / "moved", emb=emb)
    with own if run.writer is None else nullcontext(run.writer) as writer:
        place = None if config.cleaned_to is None else _begun(run, Destination(config.cleaned_to), source, writer)
        for i, (shard, table) in enumerate(zip(source.shards, verdict_tables(run, emb), strict=True)):
            with written_whole(verdicts / f"{shard.name}.parquet") as file:
                pq.write_table(table, file)
            if not shard.broken:
                writer.write(shard, _kept(run, emb, i, table, partner), cleaned)
            if place is not None:
                place.copy(verdicts / f"{shard.name}.parquet", f"verdicts/{shard.name}.parquet")
                if config.to != "uids":  # which are joined at the end
                    place.move(cleaned, writer.files(shard))
            progress.advance()
        writer.finish(cleaned)
        if place is not None:
            place.move(cleaned, [path.name for path in cleaned.iterdir()])


def _begun(run: Run, place: Destination, source: Source, writer: Writer) -> Destination:
    """The place without what an earlier pass of this run has left in it.

    Raises UserError where there are files that this run did not write.
    """
    before = run.manifest.get("written_to", {})
    if before.get("address") == place.address:
        place.remove(before["names"])
    others = place.files()
    if others:
        raise UserError(
            f"{place.address} has files that this run did not write ({others[0]}): name another folder with "
            "--cleaned-to, or move them"
        )
    names = [f"cleaned/{name}" for shard in source.shards for name in writer.files(shard)]
    names += [f"verdicts/{shard.name}.parquet" for shard in source.shards]
    run.manifest["written_to"] = {"address": place.address, "names": [*names, "cleaned/uids.npy"]}
    run.save()
    return place


def verdict_tables(run: Run, emb: Embeddings) -> Iterator[pa.Table]:
    """The verdicts of each shard in order, `pairs.VERDICT_SCHEMA`, from what the earlier stages found."""
    pair_ids, readable, one_per = _PairIds(run).of, int(emb.readable.sum()), run.config.deduplicate
    judgement, rematches, faults = open_judgement(run), open_rematches(run), open_faults(run)
    copies = Copies.of(open_learned(run), faults)

    def tables(kept_instead: np.ndarray | None = None) -> Iterator[pa.Table]:
        return tables_of(
            (emb.pair_table(shard) for shard in emb.shard_names),
            judgement,
            rematches,
            faults,
            copies,
            readable=readable,
            pair_ids=pair_ids,
            captions=emb.captions,
            kept_instead=kept_instead,
        )

    if one_per == "none":
        return tables()
    kept = [_kept(run, emb, shard, table, rematches.partner) for shard, table in enumerate(tables())]
    return tables(copies.kept_instead(pa.concat_tables(kept).select(["pair", "donor", "probability"]), one_per))


def _kept(run: Run, emb: Embeddings, shard: int, verdicts: pa.Table, partner: np.ndarray) -> pa.Table:
    """The pairs of a shard that `cleaned/` has."""
    start, stop = (int(offset) for offset in emb.shard_offsets[shard : shard + 2])
    donor = np.asarray(partner[start:stop])
    return kept_pairs(verdicts, start=start, donor=donor, best=run.config.captions == "best")


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
