"""A demonstration on drawn scenes: mismatches of all kinds are planted and searched for, and only then is the truth
looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json, written_whole
from ..pairs import UserError
from ..pipeline import clean
from ..run import Execution, Run
from .plant import TRUTH, written_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ..synthetic.scenes import Example

_SETTINGS = "demo.json"
#: Which mismatches are planted, and how. A demo that was drawn by an earlier version cannot be resumed.
_DRAWING = 2


@dataclass(frozen=True)
class DemoResult:
    """The run over the noisy shards, and how `metrics.detection.compare_run` compares it with what was planted."""

    run: Run
    scores: dict[str, Any]


def demo(
    folder: str | Path, *, pairs: int = 4000, rate: float = 0.4, seed: int = 0, execution: Execution | None = None
) -> DemoResult:
    """Draw `pairs` pictures with captions, mismatch a share `rate` of them, and clean the result.

    folder: receives original/ and shards/ (before and after planting), shards.truth.parquet, and run/. If an earlier
    demo with the same settings was interrupted, it is resumed.
    pairs: from 1.  rate: in [0, 1].  seed: from 0.

    The mismatches are those of `synthetic.mismatches.plant_mixture`, and captions move within a kind between pictures
    that show the same first thing. About two in a hundred captions are drawn without content ("IMG_2041.jpg", "photo");
    they are mismatches too, besides those that are planted. The truth has the columns of `plant`. Its `noise_kind` is
    `clean`, `random`, `within_kind`, `generic` (one caption under many pictures), `placeholder` (one picture with many
    captions) or `boilerplate` (drawn without content), and its `caption` is true of the picture that the pair has now.

    Raises UserError if the folder holds anything else, or a setting is out of range.
    """
    import pyarrow.parquet as pq

    from ..metrics.detection import compare_run

    if pairs < 1:
        raise UserError(f"--pairs {pairs}: it should be a number from 1 on")
    if not 0 <= rate <= 1:
        raise UserError(f"--rate {rate}: it should be a share between 0 and 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: it should be a number from 0 on")
    folder, execution = Path(folder), execution or Execution()
    _claim(folder, {"pairs": pairs, "rate": rate, "seed": seed})
    if not (folder / "shards").exists():  # they are written last
        _draw(folder, pairs, rate, seed, execution)
    run = clean(folder / "shards", folder / "run", model="hog-tfidf", seed=seed, execution=execution)
    truth = pq.read_table(_truth_of(folder))
    return DemoResult(run, compare_run(run.verdicts(), truth, run.report["mismatch_rate"]))


def _truth_of(folder: Path) -> Path:
    return folder / "shards.truth.parquet"


def _claim(folder: Path, settings: dict[str, float | int]) -> None:
    """Make the folder, or check that it holds a demo with the same settings."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            write_json(folder / _SETTINGS, {**settings, "drawing": _DRAWING})
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; name another directory") from None
    try:
        there = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder} is not empty and holds no demo: name a new directory") from None
    if there.pop("drawing", None) != _DRAWING:
        raise UserError(
            f"{folder} is a demo of another version of pairclean, with other mismatches: name a new directory"
        )
    if there != settings:
        said = ", ".join(f"--{name} {value}" for name, value in there.items())
        raise UserError(f"{folder} is a demo with {said}: use the same settings, or name another directory")


# --- drawing and planting -------------------------------------------------------------------------------------------


def _draw(folder: Path, pairs: int, rate: float, seed: int, execution: Execution) -> None:
    """Write original/, the truth, and shards/, in this order."""
    import time

    import pyarrow.parquet as pq

    from ..synthetic.scenes import draw_scenes, write_shards

    begun = time.perf_counter()
    execution.progress.start("draw", pairs)
    drawn: list[Example] = []  # without their pictures, which need not fit in memory

    def noted(example: Example) -> Example:
        drawn.append(replace(example, image=None))
        execution.progress.advance()
        return example

    original = folder / "original"
    write_shards(map(noted, draw_scenes(pairs, seed)), original)
    pictured, carried, kind = _plant(drawn, rate, seed)
    with written_folder(folder / "shards") as shards:
        write_shards(_noisy(original, drawn, pictured, carried), shards)
        with written_whole(_truth_of(folder)) as file:
            pq.write_table(_truth(_keys(original), drawn, pictured, carried, kind), file)
    execution.progress.finish("draw", time.perf_counter() - begun)


def _plant(drawn: list[Example], rate: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which image and which caption each of N pairs carries, (N,) int64, and the kind of its mismatch ("" for none).

    Pairs whose caption has no content, or whose picture cannot be read, stay as they are.
    """
    import numpy as np

    from ..synthetic.mismatches import group_labels, plant_mixture

    rows = np.array([i for i, pair in enumerate(drawn) if pair.kind in ("plain", "near_duplicate")], np.int64)
    subjects = group_labels([drawn[i].subject for i in rows])
    scenes = np.array([drawn[i].scene for i in rows], np.int64)  # no caption moves to another drawing of its scene
    image, caption, kind = plant_mixture(subjects, rate, np.random.default_rng(seed), owners=scenes)
    pictured, carried, of_all = np.arange(len(drawn)), np.arange(len(drawn)), np.full(len(drawn), "", object)
    pictured[rows], carried[rows], of_all[rows] = rows[image], rows[caption], kind
    return pictured, carried, of_all


def _noisy(original: Path, drawn: list[Example], pictured: np.ndarray, carried: np.ndarray) -> Iterator[Example]:
    """The pairs with the pictures and the captions that they carry now."""
    import numpy as np

    lenders = np.unique(pictured[pictured != np.arange(len(drawn))]).tolist()
    lent = {i: next(islice(_column(original, "jpg"), i, None)) for i in lenders}
    for i, image in enumerate(_column(original, "jpg")):
        picture = image if pictured[i] == i else lent[pictured[i]]
        yield replace(drawn[i], image=picture, caption=drawn[carried[i]].caption)


def _truth(
    keys: list[str], drawn: list[Example], pictured: np.ndarray, carried: np.ndarray, kind: np.ndarray
) -> pa.Table:
    import pyarrow as pa

    rows = []
    for i, (shown, said) in enumerate(zip(pictured.tolist(), carried.tolist(), strict=True)):
        own, text, name = drawn[shown].description, drawn[said].caption, str(kind[i])
        if drawn[said].kind == "boilerplate":
            name = "boilerplate"
        elif drawn[said].scene == drawn[shown].scene or text == own:  # true of this picture too
            own, name = text, "clean"
        rows.append((keys[i], keys[said], own, text, name, None))
    return pa.table(list(zip(*rows, strict=True)), schema=TRUTH)


def _keys(original: Path) -> list[str]:
    return list(_column(original, "key"))


def _column(original: Path, name: str) -> Iterator[Any]:
    """The values of a column of the shards in a folder, one after the other."""
    import pyarrow.parquet as pq

    for file in sorted(original.glob("*.parquet")):
        yield from pq.read_table(file, columns=[name])[name].to_pylist()
