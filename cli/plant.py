"""`pairclean plant`: a copy of the data with known mismatches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairclean.options import HELP

from . import options as o

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.assess.plant import Planted

Copy = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the copy, new or empty.", show_default=False)]
Rate = Annotated[float, typer.Option("--rate", help="Share of the captions to move.", metavar="P", show_default=False)]
Kind = Annotated[
    str,
    typer.Option(
        "--kind",
        help="random; within:COLUMN, between equal values of a column; or partial, half of each caption.",
        metavar="KIND",
    ),
]
Orphans = Annotated[
    float, typer.Option("--orphans", help="Share of the moved pairs to leave out, with their captions.", metavar="P")
]
Seed = Annotated[int, typer.Option("--seed", help=HELP["seed"], metavar="N")]


def plant(
    shards: o.Shards,
    out: Copy,
    rate: Rate,
    kind: Kind = "random",
    orphans: Orphans = 0.0,
    seed: Seed = 0,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    embeddings: o.EmbeddingsOption = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Copy SHARDS to OUT with known mismatches, and write down the truth to OUT.truth.parquet.

    Clean the copy, then compare: pairclean evaluate RUN --truth OUT.truth.parquet
    """

    import pairclean

    from .main import _execution, _print

    read = {"image_column": image_column, "caption_column": caption_column, "id_column": id_column}
    read |= {"image_root": image_root, "embeddings": embeddings}
    with _execution({}, quiet) as execution:
        planted = pairclean.plant(
            shards, out, rate=rate, kind=kind, orphans=orphans, seed=seed, execution=execution, **o.given(read)
        )
    content = {**vars(planted), "shards": str(planted.shards), "truth": str(planted.truth)}
    _print(content, lambda: _summary(planted), json, quiet)


def _summary(planted: Planted) -> RenderableType:
    from .summary import _pairs_of
    from .text import percent

    moved = f"{planted.moved:,} ({percent(planted.moved / max(1, planted.pairs))}) with a caption that is not theirs"
    rows: list[tuple[str, object]] = [("pairs", f"{planted.pairs:,}"), ("of them", moved)]
    if planted.left_out:
        rows.append(("left out", f"{planted.left_out:,}"))
    if planted.left_alone:
        rows.append(("left alone", f"{planted.left_alone:,} whose captions cannot be split"))
    rows += [("shards", planted.shards), ("truth", planted.truth)]
    if planted.image_root:
        rows.append(("images", f"stay where they are: read the shards with --image-root {planted.image_root}"))
    return _pairs_of(*rows)
