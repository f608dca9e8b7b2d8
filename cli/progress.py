"""The progress of a run on stderr: bars in a terminal, plain sentences elsewhere, nothing when it should be quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from pairclean.execution import Progress

from .text import duration, safe


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """The kind of progress that suits what stderr is connected to."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield Progress()
    elif not console.is_terminal:
        yield Sentences(console)
    else:
        columns = (
            TextColumn("  {task.description:<8}"),
            BarColumn(bar_width=28),
            _Count(),
            TimeElapsedColumn(),
            _Remaining(compact=True),
        )
        with Bars(*columns, console=console) as bars:
            yield InTerminal(bars)


class Sentences(Progress):
    """For a log: only the sentences."""

    def __init__(self, console: Console):
        self._console = console

    def say(self, sentence: str) -> None:
        self._console.print(Text(safe(sentence)), soft_wrap=True)


class InTerminal(Progress):
    """One bar per stage; a finished stage leaves one line."""

    def __init__(self, bars: Bars):
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None = None) -> None:
        self._clear()
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, steps: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def finish(self, stage: str, seconds: float) -> None:
        self._clear()
        self._bars.console.print(Text.assemble(("✓ ", "green"), f"{stage:<8} ", (duration(seconds), "dim")))

    def say(self, sentence: str) -> None:
        self._bars.console.print(Text("  " + safe(sentence), style="dim"))

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class _Count(ProgressColumn):
    """Steps done and in total, if the total is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{int(task.completed):,}/{int(task.total):,}", style="cyan")


class _Remaining(TimeRemainingColumn):
    """Time left, if it can be estimated."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.time_remaining is None:
            return Text("")
        return Text.assemble(super().render(task), (" left", "dim"))
