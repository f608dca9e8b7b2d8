"""Stage five: a verdict for every pair, and the cleaned data in the source's layout or another, shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..embed import Embeddings
from ..execution import Execution
from ..export import Destination, Writer, kept_pairs, open_writer
from ..export.copies import Copies
from ..export.verdicts import Verdicts
from ..files import is_temporary, written_whole
from ..pairs import UserError
from ..run import Run
from ..run.parts import presence, say_what_is_left
from ..run.results import emptied, open_embeddings, open_faults, open_judgement, open_learned, open_rematches
from ..run.source import embedded_source
from ..sources import Source
from .on_ray import workers_of


def export(run: Run, execution: Execution) -> None:
    emb, source, progress = _pairs(run), embedded_source(run), execution.progress
    mine = execution.share([shard.name for shard in source.shards])
    progress.start("export", len(mine))
    with workers_of(run, "export", execution) as make_parts:
        # A writer of the caller's may remember what it has written, and has to be given all of it.
        if run.alone and not (run.has_begun("export") and run.writer is None):
            _begin(run, source, emb)
        is_there = presence(run, "export")
        todo = [name for name in mine if not is_there(name)]
        progress.advance(len(mine) - len(todo))
        with run.shared("export", wait=not execution.is_array_job):
            if make_parts:
                make_parts(todo)
            else:
                with _maker(run, source, emb, todo) as make:
                    for name in run.take(todo, is_there, wait=not execution.is_array_job):
                        make(name)
                        progress.advance()
    if execution.is_array_job:
        say_what_is_left(run, "export", mine, progress)
    elif run.alone:
        finish(run)


def _begin(run: Run, source: Source, emb: Embeddings) -> None:
    """Remove what an earlier pass has left. From then on the parts that are there are those that are due."""
    address = run.config.cleaned_to
    with _writer(run, source, emb, np.empty(0, np.int64)) as writer:
        place = None if address is None else Destination(address)
        emptied(run.path / "verdicts")
        emptied(run.path / "cleaned")
        if place is not None:
            _begin_at(place, run, source, writer)
    run.begin("export")


def check_that_nothing_is_lost(run: Run, cleaned_to: str | None) -> None:
    """Raises UserError if an export with other options would remove files of the last one.

    It is called for array jobs: one of them would remove everything, and write only its own share.
    cleaned_to: the remote folder of the new export.
    """
    at_risk = [f"{run.name}/{folder}" for folder in ("verdicts", "cleaned") if run.has_files(folder)]
    if cleaned_to is not None and run.manifest.get("written_to", {}).get("address") == Destination(cleaned_to).address:
        at_risk += [cleaned_to] if Destination(cleaned_to).files() else []
    if at_risk:
        raise UserError(
            f"the last export was made with other options, and a job with --shard-index does not replace it: move "
            f"{' and '.join(at_risk)} away first, or run `{run.command('export')}` with the new options and without "
            "--shard-index"
        )


@contextmanager
def part_maker(run: Run, execution: Execution) -> Iterator[Callable[[str], int]]:
    """What writes a part, by its name, and returns 1, for a worker that has nothing but the run.

    Raises UserError if the source is not that of the run.
    """
    emb = _pairs(run)
    is_there = presence(run, "export")
    with _maker(run, embedded_source(run), emb, emb.shard_names) as write:

        def make(name: str) -> int:
            for part in run.take([name], is_there):
                write(part)
            return 1

        yield make


@contextmanager
def _maker(run: Run, source: Source, emb: Embeddings, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """What writes the verdicts and the cleaned data of a shard, by its name.  names: those it will be asked for."""
    config = run.config
    shards = {shard.name: (number, shard) for number, shard in enumerate(source.shards)}
    rows = np.concatenate([np.empty(0, np.int64), *(_rows(emb, shards[name][0]) for name in names)])
    partner = open_rematches(run).partner
    verdicts, cleaned = run.path / "verdicts", run.path / "cleaned"
    place = None if config.cleaned_to is None else Destination(config.cleaned_to)
    table_of = _verdicts_of(run, emb, rows)
    with _writer(run, source, emb, partner[rows]) as writer:

        def make(name: str) -> None:
            number, shard = shards[name]
            table = table_of(number)
            if not shard.broken:
                writer.write(shard, _kept(run, emb, number, table, partner), cleaned)
            if place is not None and config.to != "uids":  # which are joined at the end
                place.move(cleaned, writer.files(shard))
            # Its verdicts are written last, and tell that the part is there.
            with written_whole(verdicts / f"{name}.parquet") as file:
                pq.write_table(table, file)
                if place is not None:
                    file.flush()
                    place.copy(Path(file.name), f"verdicts/{name}.parquet")

        yield make


def finish(run: Run) -> None:
    """What is left to do once all parts are there: what the layout joins, and what killed processes left is removed."""
    emb, source, config = _pairs(run), embedded_source(run), run.config
    cleaned, none = run.path / "cleaned", np.empty(0, np.int64)
    with _writer(run, source, emb, none) as writer:
        folders = {(cleaned / name).parent for shard in source.shards for name in writer.files(shard)}
        for folder in {run.path / "verdicts", cleaned, *folders}:
            for left in folder.iterdir() if folder.is_dir() else ():
                if is_temporary(left.name):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        # A kill from here on begins the export again, as the parts that are joined are removed.
        run.manifest.pop("begun", None)
        run.save()
        writer.finish(cleaned)
        if config.cleaned_to is not None:
            Destination(config.cleaned_to).move(cleaned, [path.name for path in cleaned.iterdir()])
    shutil.rmtree(run.path / "moved", ignore_errors=True)


def _pairs(run: Run) -> Embeddings:
    """The pairs, with their vectors only if those are written."""
    return open_embeddings(run, vectors=run.config.to == "embeddings")


@contextmanager
def _writer(run: Run, source: Source, emb: Embeddings, partner: np.ndarray) -> Iterator[Writer]:
    """The caller's writer, or that of the layout.  partner: of the pairs that it will write."""
    if run.writer is not None:
        yield run.writer
        return
    donors = np.asarray(partner[partner >= 0])
    moved = run.path / "moved"
    with open_writer(source, run.config.to, offsets=emb.shard_offsets, donors=donors, home=moved, emb=emb) as writer:
        yield writer


