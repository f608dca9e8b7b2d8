"""Cleaned data in an object store."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from pairclean import clean
from pairclean.export import Destination
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution
from pairclean.sources import open_source
from pairclean.synthetic.scenes import draw_scenes, write_shards


def names_in(address: str) -> list[str]:
    return sorted(fsspec.filesystem("s3").find(address))


@pytest.mark.slow
def test_a_run_from_an_object_store_to_an_object_store(tmp_path: Path, s3: str) -> None:
    store = fsspec.filesystem("s3")
    write_shards(draw_scenes(120, seed=0), tmp_path / "in", shard_size=60)
    store.put(f"{tmp_path}/in/", f"{s3}/store/in/", recursive=True)
    to = f"{s3}/store/out"
    run = clean(f"{s3}/store/in", tmp_path / "run", model="hog-tfidf", cleaned_to=to)
    assert run.manifest["source"] == f"{s3}/store/in"
    names = ["cleaned/00000.parquet", "cleaned/00001.parquet", "verdicts/00000.parquet", "verdicts/00001.parquet"]
    assert names_in(to) == [f"pairs/store/out/{name}" for name in names]
    assert list((run.path / "cleaned").iterdir()) == []
    for name in ("00000", "00001"):
        written = pq.read_table(io.BytesIO(store.cat_file(f"{to}/verdicts/{name}.parquet")))
        assert written.equals(pq.read_table(run.path / "verdicts" / f"{name}.parquet"))
    kept = [pair["pair_id"] for pair in run.verdicts().to_pylist() if pair["verdict"] in ("clean", "rematched")]
    again = open_source(f"{to}/cleaned")
    assert [row.id for shard in again.shards for row in again.rows(shard)] == kept
    assert run.report["cleaned_to"] == to

    # What this run has written is replaced, and nothing else is touched.
    assert redo(run, "export", Execution(), to="webdataset")[0] == "export"
    assert [name for name in names_in(to) if "/cleaned/" in name] == [
        f"pairs/store/out/cleaned/0000{i}.tar" for i in range(2)
    ]
    store.pipe_file(f"{to}/cleaned/mine.txt", b"x")
    with pytest.raises(UserError, match=r"did not write \(pairs/store/out/cleaned/mine.txt\)"):
        redo(run, "export", Execution(), to="source")
    store.rm_file(f"{to}/cleaned/mine.txt")
    assert redo(run, "export", Execution(), to="embeddings", cleaned_to=f"{s3}/store/more")[0] == "export"
    assert {name.split("/")[-1] for name in names_in(f"{s3}/store/more/cleaned")} >= {"img_emb_00000.npy"}


def test_what_takes_nothing_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    write_shards(draw_scenes(5, seed=0), tmp_path / "in")
    for address, reason in ((str(tmp_path / "out"), "no remote address"), ("nowhere://a/b", "no file system called")):
        with pytest.raises(UserError, match=reason):
            clean(tmp_path / "in", tmp_path / "run", model="hog-tfidf", cleaned_to=address)
        assert not (tmp_path / "run" / "embeddings").exists()


def test_folders_and_files_are_moved(tmp_path: Path, s3: str) -> None:
    home = tmp_path / "cleaned"
    (home / "00000").mkdir(parents=True)
    (home / "00000" / "a.jpg").write_bytes(b"a")
    (home / "00000.parquet").write_bytes(b"b")
    place = Destination(f"{s3}/moved")
    place.move(home, ["00000", "00000.parquet", "missing.parquet"])
    assert list(home.iterdir()) == []
    assert place.files() == ["pairs/moved/cleaned/00000.parquet", "pairs/moved/cleaned/00000/a.jpg"]
    place.remove(["cleaned/00000", "cleaned/other"])
    assert place.files() == ["pairs/moved/cleaned/00000.parquet"]
