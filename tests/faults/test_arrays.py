"""Array jobs: several processes that each make their share of the parts, whatever becomes of some of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import OPTIONS, use_small, write_bars

from pairclean import pipeline
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution, Run
from pairclean.run.lock import Lock
from pairclean.run.status import Parts, status

HERE = Path(__file__).parent
NOTHING_YET = ["missing"] * 6
EXPORTING = [*["done"] * 4, "incomplete", "missing"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(160, tmp_path_factory.mktemp("data") / "shards", 20)


@pytest.fixture(scope="module")
def found(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the processes of arrays.py."""
    home = tmp_path_factory.mktemp("arrays")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "arrays.py", shards, home]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=900)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_array_jobs_of_which_two_are_killed_end_like_one_process(found: dict[str, Any]) -> None:
    whole = found["whole_run"]
    assert whole["embed"] == [0, -9, -9, 0]
    assert whole["embed again"] == [0, 0]
    assert whole["middle"] == [0, 0, 0]
    assert whole["export"] == [-9, 0, 0, -9]
    assert whole["export again"] == [0, 0]
    assert whole["report"] == 0
    assert whole["compared"] > 50
    assert whole["different"] == []  # embeddings, what was learned and judged, verdicts, cleaned data, report


def test_the_next_stage_says_which_parts_are_missing_and_how_to_make_them(found: dict[str, Any]) -> None:
    whole = found["whole_run"]
    early = whole["align too early"]
    assert early["status"] == 2
    assert early["said"].startswith("error: 2 of 8 parts of `embed` are missing in ")
    assert " (00005, 00006): make them with `pairclean embed " in early["said"]
    assert early["said"].endswith("/run --model hog-tfidf`\n")
    early = whole["report too early"]
    assert early["status"] == 2
    assert early["said"].startswith("error: 3 of 8 parts of `export` are missing in ")
    assert " (00000, 00004, 00007): make them with `pairclean export " in early["said"]


def test_the_status_tells_what_is_there(found: dict[str, Any]) -> None:
    whole = found["whole_run"]
    assert whole["after embed"] == {"states": ["incomplete", *NOTHING_YET[1:]], "parts": [[6, 0, 2], [0, 0, 8]]}
    assert whole["after embed again"] == {"states": ["done", *NOTHING_YET[1:]], "parts": [[8, 0, 0], [0, 0, 8]]}
    assert whole["after export"] == {"states": EXPORTING, "parts": [[8, 0, 0], [5, 0, 3]]}
    assert whole["finished"] == {"states": ["done"] * 6, "parts": [[8, 0, 0], [8, 0, 0]]}


def test_a_job_of_a_stage_that_is_done_has_nothing_to_do(found: dict[str, Any]) -> None:
    assert found["whole_run"]["one more"]["status"] == 0
    assert found["whole_run"]["one more"]["said"].startswith("export is up to date")


def test_without_an_index_the_rest_is_made(found: dict[str, Any]) -> None:
    rest = [f"{k:05d}" for k in range(8) if k % 4 != 2]
    assert found["finished_by_one"] == {"job": 0, "before": [2, 0, 6], "rest": 0, "parts": rest}


def test_a_part_in_another_process_hands_is_left_to_it(found: dict[str, Any]) -> None:
    left = found["left_to_another"]
    assert (left["status"], left["first"]) == (0, 0)
    assert left["parts"] == ["00002", "00004", "00006"]
    assert "left to another process, which is writing them: 00000\n" in left["said"]
    assert "job 0 of 2 has finished its parts of embed" in left["said"]
    assert left["meanwhile"] == {"states": ["running", *NOTHING_YET[1:]], "parts": [[3, 1, 4], [0, 0, 8]]}


def test_jobs_that_start_at_the_same_moment_make_one_run(found: dict[str, Any]) -> None:
    assert found["all_at_once"] == [[*[0] * 8, 8]] * 4


def test_options_stay_as_they_are_while_jobs_export(found: dict[str, Any]) -> None:
    differ = found["options_that_differ"]
    assert differ["meanwhile"] == [*["done"] * 4, "running", "stale"]
    assert differ["other"]["status"] == 2
    assert "other processes run `export`" in differ["other"]["said"]
    assert "with other options" in differ["other"]["said"]
    assert differ["rematch"]["status"] == 2
    assert "(at `export`)" in differ["rematch"]["said"]
    assert [differ[name] for name in ("same", "first", "report")] == [0, 0, 0]


