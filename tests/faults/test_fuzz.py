"""Readers under arbitrary tables and damaged files: a sentence for the user, or every row accounted for."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pairclean.embed.decode import Unreadable, decode
from pairclean.pairs import Row, UserError
from pairclean.sources import Source, has_vectors, open_source
from pairclean.sources.webdataset import WebdatasetSource

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(k) for k in range(3)]
TEXT = st.text(max_size=8)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["a", "b", "\0"]),
    pa.binary(): st.one_of(st.binary(max_size=20), st.sampled_from(PICTURES)),
    pa.large_binary(): st.sampled_from(PICTURES),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.null(): st.none(),
    pa.timestamp("us"): st.integers(0, 2**40),
    pa.list_(pa.string()): st.lists(st.none() | TEXT, max_size=3),
    pa.list_(pa.int32()): st.lists(st.integers(0, 9), max_size=3),
    pa.struct({"bytes": pa.binary(), "path": pa.string()}): st.fixed_dictionaries(
        {"bytes": st.none() | st.sampled_from(PICTURES), "path": st.none() | TEXT}
    ),
    pa.struct({"a": pa.int8()}): st.fixed_dictionaries({"a": st.integers(0, 5)}),
}
NAMES = [
    "jpg",
    "image",
    "caption",
    "captions",
    "text",
    "key",
    "id",
    "uid",
    "status",
    "error_message",
    "path",
    "url",
    "x",
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(list(VALUES)))
        values = VALUES[kind] if pa.types.is_null(kind) else st.none() | VALUES[kind]
        columns[name] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


def accounted(source: Source) -> int:
    """The rows of a source, each of which has to be whole; how many there were."""
    total = 0
    for shard in source.shards:
        rows = list(source.rows(shard))
        assert [row.row for row in rows] == list(range(shard.rows))
        assert all(whole(row, vectors=has_vectors(source)) for row in rows)
        total += len(rows)
    return total


def whole(row: Row, *, vectors: bool = False) -> bool:
    """A picture, or why there is none (a source of vectors has neither); captions that are texts or missing; an id."""
    texts = all(caption is None or isinstance(caption, str) for caption in row.captions)
    picture = (isinstance(row.image, bytes) and bool(row.image)) != bool(row.reason)
    return bool(row.captions) and texts and isinstance(row.id, str) and (picture or vectors)


def read(path: Path) -> int | None:
    """How many rows there are; None where the user is told why there are none."""
    try:
        return accounted(open_source(path))
    except UserError as error:
        sentence = str(error)
    assert sentence.strip()
    assert "\n" not in sentence
    return None


@QUICK
@given(tables())
def test_any_table_is_read_whole_or_refused(table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / "0.parquet")
        assert read(Path(folder)) in (None, len(table))


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    rows = 24
    pq.write_table(
        pa.table(
            {
                "key": [f"{k:03d}" for k in range(rows)],
                "caption": [f"a picture of number {k}" for k in range(rows)],
                "jpg": [PICTURES[k % 3] for k in range(rows)],
            }
        ),
        file,
        row_group_size=8,
    )
    return file.getvalue()


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for k in range(8):
            for extension, data in (("png", PICTURES[k % 3]), ("txt", f"number {k}".encode()), ("json", b'{"a": 1}')):
                member = tarfile.TarInfo(f"{k:03d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, b32_img=np.ones((24, 4), np.float16), b32_txt=np.ones((24, 4), np.float16))
    return file.getvalue()


def arrow_bytes() -> bytes:
    file = io.BytesIO()
    table = pq.read_table(io.BytesIO(parquet_bytes()))
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=8)
    return file.getvalue()


def document_bytes() -> dict[str, bytes]:
    """Tables of text with pictures as base64, and COCO's captions of pictures that are not there."""
    images = [base64.b64encode(PICTURES[k % 3]).decode() for k in range(8)]
    rows = [{"image": image, "caption": f"number {k}, é"} for k, image in enumerate(images)]
    coco = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in range(8)],
        "annotations": [{"id": k, "image_id": k % 8, "caption": f"number {k}"} for k in range(16)],
    }
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {
        "0.csv": ("image,caption\n" + "".join(f'{r["image"]},"{r["caption"]}"\n' for r in rows)).encode(),
        "0.jsonl": lines.encode(),
        "0.json": json.dumps(rows).encode(),
        "coco.json": json.dumps(coco).encode(),
    }


