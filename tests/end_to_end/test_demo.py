"""The demonstration, small: drawn, planted, cleaned, and only then compared with the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean.assess.demo import DemoResult, _draw, demo
from pairclean.pairs import UserError, Verdict
from pairclean.run import Execution

PAIRS = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def result(folder: Path) -> DemoResult:
    return demo(folder, pairs=PAIRS, rate=0.4, seed=1)


@pytest.mark.slow
def test_every_pair_has_one_verdict(result: DemoResult, folder: Path) -> None:
    verdicts = result.run.verdicts()
    truth = pq.read_table(folder / "shards.truth.parquet")
    assert verdicts["pair_id"].to_pylist() == truth["key"].to_pylist()
    assert set(verdicts["verdict"].to_pylist()) <= {verdict.value for verdict in Verdict}
    assert sum(result.run.report["verdicts"].values()) == result.scores["pairs"] == PAIRS


@pytest.mark.slow
def test_what_was_planted_is_found(result: DemoResult) -> None:
    assert result.scores["true_mismatch_rate"] == pytest.approx(0.4, abs=0.02)
    assert result.scores["auroc"] > 0.75
    assert result.run.report["mismatch_rate"]["estimate"] == pytest.approx(0.4, abs=0.15)
    assert result.scores["correct_after"] > result.scores["correct_before"] + 0.1


@pytest.mark.slow
def test_the_truth_is_not_in_what_was_cleaned(result: DemoResult, folder: Path) -> None:
    noisy, original = (pq.read_table(folder / name / "00000.parquet") for name in ("shards", "original"))
    assert noisy.drop(["caption"]).equals(original.drop(["caption"]))
    assert result.run.manifest["source"] == str(folder / "shards")


@pytest.mark.slow
def test_the_last_table_sets_planted_beside_found(result: DemoResult, folder: Path) -> None:
    arguments = ["demo", str(folder), "--pairs", str(PAIRS), "--seed", "1"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert "Planted and found" in shown.stdout
    assert f"{result.scores['auroc']:.3f}" in shown.stdout
    as_json = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert as_json["scores"]["auroc"] == result.scores["auroc"]
    assert as_json["report"]["pairs"] == PAIRS


@pytest.mark.slow
def test_a_demo_of_other_settings_is_refused(result: DemoResult, folder: Path) -> None:
    with pytest.raises(UserError, match=f"is a demo with --pairs {PAIRS}, --rate 0.4, --seed 1"):
        demo(folder, pairs=PAIRS, rate=0.2, seed=1)


def test_an_interrupted_drawing_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairclean.assess import demo as module

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "plant", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path / "demo", pairs=30, rate=0.5)
    assert not (tmp_path / "demo" / "shards.truth.parquet").exists()
    monkeypatch.setattr(module, "clean", stopped)
    with pytest.raises(KeyboardInterrupt):  # now while cleaning
        demo(tmp_path / "demo", pairs=30, rate=0.5)
    truth = pq.read_table(tmp_path / "demo" / "shards.truth.parquet")
    assert len(truth) == 30
    assert truth["key"].equals(pq.read_table(tmp_path / "demo" / "shards" / "00000.parquet")["key"])


@pytest.mark.parametrize("settings", [{"pairs": 0}, {"rate": 1.5}, {"seed": -1}])
def test_settings_that_make_no_sense(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(settings))} "):
        demo(tmp_path / "demo", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "demo").exists()


def test_a_drawing_that_was_interrupted_is_drawn_again(tmp_path: Path) -> None:
    (tmp_path / "shards.truth.parquet").write_text("which is written just before the shards appear")
    _draw(tmp_path, 20, 0.4, 1, Execution())
    assert len(pq.read_table(tmp_path / "shards.truth.parquet")) == 20
