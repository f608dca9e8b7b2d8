"""`pairclean review`: label a sample of pairs, and see what the labels say about all."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console, complain
from .options import PRINTING, RunPath, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.review.rates import Estimate
    from pairclean.review.reviewed import Reviewed
    from pairclean.run import Run

Planned = Annotated[
    int | None,
    typer.Option(
        "--labels",
        help="How many labels are planned, 200 at first; a later call may plan more.",
        metavar="N",
        min=1,
        show_default="200, or as planned before",
    ),
]
By = Annotated[
    str | None,
    typer.Option("--by", help="Draw from each group of this column of the source, to estimate each.", metavar="COLUMN"),
]
Name = Annotated[str | None, typer.Option("--reviewer", help="Who labels.", metavar="NAME", show_default="your login")]
Port = Annotated[
    int | None, typer.Option("--port", help="Port of the page.", metavar="N", min=1, max=65535, show_default="any free")
]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Print the page's address instead of opening it.")]
Export = Annotated[
    Path | None, typer.Option("--export", help="Write all labels to a .csv or .parquet file.", metavar="FILE")
]
Import = Annotated[
    Path | None,
    typer.Option(
        "--import",
        help="Take labels from a filled-in sheet, a table with `pair_id` and `answer`, or an export of Label Studio or "
        "Argilla.",
        metavar="FILE",
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--sheet", help="Write the pairs to label to a .csv or .html file, to label elsewhere.", metavar="FILE"
    ),
]


@takes(*PRINTING)
def review(
    run: RunPath,
    console: Console,
    labels: Planned = None,
    by: By = None,
    reviewer: Name = None,
    port: Port = None,
    no_open: NoOpen = False,
    export: Export = None,
    import_: Import = None,
    sheet: Sheet = None,
) -> None:
    """Label a random sample of pairs in the browser, and get the mismatch rate with an interval that holds."""
    from pairclean.review.exchange import export_labels, import_labels, write_sheet
    from pairclean.review.reviewed import estimate, open_labels
    from pairclean.review.sample import design
    from pairclean.run import Run

    opened = Run.open(run)
    sample, given, name = design(opened, labels, by=by), open_labels(opened), reviewer or getpass.getuser()
    if sheet is not None:
        console_note(console, f"{write_sheet(opened, sample, given, sheet):,} pairs to label are in {sheet}")
    if import_ is not None:
        taken = import_labels(opened, sample, given, import_, name)
        console_note(console, f"{taken.drawn:,} labels of drawn pairs are taken, {taken.empty:,} rows have no answer")
        if taken.not_drawn:
            complain(
                "not in the sample",
                f"{taken.not_drawn:,} labels are of pairs that were not drawn ({taken.mismatched_not_drawn:,} of them "
                "mismatched): they are kept, but say nothing about the other pairs, since nothing is known of how they "
                "were chosen; to label elsewhere, use --sheet",
                style="bold yellow",
            )
    if export is not None:
        console_note(console, f"{export_labels(given, export):,} answers are in {export}")
    if sheet is None and import_ is None and export is None:
        _serve(opened, sample, name, port, no_open)
    _bring_up_to_date(opened, console)
    found = estimate(opened)
    console.print(found.to_json(), lambda: _summary(found))


def _bring_up_to_date(run: Run, console: Console) -> None:
    """Put new labels into the report, and say where else they could go."""
    from pairclean.pipeline import redo

    if run.is_done("report") and run.labels_for("report") != run.labels_of("report"):
        with console.execution() as execution:
            redo(run, "report", execution)
    if run.labels_for("judge") != run.labels_of("judge"):
        console_note(console, f"the clean probabilities rest on fewer labels: pairclean judge {run.path} takes in all")
    elif run.labels_for("report") is not None and not run.config.use_labels:
        console_note(console, f"pairclean judge {run.path} --use-labels refits the clean probabilities with the labels")


def _serve(opened: Any, sample: Any, reviewer: str, port: int | None, no_open: bool) -> None:
    from pairclean.pairs import UserError

    try:
        from pairclean.review.page.app import serve
    except ModuleNotFoundError as missing:
        if missing.name not in ("starlette", "uvicorn"):
            raise
        raise UserError("the page needs further packages: pip install 'pairclean[review]'") from None
    from pairclean.review.page.session import Session

    def ready(address: str) -> None:
        import webbrowser

        typer.echo(f"The page is at {address} (Ctrl+C ends the review; every answer is kept)", err=True)
        if not no_open:
            webbrowser.open(address)

    serve(Session(opened, sample, reviewer), port=port, ready=ready)


def console_note(console: Console, sentence: str) -> None:
    if not console.quiet:
        typer.echo(sentence, err=True)


def _summary(found: Reviewed) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from pairclean.review.reviewed import NOTHING_TOLD

    from .text import counted, safe

    if found.mismatched is None:
        return Text(f"There is no estimate yet: {NOTHING_TOLD}.", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("share mismatched", "estimate", "95% interval", "labels"):
        table.add_column(head, justify="left" if head.startswith("share") else "right")
    rows: list[tuple[str, Estimate | None]] = [
        ("mismatched", found.mismatched),
        ("with `partly` counted as mismatched", found.at_least_partly),
        ("by the scores, corrected by the labels", found.prediction_powered),
        ("of the flagged", found.flagged),
        ("of the others (missed)", found.missed),
        ("of the unjudged", found.unjudged),
        *found.groups.items(),
        ("of the mismatched, flagged (recall)", found.found),
        ("of the new captions, right", found.rematched),
    ]
    for name, one in rows:
        if one is None:  # such as the unjudged, where there are none or none is labelled
            table.add_row(safe(name), "–", "–", "0")
        else:
            table.add_row(safe(name), f"{one.estimate:.1%}", f"{one.low:.1%} to {one.high:.1%}", f"{one.labels:,}")
    parts: list[RenderableType] = [Text(f"{counted(sum(found.labels.values()), 'labelled pair')}", style="bold"), table]
    if found.bounds is not None and found.labels["cannot_tell"]:
        low, high = found.bounds
        unsure = counted(found.labels["cannot_tell"], "pair")
        parts.append(Text(f"Nobody could tell for {unsure}: whatever they are, the rate is {low:.1%} to {high:.1%}."))
    if found.disagreement:
        parts.append(Text(found.disagreement, style="bold"))
    return Group(*parts)
