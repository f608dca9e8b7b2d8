"""How long a run would take: the measured speed of embedding, and the formula for the later stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pairclean.config import Config
from pairclean.execution import Execution
from pairclean.pairs import UserError
from pairclean.sources import open_source
from pairclean.stages.estimate import MEASURED, later_stages, pairs_per_second
from pairclean.synthetic.scenes import draw_scenes, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(60, 0), folder, shard_size=25)
    return folder


@pytest.mark.parametrize("pairs", sorted(MEASURED))
def test_the_formula_goes_through_what_was_measured(pairs: int) -> None:
    for method in ("zero-shot", "canonical"):
        found = later_stages(pairs, method, comparable=True)
        assert list(found.values())[:3] == pytest.approx(MEASURED[pairs])


def test_the_time_grows_with_the_pairs() -> None:
    sizes = np.geomspace(100, 1e8, 40).astype(int)
    for method in ("auto", "l2rm", "zero-shot"):
        times = [list(later_stages(int(n), method, comparable=True).values()) for n in sizes]
        assert (np.diff(times, axis=0) > 0).all()
    assert later_stages(10**7, "l2rm", comparable=True)["rematch"] >= 10 * MEASURED[10**6][2]


def test_learning_from_few_pairs_is_no_matter_of_a_second() -> None:
    assert 4 < later_stages(240, "l2rm", comparable=False)["align"] < 6
    assert 7 < later_stages(1500, "l2rm", comparable=False)["align"] < 11


def test_automatic_learns_from_many_pairs_or_where_the_spaces_differ() -> None:
    few = later_stages(5000, "zero-shot", comparable=True)
    assert later_stages(5000, "auto", comparable=True) == few
    assert later_stages(5000, "auto", comparable=False) == later_stages(5000, "l2rm", comparable=True) != few
    many = later_stages(20_000, "auto", comparable=True)
    assert many == later_stages(20_000, "l2rm", comparable=True)


def test_the_speed_is_measured_and_leaves_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("pairclean.stages.estimate.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    source, config = open_source(shards), Config.make(model="hog-tfidf")
    assert pairs_per_second(source, config, Execution()) == 60 / 4
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_here_is_not_downloaded(shards: Path) -> None:
    with pytest.raises(UserError, match="would have to be downloaded"):
        pairs_per_second(open_source(shards), Config.make(model="hf-hub:nobody/nothing"), Execution())


def test_weights_that_are_a_missing_file_are_named(shards: Path) -> None:
    with pytest.raises(UserError, match=r"/nowhere\.pt does not exist"):
        pairs_per_second(open_source(shards), Config.make(pretrained="/nowhere.pt"), Execution())
