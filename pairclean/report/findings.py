"""Systematic faults as the reports tell them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..judge import Finding

Place = tuple[str, int]


def describe(finding: Finding, first: Place, last: Place, mended: int) -> dict[str, Any]:
    """A finding as in report.json: its numbers, where it is in the source, and a sentence.

    first, last: shard and row of its first and of its last pair.  mended: how many of its images got their
    caption back.
    """
    numbers = asdict(finding)
    del numbers["start"], numbers["stop"]
    return {
        **numbers,
        "first_shard": first[0],
        "first_row": first[1],
        "last_shard": last[0],
        "last_row": last[1],
        "pairs": len(finding),
        "mended": mended,
        "sentence": _sentence(finding, first, last, mended),
    }


def _sentence(finding: Finding, first: Place, last: Place, mended: int) -> str:
    if first[0] == last[0]:
        where = f"In shard {first[0]}, rows {first[1]:,} to {last[1]:,}"
    else:
        where = f"From row {first[1]:,} of shard {first[0]} to row {last[1]:,} of shard {last[0]}, all pairs"
    sure = f"(z = {finding.z:.1f})"
    if finding.kind == "repeated":
        return f"{where} carry one and the same caption, which does not fit them {sure}; their own captions are lost."
    if finding.kind == "reversed":
        what = f"carry each other's captions in reverse order {sure}"
    else:
        size = abs(finding.offset)
        pair = "pair" if size == 1 else f"pair {size:,} rows"
        what = f"carry the caption of the {pair} {'before' if finding.offset > 0 else 'after'} {sure}"
    if mended:
        return f"{where} {what}; {mended:,} of their images got their own caption back."
    return f"{where} {what}; `pairclean rematch RUN --repair` gives them back."
