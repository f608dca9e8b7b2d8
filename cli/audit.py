"""`pairclean audit`: mismatch rates of a run and of its groups."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console, complain
from .options import PRINTING, RunAddress, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.review.audit import Audit

TOO_MANY = 3  # exit status of --fail-above
_SHOWN = 30  # groups
_FORMATS = (".csv", ".parquet", ".json")

By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        help="Group by a column of the source, by 'shard', by 'domain' (of the column 'url'), or by 'kind' or "
        "'picture_kind', which the judge found. Given twice, by each combination of the two.",
        metavar="COLUMN",
    ),
]
Worst = Annotated[
    int | None,
    typer.Option(
        "--worst",
        help="Show at most N slices whose mismatch rate far exceeds that of the rest, over all columns, kinds, and "
        "combinations of two.",
        metavar="N",
        min=1,
    ),
]
Against = Annotated[Path | None, typer.Option("--against", help="Compare with another run.", metavar="RUN2")]
FailAbove = Annotated[
    float | None,
    typer.Option(
        "--fail-above",
        help="Exit with status 3 if the estimated mismatch rate of all pairs is above P or cannot be estimated.",
        metavar="P",
        min=0.0,
        max=1.0,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write all groups to a .csv, .parquet or .json file.", metavar="FILE"),
]


@takes(*PRINTING)
def audit(
    run: RunAddress,
    console: Console,
    by: By = None,
    worst: Worst = None,
    against: Against = None,
    fail_above: FailAbove = None,
    output: Output = None,
) -> None:
    """Show how many pairs of RUN are mismatched, overall and by any column of the source."""
    from pairclean.pairs import UserError
    from pairclean.review.audit import audit as audit_run
    from pairclean.run import Run
    from pairclean.run.remote import open_run

    if output is not None and output.suffix.lower() not in _FORMATS:
        raise UserError(f"{output} has no known format: end its name in .csv, .parquet or .json")
    if worst is not None and (by or against is not None or output is not None):
        raise UserError("--worst looks at all columns of one run: leave out --by, --against and --output")
    if output is not None and not by:
        raise UserError("--output writes groups, and there are none: name a column to group by with --by")
    opened = open_run(run, whole=True)
    found = audit_run(opened, by or (), against=None if against is None else Run.open(against))
    if output is not None:
        _write(found, output)
    if worst is None:
        console.print(found.to_json(), lambda: _summary(found, output))
    else:
        from pairclean.review.columns import Columns
        from pairclean.review.slices import slices

        where = [one.to_json() for one in slices(Columns(opened), most=worst)]
        console.print({**found.to_json(), "worst": where}, lambda: _slices(found, where))
    rate = found.whole["estimate"]
    if fail_above is not None and (rate is None or rate > fail_above):
        if rate is None:
            complain("no rate", "the mismatch rate could not be estimated, so that --fail-above cannot be checked")
        else:
            complain(
                "too many mismatches", f"the estimated mismatch rate is {rate:.4g}, and --fail-above is {fail_above:g}"
            )
        raise typer.Exit(TOO_MANY)


def _write(found: Audit, path: Path) -> None:
    import json

    from pairclean.files import written_whole
    from pairclean.pairs import UserError

    assert found.groups is not None
    try:
        with written_whole(path) as file:
            if path.suffix.lower() == ".json":
                file.write(json.dumps(found.to_json(), indent=2, ensure_ascii=False).encode("utf-8", "replace"))
            elif path.suffix.lower() == ".csv":
                file.write(found.groups.to_csv(index=False).encode("utf-8", "replace"))
            else:
                import pyarrow.parquet as pq

                pq.write_table(found.to_table(), file)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another file") from None


def _summary(found: Audit, output: Path | None) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .text import safe

    parts: list[RenderableType] = [_headline(found.whole)]
    if found.groups is not None:
        parts += ["", _table(found)]
        more = len(found.groups) - _SHOWN
        if more > 0:
            where = f": all are in {safe(output)}" if output else "; --output FILE writes all of them"
            parts.append(Text(f"and {more:,} more{where}", style="dim"))
        if found.groups["small"].any():
            parts.append(Text("* fewer than 50 judged pairs: the rate is shrunk toward the overall rate", style="dim"))
    if output and found.groups is not None and len(found.groups) <= _SHOWN:
        parts.append(Text(f"written to {safe(output)}", style="dim"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _slices(found: Audit, where: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from .text import percent, safe

    if not where:
        none = "No part of the data has a mismatch rate that far exceeds that of the rest."
        return Padding(Group(_headline(found.whole), "", none), (1, 0, 0, 0))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("where", overflow="fold", min_width=20)
    for name in ("pairs", "rate", "interval", "the rest"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in where:
        name = " and ".join(f"{column} {value}" for column, value in row["where"].items())
        interval = _interval(row["low"], row["high"]).strip(" ()")
        table.add_row(Text(safe(name)), f"{row['pairs']:,}", percent(row["rate"]), interval, percent(row["rest"]))
    return Padding(Group(_headline(found.whole), "", table), (1, 0, 0, 0))


def _headline(whole: dict[str, Any]) -> Any:
    from rich.text import Text

    from .text import counted, percent, safe

    text = Text.assemble((counted(whole["pairs"], "pair"), "bold"))
    if whole["estimate"] is None:
        text.append(", of which none could be judged")
    else:
        text.append(", of which about ").append(percent(whole["estimate"]), style="bold").append(" are mismatched")
        text.append(_interval(whole["low"], whole["high"]), style="dim")
    if "human" in whole:
        human = whole["human"]
        text.append("; by the ").append(counted(human["labels"], "label")).append(" of its review ")
        text.append(percent(human["estimate"]), style="bold").append(
            _interval(human["low"], human["high"]), style="dim"
        )
    if whole["unreadable"]:
        text.append(f"; {whole['unreadable']:,} could not be read", style="dim")
    if "against" in whole and whole["against"]["estimate"] is not None:
        there = whole["against"]
        text.append(f"\ncompared with {counted(there['pairs'], 'pair')} at {percent(there['estimate'])}")
        text.append(_interval(there["low"], there["high"]), style="dim")
        if whole["difference"]["estimate"] is not None:
            text.append(f": {_points(whole['difference']['estimate'])} points")
            text.append(_interval(whole["difference"]["low"], whole["difference"]["high"], _points), style="dim")
    for sentence in (whole.get("no_human"), whole.get("human", {}).get("disagreement")):
        if sentence is not None:
            text.append(f"\n{safe(sentence)}", style="bold")
    return text


def _table(found: Audit) -> Any:
    from rich.table import Table
    from rich.text import Text

    from .text import percent, safe

    assert found.groups is not None
    compared = "difference" in found.groups
    rows = found.groups.head(_SHOWN).to_dict("records")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in found.by:
        table.add_column(Text(safe(name)), overflow="fold", min_width=min(12, len(name)))
    rest = [name for name in ("unjudged", "unreadable") if any(row[name] for row in rows)]
    columns = ["pairs", *rest, "mismatched", "rate"] + (["against", "difference", ""] if compared else ["interval"])
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        names = [Text(safe("–" if row[name] is None or row[name] != row[name] else row[name])) for name in found.by]
        known = _number(row["rate"])
        cells = [f"{row['pairs']:,}", *(f"{row[name]:,}" for name in rest)]
        cells += [
            "–" if known is None else f"{row['mismatched']:,.0f}",
            percent(known) + ("*" if row["small"] else " "),
        ]
        if not compared:
            cells.append("" if known is None else _interval(row["low"], row["high"]).strip(" ()"))
        else:
            change = _number(row["difference"])
            cells += [percent(_number(row["rate_against"])), "–" if change is None else _points(change)]
            cells.append("" if change is None else _interval(row["difference_low"], row["difference_high"], _points))
        table.add_row(*names, *cells)
    return table


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _interval(low: float | None, high: float | None, form: Any = None) -> str:
    from .text import percent

    form = form or percent
    return "" if low is None or high is None else f" ({form(low)} to {form(high)})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
