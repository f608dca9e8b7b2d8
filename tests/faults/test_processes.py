"""Several processes on one run, interrupts, and threads that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import OPTIONS, Small, use_small, write_bars

import pairclean
from pairclean import pipeline
from pairclean.execution import side_by_side
from pairclean.options import STAGES
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution
from pairclean.run.lock import Lock
from pairclean.stages import embed

HERE = Path(__file__).parent
PARTS = [f"{k:05d}" for k in range(8)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(160, tmp_path_factory.mktemp("data") / "shards", 20)


@pytest.fixture(scope="module")
def found(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the processes of scenarios.py."""
    home = tmp_path_factory.mktemp("scenarios")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "scenarios.py", shards, home]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=900)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_two_processes_share_the_parts(found: dict[str, Any]) -> None:
    shared = found["shared"]
    assert shared["statuses"] == [0, 0]
    assert shared["parts"] == [PARTS[:1], PARTS[1:]]  # each of them written once
    assert shared["waits"]  # the second, for the part that the first has in hand
    assert shared["done"]
    assert shared["alone"] == 0
    assert shared["same"] == [True] * 24  # as one process writes them
    assert shared["left"] == ["embeddings", "manifest.json", "run.lock"]


def test_a_process_that_dies_leaves_its_part_to_the_other(found: dict[str, Any]) -> None:
    assert found["taken over"] == {"waits": True, "status": 0, "parts": [*PARTS[1:], PARTS[0]], "done": True}


@pytest.mark.parametrize("stage", ["align", "report"])
def test_a_second_process_is_refused_where_all_is_one(found: dict[str, Any], stage: str) -> None:
    refused = found[f"refused at {stage}"]
    assert refused["statuses"] == [2, 2]
    for said in refused["said"]:
        assert said.startswith("error: another process is working on ")
        assert said.endswith(f"(at `{stage}`): wait for it, or stop it\n")
    assert refused["afterwards"] == 0  # the first was killed: nothing is held any more


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_says_how_to_go_on(found: dict[str, Any], stage: str) -> None:
    assert found["interrupted"][stage]["status"] == 130
    assert found["interrupted"][stage]["said"].endswith("interrupted: run the same command again to resume\n")


def test_an_interrupt_does_not_wait_for_threads(found: dict[str, Any]) -> None:
    """Threads that learn cannot be interrupted; a process that was does not wait for them."""
    assert found["threads"] == {"status": 130, "said": "interrupted: run the same command again to resume\n"}


def test_while_others_embed_nothing_else_is_done(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    run = pairclean.clean(shards, tmp_path / "run", **OPTIONS)
    with Lock(run.path / "run.lock") as lock:
        assert lock.take(shared=True)
        lock.note = "embed"
        with pytest.raises(UserError, match=r"another process is working on .* \(at `embed`\)"):
            redo(run, "rematch", Execution(), flag_below=0.2)
    assert redo(run, "rematch", Execution(), flag_below=0.2) == ["rematch", "export", "report"]


def test_who_joins_has_to_find_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    source, run = tmp_path / "source", tmp_path / "run"
    write_bars(40, source, 20)
    pipeline.embed(source, run, model="hog-tfidf")
    write_bars(60, source, 20)
    with Lock(run / "run.lock") as lock:
        assert lock.take(shared=True)
        with pytest.raises(UserError, match="has changed since another process began to embed it"):
            pipeline.embed(source, run, model="hog-tfidf")
    assert pipeline.embed(source, run, model="hog-tfidf") == ["embed"]


def test_a_lock_whose_file_is_removed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "run/run.lock"
    with Lock(path) as second:
        with Lock(path) as first:
            assert first.take()
            assert not second.take()
            assert not second.take(shared=True)
            path.unlink()
        assert second.take()  # of the file that is there now
        with Lock(path) as third:
            assert not third.take()


class Dying(Small):
    def prepare(self, image: Any) -> np.ndarray:
        raise SystemExit("a thread dies")


def test_a_decoding_thread_that_dies_ends_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embed, "load_encoder", lambda *_, **__: Dying())
        with pytest.raises(SystemExit, match="a thread dies"):
            pairclean.clean(shards, tmp_path / "run", **OPTIONS)
    use_small(monkeypatch)
    assert pairclean.clean(shards, tmp_path / "run", **OPTIONS).is_done("report")


def test_a_learning_thread_that_dies_ends_the_stage() -> None:
    def work(k: int, device: str) -> int:
        if k == 1:
            raise MemoryError("a thread dies")
        return k

    with pytest.raises(MemoryError, match="a thread dies"):
        side_by_side(work, 4, ["cpu"])


def test_nothing_is_kept_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairclean.execution.available_cores", lambda: 2)
    begun, release, over = threading.Event(), threading.Event(), threading.Event()
    kept: list[int] = []

    def work(k: int, device: str) -> int:
        if k == 1:
            begun.set()
            release.wait()
            over.set()
        return k

    def done() -> None:
        begun.wait()  # the other thread is at work, and nobody can stop it
        kept.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, 2, ["cpu"], done)
    release.set()
    assert over.wait(60)
    assert kept == [1]