def test_a_lock_that_is_looked_at_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not Lock.is_held(path)
    assert not path.exists()
    with Lock(path) as lock:
        assert not Lock.is_held(path)
        assert lock.take()
        assert Lock.is_held(path)
    assert not Lock.is_held(path)


def test_a_note_is_replaced_as_a_whole(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock") as lock:
        for words in ("rematch", "judge", ""):
            lock.note = words
            assert lock.note == words


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"shard_index": 1}, "go together"),
        ({"num_shards": 2}, "go together"),
        ({"shard_index": 2, "num_shards": 2}, "from 0 to 1"),
        ({"shard_index": -1, "num_shards": 2}, "from 0 to 1"),
        ({"shard_index": 0, "num_shards": 0}, "--num-shards 0: it should be a number from 1 on"),
    ],
)
def test_a_share_that_is_none_is_refused(given: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Execution(**given)


def test_the_shares_are_the_whole() -> None:
    parts = list(range(10))
    shares = [Execution(shard_index=k, num_shards=3).share(parts) for k in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert Execution().share(parts) == parts


def test_stages_that_need_all_pairs_take_no_share(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch)
    share = Execution(shard_index=0, num_shards=1)
    assert pipeline.embed(shards, tmp_path / "run", execution=share, model="hog-tfidf") == ["embed"]
    with pytest.raises(UserError, match="`align` needs all pairs at once"):
        redo(Run.open(tmp_path / "run"), "align", share)
    with pytest.raises(UserError, match="run the stages one by one"):
        pipeline.clean(shards, tmp_path / "run2", execution=share, **OPTIONS)


def test_the_speed_is_that_of_the_latest_parts(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    share = Execution(shard_index=0, num_shards=2)
    pipeline.embed(shards, tmp_path / "run", execution=share, model="hog-tfidf")
    run = Run.open(tmp_path / "run")
    for name, time in zip(run.shards[::2], (1000, 1002, 5000, 5004), strict=True):  # with a pause in the middle
        os.utime(run.embeddings / "metadata" / f"metadata_{name}.parquet", (time, time))
    pairs = [run_rows(run, name) for name in run.shards[::2]]
    of_embed = status(run)[0].parts
    assert of_embed is not None
    assert of_embed.pairs_per_second is of_embed.seconds_left is None  # nobody works on it
    with run.claim(run.shards[1]), Lock(run.path / "run.lock") as lock:
        lock.note = "embed"

        def resumed(at: float) -> Parts:
            os.utime(run.path / "run.lock", (at, at))
            of_embed = status(run)[0].parts
            assert of_embed is not None
            assert (of_embed.done, of_embed.running, of_embed.missing) == (4, 1, 3)
            return of_embed

        whole, second = resumed(at=999), resumed(at=4999.5)
        assert whole.pairs_per_second == pytest.approx(sum(pairs[1:]) / 4004)
        assert second.pairs_per_second == pytest.approx(pairs[3] / 4)
        assert second.seconds_left == pytest.approx(4 * 4)
        assert resumed(at=5001).pairs_per_second is None  # one part tells no speed


def test_a_process_that_joins_others_is_no_new_beginning(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch)
    first, second = (Execution(shard_index=index, num_shards=2) for index in range(2))
    pipeline.embed(shards, tmp_path / "run", execution=first, model="hog-tfidf")
    lock = tmp_path / "run" / "run.lock"
    os.utime(lock, (1000, 1000))
    with Lock(lock) as held:
        assert held.take(shared=True)
        pipeline.embed(shards, tmp_path / "run", execution=second, model="hog-tfidf")
        assert lock.stat().st_mtime == 1000
    pipeline.embed(shards, tmp_path / "run", execution=second, model="hog-tfidf")
    assert lock.stat().st_mtime > 1000


def run_rows(run: Run, name: str) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(run.embeddings / "metadata" / f"metadata_{name}.parquet").num_rows
