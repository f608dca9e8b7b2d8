"""The parts of the stages that work shard by shard: which are there, and which are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..embed import part_is_done
from ..embed.store import metadata_path
from ..execution import Progress
from .directory import Run

_NAMED = 3  # of the missing parts, in a sentence


def part_file(run: Run, stage: str, part: str) -> Path:
    """The file of a part that is written last."""
    return metadata_path(run.embeddings, part) if stage == "embed" else run.path / "verdicts" / f"{part}.parquet"


def presence(run: Run, stage: str) -> Callable[[str], bool]:
    """Tells of a part, by its name, whether it is there: complete, and of the result that is due."""
    if stage == "embed":
        fingerprints = run.manifest["parts"]
        return lambda part: part_is_done(run.embeddings, part, fingerprints[part])
    due = run.has_begun(stage) or run.is_done(stage)
    return lambda part: due and part_file(run, stage, part).exists()


def missing_parts(run: Run, stage: str) -> list[str]:
    """The parts of a stage that are not there, in input order."""
    is_there = presence(run, stage)
    return [part for part in run.shards if not is_there(part)]


def say_what_is_left(run: Run, stage: str, parts: Sequence[str], progress: Progress) -> None:
    """Say which of these parts a job has left to another process that was writing them."""
    is_there = presence(run, stage)
    left = [part for part in parts if not is_there(part)]
    if left:
        progress.say(f"left to another process, which is writing them: {named(left)}")


def seconds_of_parts(run: Run, stage: str) -> float:
    """How long it took from the beginning of a stage until the last of its parts was written."""
    last = max((part_file(run, stage, part).stat().st_mtime for part in run.shards), default=0.0)
    return max(0.0, last - float(run.manifest["begun"]["at"]))


def named(parts: Sequence[str]) -> str:
    """A few of the parts, for a sentence."""
    return ", ".join([*parts[:_NAMED], *(["…"] if len(parts) > _NAMED else [])])
