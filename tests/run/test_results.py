"""What is saved in a run directory is what is opened, and nobody else opens it."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairclean import UserError
from pairclean.config import Config
from pairclean.files import write_json
from pairclean.judge import Judgement, Learned, NeighbourIndex, Scorer
from pairclean.pairs import PAIR_SCHEMA
from pairclean.pipeline import advance
from pairclean.rematch import Rematches
from pairclean.run import Execution, Run, results
from pairclean.run.embedded import embedded_run
from pairclean.vectors import clean_vectors

ROOT = Path(__file__).resolve().parents[2]
#: Names and extensions of the files in `model/`, `judge/` and `rematch/`.
OWNED = re.compile(
    r"(learned|judgement|judge|rematch|rematches|method)\.json"
    r"|_[*\d{]\S*\.safetensors"
    r"|(held_out|tied_\w+|near_\w+|clean_probability|partner|offered|trials|noise_kind)\.npy"
    r'|/ "(model|judge|rematch)"'
)
N = 300


def vectors(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((N, 16))
    text = image + 0.8 * rng.standard_normal((N, 16))
    text[:90] = np.roll(text[:90], 1, axis=0)
    return image, text


def run_at(path: Path, **options: Any) -> Run:
    image, text = vectors()
    columns = {
        "pair_id": [str(i) for i in range(N)],
        "shard": ["all"] * N,
        "row": range(N),
        "caption_index": [0] * N,
        "caption": [f"caption {i}" for i in range(N)],
        "image_id": range(N),
        "caption_id": range(N),
        "reason": pa.nulls(N, pa.string()),
    }
    parts = [("all", pa.table(columns, PAIR_SCHEMA), image, text)]
    return embedded_run(path, Config.make(**options), parts, encoder={"comparable": True})


def same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True)) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("options", [{"method": "canonical"}, {"method": "zero-shot", "score": "lemon"}])
def test_what_was_saved_is_opened(options: dict[str, str], tmp_path: Path) -> None:
    found, run = clean_vectors(*vectors(), **options), run_at(tmp_path / "run")
    results.save_learned(run, found.learned)
    results.save_judgement(run, found.judgement)
    results.save_rematches(run, found.rematches)
    learned, judged, rematched = results.open_learned(run), results.open_judgement(run), results.open_rematches(run)
    rows = np.arange(5)
    image = vectors()[0][rows]
    for before, after in ((found.learned.first, learned.first), (found.learned.aligned, learned.aligned)):
        assert len(before) == len(after)
        assert all(
            np.array_equal(a.embed_image(image), b.embed_image(image)) for a, b in zip(before, after, strict=True)
        )
    assert np.array_equal(learned.folds(np.arange(N)), found.learned.folds(np.arange(N)))
    plain = {Learned: ("method", "image_id", "caption_id", "held_out"), Rematches: [f.name for f in fields(Rematches)]}
    plain[Judgement] = [f.name for f in fields(Judgement) if f.name not in ("scorers", "calibration")]
    for before, after in ((found.learned, learned), (found.judgement, judged), (found.rematches, rematched)):
        assert [name for name in plain[type(before)] if not same(getattr(before, name), getattr(after, name))] == []
    assert judged.calibration is not None
    assert found.judgement.calibration is not None
    assert judged.calibration.to_json() == found.judgement.calibration.to_json()
    assert {type(s) for s in judged.scorers} == {NeighbourIndex if options.get("score") == "lemon" else Scorer}
    assert len(judged.scorers) == len(found.judgement.scorers)


def test_where_nothing_was_judged_that_is_opened(tmp_path: Path) -> None:
    found, run = clean_vectors(*(x[:50] for x in vectors())), run_at(tmp_path / "run")
    results.save_learned(run, found.learned)
    results.save_judgement(run, found.judgement)
    assert results.open_learned(run).held_out is None
    judged = results.open_judgement(run)
    assert judged.unjudged == "only 50 readable pairs: at least 100 are needed to judge"
    assert (judged.calibration, judged.rate, judged.histogram, judged.retrieval, judged.score) == (None,) * 5


def test_what_an_earlier_pass_left_is_gone(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run", method="canonical")
    advance(run, ["align"], Execution())
    learned = results.open_learned(run)
    assert len(learned.aligned) == 5
    assert learned.held_out is not None
    results.save_learned(run, replace(learned, aligned=[], held_out=None))
    assert results.open_learned(run).aligned == []
    assert results.open_learned(run).held_out is None


def test_a_run_in_an_earlier_layout_is_not_continued(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    write_json(run.path / "manifest.json", {**run.manifest, "layout": 1, "pairclean": "0.0.9"})
    with pytest.raises(UserError, match=r"made by pairclean 0\.0\.9, in a layout that this version does not read: "):
        Run.open(run.path)


@pytest.mark.parametrize("folder", ["pairclean", "benchmarks", "cli", "examples"])
def test_nobody_else_opens_the_files_of_a_run(folder: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file != ROOT / "pairclean" / "run" / "results.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if OWNED.search(line)
    ]
    assert found == []
