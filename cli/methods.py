"""`pairclean methods`: the methods of learning an alignment, and how well each did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .console import Console
from .options import takes

if TYPE_CHECKING:
    from rich.console import RenderableType

DATA = (
    "fashion: 4,800 product photos with hog-tfidf; fashion_unseen: 1,900 others with a small CLIP. 'drcl' learned from "
    "the product types of the images, 'drcl, both' from those of the captions too."
)


@takes("json")
def methods(console: Console) -> None:
    """List the methods: what each learns, needs and costs, when to use it, and how well it did."""
    from dataclasses import asdict

    from pairclean.methods import AUTO, METHODS, measured

    found = {"methods": [asdict(method) for method in METHODS.values()], "auto": AUTO, "measured": measured()}
    console.print(found, lambda: _summary(found))


def _summary(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    methods = Table(box=None, padding=(0, 2, 1, 0))
    columns = {"name": "method", "learns": "learns", "needs": "needs", "cost": "cost", "use_for": "use it for"}
    for key, title in columns.items():
        methods.add_column(title, header_style="bold", style="cyan" if key == "name" else "")
    for method in found["methods"]:
        methods.add_row(*(method[key] for key in columns))
    parts: list[RenderableType] = [methods, Text(found["auto"])]
    if found["measured"]:
        parts += ["", _measured(found["measured"])]
    return Padding(Group(*parts), (1, 0, 0, 0))


def _measured(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """AUROC of the method's own scores: one row per data set and method, one column per kind of planted noise."""
    from rich.table import Table

    noises = list(dict.fromkeys(row["noise"] for row in rows))
    title = "How well planted mismatches are recognised (AUROC, 1 is perfect), by their kind and rate"
    seeds = max(row["seeds"] for row in rows)
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    table.caption, table.caption_justify = (
        f"{DATA} Medians of {seeds} seeds; s: seconds of learning on one core.",
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
