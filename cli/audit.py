"""`pairclean audit`: mismatch rates in a terminal, in a file, and as an exit status."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.review.audit import Audit

TOO_MANY = 3  # exit status
_SHOWN = 30
_FORMATS = (".csv", ".parquet", ".json")

By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        help="Column of the source, 'shard', or 'domain' (taken from a column 'url'). Given twice: the two crossed.",
        metavar="COLUMN",
        show_default=False,
    ),
]
Against = Annotated[
    Path | None, typer.Option("--against", help="Another run, to compare with.", metavar="RUN2", show_default=False)
]
FailAbove = Annotated[
    float | None,
    typer.Option(
        "--fail-above",
        help="Exit with status 3 if the estimated mismatch rate of the whole is above this, or there is no estimate.",
        metavar="P",
        min=0.0,
        max=1.0,
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File for all groups: .csv, .parquet or .json.", metavar="FILE", show_default=False
    ),
]


def audit(
    run: o.RunPath,
    by: By = None,
    against: Against = None,
    fail_above: FailAbove = None,
    output: Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show how many pairs of RUN are mismatched, in all and by any column of the source."""
    from pairclean.pairs import UserError
    from pairclean.review.audit import audit as audit_run
    from pairclean.run import Run

    from .main import _complain, _print

    if output is not None and output.suffix.lower() not in _FORMATS:
        raise UserError(f"{output} has no known ending: end it in .csv, .parquet or .json")
    if output is not None and not by:
        raise UserError("--output writes groups: name a column to group by with --by")
    found = audit_run(Run.open(run), by or (), against=None if against is None else Run.open(against))
    if output is not None:
        _write(found, output)
    _print(found.to_json(), lambda: _summary(found, output), json, quiet)
    rate = found.whole["estimate"]
    if fail_above is not None and (rate is None or rate > fail_above):
        what = "no mismatch rate could be estimated" if rate is None else f"the estimated mismatch rate is {rate:.4g}"
        _complain("too many mismatches" if rate is not None else "no rate", f"{what}; at most {fail_above:g} was asked")
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
        raise UserError(f"cannot write {path}: {error.strerror}") from None


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
            where = f": all are in {safe(output)}" if output else "; --output FILE writes all"
            parts.append(Text(f"and {more:,} more{where}", style="dim"))
        if found.groups["small"].any():
            parts.append(Text("* fewer than 50 judged pairs: drawn toward the rate of the whole", style="dim"))
    if output and found.groups is not None and len(found.groups) <= _SHOWN:
        parts.append(Text(f"written to {safe(output)}", style="dim"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _headline(whole: dict[str, Any]) -> Any:
    from rich.text import Text

    from .text import counted, percent

    text = Text.assemble((counted(whole["pairs"], "pair"), "bold"))
    if whole["estimate"] is None:
        text.append(", of which none could be judged")
    else:
        text.append(", of which about ").append(percent(whole["estimate"]), style="bold").append(" are mismatched")
        text.append(_interval(whole["low"], whole["high"]), style="dim")
    if whole["unreadable"]:
        text.append(f"; {whole['unreadable']:,} could not be read", style="dim")
    if "against" in whole and whole["against"]["estimate"] is not None:
        there = whole["against"]
        text.append(f"\nagainst {counted(there['pairs'], 'pair')} with {percent(there['estimate'])}")
        text.append(_interval(there["low"], there["high"]), style="dim")
        if whole["difference"]["estimate"] is not None:
            text.append(f": {_points(whole['difference']['estimate'])} points")
            text.append(_interval(whole["difference"]["low"], whole["difference"]["high"], _points), style="dim")
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
