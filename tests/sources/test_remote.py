from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean import pipeline
from pairclean.config import Config
from pairclean.pairs import Columns, UserError
from pairclean.run import Run
from pairclean.sources import open_source, storage
from pairclean.sources.patterns import parts


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["memory", "file", "s3"])
def remote(request, tmp_path):
    """An empty folder on a file system of fsspec's, by its address."""
    if request.param == "s3":
        address = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    else:
        address = "memory://bucket/shards" if request.param == "memory" else f"file://{tmp_path}/shards"
    system, inside = fsspec.core.url_to_fs(address)
    system.makedirs(inside, exist_ok=True)
    yield address
    if request.param == "memory":
        system.rm("/bucket", recursive=True)


def put(address: str, data: bytes) -> None:
    with fsspec.open(address, "wb") as file:
        file.write(data)


def table(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=1)
    return buffer.getvalue()


def tar(*keys: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i, key in enumerate(keys):
            for end, data in (("png", png(i)), ("txt", key.encode())):
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_parquet(remote):
    put(f"{remote}/b.parquet", table({"key": ["p", "q"], "caption": ["x", "y"], "jpg": [png(0), png(1)]}))
    put(f"{remote}/a.parquet", table({"key": ["r"], "caption": ["z"], "jpg": [png(2)]}))
    put(f"{remote}/a_stats.json", b"{}")
    put(f"{remote}/deeper/c.parquet", b"")
    source = open_source(remote + "/")
    assert source.layout == "img2dataset"
    rows = [(row.id, row.captions, row.image) for shard in source.shards for row in source.rows(shard)]
    assert rows == [("r", ("z",), png(2)), ("p", ("x",), png(0)), ("q", ("y",), png(1))]
    assert source.image(source.shards[1], 1) == png(1)
    assert [shard.name for shard in open_source(f"{remote}/b.parquet").shards] == ["b"]
    assert [shard.name for shard in open_source(f"{remote}/a*.parquet").shards] == ["a"]


def test_tars_with_a_sidecar(remote):
    put(f"{remote}/0.tar", tar("k1", "k0"))
    put(f"{remote}/0.parquet", table({"key": ["k0", "k1", "k2"], "caption": ["k0", "k1", "k2"]}))
    source = open_source(remote)
    (shard,) = source.shards
    assert [(row.id, row.image, row.reason) for row in source.rows(shard)] == [
        ("k0", png(1), None),
        ("k1", png(0), None),
        ("k2", None, "not in the tar"),
    ]
    assert source.image(shard, 0) == png(1)


def test_vectors(remote):
    put(f"{remote}/m.parquet", table({"uid": ["a", "b"], "text": ["x", "y"]}))
    buffer = io.BytesIO()
    np.savez(buffer, b32_img=np.eye(2, dtype=np.float16), b32_txt=np.ones((2, 2), np.float32))
    put(f"{remote}/m.npz", buffer.getvalue())
    source = open_source(remote)
    chunks = list(source.embedded(source.shards[0]))
    np.testing.assert_array_equal(np.concatenate([chunk.image for chunk in chunks]), np.eye(2))
    for folder, data in (("img_emb", np.eye(2)), ("text_emb", np.ones((2, 3)))):
        buffer = io.BytesIO()
        np.save(buffer, data)
        put(f"{remote}/clip/{folder}/{folder}_0.npy", buffer.getvalue())
    put(f"{remote}/clip/metadata/metadata_0.parquet", table({"caption": ["x", "y"]}))
    source = open_source(f"{remote}/clip")
    assert (source.layout, source.dims) == ("clip-retrieval", (2, 3))
    np.testing.assert_array_equal(source.arrays(source.shards[0])["text_emb"], np.ones((2, 3)))


def test_a_changed_file_is_noticed(remote):
    put(f"{remote}/a.parquet", table({"caption": ["x"], "jpg": [png(0)]}))
    first = open_source(remote).shards[0].fingerprint
    assert open_source(remote).shards[0].fingerprint == first
    put(f"{remote}/a.parquet", table({"caption": ["y"], "jpg": [png(0)]}))
    assert open_source(remote).shards[0].fingerprint != first


def test_a_broken_file_among_good_ones(remote):
    put(f"{remote}/a.parquet", table({"caption": ["x"], "jpg": [png(0)]}))
    put(f"{remote}/b.parquet", b"PAR1 and no more")
    put(f"{remote}/b_stats.json", json.dumps({"count": 2}).encode())
    source = open_source(remote)
    assert [(shard.name, shard.rows, bool(shard.broken)) for shard in source.shards] == [
        ("a", 1, False),
        ("b", 2, True),
    ]


def test_a_run_keeps_the_address(tmp_path):
    put("memory://bucket/in/a.parquet", table({"caption": ["x", "y"], "jpg": [png(0), png(1)]}))
    try:
        run = Run.create(tmp_path / "run", "memory://bucket/in", Config.make(model="hog-tfidf"))
        assert run.manifest["source"] == "memory://bucket/in"
        assert pipeline.preview("memory://bucket/in", tmp_path / "run", model="hog-tfidf")["pairs"] == 2
        assert pipeline.embed("memory://bucket/in", tmp_path / "run", model="hog-tfidf") == ["embed"]
        assert Run.open(tmp_path / "run").open_source().shards[0].rows == 2
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_what_cannot_be_reached(monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        open_source("memory://nowhere")
    with pytest.raises(UserError, match="no file system called nonsense://"):
        open_source("nonsense://a/b")

    def without(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    with pytest.raises(UserError, match=r"s3:// addresses need another package \(Install s3fs to access S3\)"):
        open_source("s3://bucket/shards")


def test_a_network_that_fails_is_no_broken_file(monkeypatch):
    """What cannot be reached now is not noted down as lost."""
    put("memory://bucket/a.parquet", table({"caption": ["x"], "jpg": [png(0)]}))
    source = open_source("memory://bucket")

    class Failing(io.BytesIO):
        def read(self, *_):
            raise TimeoutError("the network is down")

    monkeypatch.setattr(storage, "open_file", lambda path: pa.PythonFile(Failing(bytes(5000)), mode="r"))
    monkeypatch.setattr("pairclean.sources.tables.open_file", storage.open_file)
    try:
        with pytest.raises(UserError, match=r"the network is down.*try again"):
            list(source.rows(source.shards[0]))
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def images(address: str, **named: str) -> list[tuple[bytes | None, str | None]]:
    source = open_source(address, Columns(**named))
    return [(row.image, row.reason) for shard in source.shards for row in source.rows(shard)]


def test_images_by_path_lie_beside_the_table_or_in_the_image_root(remote, tmp_path):
    for place in ("a.png", "deep/b[1].png", "deep/empty.png"):
        put(f"{remote}/{place}", b"" if "empty" in place else png(3))
    paths = ["a.png", "./deep/b[1].png", "deep\\b[1].png", "c.png", "deep/empty.png", "../x/a.png", "/etc/hosts"]
    put(f"{remote}/t.csv", "\n".join(["image,caption", *(f"{path},x" for path in paths)]).encode())
    none, leaves = "there is no image file of that path", "the image path leaves the image root"
    told = [(png(3), None)] * 3 + [(None, none), (None, "the image file is empty"), (None, leaves)]
    if "file://" in remote:  # a folder of this machine like any other
        leaves = "the image path is absolute and leaves the image root"
    assert images(f"{remote}/t.csv") == [*told, (None, leaves)]
    put(f"{remote}/tables/t.parquet", table({"caption": ["x", "y"], "image_path": ["a.png", f"{remote}/a.png"]}))
    assert images(f"{remote}/tables/t.parquet", image_root=remote) == [(png(3), None)] * 2
    put(f"{remote}/tables/t.parquet", table({"caption": ["x"], "images": [["a.png"]]}))
    assert images(f"{remote}/tables/t.parquet", image_root=remote, image="images") == [(png(3), None)]
    with pytest.raises(UserError, match="is not a folder"):
        images(f"{remote}/tables/t.parquet", image_root=f"{remote}/nothing")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.png").write_bytes(png(4))
    assert images(f"{remote}/tables/t.parquet", image_root=str(tmp_path / "here")) == [(png(4), None)]


def test_images_by_path_in_a_network_that_fails(monkeypatch):
    put("memory://bucket/t.csv", b"image,caption\na.png,x\n")
    put("memory://bucket/a.png", png(3))
    system = type(fsspec.filesystem("memory"))
    try:
        source = open_source("memory://bucket/t.csv")
        monkeypatch.setattr(system, "cat_file", lambda *_, **__: (_ for _ in ()).throw(OSError("connection lost")))
        with pytest.raises(UserError, match="cannot reach memory://bucket: connection lost"):
            list(source.rows(source.shards[0]))
    finally:
        monkeypatch.undo()
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_the_folder_of_a_file_in_a_chain():
    assert storage.parent("zip://deep/a.csv::s3://bucket/x.zip") == "zip://deep::s3://bucket/x.zip"
    assert storage.parent("simplecache::s3://bucket/deep/a.csv") == "simplecache::s3://bucket/deep"
    assert storage.parent("http://host:8000/deep/a.csv") == "http://host:8000/deep"


def test_folders_patterns_and_compressed_files(remote):
    for i in range(3):
        put(f"{remote}/files/{i}.png", png(i))
        put(f"{remote}/files/{i}.txt", f"caption {i}".encode())
    expected = [(png(i), (f"caption {i}",)) for i in range(3)]

    def pairs(address: str) -> list[tuple[bytes | None, tuple[str | None, ...]]]:
        source = open_source(address)
        return [(row.image, row.captions) for shard in source.shards for row in source.rows(shard)]

    assert pairs(f"{remote}/files") == pairs(remote) == expected
    before = open_source(f"{remote}/files").shards[0].fingerprint
    put(f"{remote}/files/1.txt", b"another caption")
    assert open_source(f"{remote}/files").shards[0].fingerprint != before
    for name, keys in (("0", "ab"), ("1", "c")):
        put(f"{remote}/tars/{name}.tar.gz", gzip.compress(tar(*keys)))
    expected = [(png(0), ("a",)), (png(1), ("b",)), (png(0), ("c",))]
    assert pairs(f"{remote}/tars/{{0..1}}.tar.gz") == pairs(f"{remote}/tars/*.gz") == expected
    assert pairs(f"{remote}/tars/1.tar.gz::{remote}/tars/0.tar.gz") == [expected[2], *expected[:2]]
    assert [shard.name for shard in open_source(f"{remote}/tars").shards] == ["0", "1"]
    lines = [{"image": base64.b64encode(png(i)).decode(), "text": f"caption {i}"} for i in range(3)]
    put(f"{remote}/lines/a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert pairs(f"{remote}/lines") == [(png(i), (f"caption {i}",)) for i in range(3)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.tar::b.tar", ["a.tar", "b.tar"]),
        ("s3://x/a.tar::s3://x/b.tar", ["s3://x/a.tar", "s3://x/b.tar"]),
        ("simplecache::s3://x/a.tar", ["simplecache::s3://x/a.tar"]),
        ("zip://a.parquet::s3://x/a.zip", ["zip://a.parquet::s3://x/a.zip"]),
        ("filecache::zip://*.parquet::s3://x/a.zip", ["filecache::zip://*.parquet::s3://x/a.zip"]),
    ],
)
def test_several_sources_and_chains_are_told_apart(path, expected):
    assert parts(path) == expected
