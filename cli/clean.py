"""`pairclean clean`, the whole job, and `pairclean apply`, the same for other data with what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairclean.options import COLUMNS, EXECUTING, EXECUTION, STAGES, overridden

from .console import Console
from .options import PRINTING, RunAddress, RunPath, Shards, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

_LONGEST = 120  # characters of a caption

Recipe = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Read options from a TOML file, or from the manifest.json of a run; options given on the command line "
        "override them.",
        metavar="FILE",
        rich_help_panel=EXECUTING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be read and written, and about how long it would take, and stop.",
        rich_help_panel=EXECUTING,
    ),
]
Out = Annotated[
    str,
    typer.Argument(metavar="OUT", help="The run directory for the other data, or its address.", show_default=False),
]


@takes(*(name for names in STAGES.values() for name in names if name != "use_labels"), *EXECUTION, *PRINTING)
def clean(
    shards: Shards,
    run: RunAddress,
    options: dict[str, Any],
    console: Console,
    config: Recipe = None,
    dry_run: DryRun = False,
) -> None:
    """Find the mismatched pairs of SHARDS, rematch them, and write the cleaned data and a report to RUN.

    If RUN exists already and was made with the same options, it is resumed.
    """
    from pairclean import pipeline

    recipe = {}
    if config is not None:
        from pairclean.config import read_recipe

        recipe = read_recipe(config)
    how = {name: recipe.pop(name) for name in EXECUTION if name in recipe}
    options = overridden(recipe, options)
    with console.execution(**how) as execution:
        if dry_run:
            found = pipeline.preview(shards, run, execution=execution, measure=True, **options)
        else:
            made = pipeline.clean(shards, run, execution=execution, **options)
    if dry_run:
        console.print(found, lambda: _preview(found))
    else:
        from .summary import report_summary

        console.print(made.report, lambda: report_summary(made.report, made.name))


@takes(*COLUMNS, "limit", *EXECUTION, *PRINTING)
def apply(run: RunPath, shards: Shards, out: Out, options: dict[str, Any], console: Console) -> None:
    """Judge other data with what RUN has learned, and write the result to OUT."""
    from pairclean import pipeline

    with console.execution() as execution:
        made = pipeline.apply(run, shards, out, execution=execution, **options)
    from .summary import report_summary

    console.print(made.report, lambda: report_summary(made.report, made.name))


def _preview(found: Mapping[str, Any]) -> RenderableType:
    from .summary import facts_table
    from .text import duration, shortened, size

    speed, seconds = found["pairs_per_second"], found["seconds"]
    embed = f"not measured: {found['not_measured']}"
    if speed:
        embed = f"embed {duration(seconds['embed'])}, at {speed:,.0f} pairs/s as measured here"
    later = ", ".join(f"{stage} {duration(time)}" for stage, time in seconds.items() if stage != "embed")
    roles = {**found["roles"], "id": found["roles"]["id"] or "<shard>:<row>"}
    shown = ", ".join(f"{role.replace('_', ' ')} {name}" for role, name in roles.items() if name)
    weights = f" ({found['pretrained']})" if found["pretrained"] else ""
    rows = [
        ("source", f"{found['source']} ({found['layout']})"),
        ("columns", ", ".join(found["columns"])),
        ("roles", shown),
        ("would read", f"{found['shards']:,} shards, {found['rows']:,} rows, {found['pairs']:,} pairs"),
        ("first caption", shortened(found["first_caption"], _LONGEST)),
        *(("broken", f"{path} {why}") for path, why in found["broken"].items()),
        *(("note", f"{path} {note}") for path, note in found["notes"].items()),
        ("model", f"{found['model']}{weights} on {', '.join(found['devices'])}"),
        ("embeddings", size(found["embedding_bytes"])),
        ("rematching", f"about {size(found['rematch_bytes'])} while it works, if half of the pairs may be mismatched"),
        ("cleaned data", f"at most {size(found['cleaned_bytes_at_most'])}"),
        ("free disk", size(found["free_bytes"])),
        ("time", embed),
        ("", f"{later}: an estimate from measurements on two cores"),
    ]
    return facts_table(*rows)
