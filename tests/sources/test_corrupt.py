from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pairclean import pipeline
from pairclean.export import Tables
from pairclean.pairs import UserError
from pairclean.run import Execution, Run
from pairclean.sources import open_source
from pairclean.sources.storage import open_file


def png(value: int) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 255, (24, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [png(value) for value in range(6)]


def table(path: Path, rows: int = 6, *, first: int = 0, image: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = [f"k{first + i}" for i in range(rows)]
    columns = {"key": keys, "caption": [f"caption {key}" for key in keys]}
    if image:
        columns["jpg"] = PNGS[:rows]
    pq.write_table(pa.table(columns), path, row_group_size=2, compression="zstd", use_dictionary=False)
    return path


def tar(path: Path, rows: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i in range(rows):
            for end, data in (("png", PNGS[i]), ("txt", f"caption k{i}".encode())):
                info = tarfile.TarInfo(f"k{i}.{end}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def overwrite(path: Path, start: int, length: int = 60) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def column_start(path: Path, group: int, column: int) -> int:
    return pq.ParquetFile(path).metadata.row_group(group).column(column).data_page_offset


def all_rows(source, **options):
    return [row for shard in source.shards for row in source.rows(shard, **options)]


def test_a_broken_row_group_of_images(tmp_path):
    path = table(tmp_path / "a.parquet")
    overwrite(path, column_start(path, 1, 2))
    source = open_source(tmp_path)
    rows = all_rows(source)
    assert [row.id for row in rows] == [f"k{i}" for i in range(6)]
    assert [row.captions for row in rows] == [(f"caption k{i}",) for i in range(6)]
    assert [row.image for row in rows] == [*PNGS[:2], None, None, *PNGS[4:]]
    assert [bool(row.reason) for row in rows] == [False, False, True, True, False, False]
    assert rows[2].reason.startswith("corrupt file: a.parquet cannot be read as Parquet (")
    assert str(tmp_path) not in rows[2].reason
    assert [row.id for row in all_rows(source, images=False)] == [row.id for row in rows]
    assert source.image(source.shards[0], 5) == PNGS[5]
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        source.image(source.shards[0], 2)
    with pytest.raises(UserError, match=r"a\.parquet has rows that cannot be read"):
        all_rows(open_source(tmp_path, strict=True))


@pytest.mark.parametrize("column", [0, 1])
def test_a_broken_row_group_of_texts(tmp_path, column):
    path = table(tmp_path / "a.parquet")
    overwrite(path, column_start(path, 1, column))
    for images in (True, False):
        rows = all_rows(open_source(tmp_path), images=images)
        assert [row.id for row in rows] == ["k0", "k1", "a:2", "a:3", "k4", "k5"]
        assert [row.captions[0] for row in rows[2:4]] == [None, None]
        assert all(row.reason.startswith("corrupt file") for row in rows[2:4])
    source = open_source(tmp_path)
    labels = pa.Table.from_batches(source.batches(source.shards[0], ["key"]))["key"].to_pylist()
    assert labels == (["k0", "k1", None, None, "k4", "k5"] if column == 0 else [f"k{i}" for i in range(6)])


def test_a_table_without_its_end(tmp_path):
    table(tmp_path / "a.parquet", 2)
    for name in ("b", "c"):
        cut(table(tmp_path / f"{name}.parquet", 3, first=2), 500)
    (tmp_path / "b_stats.json").write_text(json.dumps({"count": 3, "successes": 2}))
    source = open_source(tmp_path)
    assert [(shard.name, shard.rows) for shard in source.shards] == [("a", 2), ("b", 3)]
    assert list(source.broken) == [str(tmp_path / f"{name}.parquet") for name in "bc"]
    rows = all_rows(source)
    assert [row.id for row in rows] == ["k0", "k1", "b:0", "b:1", "b:2"]
    assert all(row.reason.startswith("corrupt file: b.parquet cannot be read as Parquet (") for row in rows[2:])
    assert all_rows(source, images=False)[2:] == rows[2:]
    batches = [batch for shard in source.shards for batch in source.batches(shard, ["key"])]
    assert pa.Table.from_batches(batches)["key"].to_pylist() == ["k0", "k1", None, None, None]
    with pytest.raises(UserError, match="no image to show"):
        source.image(source.shards[1], 0)
    with pytest.raises(UserError, match=r"b\.parquet cannot be read as Parquet"):
        open_source(tmp_path, strict=True)


def test_nothing_that_can_be_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 files of .* can be read, a\.parquet .*: get them again"):
        open_source(tmp_path)
    with pytest.raises(UserError, match=r"a\.parquet cannot be read"):
        open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize("stats", [False, True])
def test_a_tar_that_ends_early(tmp_path, stats):
    path = tar(tmp_path / "a.tar")
    with tarfile.open(path) as archive:
        fourth = archive.getmember("k3.png").offset_data
    cut(path, fourth + 100)
    if stats:
        (tmp_path / "a_stats.json").write_text(json.dumps({"count": 8, "successes": 6}))
    tar(tmp_path / "b" / "x.tar")
    source = open_source(tmp_path)
    assert list(source.broken) == [str(path)]
    rows = all_rows(source)
    assert [row.image for row in rows[:3]] == PNGS[:3]
    assert (rows[3].id, rows[3].reason) == ("k3", "corrupt file: the tar ends within it")
    assert [(row.id, row.reason) for row in rows[4:]] == (
        [(f"a:{row}", "corrupt file: a.tar ends early") for row in (4, 5)] if stats else []
    )
    with pytest.raises(UserError, match=r"a\.tar ends early"):
        open_source(tmp_path, strict=True)


def test_a_broken_tar_with_a_sidecar(tmp_path):
    path = tar(tmp_path / "a.tar")
    table(tmp_path / "a.parquet", image=False)
    with tarfile.open(path) as archive:
        overwrite(path, archive.getmember("k2.png").offset)
    rows = all_rows(open_source(tmp_path))
    assert [row.id for row in rows] == [f"k{i}" for i in range(6)]
    assert [row.image for row in rows] == [*PNGS[:2], *[None] * 4]
    assert rows[5].captions == ("caption k5",)
    assert rows[5].reason.startswith("not in the tar (corrupt file: a.tar cannot be read as a tar from byte ")


def test_a_tar_with_a_broken_sidecar(tmp_path):
    tar(tmp_path / "a.tar", 4)
    cut(table(tmp_path / "a.parquet", image=False), 300)
    (tmp_path / "a_stats.json").write_text(json.dumps({"count": 6}))
    source = open_source(tmp_path)
    assert list(source.broken) == [str(tmp_path / "a.parquet")]
    rows = all_rows(source)
    assert [row.image for row in rows] == [*PNGS[:4], None, None]
    assert [row.id for row in rows] == ["k0", "k1", "k2", "k3", "a:4", "a:5"]
    table(tmp_path / "a.parquet", image=False)
    overwrite(tmp_path / "a.parquet", column_start(tmp_path / "a.parquet", 2, 0))
    rows = all_rows(open_source(tmp_path))
    assert [row.id for row in rows] == ["k0", "k1", "k2", "k3", "a:4", "a:5"]


def test_broken_metadata_of_vectors(tmp_path):
    for name, first in (("a", 0), ("b", 3), ("c", 6)):
        table(tmp_path / f"{name}.parquet", 3, first=first, image=False)
        np.savez(tmp_path / f"{name}.npz", b32_img=np.eye(3, 4), b32_txt=np.eye(3, 4))
    cut(tmp_path / "b.parquet", 300)
    cut(tmp_path / "c.npz", 200)
    source = open_source(tmp_path)
    assert [(shard.name, shard.rows, bool(shard.broken)) for shard in source.shards] == [
        ("a", 3, False),
        ("b", 3, True),
        ("c", 3, True),
    ]
    chunks = [chunk for shard in source.shards for chunk in source.embedded(shard)]
    assert [row.reason is None for chunk in chunks for row in chunk.rows] == [True] * 3 + [False] * 6
    assert sum(len(chunk.image) for chunk in chunks) == 9


def test_a_run_over_broken_files(tmp_path):
    """Each input pair that is known of is in the run's table, and the manifest names the files."""
    folder = tmp_path / "in"
    table(folder / "a.parquet")
    cut(table(folder / "b.parquet", 3, first=6), 500)
    (folder / "b_stats.json").write_text(json.dumps({"count": 3}))
    overwrite(folder / "a.parquet", column_start(folder / "a.parquet", 1, 2))
    pipeline.embed(folder, tmp_path / "run", model="hog-tfidf")
    run = Run.open(tmp_path / "run")
    pairs = pq.read_table([run.embeddings / "metadata" / f"metadata_{name}.parquet" for name in run.shards]).to_pydict()
    assert pairs["pair_id"] == ["k0", "k1", "k2", "k3", "k4", "k5", "b:0", "b:1", "b:2"]
    assert [reason is None for reason in pairs["reason"]] == [True, True, False, False, True, True, *[False] * 3]
    assert list(run.manifest["broken"]) == [str(folder / "a.parquet"), str(folder / "b.parquet")]
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        pipeline.embed(folder, tmp_path / "strict", model="hog-tfidf", execution=Execution(strict=True))
    (folder / "b.parquet").unlink()
    with pytest.raises(UserError, match=r"a\.parquet has rows"):
        pipeline.embed(folder, tmp_path / "strict", model="hog-tfidf", execution=Execution(strict=True))


SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("write", [table, tar])
@given(data=st.data())
@SLOW
def test_any_damage_is_said_in_a_sentence(tmp_path_factory, write, data):
    """Whatever happens to a file, its rows are read or have a reason, or there is one sentence about it."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = write(folder / ("a.parquet" if write is table else "a.tar"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 4] = data.draw(st.binary(min_size=1, max_size=4))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    os.utime(path, ns=(1, 1))
    source = rows = None
    with suppress(UserError):  # everything else is a bug
        source = open_source(folder)
        rows = all_rows(source)
    if source is None or rows is None:
        return
    assert len(rows) == sum(shard.rows for shard in source.shards)
    assert all((row.image is None) == (row.reason is not None) for row in rows)


def test_damage_in_what_was_not_read_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"key": ["a", "b"], "caption": ["x", "y"], "jpg": PNGS[:2], "exif": ["e" * 500, "f" * 500]}
    pq.write_table(pa.table(columns), path, row_group_size=1, compression="none", use_dictionary=False)
    overwrite(path, column_start(path, 1, 3))
    source = open_source(tmp_path)
    assert [row.reason for row in all_rows(source)] == [None, None]
    verdicts = [{"row": row, "caption_index": 0, "caption": None} for row in range(2)]
    kept = pa.Table.from_pylist(verdicts, pa.schema({"row": pa.int64(), "caption_index": pa.int64(), "caption": "str"}))
    writer = Tables(source)
    with pytest.raises(UserError, match=r"a\.parquet is damaged in column 'exif' of row group 1, so that"):
        writer.write(source.shards[0], kept, tmp_path / "out")
    writer.write(source.shards[0], kept.slice(0, 1), tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "a.parquet")["exif"].to_pylist() == ["e" * 500]


def test_a_damaged_name_of_a_column_is_a_damaged_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a", "b"], "caption": ["x", "y"], "jpg": [b"1", b"2"]}), tmp_path / "0.parquet")
    data = (tmp_path / "0.parquet").read_bytes()
    assert data.count(b"\x02\x18\x03jpg") == 1
    (tmp_path / "0.parquet").write_bytes(data.replace(b"\x02\x18\x03jpg", b"\x02\x18\x03\x80pg"))
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        open_source(tmp_path)


def test_no_damage_to_a_footer_makes_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pairs = pa.table({"jpg": [b"\xff\xd8\xff"] * 6, "caption": [f"number {i}" for i in range(6)]})
    pq.write_table(pairs, path, row_group_size=2, write_statistics=False, store_schema=False)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    counts = set()
    for place in range(footer, len(whole) - 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(UserError):
            source = open_source(tmp_path)
            counts.add((source.shards[0].rows, len(all_rows(source))))
    assert counts == {(6, 6)}


def test_a_broken_compressed_file_leaves_no_memory_behind(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(5000))[:2000])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            with pytest.raises(UserError, match="cannot be unpacked"):
                open_file(str(path))
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000  # it was a megabyte each time
    finally:
        tracemalloc.stop()
