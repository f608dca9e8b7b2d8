from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean.pairs import Columns, UserError
from pairclean.sources import open_source, sniff


def table(path: Path, key: str = "k", image: bytes | None = b"img") -> Path:
    columns = {"key": [key], "caption": ["x"]} | ({"jpg": [image]} if image else {})
    pq.write_table(pa.table(columns), path)
    return path


def tar(path: Path, key: str = "k") -> Path:
    with tarfile.open(path, "w") as archive:
        for end, data in (("jpg", b"img"), ("txt", b"x")):
            info = tarfile.TarInfo(f"{key}.{end}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refusal(path: Path | str, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("write", "layout"), [(table, "img2dataset"), (tar, "webdataset")])
@pytest.mark.parametrize("name", ["part-00000", "x.PARQUET", "x.tar", "x.parquet", "x.bin"])
def test_what_is_in_a_file_counts(tmp_path, write, layout, name):
    path = write(tmp_path / name)
    assert open_source(path).layout == open_source(tmp_path).layout == layout


def test_other_files_are_not_looked_at(tmp_path):
    table(tmp_path / "a.parquet")
    (tmp_path / "notes").write_bytes(table(tmp_path / ".hidden.parquet", "other").read_bytes())
    (tmp_path / "a_stats.json").write_text("{}")
    assert [shard.name for shard in open_source(tmp_path).shards] == ["a"]


def test_tars_and_tables_that_do_not_go_together(tmp_path):
    tar(tmp_path / "a.tar")
    table(tmp_path / "b.parquet")
    message = refusal(tmp_path)
    assert f"'{tmp_path}/*.tar' or '{tmp_path}/*.parquet'" in message
    assert [shard.name for shard in open_source(f"{tmp_path}/*.tar").shards] == ["a"]
    assert [shard.name for shard in open_source(f"{tmp_path}/*.parquet").shards] == ["b"]
    assert "does not exist" in refusal(f"{tmp_path}/*.npz")


def test_some_tars_may_have_no_sidecar(tmp_path):
    tar(tmp_path / "a.tar", "ka")
    tar(tmp_path / "b.tar", "kb")
    table(tmp_path / "b.parquet", "kb", None)
    source = open_source(tmp_path)
    assert [row.id for shard in source.shards for row in source.rows(shard)] == ["ka", "kb"]
    assert list(source.sidecars) == ["b"]


def test_embeddings_are_for_vectors(tmp_path):
    table(tmp_path / "a.parquet")
    assert "leave --embeddings out" in refusal(tmp_path, embeddings="b32")


def test_what_cannot_be_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    assert "holds no rows" in refusal(tmp_path / "a.tar.gz")
    (tmp_path / "b.md").write_text("x")
    assert "b.md cannot be read as Parquet or tar, and is not called like a table" in refusal(tmp_path / "b.md")
    (tmp_path / "a.tar.gz").unlink()
    assert "of its own" in refusal(tmp_path)
    (tmp_path / "c.tar").write_text("x")
    assert "c.tar ends early" in refusal(tmp_path / "c.tar")


def test_a_tar_of_nothing(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    assert "holds no rows" in refusal(tmp_path)
    tar(tmp_path / "b.tar")
    assert [(shard.name, shard.rows) for shard in open_source(tmp_path).shards] == [("a", 0), ("b", 1)]


def test_a_link_to_nothing_is_no_shard(tmp_path):
    table(tmp_path / "a.parquet")
    (tmp_path / "README").symlink_to(tmp_path / "gone")
    assert len(open_source(tmp_path).shards) == 1
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path) == (
        f"{tmp_path}/b.parquet is a link to a file that is not there: repair it or move it elsewhere"
    )


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def head(path: str, count: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = table(tmp_path / "a.parquet")
    monkeypatch.setattr(sniff, "head", head)
    assert refusal(tmp_path) == f"cannot read {path}: Permission denied"
