"""The demonstration, small: drawn, planted, cleaned, and only then compared with the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean.assess.demo import DemoResult, _draw, _truth, demo
from pairclean.files import write_json
from pairclean.pairs import UserError, Verdict
from pairclean.run import Execution
from pairclean.synthetic.scenes import Example, draw_scenes

PAIRS = 700
KINDS = {"random", "within_kind", "generic", "placeholder", "boilerplate"}


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
    assert result.scores["true_mismatch_rate"] == pytest.approx(0.41, abs=0.02)  # with what is drawn without content
    assert result.scores["auroc"] > 0.75
    assert result.run.report["mismatch_rate"]["estimate"] == pytest.approx(0.4, abs=0.15)
    assert result.scores["correct_after"] > result.scores["correct_before"] + 0.1
    kinds = result.scores["kinds"]
    assert set(kinds) == KINDS
    assert sum(kind["pairs"] for kind in kinds.values()) == round(result.scores["true_mismatch_rate"] * PAIRS)
    assert all(kind["flagged"] > 0.5 for kind in kinds.values())


@pytest.mark.slow
def test_the_truth_is_not_in_what_was_cleaned(result: DemoResult, folder: Path) -> None:
    noisy, original = (pq.read_table(folder / name / "00000.parquet") for name in ("shards", "original"))
    carried = ["caption", "jpg", "sha256"]
    assert noisy.drop(carried).equals(original.drop(carried))
    assert result.run.manifest["source"] == str(folder / "shards")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The truth, and beside it what was drawn (`example`), and the pictures and captions before and after."""
    folder = tmp_path_factory.mktemp("drawn")
    _draw(folder, PAIRS, 0.4, 2, Execution())
    truth = pd.read_parquet(folder / "shards.truth.parquet")
    before, after = (pd.read_parquet(folder / name) for name in ("original/00000.parquet", "shards/00000.parquet"))
    assert truth["key"].tolist() == before["key"].tolist() == after["key"].tolist()
    truth["example"] = list(draw_scenes(PAIRS, 2))
    return truth.assign(jpg=before["jpg"], given=before["caption"], now=after["jpg"], said=after["caption"])


def test_every_kind_of_mismatch_is_planted(drawn: pd.DataFrame) -> None:
    count = drawn["noise_kind"].value_counts()
    content = sum(e.kind in ("plain", "near_duplicate") for e in drawn["example"])
    assert set(count.index) == {"clean", *KINDS}
    assert count["boilerplate"] == sum(e.kind == "boilerplate" for e in drawn["example"]) == 14
    planted = {kind: count[kind] / content for kind in KINDS - {"boilerplate"}}
    shares = {"random": 0.2, "within_kind": 0.1, "generic": 0.05, "placeholder": 0.05}
    assert planted == pytest.approx(shares, abs=0.004)


def test_the_truth_is_what_each_pair_carries(drawn: pd.DataFrame) -> None:
    example = drawn.set_index("key")["example"]
    assert drawn["carried_caption"].tolist() == drawn["said"].tolist()
    assert drawn["said"].tolist() == [example[key].caption for key in drawn["caption_key"]]
    wrong = drawn["noise_kind"] != "clean"
    assert (drawn["caption"] != drawn["carried_caption"]).equals(wrong)
    moved = drawn[drawn["noise_kind"].isin(["random", "within_kind", "generic"])]
    assert moved["jpg"].equals(moved["now"])
    assert moved["caption"].tolist() == [e.description for e in moved["example"]]
    assert all(example[row.caption_key].scene != row.example.scene for row in moved.itertuples())
    near = moved[moved["noise_kind"] == "within_kind"]
    assert all(example[row.caption_key].subject == row.example.subject for row in near.itertuples())
    repeated = drawn[drawn["noise_kind"] == "generic"]["said"].unique()
    assert len(repeated) == 1
    drawn_so = drawn[drawn["noise_kind"] == "boilerplate"]
    assert drawn_so["said"].equals(drawn_so["given"])
    assert drawn_so["jpg"].equals(drawn_so["now"])
    assert drawn_so["caption"].tolist() == [e.description for e in drawn_so["example"]]


