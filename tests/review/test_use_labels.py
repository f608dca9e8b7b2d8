"""`judge --use-labels` on a run of drawn pictures with captions moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner, Result

import pairclean
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.review.labels import BELONGS, CANNOT_TELL, DOES_NOT, Label
from pairclean.review.reviewed import estimate, open_labels
from pairclean.review.sample import design
from pairclean.run import Execution, Run
from pairclean.run.results import open_judgement
from pairclean.synthetic.scenes import draw_scenes, write_shards

PAIRS = 400
HOG = {"model": "hog-tfidf", "method": "canonical"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    write_shards(draw_scenes(PAIRS, 0), folder / "shards", shard_size=200)
    return pairclean.clean(folder / "shards", folder / "run", **HOG).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


def label(run: Run, count: int) -> None:
    """A reviewer who finds every fourth pair mismatched, whatever the scores say."""
    sample, labels = design(run, 60), open_labels(run)
    while len(sample.drawn) < count:
        sample.draw(labels)
    new = [row for row in sample.drawn[:count] if labels.answer(sample.unit(row)) is None]
    labels.add(Label.now(f"{row}", sample.unit(row), DOES_NOT if row % 4 == 0 else BELONGS, "ann") for row in new)


def invoke(*arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == status, result.output
    return result


def test_labels_refit_the_probabilities_and_what_follows(run: Run, finished: Path) -> None:
    label(run, 60)
    before = np.array(open_judgement(run).clean_probability)
    assert json.loads(invoke("judge", run.path, "--use-labels", "--json").stdout)["done"] == [
        *("judge", "rematch", "export", "report")
    ]
    after, found = open_judgement(run), estimate(run)
    assert after.recalibration is not None
    assert after.recalibration.labels == 60
    assert after.rate is not None
    assert found.mismatched is not None
    assert (after.rate.estimate, after.rate.low) == (found.mismatched.estimate, found.mismatched.low)
    clean = after.clean_probability
    assert abs(1 - np.nanmean(clean) - 0.25) < abs(1 - np.nanmean(before) - 0.25)
    report = Run.open(run.path).report
    assert report["mismatch_rate"]["estimate"] == after.rate.estimate
    assert any("refitted with 60 labels" in note for note in report["notes"])
    # the scores' own estimate stays beside that of the labels
    assert found.scores["estimate"] == open_judgement(Run.open(finished)).mismatch_rate["estimate"]
    written = Run.open(run.path).verdicts()["clean_probability"].to_numpy()
    assert np.nanmax(written - clean) <= 1e-6
    assert pairclean.audit(Run.open(run.path)).whole["estimate"] == after.rate.estimate


def test_new_labels_wait_until_the_stage_is_run_again(run: Run) -> None:
    label(run, 40)
    redo(run, "judge", Execution(), use_labels=True)
    assert redo(run, "judge", Execution()) == []
    label(run, 60)
    assert all(run.is_done(stage) for stage in ("judge", "export", "report"))
    assert redo(run, "judge", Execution()) == ["judge", "rematch", "export", "report"]
    recalibration = open_judgement(run).recalibration
    assert recalibration is not None
    assert recalibration.labels == 60


def test_it_is_switched_off_again(run: Run, finished: Path) -> None:
    label(run, 60)
    redo(run, "judge", Execution(), use_labels=True)
    invoke("judge", run.path, "--no-use-labels")
    assert open_judgement(run).recalibration is None
    same = Run.open(run.path).verdicts()["clean_probability"]
    assert same.equals(Run.open(finished).verdicts()["clean_probability"])


def test_the_report_takes_in_new_labels_when_a_review_ends(run: Run, tmp_path: Path) -> None:
    assert run.report["human"] is None
    label(run, 40)
    assert run.report["human"] is None
    said = invoke("review", run.path, "--export", tmp_path / "labels.csv")
    assert "--use-labels refits" in said.stderr
    assert sum(Run.open(run.path).report["human"]["labels"].values()) == 40
    label(run, 60)
    assert redo(run, "report", Execution()) == ["report"]
    assert sum(run.report["human"]["labels"].values()) == 60


def test_without_labels_there_is_nothing_to_use(run: Run) -> None:
    refused = invoke("judge", run.path, "--use-labels", status=2)
    assert "has not been reviewed" in refused.stderr
    sample, labels = design(run, 60), open_labels(run)
    while len(sample.drawn) < 40:
        sample.draw(labels)
    answers = [BELONGS] * 19 + [CANNOT_TELL] * 21
    labels.add(Label.now("p", sample.unit(row), said, "ann") for row, said in zip(sample.drawn, answers, strict=True))
    with pytest.raises(UserError, match=r"19 pairs of .* takes at least 20"):
        redo(run, "judge", Execution(), use_labels=True)
    assert Run.open(run.path).is_done("report")
    assert not Run.open(run.path).config.use_labels


def test_applied_runs_are_refitted_too(run: Run, tmp_path: Path) -> None:
    label(run, 60)
    redo(run, "judge", Execution(), use_labels=True)
    write_shards(draw_scenes(PAIRS, 5), tmp_path / "others", shard_size=PAIRS)
    other = pairclean.apply(run.path, tmp_path / "others", tmp_path / "out")
    assert not other.config.use_labels
    assert open_judgement(other).recalibration == open_judgement(run).recalibration
    assert any("refitted its probabilities with labels" in note for note in other.report["notes"])
