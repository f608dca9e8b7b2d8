"""`pairclean show`: one pair, and why it got its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console
from .options import PRINTING, RunAddress, takes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from pairclean.review.story import Near, Story

_LONGEST = 300  # characters of a caption

PairId = Annotated[
    str, typer.Argument(metavar="PAIR_ID", help="The pair, by its `pair_id` in RUN/verdicts.", show_default=False)
]
Open = Annotated[bool, typer.Option("--open", help="Write its image to the current directory, and print the path.")]


@takes(*PRINTING)
def show(run: RunAddress, pair_id: PairId, console: Console, open: Open = False) -> None:
    """Show one pair: its caption, its scores, the reason for its verdict, and the pairs most similar to it."""
    from pairclean.review.story import story, write_picture
    from pairclean.run.remote import open_run

    opened = open_run(run, whole=True)
    found = story(opened, pair_id)
    picture = str(write_picture(opened, found.verdict, Path.cwd())) if open else None
    content = {**found.to_json(), **({"picture": picture} if open else {})}
    console.print(content, lambda: _summary(found, picture))


def _summary(found: Story, picture: str | None) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from .summary import VERDICTS, facts_table
    from .text import counted, safe, shortened

    verdict = found.verdict
    colour = VERDICTS[verdict["verdict"]][0]
    where = f"{found.source or verdict['shard']}, row {verdict['row']:,}"
    if verdict["caption_index"]:
        where += f", caption {verdict['caption_index']:,}"
    wrong = verdict["mismatched_text"]
    rows: list[tuple[str, object]] = [("caption", marked(shortened(found.caption, _LONGEST), wrong))]
    if wrong is not None:
        rows.append(("words that fit least", shortened(wrong, _LONGEST)))
    if verdict["rematch_pair_id"] is not None:
        rows += [
            ("rematched to", shortened(verdict["rematch_caption"], _LONGEST)),
            ("from pair", verdict["rematch_pair_id"]),
        ]
        rows.append(("probability", _number(verdict["rematch_probability"])))
    if verdict["noise_kind"] is not None:
        rows.append(("kind of mismatch", verdict["noise_kind"]))
    if verdict["reason_code"] is not None:
        rows.append(("reason", verdict["reason_code"]))
    rows.append(("source", where))
    # A pair that was repaired was judged with the caption that it got back.
    new = " of the new pair" if verdict["rematch_pair_id"] and verdict["reason_code"] == "shifted" else ""
    scores = [("clean probability", "clean_probability"), (f"similarity{new}", "similarity")]
    for name, key in (*scores, (f"aligned similarity{new}", "aligned_similarity")):
        if verdict[key] is not None:
            rows.append((name, _number(verdict[key])))
    if found.caption_rank is not None:
        rows.append(("rank of its caption", f"number {found.caption_rank:,} of {found.caption_count:,} for this image"))
    if picture:
        rows.append(("image written to", picture))
    head = Text.assemble((safe(verdict["pair_id"]), "bold"), "  ", (verdict["verdict"], f"bold {colour}"))
    parts: list[RenderableType] = [head, Text(safe(found.why)), "", facts_table(*rows)]
    for title, near in (
        ("Captions most similar to its image", found.captions),
        ("Pairs whose image is most similar to its caption", found.images),
    ):
        if near:
            parts += ["", Text(title, style="bold"), _table(near)]
    if found.captions:
        parts.append(Text(f"(among {counted(found.caption_count or 0, 'distinct caption')})", style="dim"))
    return Padding(Group(*parts), (1, 0, 0, 0))


def marked(caption: str, wrong: str | None) -> Text:
    """A caption in which the words that do not fit are underlined."""
    from rich.text import Text

    from .text import safe

    start = -1 if wrong is None else caption.find(wrong)
    if wrong is None or start < 0:
        return Text(safe(caption))
    before, after = caption[:start], caption[start + len(wrong) :]
    return Text.assemble(safe(before), (safe(wrong), "underline"), safe(after))


def _table(near: Sequence[Near]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from .text import safe, shortened

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold", max_width=28)
    table.add_column(overflow="fold")
    for one in near:
        table.add_row(_number(one.similarity), Text(safe(one.pair_id)), Text(safe(shortened(one.caption, _LONGEST))))
    return table


def _number(value: float) -> str:
    return "<0.001" if 0 < value < 0.0005 else ">0.999" if 0.9995 <= value < 1 else f"{value:.3f}"
