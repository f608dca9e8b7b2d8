"""`pairclean demo`: planted mismatches in drawn data, and how many of them are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console
from .options import PRINTING, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the demonstration.", show_default=False)]
Pairs = Annotated[int, typer.Option("--pairs", help="Pairs to draw.", metavar="N")]
Mismatched = Annotated[float, typer.Option("--rate", help="Fraction of the pairs to mismatch.", metavar="P")]

_KINDS = {
    "random": "moved at random",
    "within_kind": "moved within a kind",
    "generic": "one caption, many pictures",
    "placeholder": "one picture, many captions",
    "boilerplate": "drawn without content",
}


@takes("seed", "device", *PRINTING)
def demo(
    folder: Folder, options: dict[str, Any], console: Console, pairs: Pairs = 4000, rate: Mismatched = 0.4
) -> None:
    """Draw scenes with captions, plant mismatches, clean the data, and compare what was found with what was planted.

    Half of the mismatches are captions of any other picture, a quarter captions of a picture that shows the same thing,
    an eighth one caption under many pictures, and an eighth one picture with many captions.
    """
    from pairclean.assess.demo import demo as run_demo

    with console.execution() as execution:
        result = run_demo(folder, pairs=pairs, rate=rate, execution=execution, **options)
    from rich.console import Group

    from .summary import report_summary

    run, scores = result.run, result.scores
    settings = f"{pairs:,} drawn scenes, seed {run.config.seed}"
    console.print(
        {"scores": scores, "report": run.report},
        lambda: Group(report_summary(run.report, run.name), _summary(scores, run.report, settings)),
    )


def _summary(scores: Mapping[str, Any], report: Mapping[str, Any], settings: str) -> RenderableType:
    """What was planted beside what was found."""
    from rich.padding import Padding
    from rich.table import Table

    from .text import percent, right_of_kept

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
        *_by_kind(scores["kinds"]),
        ("flag precision", "", percent(scores["flag_precision"])),
        ("flag recall", "", percent(scores["flag_recall"])),
        ("AUROC", "", f"{scores['auroc']:.3f}"),
        ("could be rematched", f"{scores['partners_on_offer']:,}", f"{scores['rematch_emitted']:,} rematched"),
        ("rematch precision", "", percent(scores["rematch_precision"]) + promised),
        ("rematch recall", "", percent(scores["rematch_recall"])),
        ("right captions", percent(scores["correct_before"]), right_of_kept(scores)),
    ]
    for row in rows:
        table.add_row(*row)
    return Padding(table, (1, 0, 0, 0))


def _by_kind(kinds: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """A row for each kind of mismatch: how many there are, and how many of them were flagged."""
    from .text import percent

    for name, text in _KINDS.items():
        if name in kinds:
            pairs, flagged = kinds[name]["pairs"], kinds[name]["flagged"]
            yield f"  {text}", f"{pairs:,}", f"{round(flagged * pairs):,} flagged, {percent(flagged)}"
