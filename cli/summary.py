"""The summary of a run, for a terminal, and what other summaries share with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .text import counted, duration, percent, safe

#: The colour of each verdict, and what it means for the cleaned data.
VERDICTS = {
    "clean": ("green", "kept as it is"),
    "rematched": ("cyan", "kept, with a better caption"),
    "noisy": ("red", "mismatched, left out"),
    "unjudged": ("yellow", "left out, cannot be judged"),
    "unreadable": ("magenta", "left out, cannot be read"),
}
_BAR = 16  # characters
_FINDINGS = 3  # shown


def report_summary(report: Mapping[str, Any], run: str) -> RenderableType:
    """The report of a run, as in `report.json`.  run: its directory, or its address."""
    parts: list[RenderableType] = [_headline(report), "", _verdicts(report), ""]
    parts += _findings(report["findings"])
    parts += [_facts(report)]
    parts += [Text("note: " + safe(note), style="dim") for note in report["notes"]]
    elsewhere = report.get("cleaned_to")
    cleaned = f"{run if elsewhere is None else elsewhere}/cleaned"
    files = facts_table(
        ("cleaned data", cleaned), ("every verdict", f"{run}/verdicts"), ("the report", f"{run}/report.html")
    )
    return Padding(Group(*parts, "", files), (1, 0, 0, 0))


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The first of them, each with the command to run next."""
    if not findings:
        return []
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="yellow")
    table.add_column(overflow="fold")
    for number, finding in enumerate(findings[:_FINDINGS], 1):
        sentence = Text(safe(finding["sentence"]), style="yellow")
        table.add_row(f"{number}.", sentence.append("\n" + safe(finding["command"]), style="dim"))
    more = len(findings) - _FINDINGS
    rest = [Text(f"and {more} more in the report", style="dim")] if more > 0 else []
    return [table, *rest, ""]


def _headline(report: Mapping[str, Any]) -> Text:
    rate = report["mismatch_rate"]
    text = Text.assemble((f"{report['pairs']:,} pairs", "bold"))
    mended = report["rematch"].get("mended", 0)
    if rate["estimate"] is None:
        return text.append(", of which none could be judged" + (" by its score" if mended else ""))
    text.append(f"; after {mended:,} captions were given back, about " if mended else ", of which about ").append(
        percent(rate["estimate"]), style="bold"
    )
    text.append(" are mismatched")
    if rate["low"] is not None:
        what = "a range" if rate.get("why_wide") else f"{percent(rate['level'], 0)} interval"
        between = f" ({percent(rate['low'])} to {percent(rate['high'])}, {what})"
        text.append(between, style="dim")
    return text


def _verdicts(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=_BAR, no_wrap=True)
    table.add_column()
    pairs = max(1, report["pairs"])
    for verdict, count in report["verdicts"].items():
        colour, meaning = VERDICTS[verdict]
        if count or verdict in ("clean", "rematched", "noisy"):
            bar = "█" * round(_BAR * count / pairs) or ("▏" if count else "")
            name = Text(verdict, style=f"bold {colour}")
            table.add_row(name, f"{count:,}", percent(count / pairs), Text(bar, style=colour), Text(meaning, "dim"))
    return table


def _facts(report: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, object]] = []
    rematch = report["rematch"]
    if rematch["expected_precision"] is not None:
        right = f"{rematch['emitted']:,}, about {percent(rematch['expected_precision'], 0)} of them right"
        rows.append(("rematches", right + " by the run's own estimate"))
    rows += _copies(report["copies"])
    rows += _retrieval(report["retrieval"])
    judged = f", judged by {_SCORES.get(report['score'], report['score'])}" if report["score"] else ""
    rows.append(("model", f"{report['model']}, {report['method']}{judged}"))
    seconds = report["seconds"]
    stages = ", ".join(f"{stage} {duration(took).replace(' ', '')}" for stage, took in seconds.items())
    rows.append(("took", f"{duration(sum(seconds.values()))} on {report['device']}: {stages}"))
    return facts_table(*rows)


_SCORES = {
    "first": "the first alignment",
    "aligned": "the learned alignment",
    "clip": "the encoder's own similarity",
    "negclip": "the encoder's own similarity, corrected for hubness",
    "lemon": "the encoder's own similarity and that of nearest neighbours",
}


def _copies(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many pairs share a picture or a caption."""
    told = [
        f"{found[what]['pairs']:,} pairs in {counted(found[what]['groups'], 'group')} of one {name}"
        for what, name in (("images", "picture"), ("captions", "caption"), ("pairs", "picture and caption"))
        if found[what]["groups"]
    ]
    return [("copies", "; ".join(told))] if told else []


def _retrieval(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Recall at 1 in both directions, before and after the alignment was learned."""
    if not found:
        return []
    spaces = [found[name] for name in ("zero_shot", "aligned")[: 1 + found["learned"]] if found.get(name)]
    if not spaces:
        return []

    def recall(way: str) -> str:
        return " → ".join(f"{space[f'{way}_r1']:.1f}%" for space in spaces)

    text = f"recall@1 {recall('i2t')} image to text, {recall('t2i')} text to image"
    which = "held out" if found["learned"] else "judged by the encoder alone"
    return [("retrieval", text + f" ({found['pairs']:,} clean pairs, {which})")]


def facts_table(*rows: tuple[str, object]) -> Table:
    """A table of names and values, which may hold text from data; a `Text` is taken to be safe."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(safe(value)))
    return table
