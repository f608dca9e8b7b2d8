"""Class labels, from columns of the source to the embedded pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..embed import Embeddings
from ..pairs import UserError
from ..run import Run
from ..run.source import embedded_source
from ..sources.tables import texts


def read_labels(run: Run, emb: Embeddings, columns: Sequence[str]) -> list[csr_matrix]:
    """One (N, C) bool matrix per column: the classes of each pair, of the C classes of all columns together.

    A cell holds a label or a list of labels; null means none. Raises UserError if the labels are not classes.
    """
    numbers: dict[str, int] = {}
    at: list[list[int]] = [[] for _ in columns]
    classes: list[list[int]] = [[] for _ in columns]
    for place, cells in enumerate(_cells(run, emb, columns)):
        for k, cell in enumerate(cells):
            for label in set(labels_of(cell)):
                at[k].append(place)
                classes[k].append(numbers.setdefault(label, len(numbers)))
    shape = (len(emb), len(numbers))
    for k, name in enumerate(columns):
        if not at[k]:
            raise UserError(f"the column {name} has no label in it: name one that has")
    if not 2 <= len(numbers) <= len(emb) / 2:
        raise UserError(
            f"{' and '.join(columns)} tell {len(numbers)} classes apart in {len(emb)} pairs: "
            "name a column with at least two classes, and with several pairs in each"
        )
    return [csr_matrix((np.ones(len(a), bool), (a, c)), shape) for a, c in zip(at, classes, strict=True)]


def read_kinds(run: Run, emb: Embeddings, column: str) -> np.ndarray:
    """(N,) int64: a number for each value of a column, -1 for null.  Raises UserError if there is no such column."""
    numbers: dict[str, int] = {}
    cells = (cell for (cell,) in _cells(run, emb, [column]))
    kinds = [-1 if cell is None else numbers.setdefault(str(cell), len(numbers)) for cell in cells]
    return np.array(kinds, np.int64)


def _cells(run: Run, emb: Embeddings, columns: Sequence[str]) -> Iterator[list[Any]]:
    """The values of these columns of the source, for each embedded pair in order."""
    source = embedded_source(run)
    for shard in source.shards:
        values: list[list[Any]] = [[] for _ in columns]
        for batch in source.batches(shard, columns):
            for column, found in zip(batch.columns, values, strict=True):
                found += texts(column)
        for row in emb.pair_table(shard.name)["row"].to_pylist():
            yield [found[row] for found in values]


def labels_of(value: Any) -> Iterator[str]:
    """The labels in a cell, as text."""
    for label in value if isinstance(value, list) else [value]:
        if label is not None:
            yield str(label)
