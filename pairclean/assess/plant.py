"""Copies of data with known mismatches: drawn by `synthetic.mismatches`, written by `export`, with a truth file."""

from __future__ import annotations

import fnmatch
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..export import open_writer
from ..files import written_whole
from ..pairs import Columns, Row, Shard, UserError, content_id
from ..run import Execution
from ..sources import Source, open_source
from ..sources.embedded import EmbeddedSource
from ..sources.storage import CORRUPT
from ..sources.tables import texts
from ..sources.values import from_base64
from ..synthetic.mismatches import group_labels, mix
from ..synthetic.mismatches import plant as draw

_WITHIN = "within:"
TRUTH = pa.schema(
    [
        (name, pa.string())
        for name in ("key", "caption_key", "caption", "carried_caption", "noise_kind", "mismatched_text")
    ]
)


@dataclass(frozen=True)
class Planted:
    """What was planted.

    shards, truth: the folder and the file that were written.  pairs: number of pairs in the shards.  moved: those of
    them that carry a text that is not their own.  left_out: pairs of the source that are not in the shards.
    left_alone: pairs that were drawn for a partial mismatch but whose captions could not be split.
    image_root: the folder that image paths in the shards are relative to, if they hold paths.
    """

    shards: Path
    truth: Path
    pairs: int
    moved: int
    left_out: int
    left_alone: int
    image_root: str | None


def plant(
    source: str | Path,
    out: str | Path,
    *,
    rate: float,
    kind: str = "random",
    orphans: float = 0.0,
    seed: int = 0,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    image_root: str | None = None,
    embeddings: str | None = None,
    execution: Execution | None = None,
) -> Planted:
    """Copy data of any layout with captions moved between pairs, and record the truth.

    source: as for `clean`.  out: a folder that is new or empty; the truth is written to `<out>.truth.parquet`.
    rate: share of the pairs whose captions move, in [0, 1].
    kind: `random`; `within:COLUMN`, only between pairs with equal values in a column; or `partial`: half of a caption's
    clauses (of its words, if it has only one clause) come from another pair.
    orphans: this share of the moved pairs is left out, in [0, 1]; the pairs whose captions they carried then have no
    partner.
    seed: of the draw.
    image_column, caption_column, id_column, image_root, embeddings: as in `Config`.

    The captions of one row move independently, never to an image with the same bytes. Pairs without image or caption
    take no part, and pairs that a broken file has lost are left out. The truth has one row for every pair of the
    shards: `key` (its pair id there), `caption_key` (the pair whose caption it carries; null if that pair was left out
    and has no id), `caption` (its own), `carried_caption`, `noise_kind` (`clean`, `complete` or `partial`; a
    caption that moved to a pair with the same text is clean), and `mismatched_text` (of a partial mismatch, the part of
    `carried_caption` that is another's).
    Raises UserError for everything that the caller can fix; `out` is then unchanged.
    """
    out, execution = Path(os.path.abspath(out)), execution or Execution()
    for name, share in (("rate", rate), ("orphans", orphans)):
        if not 0 <= share <= 1:
            raise UserError(f"--{name} {share}: it should be a share between 0 and 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: it should be a number from 0 on")
    column = kind.removeprefix(_WITHIN) if kind.startswith(_WITHIN) else None
    if kind not in ("random", "partial") and not column:
        raise UserError(f"--kind {kind}: it should be random, partial or within:COLUMN")
    if kind == "partial" and orphans:
        raise UserError("--orphans needs captions that move as a whole: leave it out with --kind partial")
    _check_out(Path(source), out)
    opened = open_source(source, Columns(image_column, caption_column, id_column, image_root, embeddings))
    if kind == "partial" and opened.vectors is not None:
        raise UserError(
            f"{source} holds vectors, and there is none for a mixed caption: choose --kind random or within:COLUMN"
        )
    _check_folders(opened)
    begun = time.perf_counter()
    execution.progress.start("plant", 2 * len(opened.shards))
    pairs = _read(opened, column, execution)
    carried, mixed, foreign, left_alone = _drawn(pairs, kind, rate, seed)
    moved = carried != np.arange(len(carried))
    kept = pairs.there & ~(moved & (np.random.default_rng(seed + 1).random(len(carried)) < orphans))
    text = pc.if_else(pc.is_valid(mixed), mixed, pairs.caption.take(pa.array(carried)))
    with written_folder(out) as folder:
        rows = np.flatnonzero(moved & kept)
        with open_writer(
            opened, "source", offsets=pairs.offsets, donors=carried[rows], home=folder / "moved"
        ) as writer:
            for i, shard in enumerate(opened.shards):
                part = np.arange(pairs.offsets[i], pairs.offsets[i + 1])
                if not shard.broken:
                    writer.write(shard, _kept(pairs, text, carried, part[kept[part]]), folder)
                execution.progress.advance()
            writer.finish(folder)
        truth = _truth(opened, pairs, text, carried, kept, foreign, "partial" if kind == "partial" else "complete")
        beside = _truth_of(out)
        with written_whole(beside) as file:
            pq.write_table(truth, file)
    execution.progress.finish("plant", time.perf_counter() - begun)
    return Planted(
        shards=out,
        truth=beside,
        pairs=len(truth),
        moved=pc.sum(pc.not_equal(truth["noise_kind"], "clean")).as_py() or 0,
        left_out=int((~kept).sum()),
        left_alone=left_alone,
        image_root=opened.roles.image_root,
    )


