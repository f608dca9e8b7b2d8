"""Findings: what is wrong in the data, where, and what to do next, each in a sentence.

Every finding is a dict for report.json with at least kind, pairs (how many it concerns), mended (how many of these have
another caption now), sentence, and command, the one to run next.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..judge import Finding

Place = tuple[str, int]

_TEXT_SHOWN = 80
#: An encoder of captions in many languages.
MULTILINGUAL = "xlm-roberta-base-ViT-B-32"


def describe(finding: Finding, first: Place, last: Place, mended: int, run: str = "RUN") -> dict[str, Any]:
    """A systematic fault: its numbers, where it is in the source, and a sentence.

    first, last: shard and row of its first and of its last pair.  mended: how many of its images got their
    caption back.  run: the run directory.
    """
    numbers = asdict(finding)
    del numbers["start"], numbers["stop"]
    to_mend = finding.kind != "repeated" and not mended
    return {
        **numbers,
        "first_shard": first[0],
        "first_row": first[1],
        "last_shard": last[0],
        "last_row": last[1],
        "pairs": len(finding),
        "mended": mended,
        "sentence": _sentence(finding, first, last, mended),
        "command": _command("rematch", run, "--repair") if to_mend else _command("audit", run, "--by", "shard"),
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
    return f"{where} {what}; --repair gives them back."


def describe_slice(found: Mapping[str, Any], mended: int, run: str = "RUN") -> dict[str, Any]:
    """A slice with many mismatches.  found: where (the value of each column), pairs, rate, low, high, rest, p_value."""
    conditions = " and ".join(f"{column} {_quoted(value)}" for column, value in found["where"].items())
    interval = f"{_percent(found['low'])} to {_percent(found['high'])}"
    sentence = (
        f"Of the {found['pairs']:,} pairs with {conditions}, about {_percent(found['rate'])} ({interval}) are "
        f"mismatched; of the rest {_percent(found['rest'])}."
    )
    by = [part for column in found["where"] for part in ("--by", column)]
    return {"kind": "uneven", **found, "mended": mended, "sentence": sentence, "command": _command("audit", run, *by)}


def describe_repeated(
    kind: str, pairs: int, mended: int, caption: str | None, pair_id: str, run: str = "RUN"
) -> dict[str, Any]:
    """A caption (kind "generic_caption") or a picture ("placeholder_image") that says nothing of its partners.

    pairs: how many have it.  caption, pair_id: of one of them.
    """
    if kind == "generic_caption":
        sentence = f"{pairs:,} pictures have the caption {_quoted(caption)}, which says nothing of them."
    else:
        sentence = f"{pairs:,} captions have one and the same picture, which shows nothing of what they say."
    return {
        "kind": kind,
        **({"caption": caption} if kind == "generic_caption" else {}),
        "pair_id": pair_id,
        "pairs": pairs,
        "mended": mended,
        "sentence": sentence,
        "command": _command("show", run, pair_id),
    }


def describe_unread(pairs: int, source: str = "SHARDS") -> dict[str, Any]:
    """Captions in a language that the encoder does not seem to read."""
    sentence = (
        f"{pairs:,} captions are in a language that the encoder does not seem to read, so that their pairs are not "
        "judged; a multilingual encoder would tell."
    )
    command = _command("clean", source, "RUN2", "--model", MULTILINGUAL)
    return {"kind": "unread_captions", "pairs": pairs, "mended": 0, "sentence": sentence, "command": command}


def ordered(findings: Sequence[dict[str, Any]], pairs: int) -> list[dict[str, Any]]:
    """Those that concern the most pairs first, each with `share`, of all pairs."""
    ranked = sorted(findings, key=lambda finding: -finding["pairs"])
    return [{**finding, "share": finding["pairs"] / max(1, pairs)} for finding in ranked]


def _command(*parts: str) -> str:
    return shlex.join(("pairclean", *parts))


def _quoted(value: Any) -> str:
    """A value of the data in quotation marks, on one line and shortened."""
    text = " ".join(str(value)[: 2 * _TEXT_SHOWN].split()).strip("“”")
    return f"“{text if len(text) <= _TEXT_SHOWN else text[: _TEXT_SHOWN - 1] + '…'}”"


def _percent(share: float) -> str:
    """With one decimal below 10%."""
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"
