"""What one reviewer is asked, and what becomes of the answers: the page without its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from ...pairs import Verdict
from ...run import Run
from ...run.results import open_embeddings
from ..labels import ANSWERS, Label, Labels, Unit
from ..reviewed import Reviewer, open_labels, verdict_of
from ..sample import Design
from .pictures import Pictures

AHEAD = 3  # questions that the page holds: the one shown, and those whose pictures it fetches
SHARED_EVERY = 10  # of the drawn pairs, one in so many is given to every reviewer
REPEAT_EVERY = 25  # answers
REPEAT_AFTER = 20  # answers between the first time a pair is shown and its repetition
TABLES = 8  # of shards that are kept in memory
PICTURE_SIDE = 1280  # pixels


class AnsweredElsewhere(Exception):
    """The question was answered meanwhile, in another tab."""


class Session:
    """One reviewer at work on a run.  Safe to call from several threads."""

    def __init__(self, run: Run, sample: Design, reviewer: str) -> None:
        self.reviewer, self.sample = reviewer, sample
        self.labels: Labels = open_labels(run)
        self._pairs = Reviewer(run, sample)
        self._is_turned = np.random.default_rng([sample.seed, 1]).random(len(sample)) < 0.5  # not the design's order
        self._emb = open_embeddings(run)
        self._pictures = Pictures(run, PICTURE_SIDE)
        self._table = lru_cache(maxsize=TABLES)(self._read_table)
        self._lock = Lock()

    # --- what is asked ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Progress, the estimate so far, and the next questions; what the page shows."""
        with self._lock:
            self.labels.refresh()
            found, needed = self._pairs.rate(self.labels)
            history = self.labels.history(self.reviewer)
            return {
                "reviewer": self.reviewer,
                "answered": len({label.labelled_at for label in history}),
                "labelled": sum(1 for _ in self.sample.labelled(self.labels)),
                "planned": self.sample.labels,
                "estimate": None if found is None else asdict(found),
                "needed": needed,
                "questions": self._questions(),
                "can_undo": bool(history),
            }

    def prepare(self) -> None:
        """Draw the next pairs before they are needed: to be called while the reviewer looks at a picture."""
        with self._lock:
            self.labels.refresh()
            self._questions(AHEAD + 1)

    def _questions(self, count: int = AHEAD) -> list[dict[str, Any]]:
        """The next questions; only the first is asked, the others are there for their pictures."""
        found, asked = list[dict[str, Any]](), set[Unit]()
        repeated = self._repetition()
        if repeated is not None:
            found.append(self._question(repeated, self._units(repeated)))
        place = 0
        while len(found) < count:
            if place == len(self.sample.drawn) and not self.sample.draw(self.labels):
                break
            row = self.sample.drawn[place]
            units = [unit for unit in self._open_units(row, place) if unit not in asked]
            if units:
                found.append(self._question(row, units))
                asked.update(units)
            place += 1
        soon = self._repetition(within=count)
        if found and repeated is None and soon is not None:
            found.append(self._question(soon, self._units(soon)))
        return found

    def _units(self, row: int) -> list[Unit]:
        """The pair, and for a rematched one its image with the new caption; on either side at random."""
        new = self._pairs.new_unit(row)
        units = [self.sample.unit(row), *([] if new is None else [new])]
        return units[::-1] if self._is_turned[row] else units

    def _open_units(self, row: int, place: int) -> list[Unit]:
        mine = [unit for unit in self._units(row) if not self.labels.by(self.reviewer, unit)]
        if place % SHARED_EVERY == 0:
            return mine
        return [unit for unit in mine if self.labels.answer(unit) is None]

    def _repetition(self, within: int = 0) -> int | None:
        """A pair to show again, for the reviewer's agreement with themselves, if one is due within so many answers."""
        history = self.labels.history(self.reviewer)
        rows = {self.sample.unit(row): row for row in reversed(self.sample.drawn)}
        repeated = sum(1 for unit in rows if len(self.labels.by(self.reviewer, unit)) > 1)
        due = REPEAT_EVERY * (repeated + 1)
        if len(history) + within < due:
            return None
        early = [label.unit for label in history[: due - REPEAT_AFTER]]
        candidates = [unit for unit in early if unit in rows and len(self.labels.by(self.reviewer, unit)) == 1]
        if not candidates:
            return None
        return rows[candidates[int(np.random.default_rng([self.sample.seed, repeated]).integers(len(candidates)))]]

    def _question(self, row: int, units: Sequence[Unit]) -> dict[str, Any]:
        partner = int(self._pairs.partner[row])
        text = {self.sample.unit(row): row, **({} if partner < 0 else {self._pairs.new_unit(row): partner})}
        captions = [self._caption(text[unit]) for unit in units]
        times = [len(self.labels.by(self.reviewer, unit)) for unit in units]
        # Identities are strings: JavaScript's numbers do not hold 64 bits.
        return {"row": row, "captions": captions, "units": [list(map(str, unit)) for unit in units], "times": times}

    # --- what is answered ---------------------------------------------------------------------------------------------

    def answer(self, row: int, units: Sequence[Sequence[str]], times: Sequence[int], answers: Sequence[str]) -> None:
        """Keep the answers about a question, on disk before this returns.

        Raises AnsweredElsewhere if the reviewer has answered it since it was asked, and ValueError for anything that
        is not an answer to a question about this pair.
        """
        asked = [(int(image), int(caption)) for image, caption in units]
        known = self._units(row) if row in set(self.sample.drawn) else []
        if not asked or not set(asked) <= set(known) or not set(answers) <= set(ANSWERS):
            raise ValueError("this is no answer to a question about this pair")
        if not len(asked) == len(times) == len(answers):
            raise ValueError("there has to be one answer for each caption")
        with self._lock:
            self.labels.refresh()
            if [len(self.labels.by(self.reviewer, unit)) for unit in asked] != list(times):
                raise AnsweredElsewhere
            first = Label.now(self.pair_id(row), asked[0], answers[0], self.reviewer)
            rest = zip(asked[1:], answers[1:], strict=True)
            together = [Label(first.pair_id, *unit, answer, self.reviewer, first.labelled_at) for unit, answer in rest]
            self.labels.add([first, *together])

    def undo(self) -> None:
        """Take back the last answer, if there is one; its question is then asked again."""
        with self._lock:
            self.labels.refresh()
            if self.labels.history(self.reviewer):
                self.labels.withdraw(self.reviewer)

    def said(self, row: int) -> str | None:
        """What pairclean says about a pair that the reviewer has labelled; None for any other."""
        if not (0 <= row < len(self.sample)) or not self.labels.by(self.reviewer, self.sample.unit(row)):
            return None
        verdict, p = verdict_of(self._pairs, row), self._pairs.clean_probability[row]
        if verdict is Verdict.UNJUDGED:
            return "pairclean could not judge this pair."
        return f"pairclean says {verdict.value}: the caption belongs with a probability of {p:.0%}."

    def results(self) -> dict[str, Any]:
        with self._lock:
            self.labels.refresh()
            found = self._pairs.estimate(self.labels).to_json()
        return {**found, "thresholds_by_scores": self._pairs.thresholds_by_scores()}

    # --- what is shown ------------------------------------------------------------------------------------------------

    def pair_id(self, row: int) -> str:
        shard, place = self._place(row)
        return str(self._table(shard)["pair_id"][place].as_py())

    def picture(self, row: int) -> bytes:
        """A JPEG of the pair's image.  Raises UserError with the reason where it cannot be shown."""
        shard, place = self._place(row)
        return self._pictures.jpeg(shard, int(self._table(shard)["row"][place].as_py()))

    def _caption(self, row: int) -> str:
        shard, place = self._place(row)
        return self._table(shard)["caption"][place].as_py() or ""

    def _read_table(self, shard: str) -> pa.Table:
        return self._emb.pair_table(shard).select(["pair_id", "row", "caption"])

    def _place(self, row: int) -> tuple[str, int]:
        if not 0 <= row < len(self.sample):
            raise ValueError(f"there is no pair {row}")
        shard = int(np.searchsorted(self._emb.shard_offsets, row, side="right")) - 1
        return self._emb.shard_names[shard], row - int(self._emb.shard_offsets[shard])
