"""A run is killed, the disk fills up, files are cut: it goes on to the same result, or says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small import OPTIONS, use_small, write_bars

import pairclean
from pairclean.options import STAGES
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(360, tmp_path_factory.mktemp("data") / "shards", 120)


@pytest.fixture(scope="module")
def found(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the runs of killing.py."""
    home = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "killing.py", shards, home]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=900)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_killed_run_goes_on_to_the_same_result(found: dict[str, Any]) -> None:
    """Every file byte for byte, but for what tells the seconds that were needed."""
    assert min(found["writes"].values()) >= 5
    killed = [name for trial in found["trials"] for name, was in trial["kills"].items() if was]
    assert len(killed) >= 30
    assert {name.split(",")[0] for name in killed} >= {*STAGES, "inside a file", "going on"}
    assert [trial["status"] for trial in found["trials"]] == [0] * len(found["trials"])
    assert {", ".join(trial["kills"]): trial["different"] for trial in found["trials"] if trial["different"]} == {}


def test_the_runs_that_are_killed_have_something_to_lose(run: Run) -> None:
    verdicts = run.verdicts()["verdict"].to_pylist()
    assert {verdict: verdicts.count(verdict) > 20 for verdict in ("clean", "rematched")} == {
        "clean": True,
        "rematched": True,
    }


def test_a_full_disk_is_said_and_recovered_from(found: dict[str, Any]) -> None:
    assert [disk["name"].split(",")[0] for disk in found["full disks"]] == list(STAGES)
    for disk in found["full disks"]:
        assert disk["status"] == 2, disk
        assert "No space left on device" in disk["said"], disk
        assert "Traceback" not in disk["said"], disk
        assert disk["after"] == {"status": 0, "different": []}, disk


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        use_small(patch)
        return pairclean.clean(shards, tmp_path_factory.mktemp("runs") / "run", **OPTIONS).path


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run of one's own."""
    use_small(monkeypatch)
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_a_part_that_was_half_written_is_made_again(run: Run, shards: Path) -> None:
    whole = {path: path.read_bytes() for path in sorted((run.path / "embeddings").rglob("*.*"))}
    assert len(whole) == 9
    for path, data in whole.items():
        path.write_bytes(data[: len(data) // 2])
    pairclean.clean(shards, run.path, **OPTIONS)
    assert {path: path.read_bytes() for path in whole} == whole


def test_a_manifest_that_was_cut_is_refused(run: Run, shards: Path) -> None:
    path = run.path / "manifest.json"
    whole, verdicts = path.read_bytes(), run.verdicts()
    for kept in [0, 1, 2, 40, len(whole) // 2, len(whole) - 3]:
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"manifest.json is damaged: start a new run, or put the file back"):
            pairclean.clean(shards, run.path, **OPTIONS)
        assert path.read_bytes() == whole[:kept]
    for other in ("[]", "{}", "null", '"run"', '{"layout": 1}'):
        path.write_text(other)
        with pytest.raises(UserError, match="is damaged"):
            Run.open(run.path)
    path.write_bytes(whole)
    assert Run.open(run.path).verdicts().equals(verdicts)


@pytest.mark.parametrize("left", [["run.lock"], ["run.lock", ".manifest.json.77.tmp"], ["run.lock", "locks"]])
def test_what_a_killed_start_leaves_is_no_run_of_others(
    shards: Path, tmp_path: Path, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch)
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).mkdir() if name == "locks" else (run / name).touch()
    assert len(pairclean.clean(shards, run, **OPTIONS, limit=40).verdicts()) == 40
    assert {path.name for path in run.iterdir()}.isdisjoint({".manifest.json.77.tmp", "locks"})


def test_a_file_that_was_cut_is_never_taken_for_whole(run: Run, shards: Path) -> None:
    """Stages read what was written before them: what is no longer whole ends in an error, not in other verdicts."""
    path = run.path / "judge" / "clean_probability.npy"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Exception, match="mmap length is greater"):
        redo(run, "rematch", pairclean.run.Execution(), flag_below=0.3)
    assert not Run.open(run.path).is_done("rematch")


def test_a_shard_is_known_by_its_size_time_and_footer(run: Run, shards: Path, tmp_path: Path) -> None:
    before = Run.open(run.path).manifest["parts"]
    source = tmp_path / "copy"
    source.mkdir()
    for path in sorted(shards.glob("*.parquet")):
        (source / path.name).write_bytes(path.read_bytes())
        stat = path.stat()
        os.utime(source / path.name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    run.manifest["source"] = str(source)
    run.save()

    def parts() -> dict[str, str]:
        pairclean.clean(source, run.path, **OPTIONS)
        found: dict[str, str] = Run.open(run.path).manifest["parts"]
        return found

    assert parts() == before
    os.utime(source / "00000.parquet", ns=(1, 1))  # the time
    touched = parts()
    assert [name for name in before if touched[name] != before[name]] == ["00000"]
    stat = (source / "00001.parquet").stat()
    table = pq.read_table(source / "00001.parquet").replace_schema_metadata({"a": "b"})  # the footer, and the size
    pq.write_table(table, source / "00001.parquet")
    os.utime(source / "00001.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = parts()
    assert [name for name in before if changed[name] != touched[name]] == ["00001"]
    (source / "00002.parquet").unlink()
    assert list(parts()) == ["00000", "00001"]
    assert len(run.open(run.path).verdicts()) == 240
