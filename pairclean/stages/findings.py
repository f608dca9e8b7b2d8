"""What the report finds in a run: faults, slices, captions and pictures, with the pairs that show each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..judge import UNJUDGED
from ..judge.judgement import CANNOT_READ
from ..report import describe, describe_repeated, describe_slice, describe_unread, ordered
from ..review.columns import Columns
from ..review.slices import in_faults, repeated, slices
from ..run import Run
from ..run.results import open_embeddings, open_faults, open_judgement, open_rematches

#: Pairs that show a finding, findings that are shown by pairs, and repeated captions and pictures reported, at most.
EXAMPLES, PICTURED, MOST_REPEATED = 6, 12, 10


@dataclass(frozen=True)
class Findings:
    """content: as in report.json, those of the most pairs first.  examples: (n,) int64 pairs of each of the first."""

    content: list[dict[str, Any]]
    examples: list[np.ndarray]


def find(run: Run, columns: Columns | None) -> Findings:
    """The findings of a run that is done up to `export`.  columns: of its source, None where it is gone."""
    emb, faults, judged, rematched = open_embeddings(run), open_faults(run), open_judgement(run), open_rematches(run)
    name, partner, n = run.name, np.asarray(rematched.partner), len(emb)
    clean = np.asarray(rematched.clean_probability)
    found: list[tuple[dict[str, Any], np.ndarray]] = []

    def pair(row: int) -> dict[str, Any]:
        shard = int(np.searchsorted(emb.shard_offsets, row, side="right")) - 1
        table = emb.pair_table(emb.shard_names[shard])
        found: dict[str, Any] = table.slice(row - int(emb.shard_offsets[shard]), 1).to_pylist()[0]
        return found

    def place(row: int) -> tuple[str, int]:
        return pair(row)["shard"], pair(row)["row"]

    for finding in faults.findings:
        rows = finding.rows
        home = 0 if finding.kind == "repeated" else int((partner[rows] == finding.moved(rows)).sum())
        mended = home if rematched.mended else 0
        found.append(
            (describe(finding, place(finding.start), place(finding.stop - 1), mended, name), rows[1 : 1 + EXAMPLES])
        )
    for one in [] if columns is None else slices(columns):
        rows = one.slice.rows
        content = describe_slice(one.to_json(), int((partner[rows] >= 0).sum()), name)
        found.append((content, _spread(rows[clean[rows] < rematched.flag_below])))
    for same in repeated(run)[:MOST_REPEATED]:
        rows = same.rows
        (caption,) = emb.captions(faults.caption[rows[:1]])
        pair_id = pair(int(rows[0]))["pair_id"]
        mended = int((partner[rows] >= 0).sum())
        found.append((describe_repeated(same.kind, len(rows), mended, caption, pair_id, name), _spread(rows)))
    cannot_read = np.asarray(judged.unjudged_reason) == UNJUDGED.index(CANNOT_READ)
    unread = np.flatnonzero(cannot_read & ~in_faults(run))
    if len(unread):
        found.append((describe_unread(len(unread), str(run.manifest["source"])), _spread(unread)))
    order = sorted(range(len(found)), key=lambda i: -found[i][0]["pairs"])
    return Findings(ordered([found[i][0] for i in order], n), [found[i][1] for i in order[:PICTURED]])


def _spread(rows: np.ndarray) -> np.ndarray:
    """At most EXAMPLES of these, evenly spread."""
    if len(rows) <= EXAMPLES:
        return rows
    return rows[np.linspace(0, len(rows) - 1, EXAMPLES).astype(np.int64)]
