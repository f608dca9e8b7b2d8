"""What a command prints: its result to stdout, progress and complaints to stderr."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperGroup

from pairclean.options import RenamedOption

from .text import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pairclean.execution import Execution

INTERRUPTED = 130  # exit status
_UNWRAPPED = 100_000  # characters, wider than any line
#: Whether there was an interrupt (Ctrl-C). Within the import of a compiled module it can come out as any other error,
#: or damage the module: NumPy then says that it "cannot load module more than once per process".
_interrupt = Event()


@dataclass(frozen=True)
class Console:
    """How a command answers and executes: the options that every command treats alike."""

    json: bool = False
    quiet: bool = False
    execution_options: dict[str, Any] = field(default_factory=dict)

    def print(self, result: Any, summary: Callable[[], RenderableType]) -> None:
        """Print a result to stdout, as JSON or as its summary."""
        if self.json:
            import json

            typer.echo(json.dumps(_without_nan(result), indent=2, ensure_ascii=False, allow_nan=False))
        elif not self.quiet:
            from rich.console import Console as Terminal

            terminal = Terminal(highlight=False)
            if terminal.is_terminal or "COLUMNS" in os.environ:
                terminal.print(summary())
            else:
                typer.echo(_unwrapped(summary()))

    @contextmanager
    def execution(self, **recipe: Any) -> Iterator[Execution]:
        """The execution that the user asked for, with progress shown on stderr while the context is open.

        recipe: options of execution from a recipe; those of the command line override them.
        """
        from pairclean.execution import Execution

        from .progress import shown_progress

        with shown_progress(quiet=self.quiet) as progress:
            yield Execution(**{**recipe, **self.execution_options}, progress=progress)


def _unwrapped(summary: RenderableType) -> str:
    """A summary for a file or another program: no line is wrapped, and no name is cut."""
    import io

    from rich.console import Console as Terminal

    text = io.StringIO()
    Terminal(file=text, highlight=False, width=_UNWRAPPED).print(summary)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def complain(what: str, sentence: str, *, style: str = "bold red") -> None:
    """Print one sentence to stderr: what is wrong, then what to do."""
    from rich.console import Console as Terminal
    from rich.text import Text

    terminal = Terminal(stderr=True, highlight=False)
    terminal.print(Text.assemble((f"{what}: ", style), safe(sentence)), soft_wrap=True)


def on_interrupt(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGINT: Python's own, and the interrupt is remembered."""
    _interrupt.set()
    raise KeyboardInterrupt


class Commands(TyperGroup):
    """Prints errors that the user can fix as one sentence; any other error is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _warnings_as_sentences():
                return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, KeyboardInterrupt) or (_interrupt.is_set() and not isinstance(error, typer.Exit)):
                complain("interrupted", "run the same command again to resume")
                raise typer.Exit(INTERRUPTED) from None
            pairs = sys.modules.get("pairclean.pairs")  # if it is not loaded, it cannot have raised anything
            if pairs is None or not isinstance(error, pairs.UserError):
                raise
            complain("error", str(error))
            raise typer.Exit(2) from None


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print the warnings that are meant for users like errors; leave those for developers as they are."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def as_sentence(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RenamedOption):
                complain("warning", str(message), style="bold yellow")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = as_sentence
        yield


def _without_nan(result: Any) -> Any:
    """The same, with null where a number is not finite, as JSON has no word for it."""
    if isinstance(result, dict):
        return {name: _without_nan(value) for name, value in result.items()}
    if isinstance(result, list):
        return [_without_nan(value) for value in result]
    return None if isinstance(result, float) and not math.isfinite(result) else result
