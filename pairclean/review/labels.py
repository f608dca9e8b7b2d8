"""Labels on disk: what people said about pairs, one Parquet part per answer, never changed afterwards.

A label is about an image and a caption, by their identities, so that it stays true when a run is judged or rematched
again and holds for copies of the pair. An answer that is taken back is a further part that withdraws it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import written_whole

BELONGS, PARTLY, DOES_NOT, CANNOT_TELL = ANSWERS = ("belongs", "partly", "does_not", "cannot_tell")

#: `review/labels/*.parquet`.  answer: one of ANSWERS; null withdraws the reviewer's last answer about the pair.
LABEL_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("caption_id", pa.int64(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("labelled_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)

Unit = tuple[int, int]  # image_id, caption_id


@dataclass(frozen=True)
class Label:
    """One answer about an image (`image_id`) with a caption (`caption_id`); None withdraws the last one."""

    pair_id: str
    image_id: int
    caption_id: int
    answer: str | None
    reviewer: str
    labelled_at: datetime

    @property
    def unit(self) -> Unit:
        return self.image_id, self.caption_id

    @staticmethod
    def now(pair_id: str, unit: Unit, answer: str | None, reviewer: str) -> Label:
        return Label(pair_id, *unit, answer, reviewer, datetime.now(timezone.utc))


class Labels:
    """All labels of a run, in the order in which they were given; kept in memory, and on disk before `add` returns.

    home: the folder of the parts.  Several processes may add labels at once.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._given: dict[Unit, dict[str, list[str]]] = defaultdict(dict)
        self._history: dict[str, list[Label]] = defaultdict(list)  # what is not withdrawn, by reviewer
        self._together: dict[Unit, str | None] = {}  # what `answer` says
        self._read: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take in parts that other processes have written."""
        new = set(os.listdir(self.home)) - self._read if self.home.exists() else set()
        for name in sorted(name for name in new if name.endswith(".parquet")):
            self._read.add(name)
            self._take(Label(**row) for row in pq.read_table(self.home / name, schema=LABEL_SCHEMA).to_pylist())

    def add(self, labels: Iterable[Label]) -> None:
        new = list(labels)
        if not new:
            return
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"  # sorts by time, and no two are the same
        with written_whole(self.home / name) as file:
            pq.write_table(pa.Table.from_pylist([vars(label) for label in new], LABEL_SCHEMA), file)
        self._read.add(name)
        self._take(new)

    def _take(self, labels: Iterable[Label]) -> None:
        for label in labels:
            answers = self._given[label.unit].setdefault(label.reviewer, [])
            history = self._history[label.reviewer]
            if label.answer is not None:
                answers.append(label.answer)
                history.append(label)
            elif answers:
                answers.pop()
                last = max(place for place, given in enumerate(history) if given.unit == label.unit)
                del history[last]
            self._together[label.unit] = _together(self._given[label.unit].values())

    def history(self, reviewer: str) -> list[Label]:
        """A reviewer's answers in the order in which they were given, without those that were withdrawn."""
        return self._history.get(reviewer, [])

    def withdraw(self, reviewer: str) -> list[Label]:
        """Take back the reviewer's last answers, those that were given at once; returns what was taken back."""
        history = self.history(reviewer)
        last = [label for label in history if label.labelled_at == history[-1].labelled_at]
        self.add(Label.now(label.pair_id, label.unit, None, reviewer) for label in reversed(last))
        return last

    def by(self, reviewer: str, unit: Unit) -> list[str]:
        """What a reviewer said of a pair: more than one answer where it was asked again."""
        return list(self._given.get(unit, {}).get(reviewer, ()))

    @property
    def reviewers(self) -> dict[str, int]:
        """How many pairs each reviewer has labelled, by name."""
        counts: dict[str, int] = {}
        for given in self._given.values():
            for reviewer, answers in given.items():
                if answers:
                    counts[reviewer] = counts.get(reviewer, 0) + 1
        return dict(sorted(counts.items()))

    def answer(self, unit: Unit) -> str | None:
        """What all reviewers together say of a pair; None where nobody has.

        Each reviewer counts once, by the last answer. Of belongs < partly < does_not it is the median of those
        who could tell; reviewers who are divided evenly between two different answers cannot tell.
        """
        return self._together.get(unit)

    def agreement(self) -> list[dict[str, object]]:
        """Cohen's kappa of any two reviewers who labelled the same pairs, and of each with their repeated answers."""
        pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for given in self._given.values():
            for reviewer, answers in given.items():
                if len(answers) > 1:
                    pairs[reviewer, reviewer].append((answers[0], answers[-1]))
            known = {reviewer: answers[-1] for reviewer, answers in given.items() if answers}
            for one, other in combinations(sorted(known), 2):
                pairs[one, other].append((known[one], known[other]))
        return [
            {
                "reviewers": [one, other],
                "pairs": len(both),
                "agree": float(np.mean([a == b for a, b in both])),
                "kappa": cohens_kappa(both),
            }
            for (one, other), both in sorted(pairs.items())
        ]


def _together(given: Iterable[list[str]]) -> str | None:
    last = [answers[-1] for answers in given if answers]
    told = sorted(ANSWERS.index(answer) for answer in last if answer != CANNOT_TELL)
    if not told:
        return CANNOT_TELL if last else None
    low, high = told[(len(told) - 1) // 2], told[len(told) // 2]
    return ANSWERS[low] if low == high else CANNOT_TELL


def cohens_kappa(both: list[tuple[str, str]]) -> float | None:
    """Agreement beyond chance: (observed - expected) / (1 - expected).  None where only one answer was ever given.

    Source: Cohen 1960, *A coefficient of agreement for nominal scales*.
    """
    first, second = (np.array(side) for side in zip(*both, strict=True))
    observed = float((first == second).mean())
    expected = sum(float((first == answer).mean() * (second == answer).mean()) for answer in ANSWERS)
    return None if expected >= 1 else (observed - expected) / (1 - expected)
