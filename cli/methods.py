"""`pairclean methods`: the ways to learn, and what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import options as o

if TYPE_CHECKING:
    from rich.console import RenderableType

DATA = (
    "fashion: 4,800 product photos with hog-tfidf; fashion_unseen: 1,900 others with a small CLIP. 'drcl' saw the "
    "product types of the pictures, 'drcl, both' those of the captions too."
)


def methods(json: o.Json = False) -> None:
    """List the methods: what each needs, what it costs, when to take it, and how well it did."""
    from dataclasses import asdict

    from pairclean.methods import AUTO, METHODS, measured

    from .main import _print

    found = {"methods": [asdict(about) for about in METHODS], "auto": AUTO, "measured": measured()}
    _print(found, lambda: _summary(found), json, quiet=False)


def _summary(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    methods = Table(box=None, padding=(0, 2, 1, 0))
    for title in ("method", "learns", "needs", "cost", "take it for"):
        methods.add_column(title, header_style="bold", style="cyan" if title == "method" else "")
    for about in found["methods"]:
        methods.add_row(*about.values())
    parts: list[RenderableType] = [methods, Text(found["auto"])]
    if found["measured"]:
        parts += ["", _measured(found["measured"])]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _measured(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """AUROC of telling planted mismatches by the method's own scores: a row a data set and method, a column a noise."""
    from rich.table import Table

    noises = list(dict.fromkeys(row["noise"] for row in rows))
    title = "How well planted mismatches are told (AUROC, 1 is perfect); kind and share of what was planted"
    seeds = max(row["seeds"] for row in rows)
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    table.caption, table.caption_justify = (
        f"{DATA} Medians of {seeds} seeds; s: seconds of learning, on one core.",
        "left",
    )
    for name in ("data", "method"):
        table.add_column(name, no_wrap=True)
    for name in (*(noise.replace("_", " ") for noise in noises), "s"):
        table.add_column(name, justify="right")
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        here = {row["noise"]: row for row in rows if (row["data"], row["method"]) == (data, method)}
        seconds = sorted(row["seconds"] for row in here.values())[len(here) // 2]
        cells = [f"{here[noise]['auroc']:.3f}" if noise in here else "–" for noise in noises]
        table.add_row(data, method, *cells, f"{seconds:.0f}")
    return table