def _check_folders(source: Source) -> None:
    """The copy is one folder, in which paths that are relative to several could not be read."""
    if source.layout != "folder" or source.roles.image_root is not None or source.roles.image is None:
        return
    shard = next(shard for shard in source.shards if not shard.broken)
    values = next(iter(source.batches(shard, [source.roles.image]))).column(0).drop_null().to_pylist()
    if any(from_base64(value) is None for value in values):
        raise UserError(
            f"{source.path} has tables in several folders, with image paths relative to each: plant one folder at a "
            "time"
        )


def _check_out(source: Path, out: Path) -> None:
    if os.path.realpath(source) == os.path.realpath(out):
        raise UserError(f"{out} is the source itself: name another directory for the copy")
    if out.is_file():
        raise UserError(f"{out} is a file: name a directory for the copy")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new directory for the copy")
    truth = _truth_of(out)
    if truth.exists():
        raise UserError(f"{truth} already exists: move it elsewhere, or name another directory for the copy")
    folder = os.path.realpath(out.parent)
    among = folder == os.path.realpath(source.parent) and fnmatch.fnmatchcase(truth.name, source.name)
    if among or folder == os.path.realpath(source):
        raise UserError(f"{out} is in the source, where {truth.name} would be read as a shard: name another directory")


def _truth_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.truth.parquet")


@contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` when the block ends without an error."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; name another directory") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Pairs:
    """All N pairs of a source.

    offsets: (S + 1,) where the shards begin.  row, index: (N,) row and caption index within the shard.  id: of the row.
    owner: (N,) int64, equal for equal images.  label: (N,) the group within which a caption may move.
    takes_part: (N,) bool, whether it may move.  there: (N,) bool, False where a broken file has lost the pair.
    """

    offsets: np.ndarray
    row: np.ndarray
    index: np.ndarray
    id: pa.ChunkedArray
    caption: pa.ChunkedArray
    owner: np.ndarray
    label: np.ndarray
    takes_part: np.ndarray
    there: np.ndarray


def _read(source: Source, column: str | None, execution: Execution) -> _Pairs:
    counts, ids, captions, numbers = [0], [], [], []
    labels: list[object] = []
    for shard in source.shards:
        found, names, own = [], [], []
        values = _values(source, shard, column) if column else None
        for row, image in _rows(source, shard):
            owner = content_id(image or f"{shard.name}:{row.row}".encode())
            there = not (row.reason or "").startswith(CORRUPT)
            for index, caption in enumerate(row.captions):
                takes_part = row.reason is None and bool(caption and caption.strip())
                found.append((row.row, index, owner, takes_part, there))
                names.append(row.id)
                own.append(caption)
                if values is not None:
                    labels.append(values[row.row])
        numbers.append(np.array(found, np.int64).reshape(-1, 5))
        ids.append(pa.array(names, pa.string()))
        captions.append(pa.array(own, pa.string()))
        counts.append(len(found))
        execution.progress.advance()
    row, index, owner, takes_part, there = np.concatenate(numbers).T
    label = group_labels(labels) if column else np.zeros(len(row), np.int64)
    return _Pairs(
        np.cumsum(counts),
        row,
        index,
        pa.chunked_array(ids, pa.string()),
        pa.chunked_array(captions, pa.string()),
        owner,
        label,
        (takes_part == 1) & (label >= 0),
        there == 1,
    )


def _rows(source: Source, shard: Shard) -> Iterator[tuple[Row, bytes | None]]:
    """A shard's rows, each with the bytes that identify its image."""
    if isinstance(source, EmbeddedSource):
        for found in source.embedded(shard):
            yield from ((row, vector.tobytes()) for row, vector in zip(found.rows, found.image, strict=True))
    else:
        yield from ((row, row.image) for row in source.rows(shard))


def _values(source: Source, shard: Shard, column: str) -> list[object]:
    return [value for batch in source.batches(shard, [column]) for value in texts(batch.column(0))]


def _drawn(pairs: _Pairs, kind: str, rate: float, seed: int) -> tuple[np.ndarray, pa.Array, pa.Array, int]:
    """The pair whose caption each pair carries; where captions are mixed, the new text and the part of it that is
    another's; how many could not be mixed."""
    rng, part = np.random.default_rng(seed), np.flatnonzero(pairs.takes_part)
    carried = np.arange(len(pairs.row))
    carried[part] = part[draw(pairs.label[part], rate, rng, owners=pairs.owner[part])]
    mixed, foreign = np.full((2, len(carried)), None, object)
    if kind != "partial":
        return carried, pa.array(mixed, pa.string()), pa.array(foreign, pa.string()), 0
    left_alone = 0
    for i in np.flatnonzero(carried != np.arange(len(carried))):
        made = mix(pairs.caption[int(i)].as_py(), pairs.caption[int(carried[i])].as_py(), rng)
        if made is None:
            carried[i], left_alone = i, left_alone + 1
        else:
            mixed[i], foreign[i] = made
    return carried, pa.array(mixed, pa.string()), pa.array(foreign, pa.string()), left_alone


def _kept(pairs: _Pairs, text: pa.ChunkedArray, carried: np.ndarray, rows: np.ndarray) -> pa.Table:
    """These pairs, in the form that a writer expects."""
    new = pc.if_else(pa.array(carried[rows] != rows), text.take(pa.array(rows)), pa.scalar(None, pa.string()))
    columns = {"row": pairs.row[rows], "caption_index": pairs.index[rows], "pair": rows, "donor": carried[rows]}
    return pa.table({**columns, "caption": new})


def _truth(
    source: Source,
    pairs: _Pairs,
    text: pa.ChunkedArray,
    carried: np.ndarray,
    kept: np.ndarray,
    foreign: pa.Array,
    kind: str,
) -> pa.Table:
    keys = _keys(source, pairs, kept)
    rows = pa.array(np.flatnonzero(kept))
    owner = pa.array(keys, pa.string()).take(pa.array(carried[kept]))
    caption, now = pairs.caption.take(rows), text.take(rows)
    same = pc.fill_null(pc.equal(caption, now), True)
    kinds = pc.if_else(same, "clean", kind)
    wrong = foreign.take(rows)
    return pa.table([pa.array(keys, pa.string()).take(rows), owner, caption, now, kinds, wrong], schema=TRUTH)


def _keys(source: Source, pairs: _Pairs, kept: np.ndarray) -> list[str | None]:
    """Every pair's id in the copy: renumbered where ids are row or caption numbers, otherwise its own."""
    keys: list[str | None] = [None] * len(kept)
    numbered, many = source.roles.id is None, source.many
    for i, shard in enumerate(source.shards):
        part = np.arange(pairs.offsets[i], pairs.offsets[i + 1])
        ids = pairs.id.slice(part[0], len(part)).to_pylist() if len(part) else []
        new_row, new_index, last = -1, 0, None
        for pair, name in zip(part, ids, strict=True):
            if not kept[pair]:
                keys[pair] = None if numbered or many else name
                continue
            if pairs.row[pair] != last:
                new_row, new_index, last = new_row + 1, 0, pairs.row[pair]
            name = f"{shard.name}:{new_row}" if numbered else name
            keys[pair] = f"{name}:{new_index}" if many else name
            new_index += 1
    return keys
