"""The command line: it parses, calls the library, and prints."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pairclean import __version__

from . import options as o
from .audit import audit
from .evaluate import evaluate, selfcheck
from .methods import methods
from .plant import plant
from .show import show

if TYPE_CHECKING:
    from pairclean.run import Execution, Run

_STAGES = "The stages of clean, one by one"
_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Turns what a user can mend into a sentence and a status; what remains is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _complain("interrupted", "run the same command again to go on")
            raise typer.Exit(_INTERRUPTED) from None
        except Exception as error:
            pairs = sys.modules.get("pairclean.pairs")  # not loaded, it cannot have raised anything
            if pairs is None or not isinstance(error, pairs.UserError):
                raise
            _complain("error", str(error))
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    name="pairclean",
    help="Find the mismatched pairs in image-text data, and the caption that does belong to each picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The `pairclean` command."""
    # Threads that spin while they wait for one another make learning four times slower as soon as another process wants
    # a core too; read when torch is imported, so it has to be said before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character gets it spelled out
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # threads that still learn or decode would be waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)
        raise


def _complain(what: str, sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from .text import safe

    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble((f"{what}: ", "bold red"), safe(sentence)), soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pairclean {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def clean(
    shards: o.Shards,
    run: o.RunPath,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    limit: o.Limit = None,
    embeddings: o.EmbeddingsOption = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    dtype: o.DtypeOption = None,
    exact_preprocessing: o.ExactPreprocessing = None,
    method: o.MethodOption = None,
    label_column: o.LabelColumn = None,
    image_label_column: o.ImageLabelColumn = None,
    caption_label_column: o.CaptionLabelColumn = None,
    seed: o.Seed = None,
    score: o.ScoreOption = None,
    calibration: o.CalibrationOption = None,
    flag_below: o.FlagBelow = None,
    keep_fraction: o.KeepFraction = None,
    min_precision: o.MinPrecision = None,
    capacity: o.Capacity = None,
    pool: o.PoolOption = None,
    to: o.To = None,
    config: o.Recipe = None,
    device: o.Device = None,
    workers: o.Workers = None,
    strict: o.Strict = None,
    force: o.Force = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Find the mismatched pairs of SHARDS, rematch them, and write cleaned data and a report to RUN.

    If RUN is there already and was asked for the same, it is gone on with.
    """
    given = o.given({k: v for k, v in locals().items() if k in o.HELP})
    from pairclean import pipeline

    if config is not None:
        from pairclean.config import read_recipe

        given = {**read_recipe(config), **given}
    asked, how = o.split(given)
    with _execution(how, quiet) as execution:
        if dry_run:
            found = pipeline.preview(shards, run, execution=execution, **asked)
        else:
            made = pipeline.clean(shards, run, execution=execution, **asked)
    if dry_run:
        from .summary import preview_summary

        _print(found, lambda: preview_summary(found), json, quiet)
    else:
        _print_report(made, json, quiet)


@app.command(rich_help_panel=_STAGES)
def embed(
    shards: o.Shards,
    run: o.RunPath,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    limit: o.Limit = None,
    embeddings: o.EmbeddingsOption = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    dtype: o.DtypeOption = None,
    exact_preprocessing: o.ExactPreprocessing = None,
    device: o.Device = None,
    workers: o.Workers = None,
    strict: o.Strict = None,
    force: o.Force = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Turn pictures and captions into vectors; makes RUN, or adds what is new in SHARDS."""
    asked, how = o.split(o.given({k: v for k, v in locals().items() if k in o.HELP}))
    from pairclean import pipeline

    with _execution(how, quiet) as execution:
        done = pipeline.embed(shards, run, execution=execution, **asked)
    _print_done(run, "embed", done, json, quiet)


@app.command(rich_help_panel=_STAGES)
def align(
    run: o.RunPath,
    method: o.MethodOption = None,
    label_column: o.LabelColumn = None,
    image_label_column: o.ImageLabelColumn = None,
    caption_label_column: o.CaptionLabelColumn = None,
    seed: o.Seed = None,
    device: o.Device = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Learn a common space from the noisy pairs themselves."""
    given = o.given({k: v for k, v in locals().items() if k in o.HELP})
    _redo("align", run, given, json, quiet)


@app.command(rich_help_panel=_STAGES)
def judge(
    run: o.RunPath,
    score: o.ScoreOption = None,
    calibration: o.CalibrationOption = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score every pair, and turn scores into probabilities and a mismatch rate."""
    _redo("judge", run, o.given({"score": score, "calibration": calibration}), json, quiet)


@app.command(rich_help_panel=_STAGES)
def rematch(
    run: o.RunPath,
    flag_below: o.FlagBelow = None,
    keep_fraction: o.KeepFraction = None,
    min_precision: o.MinPrecision = None,
    capacity: o.Capacity = None,
    pool: o.PoolOption = None,
    device: o.Device = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Flag pairs, and find the caption that does belong to each flagged picture."""
    given = o.given({k: v for k, v in locals().items() if k in o.HELP})
    _redo("rematch", run, given, json, quiet)


@app.command(rich_help_panel=_STAGES)
def export(run: o.RunPath, to: o.To = None, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Write a verdict for every pair, and the cleaned data."""
    _redo("export", run, o.given({"to": to}), json, quiet)


@app.command(rich_help_panel=_STAGES)
def report(run: o.RunPath, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Write report.json and report.html, and show what they say."""
    _redo("report", run, {}, json, quiet)


@app.command()
def apply(
    run: o.RunPath,
    shards: o.Shards,
    out: o.Out,
    image_column: o.ImageColumn = None,
    caption_column: o.CaptionColumn = None,
    id_column: o.IdColumn = None,
    image_root: o.ImageRoot = None,
    limit: o.Limit = None,
    device: o.Device = None,
    workers: o.Workers = None,
    strict: o.Strict = None,
    force: o.Force = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge other data with what RUN has learned, and write the result to OUT."""
    asked, how = o.split(o.given({k: v for k, v in locals().items() if k in o.HELP}))
    from pairclean import pipeline

    with _execution(how, quiet) as execution:
        made = pipeline.apply(run, shards, out, execution=execution, **asked)
    _print_report(made, json, quiet)


@app.command()
def demo(
    folder: o.Folder,
    pairs: o.Pairs = 4000,
    rate: o.Rate = 0.4,
    seed: o.DemoSeed = 0,
    device: o.Device = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Draw scenes with captions, move captions between them, and see how many are found."""
    from pairclean.assess.demo import demo as run_demo

    with _execution(o.given({"device": device}), quiet) as execution:
        result = run_demo(folder, pairs=pairs, rate=rate, seed=seed, execution=execution)
    from rich.console import Group

    from .summary import demo_summary, report_summary

    found = result.run.report
    settings = f"{pairs:,} drawn scenes, seed {seed}"
    _print(
        {"scores": result.scores, "report": found},
        lambda: Group(report_summary(found, result.run.path), demo_summary(result.scores, found, settings)),
        json,
        quiet,
    )


@app.command()
def doctor(json: o.Json = False) -> None:
    """Show versions, devices, and what this machine has to offer."""
    from .doctor import examine
    from .summary import doctor_summary

    found = examine()
    _print(found, lambda: doctor_summary(found), json, quiet=False)


app.command()(audit)
app.command()(evaluate)
app.command()(methods)
app.command()(plant)
app.command()(selfcheck)
app.command()(show)


@contextmanager
def _execution(how: dict[str, Any], quiet: bool) -> Iterator[Execution]:
    from pairclean.run import Execution

    from .progress import shown_progress

    with shown_progress(quiet=quiet) as progress:
        yield Execution(**how, progress=progress)


def _redo(stage: str, path: Path, given: dict[str, Any], json: bool, quiet: bool) -> None:
    from pairclean.pipeline import redo
    from pairclean.run import Run

    asked, how = o.split(given)
    run = Run.open(path)
    with _execution(how, quiet) as execution:
        done = redo(run, stage, execution, **asked)
    if stage == "report":
        _print_report(run, json, quiet)
    else:
        _print_done(path, stage, done, json, quiet)


def _print_report(run: Run, json: bool, quiet: bool) -> None:
    from .summary import report_summary

    found = run.report
    _print(found, lambda: report_summary(found, run.path), json, quiet)


def _print_done(path: Path, stage: str, done: list[str], json: bool, quiet: bool) -> None:
    from .text import safe

    after = f", and after it {', '.join(done[1:])}" if done[1:] else ""
    sentence = f"{stage} is done{after}" if done else f"{stage} is up to date"
    _print({"run": os.path.abspath(path), "done": done}, lambda: safe(f"{sentence}: {path}"), json, quiet)


def _print(found: Any, summary: Any, json: bool, quiet: bool) -> None:
    """The result, to stdout: as JSON, or as people like it."""
    if json:
        import json as writer

        typer.echo(writer.dumps(_without_nan(found), indent=2, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        from .summary import show

        show(summary())


def _without_nan(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _without_nan(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_without_nan(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
