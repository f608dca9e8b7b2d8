"""The stages of `pairclean clean`, one command each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pairclean.options import ARRAY, EXECUTION, STAGES

from .console import Console
from .options import PRINTING, RunAddress, Shards, takes
from .text import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.execution import Execution


@takes(*STAGES["embed"], *EXECUTION, *ARRAY, *PRINTING)
def embed(shards: Shards, run: RunAddress, options: dict[str, Any], console: Console) -> None:
    """Turn images and captions into vectors. Makes RUN, or adds to it the shards that are new in SHARDS.

    With --shard-index, one of several jobs that share the work, on one machine or on several that share a disk.
    """
    from pairclean import pipeline

    with console.execution() as execution:
        done = pipeline.embed(shards, run, execution=execution, **options)
    _print_done(run, "embed", done, console, execution)


@takes(*STAGES["align"], "device", *PRINTING, as_before=True)
def align(run: RunAddress, options: dict[str, Any], console: Console) -> None:
    """Learn a common space for images and captions, from the noisy pairs themselves.

    An option that is not given stays as it was in RUN.
    """
    _redo("align", run, options, console)


@takes(*STAGES["judge"], *PRINTING, as_before=True)
def judge(run: RunAddress, options: dict[str, Any], console: Console) -> None:
    """Score every pair, and turn the scores into clean probabilities and a mismatch rate.

    An option that is not given stays as it was in RUN.
    """
    _redo("judge", run, options, console)


@takes(*STAGES["rematch"], "repair", "device", *PRINTING, as_before=True)
def rematch(run: RunAddress, options: dict[str, Any], console: Console) -> None:
    """Flag mismatched pairs, and find the caption that does belong to each flagged image.

    An option that is not given stays as it was in RUN. With --repair, learning and judging are repeated too.
    """
    _redo("rematch", run, options, console)


@takes(*STAGES["export"], "engine", "ray_address", *ARRAY, *PRINTING, as_before=True)
def export(run: RunAddress, options: dict[str, Any], console: Console) -> None:
    """Write a verdict for every pair, and the cleaned data.

    An option that is not given stays as it was in RUN. With --shard-index, one of several jobs that share the work.
    """
    _redo("export", run, options, console)


@takes(*PRINTING)
def report(run: RunAddress, console: Console) -> None:
    """Write report.json and report.html, and print a summary of them."""
    from pairclean.pipeline import redo
    from pairclean.run.remote import open_run

    opened = open_run(run)
    with console.execution() as execution:
        redo(opened, "report", execution)
    from .summary import report_summary

    console.print(opened.report, lambda: report_summary(opened.report, opened.name))


def _redo(stage: str, run: str, options: dict[str, Any], console: Console) -> None:
    from pairclean.pipeline import redo
    from pairclean.run.remote import open_run

    opened = open_run(run)
    with console.execution() as execution:
        done = redo(opened, stage, execution, **options)
    _print_done(run, stage, done, console, execution)


def _print_done(run: str, stage: str, done: list[str], console: Console, execution: Execution) -> None:
    after = f", and after it {', '.join(done[1:])}" if done[1:] else ""
    sentence = f"{done[0]} is done{after}" if done else f"{stage} is up to date"
    if done and execution.is_array_job:
        sentence = f"job {execution.shard_index} of {execution.num_shards} has finished its parts of {stage}"

    def summary() -> RenderableType:
        from rich.text import Text

        return Text(safe(f"{sentence}: {run}"))

    from pairclean.sources.storage import absolute

    console.print({"run": absolute(run), "done": done}, summary)
