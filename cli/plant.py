"""`pairclean plant`: a copy of the data with known mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairclean.options import COLUMNS

from .console import Console
from .options import PRINTING, Rate, Shards, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.assess.plant import Planted

Copy = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder for the copy; it must be new or empty.", show_default=False)
]
Kind = Annotated[
    str,
    typer.Option(
        "--kind",
        help="How captions move: random; within:COLUMN, between pairs with the same value of a column; or partial, "
        "half of each caption.",
        metavar="KIND",
    ),
]
Orphans = Annotated[
    float,
    typer.Option("--orphans", help="Fraction of the moved pairs to leave out, with their captions.", metavar="P"),
]


@takes(*COLUMNS, "embeddings", "seed", *PRINTING)
def plant(
    shards: Shards,
    out: Copy,
    rate: Rate,
    options: dict[str, Any],
    console: Console,
    kind: Kind = "random",
    orphans: Orphans = 0.0,
) -> None:
    """Copy SHARDS to OUT with known mismatches, and write the truth to OUT.truth.parquet.

    Clean the copy, then compare: pairclean evaluate RUN --truth OUT.truth.parquet
    """
    import pairclean

    with console.execution() as execution:
        planted = pairclean.plant(shards, out, rate=rate, kind=kind, orphans=orphans, execution=execution, **options)
    content = {**vars(planted), "shards": str(planted.shards), "truth": str(planted.truth)}
    console.print(content, lambda: _summary(planted))


def _summary(planted: Planted) -> RenderableType:
    from .summary import facts_table
    from .text import percent

    moved = f"{planted.moved:,} ({percent(planted.moved / max(1, planted.pairs))}) with the caption of another"
    rows: list[tuple[str, object]] = [("pairs", f"{planted.pairs:,}"), ("mismatched", moved)]
    if planted.left_out:
        rows.append(("left out", f"{planted.left_out:,}"))
    if planted.left_alone:
        rows.append(("unchanged", f"{planted.left_alone:,} whose captions cannot be split"))
    rows += [("shards", planted.shards), ("truth", planted.truth)]
    if planted.image_root:
        rows.append(("images", f"not copied: read the shards with --image-root {planted.image_root}"))
    return facts_table(*rows)
