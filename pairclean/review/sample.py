"""The sample that people label: drawn from strata that are on disk before the first label.

review/design.json     seed, the planned number of labels, and the strata
review/design.parquet  for every pair of the run its identities and its stratum, in input order
review/drawn/*.parquet the pairs that were drawn, a part per draw, in the order in which they are shown

Within a stratum pairs are drawn in an order that the seed fixes, so that what is drawn is a simple random sample of it
whatever the labels say; labels only decide how many are drawn from each stratum. A pair with copies is asked about
once: its label counts for each of its copies that is drawn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_json, written_whole
from ..pairs import UserError
from ..run import Run
from ..run.lock import PAUSE, Lock
from ..run.results import open_embeddings, open_judgement, open_rematches
from .columns import column_values
from .labels import DOES_NOT, Labels, Unit
from .rates import Strata, allocate
from .strata import draw_strata

PLANNED = 200  # labels
BATCH = 10  # pairs drawn at once, shown in random order
DRAWN_SCHEMA = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("stratum", pa.int32(), nullable=False)])


@dataclass(frozen=True)
class Design:
    """How the pairs of a run are sampled.

    home: RUN/review.  seed: of the order within strata.  labels: how many are planned.  by: the column of the source
    that the strata are divided by, None for none.  strata: for each its group, low and high clean probability, and
    pairs.  image_id, caption_id: (N,) int64.  stratum: (N,) int32, -1 for pairs that cannot be read.
    drawn: the rows that were drawn, in the order in which they are shown.
    """

    home: Path
    seed: int
    labels: int
    by: str | None
    strata: list[dict[str, Any]]
    image_id: np.ndarray
    caption_id: np.ndarray
    stratum: np.ndarray
    drawn: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stratum)

    def unit(self, row: int) -> Unit:
        """The image and the caption of a pair: copies have the same."""
        return int(self.image_id[row]), int(self.caption_id[row])

    @cached_property
    def size(self) -> np.ndarray:
        return np.bincount(self.stratum[self.stratum >= 0], minlength=len(self.strata))

    @cached_property
    def _order(self) -> np.ndarray:
        """All rows, stratum by stratum, in each in the order in which they are drawn."""
        key = np.random.default_rng(self.seed).random(len(self))
        return np.lexsort((key, self.stratum))

    def draw(self, labels: Labels) -> list[int]:
        """The next rows, noted on disk; empty where all pairs are drawn.

        How many come from which stratum follows the labels so far.  Another process may have drawn since: its draws
        are taken in first.
        """
        with Lock(self.home / "draw.lock") as lock:
            while not lock.take():
                time.sleep(PAUSE)
            self.refresh()
            of_stratum = np.bincount(self.stratum[self.drawn], minlength=len(self.strata)).astype(np.int64)
            told = [(row, answer) for row in self.drawn if (answer := labels.answer(self.unit(row))) is not None]
            found = Strata.counted(
                self.stratum, np.array([row for row, _ in told], np.int64), np.array([a == DOES_NOT for _, a in told])
            )
            # What is drawn and not labelled yet counts as if it were answered like the rest of its stratum.
            share = found.mismatched / np.maximum(found.labelled, 1)
            counts = allocate(Strata(self.size, of_stratum, share * of_stratum), BATCH)
            start = np.cumsum(self.size) - self.size + (self.stratum < 0).sum() + of_stratum
            new = np.concatenate([self._order[a : a + n] for a, n in zip(start, counts, strict=True)])
            new = np.random.default_rng([self.seed, len(self.drawn)]).permutation(new)
            if len(new):
                table = pa.table({"row": new, "stratum": self.stratum[new]}, DRAWN_SCHEMA)
                with written_whole(self.home / "drawn" / f"{len(self.drawn):09d}.parquet") as file:
                    pq.write_table(table, file)
                self.drawn.extend(map(int, new))
        return [int(row) for row in new]

    def refresh(self) -> None:
        """Take in what other processes have drawn."""
        while (path := self.home / "drawn" / f"{len(self.drawn):09d}.parquet").exists():
            self.drawn.extend(pq.read_table(path)["row"].to_pylist())

    def labelled(self, labels: Labels) -> Iterator[tuple[int, str]]:
        """The drawn rows that are labelled, each with what the reviewers together say."""
        for row in self.drawn:
            answer = labels.answer(self.unit(row))
            if answer is not None:
                yield row, answer


def design(run: Run, labels: int | None = None, *, by: str | None = None, seed: int = 0) -> Design:
    """The design of a run's review: the one on disk, or a new one, which is written to disk.

    labels: how many are planned, by default PLANNED; it sets the number of strata, and more or fewer may be given. Of a
    design on disk it changes the plan alone: the strata stay.  by: a column of the source, so that each of its large
    groups gets an estimate.
    Raises UserError where the run is not finished, or its pairs are not those that the design was drawn from.
    """
    run.must_be_done("export")
    home = run.path / "review"
    if labels is not None and labels < 1:
        raise UserError(f"a review needs at least one label, not {labels}")
    if (home / "design.json").exists():
        found = open_design(run)
        if by is not None and by != found.by:
            now = "without groups" if found.by is None else f"by {found.by!r}"
            raise UserError(
                f"{home} was designed {now}: leave --by out, or move design.json, design.parquet and drawn/ away to "
                "draw a new sample; the labels are kept"
            )
        return found if labels is None or labels == found.labels else _replanned(found, labels)
    return _draw_up(run, home, labels or PLANNED, by, seed)


def open_design(run: Run) -> Design:
    """The design on disk, with what was drawn so far.  Raises UserError if there is none for the pairs of this run."""
    home = run.path / "review"
    if not (home / "design.json").exists():
        raise UserError(f"{run.path} has not been reviewed: run `pairclean review` on it")
    found, emb = _open(home), open_embeddings(run)
    if not (np.array_equal(found.image_id, emb.image_id) and np.array_equal(found.caption_id, emb.caption_id)):
        raise UserError(
            f"{home} was designed for other pairs than {run.path} holds now: move design.json, design.parquet and "
            "drawn/ away to draw a new sample; the labels are kept"
        )
    found.refresh()
    return found


def _replanned(found: Design, labels: int) -> Design:
    path = found.home / "design.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "labels": labels})
    return replace(found, labels=labels)


def _draw_up(run: Run, home: Path, labels: int, by: str | None, seed: int) -> Design:
    emb, clean = open_embeddings(run), np.asarray(open_judgement(run).clean_probability)
    group = None if by is None else _groups(run, by)
    stratum, about = draw_strata(clean, emb.readable, labels=labels, group=group)
    size = np.bincount(stratum[stratum >= 0], minlength=len(about))
    strata = [{**one, "pairs": int(n)} for one, n in zip(about, size, strict=True)]
    if not strata:
        raise UserError(f"{run.path} holds no pair that can be read, so that there is nothing to review")
    table = pa.table({"image_id": emb.image_id, "caption_id": emb.caption_id, "stratum": stratum})
    with written_whole(home / "design.parquet") as file:
        pq.write_table(table, file)
    # Last, so that a design that is there is whole.
    content = {"seed": seed, "labels": labels, "by": by, "flag_below": open_rematches(run).flag_below, "strata": strata}
    write_json(home / "design.json", content)
    return _open(home)


def _groups(run: Run, by: str) -> np.ndarray:
    return np.array(["" if value is None else str(value) for value in column_values(run, by)], object)


def _open(home: Path) -> Design:
    about = json.loads((home / "design.json").read_text(encoding="utf-8"))
    table = pq.read_table(home / "design.parquet")
    arrays = {name: table[name].to_numpy() for name in ("image_id", "caption_id", "stratum")}
    return Design(home, about["seed"], about["labels"], about["by"], about["strata"], **arrays)