def _begin_at(place: Destination, run: Run, source: Source, writer: Writer) -> None:
    """Remove what an earlier pass of this run has left in a place.

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
    # Saved by `run.begin`, before anything is written there.
    run.manifest["written_to"] = {"address": place.address, "names": [*names, "cleaned/uids.npy"]}


def verdict_tables(run: Run, emb: Embeddings) -> Iterator[pa.Table]:
    """The verdicts of each shard in order, `pairs.VERDICT_SCHEMA`, from what the earlier stages found."""
    return map(_verdicts_of(run, emb, np.arange(len(emb))), range(len(emb.shard_names)))


def _verdicts_of(run: Run, emb: Embeddings, rows: np.ndarray) -> Callable[[int], pa.Table]:
    """What makes the verdicts of a shard, by its number.  rows: the pairs of the shards that will be asked for."""
    judgement, rematches, faults = open_judgement(run), open_rematches(run), open_faults(run)
    copies, one_per = Copies.of(open_learned(run), faults), run.config.deduplicate

    def tables_of(rows: np.ndarray, kept_instead: np.ndarray | None) -> Callable[[int], pa.Table]:
        verdicts = Verdicts(
            judgement,
            rematches,
            faults,
            copies,
            readable=int(emb.readable.sum()),
            pair_ids=lambda rows: emb.texts("pair_id", rows),
            captions=emb.captions,
            rows=rows,
            kept_instead=kept_instead,
        )
        return lambda shard: verdicts.table(emb.pair_table(emb.shard_names[shard]), int(emb.shard_offsets[shard]))

    if one_per == "none":
        return tables_of(rows, None)
    of_all = tables_of(np.arange(len(emb)), None)
    kept = [_kept(run, emb, shard, of_all(shard), rematches.partner) for shard in range(len(emb.shard_names))]
    best = pa.concat_tables(kept).select(["pair", "donor", "probability"])
    return tables_of(rows, copies.kept_instead(best, one_per))


def _rows(emb: Embeddings, shard: int) -> np.ndarray:
    """(n,) int64, the pairs of a shard among all pairs."""
    return np.arange(*emb.shard_offsets[shard : shard + 2])


def _kept(run: Run, emb: Embeddings, shard: int, verdicts: pa.Table, partner: np.ndarray) -> pa.Table:
    """The pairs of a shard that `cleaned/` has."""
    start, stop = (int(offset) for offset in emb.shard_offsets[shard : shard + 2])
    donor = np.asarray(partner[start:stop])
    return kept_pairs(verdicts, start=start, donor=donor, best=run.config.captions == "best")
