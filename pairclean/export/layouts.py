"""Which writer goes with which source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..embed import Embeddings
from ..pairs import UserError
from ..sources import Source
from ..sources.embedded import EmbeddedSource
from ..sources.parquet import ParquetSource
from ..sources.webdataset import WebdatasetSource
from .destination import Destination
from .kept import Writer
from .parquet import Tables
from .rows import TablesOfRows
from .samples import Folders, TablesOfTars, Tars
from .tar import Samples
from .uids import Uids, as_uids
from .vectors import ClipRetrieval, DataComp, Donors, RunVectors


def check_layout(source: Source, to: str, cleaned_to: str | None = None) -> None:
    """Raises UserError where the source cannot be written in the layout `to`; `source` is its own.

    cleaned_to: the remote folder, which has to be within reach.
    """
    if cleaned_to is not None:
        Destination(cleaned_to)
    if to == "webdataset" and source.vectors is not None:
        raise UserError(f"{source.path} holds vectors, no images that --to webdataset could write: leave it out")
    if to == "uids" and source.many:
        raise UserError(
            f"{source.path} has several captions a row, which one uid cannot tell apart: leave --to uids out"
        )
    if to == "uids":
        as_uids(_first_uid(source), source.path)


def _first_uid(source: Source) -> list[str]:
    for shard in source.shards:
        if shard.broken:
            continue
        if "uid" in source.columns:
            for batch in source.batches(shard, ["uid"]):
                for uid in batch.column(0).to_pylist():
                    return [str(uid)]
        for row in source.rows(shard, images=False):
            return [row.id]
    return []


@contextmanager
def open_writer(
    source: Source,
    to: str,
    *,
    offsets: np.ndarray,
    donors: np.ndarray,
    home: Path,
    emb: Embeddings | None = None,
) -> Iterator[Writer]:
    """The writer for this source and layout; `source` is the source's own.

    offsets: (S + 1,) int64, where the shards begin among all pairs.  donors: the pairs whose captions move.
    home: a folder where caption vectors can lie meanwhile.  emb: the run's vectors, for `embeddings`.
    Raises UserError as `check_layout` does.
    """
    check_layout(source, to)
    if to == "embeddings":
        assert emb is not None
        yield RunVectors(emb)
    elif to == "uids":
        yield Uids(source, _tables(source))
    elif to == "webdataset" and not isinstance(source, WebdatasetSource):
        yield Samples(source)
    elif to != "parquet" and isinstance(source, WebdatasetSource):
        yield Folders(source) if source.layout == "files" and to == "source" else Tars(source)
    elif to == "source" and isinstance(source, EmbeddedSource):
        layout = DataComp if source.layout == "datacomp" else ClipRetrieval
        with Donors.gathered(home, source, offsets, donors) as gathered:
            yield layout(source, gathered)
    else:
        yield _tables(source)


def _tables(source: Source) -> Writer:
    if isinstance(source, WebdatasetSource):
        return TablesOfTars(source)
    return Tables(source) if isinstance(source, ParquetSource | EmbeddedSource) else TablesOfRows(source)