WHOLE = {
    "0.parquet": parquet_bytes(),
    "0.tar": tar_bytes(),
    "0.npz": npz_bytes(),
    "0.arrow": arrow_bytes(),
    "0.tar.gz": gzip.compress(tar_bytes(), mtime=0),
    **document_bytes(),
}


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes changed, a piece doubled or left out, the end cut off."""
    broken = bytearray(data)
    for _ in range(draw(st.integers(0, 6))):
        broken[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 600)))
    kind = draw(st.sampled_from(["", "cut", "left out", "doubled"]))
    if kind == "cut":
        return bytes(broken[:start])
    if kind == "left out":
        return bytes(broken[:start] + broken[end:])
    return bytes(broken[:end] + broken[start:end] + broken[end:]) if kind == "doubled" else bytes(broken)


def read_damaged(name: str, data: bytes) -> int | None:
    with tempfile.TemporaryDirectory() as folder:
        if name == "0.npz":  # beside the table whose vectors it holds
            table = pa.table({"uid": [f"{k:032x}" for k in range(24)], "text": [f"number {k}" for k in range(24)]})
            pq.write_table(table, Path(folder) / "0.parquet")
        (Path(folder) / name).write_bytes(data)
        return read(Path(folder))


@pytest.mark.parametrize("name", WHOLE)
@QUICK
@given(st.data())
def test_a_damaged_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    read_damaged(name, data.draw(damaged(WHOLE[name])))


def test_undamaged_files_are_read() -> None:
    tables, rest = ("0.parquet", "0.npz", "0.arrow"), 8
    assert {name: read_damaged(name, data) for name, data in WHOLE.items()} == {
        name: 24 if name in tables else rest for name in WHOLE
    }


KEYS = st.text("abc. -é", min_size=1, max_size=4).filter(lambda key: key.strip(". ") == key)
ENDINGS = st.sampled_from(["png", "jpg", "txt", "caption", "json", "PNG", "depth.png", "npz", "md"])


@QUICK
@given(st.sets(st.tuples(KEYS, ENDINGS), max_size=10), st.sampled_from(["folder", "tar"]))
def test_every_file_of_a_folder_is_in_a_row_or_counted(names: set[tuple[str, str]], kind: str) -> None:
    """Of files of one name, one tells them from the others; what is in no row is in the note of what is left out."""
    files = sorted({"a.png", "a.txt"} | {f"{key}.{ending}" for key, ending in names})
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / ("in" if kind == "folder" else "in.tar")
        if kind == "folder":
            path.mkdir()
            for name in files:
                (path / name).write_bytes(PICTURES[0] if name.lower().endswith("g") else b'{"caption": "x"}')
        else:
            with tarfile.open(path, "w") as tar:
                for name in files:
                    data = PICTURES[0] if name.lower().endswith("g") else b'{"caption": "x"}'
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        try:
            source = open_source(path)
        except UserError:
            return
        accounted(source)
        if not isinstance(source, WebdatasetSource):  # the .json alone
            return
        used = [name for shard in source.shards for _, sample in source.samples(shard) for name, _ in sample.members]
        told = re.search(r"has ([\d,]+) members? left out", "; ".join(source.notes.values()))
        assert len(used) + (int(told[1]) if told else 0) == len(files)


@QUICK
@given(st.sampled_from(PICTURES).flatmap(damaged))
def test_a_damaged_picture_is_decoded_or_unreadable(data: bytes) -> None:
    try:
        mode = decode(data).mode
    except Unreadable as error:
        mode = f"RGB {error}"
    assert mode.startswith("RGB")
