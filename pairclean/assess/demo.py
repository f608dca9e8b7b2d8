"""A demonstration on drawn scenes: mismatches are planted, found, and only then compared with the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..files import write_json
from ..pairs import UserError
from ..pipeline import clean
from ..run import Execution, Run
from .plant import plant

_SETTINGS = "demo.json"


@dataclass(frozen=True)
class DemoResult:
    """The run over the noisy shards, and how `metrics.detection.score_run` compares it with what was planted."""

    run: Run
    scores: dict[str, float | int]


def demo(
    folder: str | Path, *, pairs: int = 4000, rate: float = 0.4, seed: int = 0, execution: Execution | None = None
) -> DemoResult:
    """Draw `pairs` pictures with captions, move the captions of a share `rate` of them, and clean the result.

    folder: receives original/ and shards/ (before and after planting), shards.truth.parquet, and run/. If an earlier
    demo with the same settings was interrupted, it is resumed.
    pairs: from 1.  rate: in [0, 1].  seed: from 0.
    Raises UserError if the folder holds anything else, or a setting is out of range.
    """
    import pyarrow.parquet as pq

    from ..metrics.detection import score_run

    if pairs < 1:
        raise UserError(f"--pairs {pairs}: it should be a number from 1 on")
    if not 0 <= rate <= 1:
        raise UserError(f"--rate {rate}: it should be a share between 0 and 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: it should be a number from 0 on")
    folder, execution = Path(folder), execution or Execution()
    truth = folder / "shards.truth.parquet"
    _claim(folder, {"pairs": pairs, "rate": rate, "seed": seed})
    if not (folder / "shards").exists():  # they are written last
        _draw(folder, pairs, rate, seed, execution)
    run = clean(folder / "shards", folder / "run", model="hog-tfidf", seed=seed, execution=execution)
    return DemoResult(run, score_run(run.verdicts(), pq.read_table(truth)))


def _claim(folder: Path, settings: dict[str, float | int]) -> None:
    """Make the folder, or check that it holds a demo with the same settings."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            write_json(folder / _SETTINGS, settings)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; name another directory") from None
    try:
        there = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder} is not empty and holds no demo: name a new directory") from None
    if there != settings:
        said = ", ".join(f"--{name} {value}" for name, value in there.items())
        raise UserError(f"{folder} is a demo with {said}: use the same settings, or name another directory")


def _draw(folder: Path, pairs: int, rate: float, seed: int, execution: Execution) -> None:
    import time

    from ..synthetic.scenes import Example, draw_scenes, write_shards

    def counted(example: Example) -> Example:
        execution.progress.advance()
        return example

    begun = time.perf_counter()
    execution.progress.start("draw", pairs)
    write_shards(map(counted, draw_scenes(pairs, seed)), folder / "original")
    # It may be there from an interrupted demo, and `plant` overwrites nothing.
    (folder / "shards.truth.parquet").unlink(missing_ok=True)
    plant(folder / "original", folder / "shards", rate=rate, seed=seed)
    execution.progress.finish("draw", time.perf_counter() - begun)
