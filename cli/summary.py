"""What a terminal shows of a result; `--json` has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .text import duration, percent, safe, size

_MEANING = {
    "clean": ("green", "kept as it is"),
    "rematched": ("cyan", "kept, with a better caption"),
    "noisy": ("red", "mismatched, left out"),
    "unjudged": ("yellow", "left out, nothing to judge by"),
    "unreadable": ("magenta", "left out, nothing to read"),
}
_BAR = 16  # characters


def show(*parts: RenderableType) -> None:
    Console(highlight=False).print(Group(*parts))


def report_summary(report: Mapping[str, Any], run: Path) -> RenderableType:
    """The report of a run."""
    parts: list[RenderableType] = [_headline(report), "", _verdicts(report), "", _facts(report)]
    parts += [Text("note: " + safe(note), style="dim") for note in report["notes"]]
    files = _pairs_of(
        ("cleaned data", run / "cleaned"), ("every verdict", run / "verdicts"), ("the report", run / "report.html")
    )
    return Padding(Group(*parts, "", files), (1, 0, 0, 0))


def _headline(report: Mapping[str, Any]) -> Text:
    rate = report["mismatch_rate"]
    text = Text.assemble((f"{report['pairs']:,} pairs", "bold"))
    if rate["estimate"] is None:
        return text.append(", of which none could be judged")
    text.append(", of which about ").append(percent(rate["estimate"]), style="bold")
    text.append(" are mismatched")
    if rate["low"] is not None:
        between = f" ({percent(rate['low'])} to {percent(rate['high'])}, {percent(rate['level'], 0)} interval)"
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
        colour, meaning = _MEANING[verdict]
        if count or verdict in ("clean", "rematched", "noisy"):
            bar = "█" * round(_BAR * count / pairs) or ("▏" if count else "")
            name = Text(verdict, style=f"bold {colour}")
            table.add_row(name, f"{count:,}", percent(count / pairs), Text(bar, style=colour), Text(meaning, "dim"))
    return table


def _facts(report: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, object]] = []
    rematch = report["rematch"]
    if rematch["expected_precision"] is not None:
        right = f"about {percent(rematch['expected_precision'], 0)} of {rematch['emitted']:,} right"
        rows.append(("rematches", right + ", by the run's own calibration"))
    rows += _retrieval(report["retrieval"])
    judged = f", judged by {_BY.get(report['score'], report['score'])}" if report["score"] else ""
    rows.append(("learned with", f"{report['model']}, {report['method']}{judged}"))
    seconds = report["seconds"]
    stages = ", ".join(f"{stage} {duration(took).replace(' ', '')}" for stage, took in seconds.items())
    rows.append(("took", f"{duration(sum(seconds.values()))} on {report['device']}: {stages}"))
    return _pairs_of(*rows)


_BY = {
    "first": "the first alignment",
    "aligned": "the learned alignment",
    "clip": "the encoder's own similarity",
    "negclip": "the encoder's own similarity less hubness",
    "lemon": "the encoder's own similarity and that of neighbours",
}


def _retrieval(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Recall at 1, of a caption for a picture and the other way round, before and after learning."""
    if not found:
        return []
    spaces = [found[name] for name in ("zero_shot", "aligned")[: 1 + found["learned"]] if found.get(name)]
    if not spaces:
        return []

    def recall(way: str) -> str:
        return " → ".join(f"{space[f'{way}_r1']:.1f}%" for space in spaces)

    text = f"recall@1 {recall('i2t')} image to text, {recall('t2i')} text to image"
    which = "held out" if found["learned"] else "learning was left out"
    return [("retrieval", text + f" ({found['pairs']:,} clean pairs, {which})")]


def _pairs_of(*rows: tuple[str, object]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(safe(value)))
    return table


def demo_summary(scores: Mapping[str, float], report: Mapping[str, Any], settings: str) -> RenderableType:
    """What was planted beside what was found."""
    rate, expected = report["mismatch_rate"], report["rematch"]["expected_precision"]
    interval = "" if rate["low"] is None else f" ({percent(rate['low'])} to {percent(rate['high'])})"
    table = Table(title=f"Planted and found: {settings}", title_justify="left", title_style="bold", box=None)
    table.add_column("", style="dim")
    table.add_column("planted", justify="right")
    table.add_column("found", justify="left")
    moved = round(scores["true_mismatch_rate"] * scores["pairs"])
    promised = "" if expected is None else f", {percent(expected)} promised"
    rows = [
        ("mismatch rate", percent(scores["true_mismatch_rate"]), percent(rate["estimate"]) + interval),
        ("mismatched pairs", f"{moved:,}", f"{report['flagged']:,} flagged"),
        ("flag precision", "", percent(scores["flag_precision"])),
        ("flag recall", "", percent(scores["flag_recall"])),
        ("AUROC", "", f"{scores['auroc']:.3f}"),
        ("captions moved away", f"{scores['partners_on_offer']:,}", f"{scores['rematch_emitted']:,} rematched"),
        ("rematch precision", "", percent(scores["rematch_precision"]) + promised),
        ("rematch recall", "", percent(scores["rematch_recall"])),
        ("right captions", percent(scores["correct_before"]), percent(scores["correct_after"]) + " of what is kept"),
    ]
    for row in rows:
        table.add_row(*row)
    return Padding(table, (1, 0, 0, 0))


def preview_summary(found: Mapping[str, Any]) -> RenderableType:
    """What `clean --dry-run` says."""
    roles = {**found["roles"], "id": found["roles"]["id"] or "<shard>:<row>"}
    shown = ", ".join(f"{role.replace('_', ' ')} {name}" for role, name in roles.items() if name)
    weights = f" ({found['pretrained']})" if found["pretrained"] else ""
    rows = [
        ("source", f"{found['source']} ({found['layout']})"),
        ("columns", ", ".join(found["columns"])),
        ("roles", shown),
        ("would read", f"{found['shards']:,} shards, {found['rows']:,} rows, {found['pairs']:,} pairs"),
        ("first caption", _shortened(found["first_caption"])),
        ("model", f"{found['model']}{weights} on {', '.join(found['devices'])}"),
        ("embeddings", size(found["embedding_bytes"])),
        ("cleaned copy", f"at most {size(found['cleaned_bytes_at_most'])}"),
        ("free disk", size(found["free_bytes"])),
    ]
    return _pairs_of(*rows)


def _shortened(caption: str | None, length: int = 120) -> str:
    if caption is None:
        return "none"
    return caption if len(caption) <= length else caption[: length - 1] + "…"


def doctor_summary(found: Mapping[str, Any]) -> RenderableType:
    groups: list[RenderableType] = []
    for group, rows in found.items():
        groups += [Text(group, style="bold"), Padding(_pairs_of(*rows.items()), (0, 0, 1, 2))]
    return Group(*groups)
