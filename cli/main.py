"""The `pairclean` application, assembled from its commands."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated

import typer

from pairclean import __version__

from .audit import audit
from .clean import apply, clean
from .console import INTERRUPTED, Commands, on_interrupt
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate, selfcheck
from .methods import methods
from .plant import plant
from .review import review
from .show import show
from .stages import align, embed, export, judge, rematch, report
from .status import status

app = typer.Typer(
    cls=Commands,
    name="pairclean",
    help="Find mismatched image-text pairs, and the caption that does belong to each mismatched image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PANELS = {
    "Clean data": (clean, apply, selfcheck),
    "Look at a run": (status, audit, show, review, evaluate),
    "The stages of clean, one by one": (embed, align, judge, rematch, export, report),
    "Try it out": (demo, plant, methods, doctor),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


def main() -> None:
    """The entry point of the `pairclean` command."""
    # OpenMP threads that spin while they wait for each other make learning four times slower as soon as another process
    # needs a core. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where interrupts are ignored (nohup)
        signal.signal(signal.SIGINT, on_interrupt)
    for stream in (sys.stdout, sys.stderr):  # characters that a terminal cannot show are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="pairclean")
    except SystemExit as end:
        if end.code == INTERRUPTED:  # a normal exit would wait for threads that still learn or decode
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pairclean {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
