"""A run directory: gone on with, refused, changed, and applied to other data."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pairclean
from pairclean import pipeline
from pairclean.config import Config, read_recipe
from pairclean.options import STAGES
from pairclean.pairs import VERDICT_SCHEMA, UserError
from pairclean.pipeline import redo
from pairclean.run import Execution, Progress, Run
from pairclean.run.lock import Lock
from pairclean.run.results import open_judgement
from pairclean.synthetic.scenes import draw_scenes, write_shards

HOG = {"model": "hog-tfidf", "method": "canonical"}  # which learns in a moment


class Recorder(Progress):
    """Notes the stages that were done, and can stop the run like Ctrl-C."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[str] = []
        self.started: list[str] = []
        self._rows, self._stop_after = 0, stop_after

    def start(self, stage: str, total: int | None = None) -> None:
        self.started.append(stage)

    def advance(self, steps: int = 1) -> None:
        self._rows += steps
        if self._stop_after is not None and self._rows >= self._stop_after:
            raise KeyboardInterrupt

    def finish(self, stage: str, seconds: float) -> None:
        self.done.append(stage)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(400, 0), folder, shard_size=100)
    return folder


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairclean.clean(shards, tmp_path_factory.mktemp("runs") / "run", **HOG).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A finished run of one's own."""
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def quick_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages but the first do nothing, for tests of their order."""
    for stage in list(STAGES)[1:]:
        monkeypatch.setattr(f"pairclean.stages.{stage}.{stage}", lambda run, execution: None)


def stopped(run: Run, execution: Execution) -> None:
    """A stage that is interrupted."""
    raise KeyboardInterrupt


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_in_five_lines(finished: Path) -> None:
    run = pairclean.open_run(finished)
    verdicts = run.verdicts()
    assert verdicts.schema == VERDICT_SCHEMA
    assert len(verdicts) == run.report["pairs"] == 400
    assert len(set(verdicts["pair_id"].to_pylist())) == 400
    assert sum(run.report["verdicts"].values()) == 400
    assert list(run.report["seconds"]) == ["embed", "align", "judge", "rematch", "export"]


def test_a_finished_run_is_left_alone(run: Run, shards: Path) -> None:
    before = times(run.path)
    recorder = Recorder()
    pairclean.clean(shards, run.path, execution=Execution(progress=recorder), **HOG)
    assert recorder.done == []
    after = times(run.path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"manifest.json", "run.lock"}


def test_an_interrupted_run_goes_on_to_the_same_result(finished: Path, shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):  # in the third shard
        pairclean.clean(shards, path, execution=Execution(progress=Recorder(stop_after=250)), **HOG)
    first = times(path / "embeddings")
    assert {"metadata_00000.parquet", "metadata_00001.parquet"} <= set(first)
    assert "metadata_00003.parquet" not in first
    assert Run.open(path).manifest["stages"] == {}

    recorder = Recorder()
    done = pairclean.clean(shards, path, execution=Execution(progress=recorder), **HOG)
    assert recorder.done == list(STAGES)
    second = times(path / "embeddings")
    kept = ["img_emb_00000.npy", "text_emb_00000.npy", "metadata_00000.parquet", "metadata_00001.parquet"]
    assert [second[name] for name in kept] == [first[name] for name in kept]
    assert done.verdicts().equals(Run.open(finished).verdicts())


def test_only_new_shards_are_embedded(shards: Path, tmp_path: Path, quick_stages: None) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    for name in ("00000", "00001", "00002"):
        shutil.copy2(shards / f"{name}.parquet", source)
    run = pairclean.clean(source, tmp_path / "run", **HOG)
    before = times(run.path / "embeddings")
    shutil.copy2(shards / "00003.parquet", source)
    recorder = Recorder()
    run = pairclean.clean(source, run.path, execution=Execution(progress=recorder), **HOG)
    after = times(run.path / "embeddings")
    assert recorder.done == list(STAGES)
    assert {name: after[name] for name in before} == before
    assert "metadata_00003.parquet" in set(after) - set(before)
    assert run.shards == ["00000", "00001", "00002", "00003"]


def test_another_process_is_kept_out(run: Run, shards: Path) -> None:
    with (run.path / "run.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is working on"):
            pairclean.clean(shards, run.path, **HOG)
    pairclean.clean(shards, run.path, **HOG)


def test_results_of_other_options_are_not_mixed(run: Run, shards: Path) -> None:
    before = times(run.path)
    for options in ({"seed": 1}, {"flag_below": 0.3}, {"limit": 100}, {"id_column": "url"}, {"method": "l2rm"}):
        with pytest.raises(UserError, match=f"with (no )?--{next(iter(options)).replace('_', '-')}.*another directory"):
            pairclean.clean(shards, run.path, **{**HOG, **options})
    assert times(run.path) == before


def test_a_later_stage_with_another_option_brings_what_follows_up_to_date(run: Run) -> None:
    was = run.verdicts()
    kept = times(run.path / "model") | times(run.path / "judge") | times(run.path / "embeddings")
    assert redo(run, "rematch", Execution(), flag_below=0.05) == ["rematch", "export", "report"]
    now = run.verdicts()
    assert times(run.path / "model") | times(run.path / "judge") | times(run.path / "embeddings") == kept
    assert now["clean_probability"].equals(was["clean_probability"])
    probability = now["clean_probability"].to_numpy()
    judged = ~np.isnan(probability)
    assert judged.any()
    assert [bool(flag) for flag in np.array(now["is_noisy"].to_pylist())[judged]] == list(probability[judged] < 0.05)
    assert run.report["flag_below"] == 0.05
    assert run.report["flagged"] == int((probability[judged] < 0.05).sum())
    assert Run.open(run.path).config.flag_below == 0.05
    assert redo(run, "rematch", Execution(), flag_below=0.05) == []
    assert redo(run, "report", Execution()) == []


def test_only_what_was_done_before_is_done_again(shards: Path, tmp_path: Path, quick_stages: None) -> None:
    path = tmp_path / "run"
    assert pipeline.embed(shards, path, model="hog-tfidf") == ["embed"]
    assert pipeline.embed(shards, path, model="hog-tfidf") == []
    run = Run.open(path)
    assert redo(run, "align", Execution(), method="canonical") == ["align"]
    assert list(run.manifest["stages"]) == ["embed", "align"]
    assert redo(run, "judge", Execution()) == ["judge"]
    assert redo(run, "align", Execution(), seed=1) == ["align", "judge"]
    with pytest.raises(UserError, match="has not been through `rematch`, which comes first"):
        redo(run, "export", Execution())
    # the other stages' options are those that the run has, whatever `embed` is called with
    assert pipeline.embed(shards, path, model="hog-tfidf") == []


def test_what_was_interrupted_counts_as_not_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("rematch", "report"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pairclean.stages.{stage}.{stage}", stopped)
            with pytest.raises(KeyboardInterrupt):
                redo(run, "rematch", Execution(), flag_below=0.3)
        there = Run.open(run.path)
        assert there.config.flag_below == 0.3
        assert not there.is_done(stage)
        assert not there.is_done("report")
        assert there.is_done("judge")
    assert redo(run, "rematch", Execution(), flag_below=0.3) == ["report"]
    assert run.report["flag_below"] == 0.3


def test_going_back_after_an_interrupt_does_not_trust_the_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pairclean.stages.rematch.rematch", stopped)
        with pytest.raises(KeyboardInterrupt):
            redo(run, "rematch", Execution(), flag_below=0.3)
    assert redo(run, "rematch", Execution(), flag_below=0.5) == ["rematch"]
    assert all(run.is_done(stage) for stage in STAGES)


def test_wrong_options_change_nothing(run: Run) -> None:
    before = times(run.path)
    for stage, options in {"rematch": {"min_precision": 2}, "judge": {"score": "clip"}, "align": {"seed": -1}}.items():
        with pytest.raises(UserError):
            redo(run, stage, Execution(), **options)
    after = times(run.path)
    assert {name for name in before if before[name] != after[name]} <= {"run.lock"}


def test_other_data_is_judged_by_what_was_learned(finished: Path, tmp_path: Path) -> None:
    write_shards(draw_scenes(150, 7), tmp_path / "other", shard_size=100)
    for file in (tmp_path / "other").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.rename_columns(["alt" if n == "caption" else n for n in table.column_names]), file)
    with pytest.raises(UserError, match="'caption'"):
        pairclean.apply(finished, tmp_path / "other", tmp_path / "none", caption_column="caption")
    assert not (tmp_path / "none").exists()

    out = pairclean.apply(finished, tmp_path / "other", tmp_path / "out", caption_column="alt", limit=120)
    assert len(out.verdicts()) == 120
    assert out.report["model"] == "hog-tfidf"
    theirs, ours = (open_judgement(run).calibration for run in (Run.open(finished), out))
    assert theirs is not None
    assert ours is not None
    assert ours.to_json() == theirs.to_json()
    assert {p.name: p.read_bytes() for p in (out.path / "model").glob("*.safetensors")} == {
        p.name: p.read_bytes() for p in (finished / "model").glob("*.safetensors")
    }
    with pytest.raises(UserError, match="judged by the model of another run"):
        redo(out, "align", Execution(), seed=3)
    assert redo(out, "rematch", Execution(), flag_below=0.2) == ["rematch", "export", "report"]


def test_applying_to_the_data_that_was_learned_from_gives_its_probabilities(
    finished: Path, shards: Path, tmp_path: Path
) -> None:
    out = pairclean.apply(finished, shards, tmp_path / "out").verdicts()
    own = Run.open(finished).verdicts()
    assert out["pair_id"].equals(own["pair_id"])
    ours, theirs = (np.array(t["clean_probability"].to_pylist(), float) for t in (out, own))
    judged = ~np.isnan(theirs)
    assert np.array_equal(judged, ~np.isnan(ours))
    # All but those whose fold their own run chose by their caption, and this one by their picture.
    assert np.mean(np.abs(ours[judged] - theirs[judged]) < 0.001) > 0.97


def test_the_manifest_is_a_recipe(finished: Path, tmp_path: Path) -> None:
    assert Config.make(**read_recipe(finished / "manifest.json")) == Run.open(finished).config
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = "hog-tfidf"\nflag-below = 0.25\nworkers = 2\n')
    assert read_recipe(recipe) == {"model": "hog-tfidf", "flag_below": 0.25, "workers": 2}


def test_paths_are_absolute_and_tags_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.make(model="local-dir:m", pretrained="w.pt", image_root="pictures")
    assert (config.model, config.pretrained, config.image_root) == (
        f"local-dir:{tmp_path / 'm'}",
        str(tmp_path / "w.pt"),
        str(tmp_path / "pictures"),
    )
    assert Config.make(pretrained="laion2b_s34b_b79k").pretrained == "laion2b_s34b_b79k"
    assert Config.make(model="hf-hub:a/b").model == "hf-hub:a/b"
    assert Config.make(**config.model_dump()) == config


@pytest.fixture
def moved(finished: Path, shards: Path, tmp_path: Path) -> Run:
    """A finished run over a source of one's own."""
    shutil.copytree(shards, tmp_path / "shards")
    shutil.copytree(finished, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    run.manifest["source"] = str(tmp_path / "shards")
    run.save()
    for shard in sorted(shards.glob("*.parquet")):  # a shard is known by its time of change too
        shutil.copystat(shard, tmp_path / "shards" / shard.name)
    return Run.open(tmp_path / "run")


@pytest.mark.parametrize("change", ["remove", "add", "replace"])
def test_verdicts_never_go_to_a_source_that_has_changed(moved: Run, change: str) -> None:
    source = Path(moved.manifest["source"])
    if change == "remove":
        (source / "00001.parquet").unlink()
    elif change == "add":
        write_shards(draw_scenes(5, 1), source / "more")
        (source / "more/00000.parquet").rename(source / "00000a.parquet")
    else:
        (source / "00001.parquet").write_bytes((source / "00002.parquet").read_bytes())
    before = dict(zip(moved.shards, moved.verdict_tables(), strict=True))
    with pytest.raises(UserError, match=r"has changed|not unique"):
        redo(moved, "rematch", Execution(), flag_below=0.6)
    for name, table in before.items():
        assert pq.read_table(moved.path / "verdicts" / f"{name}.parquet").equals(table)


def test_a_start_that_fails_leaves_the_run_as_it_was(moved: Run) -> None:
    source = Path(moved.manifest["source"])
    source.rename(source.with_name("elsewhere"))
    with pytest.raises(UserError):
        pairclean.clean(source, moved.path, **HOG)
    again = Run.open(moved.path)
    assert again.is_done("report")
    assert again.report["pairs"] == 400


def test_what_is_not_up_to_date_is_not_shown(run: Run) -> None:
    run.set_stale("export")
    with pytest.raises(UserError, match="up to date"):
        run.verdicts()
    with pytest.raises(UserError, match="up to date"):
        _ = run.report


def test_only_what_can_be_given_is_advised(run: Run, shards: Path) -> None:
    def refused(**options: object) -> str:
        with pytest.raises(UserError) as caught:
            pairclean.clean(shards, run.path, **{**HOG, **options})
        return str(caught.value)

    assert refused(min_precision=0.5).endswith("--min-precision 0.5`")
    run.manifest["config"] |= {"method": "drcl", "label_column": "kind", "keep_fraction": 0.5}
    run.save()
    assert refused(method="drcl", label_column="kind").endswith("name another directory")
    assert refused(method="drcl", label_column="a b").endswith("--label-column 'a b'`")


def test_a_note_that_goes_away_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lock(tmp_path / "lock") as lock:
        lock.note = "here"
        assert lock.note == "here"
        monkeypatch.setattr(Path, "exists", lambda self: True)
        lock.path.unlink()
        assert lock.note == ""
