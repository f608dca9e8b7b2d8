"""A run from Python, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import STAGES, Config
from .run import Execution, Run


def clean(source: str | Path, run: str | Path, *, execution: Execution | None = None, **options: Any) -> Run:
    """Embed, align, judge, rematch, export and report; or go on with what is there.

    source: a folder of Parquet shards, or one file.  run: the run directory.  options: those of `Config`.
    Raises UserError for everything that the caller can mend.
    """
    made = Run.create(run, source, Config.make(**options))
    made.advance(list(STAGES), execution or Execution())
    return made


def apply(trained: str | Path, source: str | Path, run: str | Path, *, execution: Execution | None = None) -> Run:
    """Judge other data with the saved model and calibration of the run `trained`; nothing is learned anew."""
    origin = Run.open(trained)
    made = Run.create(run, source, origin.config.model_copy(update={"limit": None}), frozen_from=origin)
    made.advance(list(STAGES), execution or Execution())
    return made


def open_run(path: str | Path) -> Run:
    return Run.open(path)
