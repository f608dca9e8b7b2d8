"""`pairclean evaluate` and `pairclean selfcheck`: how good the vectors, the verdicts and the flags are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairclean.options import HELP

from . import options as o

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
    typer.Option("--source", help="Test shards to measure retrieval on.", metavar="SHARDS", show_default=False),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Column with the class of a pair, or a list of classes; adds MAP.",
        metavar="NAME",
        show_default=False,
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        help="The truth file of `pairclean plant`: compares the verdicts with it instead.",
        metavar="FILE",
        show_default=False,
    ),
]
Rate = Annotated[float, typer.Option("--rate", help="Share of the captions to move.", metavar="P")]
Pairs = Annotated[int, typer.Option("--pairs", help="Size of the sample.", metavar="N")]
Seed = Annotated[int, typer.Option("--seed", help=HELP["seed"], metavar="N")]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep", help="New directory for the sample's run, verdicts and truth.", metavar="DIR", show_default=False
    ),
]


def evaluate(
    run: Measured,
    source: Source = None,
    label_column: Labels = None,
    truth: Truth = None,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    device: o.Device = None,
    workers: o.Workers = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure retrieval before and after learning, or compare the verdicts with planted mismatches.

    Retrieval is measured on pairs that RUN judged clean, by models that never saw them; or on a test source.
    """
    asked, how = o.split(o.given({k: v for k, v in locals().items() if k in o.HELP}))

    from .main import _execution, _print

    with _execution(how, quiet) as execution:
        import pairclean

        found = pairclean.evaluate(run, source=source, truth=truth, execution=execution, **asked)
    _print(found, lambda: _retrieval(found) if "on" in found else _detection(found), json, quiet)


def selfcheck(
    shards: o.Shards,
    rate: Rate = 0.3,
    pairs: Pairs = 5000,
    seed: Seed = 0,
    keep: Keep = None,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    embeddings: o.EmbeddingsOption = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    dtype: o.DtypeOption = None,
    method: o.MethodOption = None,
    score: o.ScoreOption = None,
    calibration: o.CalibrationOption = None,
    flag_below: o.FlagBelow = None,
    min_precision: o.MinPrecision = None,
    device: o.Device = None,
    workers: o.Workers = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Say how far the flags can be trusted on SHARDS: mismatches are planted in a sample of it, and looked for.

    Give the options that `clean` is to be given. SHARDS stays as it is.
    """
    given = o.given({k: v for k, v in locals().items() if k in o.HELP and k != "seed"})
    asked, how = o.split(given)

    from .main import _execution, _print

    with _execution(how, quiet) as execution:
        import pairclean

        found = pairclean.selfcheck(shards, rate=rate, pairs=pairs, seed=seed, keep=keep, execution=execution, **asked)
    _print(found, lambda: _selfcheck(found), json, quiet)


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
        parts += ["", Text("note: Learning was left out: the run uses the encoder alone.", style="dim")]
    if found.get("seen_images"):
        seen = f"note: {found['seen_images']:,} of the {found['images']:,} images are in the run's own data too."
        parts += ["", Text(seen, style="dim")]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _figures(found: Mapping[str, Any]) -> Table:
    """A column a space; intervals where there are any."""
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

    from .text import percent

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
        ("right captions", percent(found["correct_before"]), percent(found["correct_after"]) + " of what is kept"),
    ]
    for row in rows:
        table.add_row(*row)
    parts: list[RenderableType] = [_title(f"Planted and found: {found['pairs']:,} pairs"), table]
    if found["reliability"]:
        parts += [
            "",
            _title("Clean probability, and how often the caption was right"),
            _reliability(found["reliability"]),
        ]
    if found["rematch_emitted"]:
        parts += ["", _title("Rematches at or above a probability"), _risk_coverage(found["risk_coverage"])]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _interval(rate: Mapping[str, float | None]) -> str:
    from .text import percent

    between = "" if rate["low"] is None else f" ({percent(rate['low'])} to {percent(rate['high'])})"
    return percent(rate["estimate"]) + between


def _reliability(bins: list[Mapping[str, float]]) -> Table:
    from .text import percent

    table = _table("pairs", "said", "right")
    for one in bins:
        name = f"{one['low']:.1f} to {one['high']:.1f}"
        table.add_row(name, f"{one['pairs']:,}", percent(one["predicted"]), percent(one["observed"]))
    return table


def _risk_coverage(steps: list[Mapping[str, float]]) -> Table:
    from .text import percent

    table = _table("rematched", "right", "of those that could be")
    for one in steps:
        count = f"{one['rematched']:,}"
        table.add_row(f"{one['threshold']:.2f}", count, percent(one["precision"]), percent(one["recall"]))
    return table


def _selfcheck(found: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .summary import _pairs_of
    from .text import percent, safe

    scores, own, precision = found["scores"], found["own_rate"], found["flag_precision"]
    parts: list[RenderableType] = [Text(safe(found["sentence"]), style="bold")]
    if found["unjudged"]:
        return Padding(Group(*parts), (1, 0, 0, 0))
    rows: list[tuple[str, object]] = [
        ("mismatch rate, planted", percent(found["rate"])),
        ("mismatch rate, found", _interval(scores["mismatch_rate"])),
        ("the data's own, by that", _interval(own)),
        ("flag recall", percent(scores["flag_recall"]) + " of the planted ones"),
        ("flag precision", f"at least {percent(precision['at_least'])}, about {percent(precision['about'])}"),
        ("AUROC", f"at least {scores['auroc']:.4f}"),
        ("rematched", f"{scores['rematch_emitted']:,} of {scores['partners_on_offer']:,} that could be"),
    ]
    if scores["rematch_emitted"]:
        rows.append(("rematch precision", f"at least {percent(scores['rematch_precision'])}"))
    note = (
        "note: What was mismatched before is counted as matched, so that precisions are lower bounds. The planted "
        "mismatches are random; those that resemble matches are harder to find."
    )
    return Padding(Group(*parts, "", _pairs_of(*rows), "", Text(note, style="dim")), (1, 0, 0, 0))
