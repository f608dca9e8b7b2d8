"""`pairclean evaluate` and `pairclean selfcheck`: how good the embeddings, the verdicts and the flags are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairclean.options import COLUMNS, ENCODER, STAGES

from .console import Console
from .options import PRINTING, Rate, Shards, takes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

Measured = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The run directory, or a folder of embeddings.", show_default=False),
]
Source = Annotated[
    str | None,
    typer.Option("--source", help="Measure retrieval on these test shards instead.", metavar="SHARDS"),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Column with the class labels of each pair; adds the mean average precision (MAP).",
        metavar="NAME",
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        help="Compare the verdicts with this truth file of `pairclean plant`, instead of measuring retrieval.",
        metavar="FILE",
    ),
]
Pairs = Annotated[int, typer.Option("--pairs", help="Size of the random sample.", metavar="N")]
Keep = Annotated[
    Path | None,
    typer.Option("--keep", help="Keep the run, verdicts and truth of the sample in a new directory.", metavar="DIR"),
]


@takes(*COLUMNS, "device", "workers", *PRINTING)
def evaluate(
    run: Measured,
    options: dict[str, Any],
    console: Console,
    source: Source = None,
    label_column: Labels = None,
    truth: Truth = None,
) -> None:
    """Measure retrieval before and after the alignment was learned, or compare the verdicts with planted mismatches.

    Retrieval is measured on pairs that RUN judged clean, by models that were not trained on them; or on a test source.
    """
    import pairclean

    with console.execution() as execution:
        found = pairclean.evaluate(
            run, source=source, label_column=label_column, truth=truth, execution=execution, **options
        )
    console.print(found, lambda: _retrieval(found) if "on" in found else _detection(found))


@takes(
    *COLUMNS,
    "embeddings",
    *ENCODER,
    *STAGES["align"],
    *(name for name in STAGES["judge"] if name != "use_labels"),  # a sample that is drawn anew has no labels
    *STAGES["rematch"],
    "device",
    "workers",
    *PRINTING,
)
def selfcheck(
    shards: Shards,
    options: dict[str, Any],
    console: Console,
    rate: Rate = 0.3,
    pairs: Pairs = 5000,
    keep: Keep = None,
) -> None:
    """Say how far the flags can be trusted on SHARDS, by planting mismatches in a random sample and looking for them.

    Give the options that you would give to `clean`. SHARDS are not changed.
    """
    import pairclean

    with console.execution() as execution:
        found = pairclean.selfcheck(shards, rate=rate, pairs=pairs, keep=keep, execution=execution, **options)
    console.print(found, lambda: _selfcheck(found))


# --- what a terminal shows ------------------------------------------------------------------------------------------

_WAYS = {"i2t": "image to text", "t2i": "text to image"}
_RECALL = {f"_r{k}": f"recall@{k}" for k in (1, 5, 10)}
_OTHERS = {"_map": "MAP", "_map50": "MAP@50", "_median_rank": "median rank", "_mean_rank": "mean rank"}
_SPACES = {"zero_shot": "the encoder alone", "aligned": "after learning"}


def _retrieval(found: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    where = {
        "held-out": f"on {found['pairs']:,} pairs that were judged clean, held out in {found['folds']} folds"
        if found["folds"] > 1
        else f"on {found['pairs']:,} pairs that were judged clean",
        "source": f"on the test source: {found['pairs']:,} pairs, {found['images']:,} images",
        "embeddings": f"on {found['pairs']:,} pairs, {found['images']:,} images",
    }[found["on"]]
    parts: list[RenderableType] = [_title(f"Retrieval {where}"), _figures(found)]
    if "coco_1k" in found:
        parts += ["", _title("Mean of five folds of 1,000 images"), _figures(found["coco_1k"])]
    if found["on"] != "embeddings" and not found["aligned"]:
        parts += [
            "",
            Text("note: the run judges by the encoder alone, so no learned alignment is measured", style="dim"),
        ]
    if found.get("seen_images"):
        seen = f"note: {found['seen_images']:,} of the {found['images']:,} images are also in the data of the run"
        parts += ["", Text(seen, style="dim")]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _figures(found: Mapping[str, Any]) -> Table:
    """One column per space, with confidence intervals where there are any."""
    spaces = [name for name in _SPACES if found.get(name)]
    table = _table(*(_SPACES[name] for name in spaces))

    def row(name: str, label: str, show: str) -> None:
        if name in found[spaces[0]]:
            table.add_row(label, *(_with_interval(found[space], name, show) for space in spaces))

    for way, said in _WAYS.items():
        for end, label in {**_RECALL, **_OTHERS}.items():
            percent = end in _RECALL
            row(way + end, f"{said}, {label}", "{:.1f}%" if percent else "{:.4f}" if "map" in end else "{:,.1f}")
    row("rsum", "rSum (of 600)", "{:.1f}")
    return table


def _with_interval(figures: Mapping[str, Any], name: str, show: str) -> str:
    value = show.format(figures[name])
    if name not in figures["intervals"]:
        return value
    low, high = (show.format(end).rstrip("%") for end in figures["intervals"][name])
    return f"{value} ({low} to {high})"


def _title(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="bold")


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", style="dim", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="left")
    return table


def _detection(found: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding

    from .text import percent, right_of_kept

    rate = found["mismatch_rate"]
    table = _table("planted", "found")
    covers = {True: ", covers it", False: ", does not cover it", None: ""}[rate["covers"]]
    moved = round(found["true_mismatch_rate"] * found["pairs"])
    rows = [
        ("mismatch rate", percent(found["true_mismatch_rate"]), _interval(rate) + covers),
        ("mismatched pairs", f"{moved:,}", f"{round(found['flag_rate'] * found['pairs']):,} flagged"),
        ("flag precision", "", percent(found["flag_precision"])),
        ("flag recall", "", percent(found["flag_recall"])),
        *(
            (f"  of {kind} ones", f"{about['pairs']:,}", percent(about["flagged"]))
            for kind, about in found["kinds"].items()
            if len(found["kinds"]) > 1
        ),
        ("flag F1", "", f"{found['flag_f1']:.3f}"),
        ("AUROC", "", f"{found['auroc']:.4f}"),
        ("average precision", "", f"{found['average_precision']:.4f}"),
        ("calibration error", "", f"{found['ece']:.4f} (ECE), {found['brier']:.4f} (Brier)"),
        ("could be rematched", f"{found['partners_on_offer']:,}", f"{found['rematch_emitted']:,} rematched"),
        ("rematch precision", "", percent(found["rematch_precision"] if found["rematch_emitted"] else None)),
        ("rematch recall", "", percent(found["rematch_recall"])),
        ("right captions", percent(found["correct_before"]), right_of_kept(found)),
    ]
    for row in rows:
        table.add_row(*row)
    parts: list[RenderableType] = [_title(f"Planted and found: {found['pairs']:,} pairs"), table]
    if found["reliability"]:
        parts += [
            "",
            _title("Clean probability, and how many captions were right"),
            _reliability(found["reliability"]),
        ]
    if found["rematch_emitted"]:
        parts += ["", _title("Rematches with at least this probability"), _risk_coverage(found["risk_coverage"])]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _interval(rate: Mapping[str, float | None]) -> str:
    from .text import percent

    between = "" if rate["low"] is None else f" ({percent(rate['low'])} to {percent(rate['high'])})"
    return percent(rate["estimate"]) + between


def _reliability(bins: list[Mapping[str, float]]) -> Table:
    from .text import percent

    table = _table("pairs", "predicted", "right")
    for one in bins:
        name = f"{one['low']:.1f} to {one['high']:.1f}"
        table.add_row(name, f"{one['pairs']:,}", percent(one["predicted"]), percent(one["observed"]))
    return table


def _risk_coverage(steps: list[Mapping[str, float]]) -> Table:
    from .text import percent

    table = _table("rematched", "precision", "recall")
    for one in steps:
        count = f"{one['rematched']:,}"
        table.add_row(f"{one['threshold']:.2f}", count, percent(one["precision"]), percent(one["recall"]))
    return table


def _selfcheck(found: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .summary import facts_table
    from .text import percent, safe

    scores, own, precision = found["scores"], found["own_rate"], found["flag_precision"]
    parts: list[RenderableType] = [Text(safe(found["sentence"]), style="bold")]
    if found["unjudged"]:
        return Padding(Group(*parts), (1, 0, 0, 0))
    rows: list[tuple[str, object]] = [
        ("mismatch rate, planted", percent(found["rate"])),
        ("mismatch rate, found", _interval(scores["mismatch_rate"])),
        ("mismatch rate before planting", _interval(own)),
        ("flag recall", percent(scores["flag_recall"]) + " of the planted mismatches"),
        *(
            (f"  {name.replace('_', ' ')}", f"{percent(kind['flagged'])} of {kind['pairs']:,}")
            for name, kind in scores["kinds"].items()
        ),
        ("flag precision", f"at least {percent(precision['at_least'])}, about {percent(precision['about'])}"),
        ("AUROC", f"at least {scores['auroc']:.4f}"),
        ("rematched", f"{scores['rematch_emitted']:,} of {scores['partners_on_offer']:,} that could be"),
    ]
    if scores["rematch_emitted"]:
        rows.append(("rematch precision", f"at least {percent(scores['rematch_precision'])}"))
    note = "note: pairs that were mismatched before planting count as matched, so that the precisions are lower bounds"
    return Padding(Group(*parts, "", facts_table(*rows), "", Text(note, style="dim")), (1, 0, 0, 0))
