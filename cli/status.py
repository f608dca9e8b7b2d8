"""`pairclean status`: how far a run is, also while processes work on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .console import Console
from .options import PRINTING, RunAddress, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.run.status import Parts, StageStatus

_COLOURS = {"done": "green", "running": "cyan", "incomplete": "yellow", "missing": "dim", "stale": "yellow"}


@takes(*PRINTING)
def status(run: RunAddress, console: Console) -> None:
    """Show how far a run is: its stages, and of those that several jobs share, the parts, the speed and the time left.

    It may be called while other processes work on the run, and changes nothing.
    """
    from dataclasses import asdict

    from pairclean.run.remote import open_run
    from pairclean.run.status import status
    from pairclean.sources.storage import absolute

    opened = open_run(run)
    found = status(opened)
    content: dict[str, Any] = {"run": absolute(run), "source": opened.manifest["source"]}
    console.print({**content, "stages": [asdict(one) for one in found]}, lambda: _summary(found))


def _summary(stages: Sequence[StageStatus]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from .text import duration

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for one in stages:
        took = "" if one.seconds is None else duration(one.seconds)
        table.add_row(one.stage, Text(one.state, style=_COLOURS[one.state]), took, _of_parts(one.parts))
    return table


def _of_parts(parts: Parts | None) -> str:
    from .text import duration

    if parts is None:
        return ""
    told = [f"{parts.done:,} of {parts.total:,} parts"]
    told += [f"{parts.running:,} running"] if parts.running else []
    told += [f"{parts.missing:,} missing"] if parts.missing else []
    told += [f"{parts.pairs_per_second:,.0f} pairs/s"] if parts.pairs_per_second else []
    told += [f"about {duration(parts.seconds_left)} left"] if parts.seconds_left is not None else []
    return ", ".join(told)
