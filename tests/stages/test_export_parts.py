"""Export part by part: by several jobs, in several attempts, in every layout; the files are those of one process."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pairclean
from pairclean.export.uids import Uids
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution, Progress, Run
from pairclean.run.parts import missing_parts
from pairclean.run.remote import open_run

HOG = {"model": "hog-tfidf", "method": "canonical"}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
SHARDS = 5


def tiles(seed: int) -> tuple[bytes, str]:
    """Nine coloured fields and a caption that names them all, which a linear model can learn."""
    names = np.random.default_rng(seed).choice(list(COLOURS), 9)
    pixels = np.array([COLOURS[name] for name in names], np.uint8).reshape(3, 3, 3).repeat(16, 0).repeat(16, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), " ".join(f"{place}{name}" for place, name in zip("abcdefghi", names, strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs over pictures and over vectors: 400 pairs in five shards, of which 120 were moved."""
    home = tmp_path_factory.mktemp("parts")
    rows = [tiles(seed) for seed in range(400)]
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(400)]
    columns = {"uid": uids, "jpg": [image for image, _ in rows], "caption": [text for _, text in rows]}
    (home / "drawn").mkdir()
    for k in range(SHARDS):
        part = {name: column[80 * k : 80 * (k + 1)] for name, column in columns.items()}
        pq.write_table(pa.table(part), home / "drawn" / f"{k}.parquet")
    pairclean.plant(home / "drawn", home / "shards", rate=0.3)
    run = pairclean.clean(home / "shards", home / "pictures", **HOG, min_precision=0.5)
    assert run.report["rematch"]["emitted"] > 20
    vectors = pairclean.clean(run.path / "embeddings", home / "vectors", method="canonical", min_precision=0.5)
    assert vectors.report["rematch"]["emitted"] > 20
    return {"pictures": run.path, "vectors": vectors.path}


def files(run: Path) -> dict[str, bytes]:
    found = {}
    for folder in ("verdicts", "cleaned"):
        found |= {str(p.relative_to(run)): p.read_bytes() for p in (run / folder).rglob("*") if p.is_file()}
    return found


