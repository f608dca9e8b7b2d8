"""`pairclean show`: one pair's story."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.review.story import Near, Story

_LONGEST = 300  # characters of a caption

PairId = Annotated[str, typer.Argument(metavar="PAIR_ID", help="The pair, as `pair_id` in verdicts/.")]
Open = Annotated[bool, typer.Option("--open", help="Write its image to this directory, and print where.")]


def show(run: o.RunPath, pair_id: PairId, open: Open = False, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Tell the story of one pair: its caption, its scores, why it got its verdict, and what is like it."""
    from pairclean.review.story import story, write_picture
    from pairclean.run import Run

    from .main import _print

    opened = Run.open(run)
    found = story(opened, pair_id)
    picture = str(write_picture(opened, found.verdict, Path.cwd())) if open else None
    content = {**found.to_json(), **({"picture": picture} if open else {})}
    _print(content, lambda: _summary(found, picture), json, quiet)


def _summary(found: Story, picture: str | None) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .summary import _MEANING, _pairs_of
    from .text import counted, safe

    verdict = found.verdict
    colour = _MEANING[verdict["verdict"]][0]
    where = f"{found.source or verdict['shard']}, row {verdict['row']:,}"
    if verdict["caption_index"]:
        where += f", caption {verdict['caption_index']:,}"
    rows: list[tuple[str, object]] = [("caption", _short(found.caption))]
    if verdict["rematch_pair_id"] is not None:
        rows += [("rematched to", _short(verdict["rematch_caption"])), ("from pair", verdict["rematch_pair_id"])]
        rows.append(("sure of it", _number(verdict["rematch_probability"])))
    if verdict["noise_kind"] is not None:
        rows.append(("kind of mismatch", verdict["noise_kind"]))
    rows.append(("from", where))
    scores = [("clean probability", "clean_probability"), ("similarity", "similarity")]
    for name, key in (*scores, ("aligned similarity", "aligned_similarity")):
        if verdict[key] is not None:
            rows.append((name, _number(verdict[key])))
    if found.caption_rank is not None:
        rows.append(("its caption is", f"number {found.caption_rank:,} of {found.caption_count:,} for this image"))
    if picture:
        rows.append(("image written to", picture))
    head = Text.assemble((safe(verdict["pair_id"]), "bold"), "  ", (verdict["verdict"], f"bold {colour}"))
    parts: list[RenderableType] = [head, Text(safe(found.why)), "", _pairs_of(*rows)]
    for title, near in (("Captions nearest to its image", found.captions), ("Nearest to its caption", found.images)):
        if near:
            parts += ["", Text(title, style="bold"), _table(near)]
    if found.captions:
        parts.append(Text(f"(of the {counted(found.caption_count or 0, 'different caption')}, each once)", style="dim"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _table(near: Sequence[Near]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from .text import safe

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold", max_width=28)
    table.add_column(overflow="fold")
    for one in near:
        table.add_row(_number(one.similarity), Text(safe(one.pair_id)), Text(safe(_short(one.caption))))
    return table


def _short(caption: str | None) -> str:
    if caption is None:
        return "none"
    return caption if len(caption) <= _LONGEST else caption[: _LONGEST - 1] + "…"


def _number(value: float) -> str:
    return "<0.001" if 0 < value < 0.0005 else ">0.999" if 0.9995 <= value < 1 else f"{value:.3f}"
