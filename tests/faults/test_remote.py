"""A run directory on an object store: the same results as on a disk, also where jobs are killed or meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from contents import content
from pairclean_cli.main import app
from small import OPTIONS, use_small, write_bars
from typer.testing import CliRunner

import pairclean
from pairclean import pipeline
from pairclean.config import Config
from pairclean.options import STAGES
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution, Run
from pairclean.run.remote import Mirror, RemoteRun, create_run, open_run
from pairclean.run.status import status

FIRST, SECOND = (Execution(shard_index=index, num_shards=2) for index in range(2))
EMBED = {"model": OPTIONS["model"]}

#: A job that is killed when it is about to upload the file that is named first.
KILLED = f"""
import os, sys
from pairclean.run.remote import Mirror
from pairclean_cli.main import main
put, last = Mirror._put, sys.argv.pop(1)
Mirror._put = lambda mirror, name: os.kill(os.getpid(), {int(signal.SIGKILL)}) if name == last else put(mirror, name)
main()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(120, tmp_path_factory.mktemp("data") / "shards", 20)


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process on this machine."""
    return pairclean.clean(shards, tmp_path_factory.mktemp("runs") / "alone", **OPTIONS).path


@pytest.fixture(scope="module")
def finished(shards: Path, s3: str) -> str:
    """The same run on an object store."""
    return pairclean.clean(shards, f"{s3}/finished", **OPTIONS).name


def there(address: str) -> dict[str, bytes]:
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    root = address.removeprefix("s3://") + "/"
    return {path.removeprefix(root): store.cat_file(path) for path in store.find(root)}


def copied(address: str, to: str) -> str:
    fsspec.filesystem("s3").copy(f"{address}/", f"{to}/", recursive=True)
    return to


def downloaded(address: str, to: Path) -> dict[str, str]:
    fsspec.filesystem("s3").get(f"{address}/", f"{to}/", recursive=True)
    return content(to)


def states(address: str) -> dict[str, Any]:
    return {
        one.stage: (one.state, one.parts and (one.parts.done, one.parts.missing)) for one in status(open_run(address))
    }


def command(*words: object, killed_at: str | None = None) -> subprocess.CompletedProcess[str]:
    code = "from pairclean_cli.main import main; main()" if killed_at is None else KILLED
    called = [sys.executable, "-c", code, *([killed_at] if killed_at else []), *map(str, words)]
    environment = {**os.environ, "FSSPEC_S3": json.dumps(fsspec.config.conf["s3"]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(called, capture_output=True, text=True, timeout=300, env=environment)


def test_a_run_of_one_process_is_that_on_a_disk(alone: Path, finished: str, tmp_path: Path) -> None:
    assert downloaded(finished, tmp_path / "run") == content(alone)
    assert Run.open(tmp_path / "run").is_done("report")  # a run directory like any other
    assert states(finished) == {stage: ("done", (6, 0) if stage in ("embed", "export") else None) for stage in STAGES}


def test_a_finished_run_is_read(shards: Path, alone: Path, finished: str) -> None:
    before = there(finished)
    run = pairclean.clean(shards, finished, **OPTIONS)
    assert run.report["verdicts"] == Run.open(alone).report["verdicts"]
    assert run.verdicts().equals(Run.open(alone).verdicts())
    assert pairclean.open_run(finished).verdicts().equals(Run.open(alone).verdicts())
    told = CliRunner().invoke(app, ["audit", finished, "--json"])
    assert json.loads(told.stdout)["whole"]["pairs"] == 120
    assert there(finished) == before


@pytest.mark.slow
def test_array_jobs_of_which_one_is_killed_end_like_one_process(
    shards: Path, alone: Path, s3: str, tmp_path: Path
) -> None:
    run = f"{s3}/array"
    jobs = [("--shard-index", index, "--num-shards", 2) for index in range(2)]
    embed = ("embed", shards, run, "--model", "hog-tfidf")
    killed = command(*embed, *jobs[0], killed_at="embeddings/metadata/metadata_00002.parquet")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "embeddings/text_emb/text_emb_00002.npy" in there(run)
    assert command(*embed, *jobs[1]).returncode == 0
    assert states(run)["embed"] == ("incomplete", (4, 2))
    early = command("align", run, "--method", "canonical")
    assert early.returncode == 2
    assert early.stderr == (
        f"error: 2 of 6 parts of `embed` are missing in {run} (00002, 00004): make them with "
        f"`pairclean embed {shards} {run} --model hog-tfidf`\n"
    )
    assert command(*embed, *jobs[0]).returncode == 0
    assert states(run)["embed"] == ("done", (6, 0))
    for stage in (("align", run, "--method", "canonical"), ("judge", run), ("rematch", run)):
        done = command(*stage)
        assert (done.returncode, done.stdout) == (0, f"{stage[0]} is done: {run}\n"), done.stderr
    killed = command("export", run, *jobs[1], killed_at="verdicts/00003.parquet")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "cleaned/00003.parquet" in there(run)
    assert command("export", run, *jobs[0]).returncode == 0
    assert states(run)["export"] == ("incomplete", (4, 2))
    assert command("report", run).returncode == 2
    assert command("export", run, *jobs[1]).returncode == 0
    assert command("report", run).returncode == 0
    assert downloaded(run, tmp_path / "run") == content(alone)


@pytest.mark.slow
def test_jobs_that_begin_at_the_same_moment_make_one_run(
    shards: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch)
    run, config, options = f"{s3}/same-moment", Config.make(**OPTIONS), {"to": "webdataset"}
    late = create_run(run, shards, config)
    meanwhile(monkeypatch, late, "begin_parts", lambda: redo(create_run(run, shards, config), "embed", FIRST))
    assert redo(late, "embed", SECOND) == ["embed"]
    assert states(run)["embed"] == ("done", (6, 0))
    for stage in ("align", "judge", "rematch"):
        assert redo(open_run(run), stage, Execution()) == [stage]
    late = open_run(run)
    meanwhile(monkeypatch, late, "begin", lambda: redo(open_run(run), "export", FIRST, **options))
    assert redo(late, "export", SECOND, **options) == ["export"]
    assert states(run)["export"] == ("done", (6, 0))
    assert redo(open_run(run), "report", Execution()) == ["report"]
    made = pairclean.clean(shards, tmp_path / "alone", **OPTIONS, **options)
    assert downloaded(run, tmp_path / "run") == content(made.path)


def meanwhile(patch: pytest.MonkeyPatch, here: Any, method: str, work: Callable[[], object]) -> None:
    """Has another process do something when this one is about to call a method of a run or of its mirror."""
    call = getattr(here, method)

    def after(*given: Any, **options: Any) -> Any:
        patch.setattr(here, method, call)
        work()
        return call(*given, **options)

    patch.setattr(here, method, after)


def test_runs_of_other_options_are_not_mixed(shards: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    run = f"{s3}/other-options"
    one, other = (create_run(run, shards, Config.make(**OPTIONS, limit=limit)) for limit in (40, 60))
    redo(one, "embed", FIRST)
    before = there(run)
    with pytest.raises(UserError, match=f"another process has changed {run} meanwhile"):
        redo(other, "embed", SECOND)
    assert there(run) == before
    with pytest.raises(UserError, match=f"{run} is a run with --limit 40, not with --limit 60"):
        create_run(run, shards, Config.make(**OPTIONS, limit=60))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["set_stale", "set_done"])
def test_a_process_that_finds_another_one_stops_and_changes_nothing(
    finished: str, s3: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run, after = copied(finished, f"{s3}/second-{moment}"), {}

    def work() -> None:
        redo(open_run(run), "rematch", Execution(), flag_below=0.3)
        after.update(there(run))

    late = open_run(run)
    meanwhile(monkeypatch, late, moment, work)
    with pytest.raises(UserError, match=f"another process has changed {run} meanwhile: run the command again"):
        redo(late, "rematch", Execution(), flag_below=0.1)
    assert there(run) == after
    assert open_run(run).config.flag_below == 0.3


def test_only_one_process_makes_a_run(shards: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    run = f"{s3}/only-one"
    late = create_run(run, shards, Config.make(**OPTIONS, limit=60))
    first = create_run(run, shards, Config.make(**OPTIONS, limit=40))
    assert isinstance(late, RemoteRun)
    meanwhile(monkeypatch, late.mirror, "push_new", lambda: redo(first, "embed", Execution()))
    with pytest.raises(UserError, match=f"another process has changed {run} meanwhile"):
        redo(late, "embed", Execution())
    assert open_run(run).config.limit == 40
    assert open_run(run).is_done("embed")


def test_what_two_processes_have_written_at_once_does_not_count(
    finished: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, f"{s3}/at-once")
    late, push = open_run(run), Mirror.push

    def pushing(mirror: Mirror, names: Any) -> None:
        names = list(names)
        push(mirror, names)
        if mirror.home == late.path and "rematch/rematches.json" in names:
            monkeypatch.setattr(Mirror, "push", push)
            redo(open_run(run), "rematch", Execution(), flag_below=0.3)

    monkeypatch.setattr(Mirror, "push", pushing)
    with pytest.raises(UserError, match=f"another process has changed {run} meanwhile"):
        redo(late, "rematch", Execution(), flag_below=0.1)
    assert [state for state, _ in states(run).values()] == [*["done"] * 3, "stale", "stale", "stale"]


@pytest.mark.slow
def test_one_job_of_several_does_not_replace_an_export(finished: str, s3: str) -> None:
    run = copied(finished, f"{s3}/replace")
    before = there(run)
    with pytest.raises(UserError, match=f"move {run}/verdicts and {run}/cleaned away first"):
        redo(open_run(run), "export", FIRST, to="webdataset")
    assert there(run) == before
    run_ = open_run(run)
    run_.manifest["stages"]["export"]["fingerprint"] = None  # as after a kill behind `judge`
    run_.save()
    with pytest.raises(UserError, match=f"{run} has an earlier export"):
        redo(open_run(run), "export", FIRST)
    assert set(there(run)) == set(before)
    for folder in ("verdicts", "cleaned"):
        fsspec.filesystem("s3").rm(f"{run}/{folder}", recursive=True)
    jobs = [open_run(run) for _ in range(2)]
    for job, execution in zip(jobs, (FIRST, SECOND), strict=True):
        redo(job, "export", execution)
    redo(open_run(run), "report", Execution())
    after = there(run)
    assert {name: data for name, data in after.items() if "/" in name} == {
        name: data for name, data in before.items() if "/" in name
    }


@pytest.mark.slow
def test_what_an_earlier_pass_left_is_removed(shards: Path, s3: str, tmp_path: Path) -> None:
    source, run = tmp_path / "source", f"{s3}/grown"
    write_bars(120, source, 20)
    pairclean.clean(source, run, **OPTIONS, to="webdataset")
    fsspec.filesystem("s3").pipe_file(f"{run}/model/first_9.safetensors", b"left")
    (source / "00005.parquet").unlink()
    (source / "00005_stats.json").unlink(missing_ok=True)
    pairclean.clean(source, run, **OPTIONS, to="webdataset")
    made = pairclean.clean(source, tmp_path / "alone", **OPTIONS, to="webdataset")
    found = downloaded(run, tmp_path / "run")
    assert found == content(made.path)
    assert not any("00005" in name or "first_9" in name for name in found)
    # A change of layout, too.
    redo(open_run(run), "export", Execution(), to="embeddings")
    redo(made, "export", Execution(), to="embeddings")
    assert downloaded(run, tmp_path / "again") == content(made.path)


class Gone(Exception):
    """What the library of a store raises where the network is gone."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "sentence"),
    [(PermissionError("Access Denied"), "Access Denied"), (Gone("no route to host"), "no route to host")],
    ids=["no permission", "no network"],
)
def test_a_store_that_fails_ends_the_stage_with_a_sentence(
    finished: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    run = copied(finished, f"{s3}/fails-{type(error).__name__}")
    store = Mirror(run).system  # of which fsspec makes one
    put = store.put_file

    def fails(here: str, there: str, **options: Any) -> None:
        if there.endswith("/rematch/rematches.json"):
            raise error
        put(here, there, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_file", fails)
        told = CliRunner().invoke(app, ["rematch", run, "--flag-below", "0.2"])
    assert told.exit_code == 2
    assert told.stderr == f"error: cannot reach {run}: {sentence}\n"
    assert [state for state, _ in states(run).values()] == [*["done"] * 3, "stale", "stale", "stale"]
    assert redo(open_run(run), "rematch", Execution()) == ["rematch", "export", "report"]
    made = pairclean.clean(open_run(run).manifest["source"], tmp_path / "alone", **OPTIONS)
    redo(made, "rematch", Execution(), flag_below=0.2)
    assert downloaded(run, tmp_path / "run") == content(made.path)


def test_addresses_that_hold_no_run_are_refused(shards: Path, s3: str) -> None:
    fsspec.filesystem("s3").pipe_file(f"{s3}/foreign/mine.txt", b"x")
    for address, sentence in {
        "s3://nobucket/run": "there is no bucket for s3://nobucket/run: make it first",
        f"{s3}/foreign": f"{s3}/foreign is not empty and holds no run",
        "nowhere://a/run": "no file system called nowhere://",
    }.items():
        with pytest.raises(UserError, match=sentence):
            pairclean.clean(shards, address, **OPTIONS)
    assert set(there(f"{s3}/foreign")) == {"mine.txt"}
    with pytest.raises(UserError, match=f"{s3}/nothing is no run directory: it has no readable manifest.json"):
        open_run(f"{s3}/nothing")
    with pytest.raises(UserError, match="copy the run to a disk for this command"):
        Run.open(f"{s3}/nothing")
    with pytest.raises(UserError, match="is the source itself"):
        pipeline.embed(f"{s3}/run", f"{s3}/run", **EMBED)


def test_the_address_of_a_folder_on_this_machine_is_that_folder(alone: Path, shards: Path, tmp_path: Path) -> None:
    assert open_run(alone.as_uri()).path == alone
    made = create_run((tmp_path / "run").as_uri(), shards, Config.make(**OPTIONS))
    assert made.path == tmp_path / "run"


def test_ray_needs_a_disk(shards: Path, s3: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"--engine ray needs a run directory on a disk, and {s3}/ray is none"):
        pipeline.embed(shards, f"{s3}/ray", execution=Execution(engine="ray"), **EMBED)
    assert there(f"{s3}/ray") == {}