def copied(run: Path, to: Path) -> Run:
    shutil.copytree(run, to)
    return Run.open(to)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report, which follows every export and takes longer, is not made."""
    monkeypatch.setattr("pairclean.stages.report.report", lambda run, execution: None)


LAYOUTS = [
    ("pictures", {"to": "source"}),
    ("pictures", {"to": "webdataset"}),
    ("pictures", {"to": "uids"}),
    ("pictures", {"to": "embeddings"}),
    ("pictures", {"to": "parquet", "deduplicate": "image"}),
    ("vectors", {"to": "source"}),
]


@pytest.mark.parametrize(("source", "options"), LAYOUTS, ids=lambda given: str(given))
def test_several_jobs_write_what_one_process_writes(
    finished: dict[str, Path], tmp_path: Path, source: str, options: dict[str, str]
) -> None:
    run = copied(finished[source], tmp_path / "run")
    redo(run, "export", Execution(), captions="best")
    redo(run, "export", Execution(), captions="all", **options)
    whole = files(run.path)
    assert len(whole) > SHARDS
    redo(run, "export", Execution(), captions="best")
    moved_away(run)
    for index in (1, 2, 0):
        assert redo(
            Run.open(run.path), "export", Execution(shard_index=index, num_shards=3), captions="all", **options
        ) == ["export"]
    there = Run.open(run.path)
    assert not there.is_done("export")
    assert missing_parts(there, "export") == []
    assert redo(there, "report", Execution()) == ["report"]
    assert files(run.path) == whole
    assert not (run.path / "moved").exists()


def moved_away(run: Run) -> None:
    for folder in ("verdicts", "cleaned"):
        (run.path / folder).rename(run.path.with_name(f"{run.path.name}-{folder}"))


def test_one_job_of_several_does_not_replace_an_export(finished: dict[str, Path], tmp_path: Path) -> None:
    run = copied(finished["pictures"], tmp_path / "run")
    whole, manifest = files(run.path), (run.path / "manifest.json").read_bytes()
    first, second = (Execution(shard_index=index, num_shards=2) for index in range(2))
    with pytest.raises(
        UserError, match=r"move .*/run/verdicts and .*/run/cleaned away first, or run `pairclean export"
    ):
        redo(run, "export", first, to="webdataset")
    assert (files(run.path), (run.path / "manifest.json").read_bytes()) == (whole, manifest)
    assert Run.open(run.path).is_done("report")

    # Nor the parts that another job has written, once there are any.
    moved_away(run)
    assert redo(Run.open(run.path), "export", first, to="webdataset") == ["export"]
    parts = files(run.path)
    assert len(parts) == 3 * 2  # a shard's verdicts, and its cleaned data
    with pytest.raises(UserError, match="was made with other options"):
        redo(Run.open(run.path), "export", second, to="parquet")
    assert files(run.path) == parts
    assert redo(Run.open(run.path), "export", second, to="webdataset") == ["export"]
    assert missing_parts(Run.open(run.path), "export") == []


class Stopping(Progress):
    def __init__(self, after: int) -> None:
        self._left = after

    def advance(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left <= 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("source", "options"), LAYOUTS, ids=lambda given: str(given))
def test_an_interrupted_export_goes_on_where_it_was(
    finished: dict[str, Path], tmp_path: Path, source: str, options: dict[str, str]
) -> None:
    run = copied(finished[source], tmp_path / "run")
    redo(run, "export", Execution(), captions="best")
    redo(run, "export", Execution(), captions="all", **options)
    whole = files(run.path)
    redo(run, "export", Execution(), captions="best")
    with pytest.raises(KeyboardInterrupt):
        redo(run, "export", Execution(progress=Stopping(2)), captions="all", **options)
    (run.path / "cleaned" / ".left.parquet.77.tmp").touch()
    names = [f"{k}.parquet" for k in range(2)] if source == "pictures" else None
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (run.path / "verdicts").iterdir())
    assert len(before) == 2
    assert names is None or [name for name, _ in before] == names
    assert redo(run, "export", Execution()) == ["export", "report"]
    after = sorted((path.name, path.stat().st_mtime_ns) for path in (run.path / "verdicts").iterdir())
    assert set(before) < set(after)  # what was there was not written again
    assert files(run.path) == whole


@pytest.mark.usefixtures("no_report")
def test_a_kill_while_parts_are_joined_loses_nothing(
    finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished["pictures"], tmp_path / "run")
    redo(run, "export", Execution(), to="uids")
    whole = files(run.path)
    redo(run, "export", Execution(), to="source")
    join = Uids.finish

    def killed(self: Uids, out: Path) -> None:
        join(self, out)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Uids, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            redo(run, "export", Execution(), to="uids")
    assert redo(run, "export", Execution()) == ["export", "report"]
    assert files(run.path) == whole


@pytest.mark.usefixtures("no_report")
def test_parts_of_other_options_are_not_taken(finished: dict[str, Path], tmp_path: Path) -> None:
    run = copied(finished["pictures"], tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        redo(run, "export", Execution(progress=Stopping(2)), to="webdataset")
    redo(run, "rematch", Execution(), flag_below=0.05)
    whole = files(run.path)
    other = copied(finished["pictures"], tmp_path / "other")
    redo(other, "rematch", Execution(), flag_below=0.05)
    redo(other, "export", Execution(), to="webdataset")
    assert files(other.path) == whole


@pytest.mark.slow
def test_jobs_write_to_an_object_store(finished: dict[str, Path], tmp_path: Path, s3: str) -> None:
    store = fsspec.filesystem("s3")

    def there(name: str) -> dict[str, bytes]:
        root = f"{s3}/{name}".removeprefix("s3://")
        store.invalidate_cache()
        return {path.removeprefix(root): store.cat_file(path) for path in store.find(root)}

    for to in ("source", "uids"):
        one, many = (copied(finished["pictures"], tmp_path / f"{name}-{to}") for name in ("one", "many"))
        redo(one, "export", Execution(), to=to, cleaned_to=f"{s3}/one-{to}")
        moved_away(many)
        for index in range(2):
            share = Execution(shard_index=index, num_shards=2)
            redo(Run.open(many.path), "export", share, to=to, cleaned_to=f"{s3}/many-{to}")
        redo(Run.open(many.path), "report", Execution())
        assert there(f"one-{to}") == there(f"many-{to}")
        assert len(there(f"one-{to}")) > SHARDS
        shutil.rmtree(many.path / "verdicts")
        with pytest.raises(UserError, match=f"move {s3}/many-{to} away first"):
            redo(Run.open(many.path), "export", share, captions="best")
        assert there(f"one-{to}") == there(f"many-{to}")


@pytest.mark.slow
@pytest.mark.parametrize(("source", "options"), LAYOUTS, ids=lambda given: str(given))
def test_jobs_of_a_run_on_an_object_store_write_what_one_process_writes(
    finished: dict[str, Path], tmp_path: Path, s3: str, source: str, options: dict[str, str]
) -> None:
    store, address = fsspec.filesystem("s3"), f"{s3}/{source}-{'-'.join(options.values())}"
    run = copied(finished[source], tmp_path / "run")
    redo(run, "export", Execution(), captions="best", **options)
    whole = files(run.path)

    def there(to: str) -> dict[str, bytes]:
        store.invalidate_cache()
        store.get(f"{address}/", f"{tmp_path}/{to}/", recursive=True)
        return files(tmp_path / to)

    store.put(f"{finished[source]}/", f"{address}/", recursive=True)
    for folder in ("verdicts", "cleaned"):
        store.rm(f"{address}/{folder}", recursive=True)
    for index in (1, 0):
        share = Execution(shard_index=index, num_shards=2)
        redo(open_run(address), "export", share, captions="best", **options)
    redo(open_run(address), "report", Execution())
    assert there("jobs") == whole

    # One process replaces it, and another one resumes it where it was interrupted.
    redo(open_run(address), "export", Execution(), captions="all", to="source", deduplicate="none")
    with pytest.raises(KeyboardInterrupt):
        redo(open_run(address), "export", Execution(progress=Stopping(2)), captions="best", **options)
    parts = [name for name in there("interrupted") if name.startswith("verdicts/")]
    assert 1 <= len(parts) < SHARDS
    redo(open_run(address), "export", Execution())
    assert there("resumed") == whole