def test_a_placeholder_replaces_pictures(drawn: pd.DataFrame) -> None:
    replaced = drawn[drawn["noise_kind"] == "placeholder"]
    assert replaced["said"].equals(replaced["given"])
    (picture,) = set(replaced["now"])
    (lender,) = set(replaced["caption"])  # the caption that is true of the picture that they have now
    (owner,) = drawn.index[(drawn["jpg"] == picture) & (drawn["given"] == lender)]
    assert drawn.loc[owner, ["noise_kind", "now"]].tolist() == ["clean", picture]


def test_pairs_without_a_picture_are_left_alone(drawn: pd.DataFrame) -> None:
    unreadable = drawn[[e.kind in ("corrupt", "missing") for e in drawn["example"]]]
    assert len(unreadable) == 3
    assert set(unreadable["noise_kind"]) == {"clean"}
    assert unreadable["said"].equals(unreadable["given"])
    assert unreadable["now"].equals(unreadable["jpg"])


def test_the_columns_beside_a_picture_are_its_own(tmp_path: Path) -> None:
    _draw(tmp_path, 260, 0.5, 0, Execution())
    table = pq.read_table(tmp_path / "shards" / "00000.parquet")
    assert "placeholder" in pq.read_table(tmp_path / "shards.truth.parquet")["noise_kind"].to_pylist()
    digest = [image and hashlib.sha256(image).hexdigest() for image in table["jpg"].to_pylist()]
    assert table["sha256"].to_pylist() == digest


def test_a_caption_that_is_true_of_its_new_picture_is_clean() -> None:
    """Of another drawing of its scene, or with the words of its own caption."""
    pairs = [
        Example(b"a", "a ball", "plain", "a ball", 0),
        Example(b"b", "a round ball", "near_duplicate", "a round ball", 0),
        Example(b"c", "a ball", "plain", "a ball", 2),
        Example(b"d", "photo", "boilerplate", "a cup", 3),
        Example(b"e", "a fish", "plain", "a fish", 4),
    ]
    kind = np.array(["generic", "placeholder", "random", "", "random"], object)
    truth = _truth(list("01234"), pairs, np.array([0, 0, 2, 3, 4]), np.array([1, 1, 0, 3, 2]), kind)
    assert truth["noise_kind"].to_pylist() == ["clean", "clean", "clean", "boilerplate", "random"]
    assert truth["carried_caption"].to_pylist() == ["a round ball", "a round ball", "a ball", "photo", "a ball"]
    assert truth["caption"].to_pylist() == ["a round ball", "a round ball", "a ball", "a cup", "a fish"]
    assert truth["caption_key"].to_pylist() == ["1", "1", "0", "3", "2"]
    assert truth["mismatched_text"].type == pa.string()


@pytest.mark.slow
def test_the_last_table_sets_planted_beside_found(result: DemoResult, folder: Path) -> None:
    arguments = ["demo", str(folder), "--pairs", str(PAIRS), "--seed", "1"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert "Planted and found" in shown.stdout
    for words in (
        "moved at random",
        "moved within a kind",
        "one caption, many",
        "one picture, many",
        "without content",
    ):
        assert words in shown.stdout
    assert f"{result.scores['auroc']:.3f}" in shown.stdout
    as_json = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert as_json["scores"]["auroc"] == result.scores["auroc"]
    assert as_json["report"]["pairs"] == PAIRS


@pytest.mark.slow
def test_a_demo_of_other_settings_is_refused(result: DemoResult, folder: Path) -> None:
    with pytest.raises(UserError, match=f"is a demo with --pairs {PAIRS}, --rate 0.4, --seed 1"):
        demo(folder, pairs=PAIRS, rate=0.2, seed=1)


def test_a_demo_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "demo.json", {"pairs": 30, "rate": 0.4, "seed": 0})
    (tmp_path / "shards").mkdir()
    with pytest.raises(UserError, match="is a demo of another version of pairclean"):
        demo(tmp_path, pairs=30)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.json", "shards"]


def test_an_interrupted_drawing_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairclean.assess import demo as module

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_truth", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path / "demo", pairs=30, rate=0.5)
    assert sorted(file.name for file in (tmp_path / "demo").iterdir()) == ["demo.json", "original"]
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
