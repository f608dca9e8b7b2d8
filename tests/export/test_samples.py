"""Tars of webdataset, cleaned: still tars of webdataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean import plant
from pairclean.export import kept_pairs
from pairclean.export.samples import TablesOfTars, Tars
from pairclean.pairs import VERDICT_SCHEMA, UserError
from pairclean.sources import open_source

WORDS = ["clean", "unreadable", "noisy", "rematched", "clean", "rematched"]
KEYS = list("abcdef")


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 12345
            file.addfile(info, io.BytesIO(data))


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as file:
        return {one.name: file.extractfile(one).read() for one in file.getmembers()}  # type: ignore[union-attr]


def picture(key: str) -> bytes:
    return b"\xff\xd8\xff picture " + key.encode()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """One shard: the tar in another order than the sidecar, `b` failed, `f` not in the sidecar."""
    (tmp_path / "in").mkdir()
    members = {}
    for key in "fedca":
        fields = {"caption": f"caption {key}", "key": key, "n": 1}
        members |= {f"{key}.jpg": picture(key), f"{key}.txt": f"caption {key}".encode(), f"{key}.cls": b"7"}
        members[f"{key}.json"] = json.dumps(fields).encode()
    tar(tmp_path / "in" / "00000.tar", members)
    columns = {
        "url": [f"http://{key}" for key in "abcde"],
        "key": list("abcde"),
        "caption": [f"caption {key}" for key in "abcde"],
        "status": ["success", "failed_to_download", "success", "success", "success"],
        "width": pa.array(range(5), pa.int32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "in" / "00000.parquet")
    return tmp_path / "in"


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def test_a_cleaned_webdataset_is_a_webdataset(tmp_path: Path, tars: Path, export) -> None:
    before = read(tars / "00000.tar")
    assert export(open_source(tars), WORDS, tmp_path / "out") == ["00000.parquet", "00000.tar"]
    after = read(tmp_path / "out" / "00000.tar")
    assert list(after) == [f"{key}.{kind}" for key in "adef" for kind in ("jpg", "txt", "cls", "json")]
    new = {"d": "caption e", "f": "caption a"}
    for name, data in after.items():
        key, _, kind = name.partition(".")
        if key in new and kind == "txt":
            assert data == new[key].encode()
        elif key in new and kind == "json":
            assert json.loads(data) == {"caption": new[key], "key": key, "n": 1}
        else:
            assert data == before[name]
    again = open_source(tmp_path / "out")
    assert (again.layout, again.roles.caption) == ("webdataset", "txt")
    found = {row.id: (row.image, row.captions) for row in again.rows(again.shards[0])}
    texts = {"a": "caption a", "d": "caption e", "e": "caption e", "f": "caption a"}
    assert found == {key: (picture(key), (text,)) for key, text in texts.items()}


def test_the_sidecar_keeps_its_columns(tmp_path: Path, tars: Path, export) -> None:
    export(open_source(tars), WORDS, tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "00000.parquet")
    assert schema.names[:6] == ["url", "key", "caption", "status", "width", "pairclean_pair_id"]
    assert schema.field("width").type == pa.int32()
    common = {"pairclean_original_caption": None, "pairclean_clean_probability": 0.75, "status": "success"}
    found = rows(tmp_path / "out" / "00000.parquet")
    assert found[0] == {
        **common,
        "url": "http://a",
        "key": "a",
        "caption": "caption a",
        "width": 0,
        "pairclean_pair_id": "a",
        "pairclean_verdict": "clean",
        "pairclean_caption_pair_id": "a",
    }
    assert [row["key"] for row in found] == list("adef")
    assert [row["url"] for row in found] == ["http://a", "http://d", "http://e", None]
    assert [row["caption"] for row in found] == ["caption a", "caption e", "caption e", "caption a"]
    assert [row["pairclean_original_caption"] for row in found] == [None, "caption d", None, "caption f"]
    assert [row["pairclean_caption_pair_id"] for row in found] == ["a", "e", "e", "a"]


def test_without_a_sidecar_there_is_one_of_what_was_found(tmp_path: Path, tars: Path, export) -> None:
    (tars / "00000.parquet").unlink()
    words = ["rematched", "clean", "noisy", "clean", "clean"]
    files = export(open_source(tars, id_column="none"), words, tmp_path / "out")
    assert files == ["00000.parquet", "00000.tar"]
    assert [name for name in read(tmp_path / "out" / "00000.tar") if "txt" in name] == [f"{k}.txt" for k in "feca"]
    found = rows(tmp_path / "out" / "00000.parquet")
    assert [row["key"] for row in found] == list("feca")  # not the numbers that the pairs go by
    assert [row["pairclean_pair_id"] for row in found] == [f"00000:{row}" for row in (0, 1, 3, 4)]
    assert [row["caption"] for row in found] == ["caption e", "caption e", "caption c", "caption a"]
    export(open_source(tars, id_column="none"), words, tmp_path / "again")
    assert (tmp_path / "again" / "00000.tar").read_bytes() == (tmp_path / "out" / "00000.tar").read_bytes()


@pytest.mark.parametrize("sidecar", [True, False])
def test_as_parquet(tmp_path: Path, tars: Path, export, sidecar: bool) -> None:
    words = WORDS
    if not sidecar:
        (tars / "00000.parquet").unlink()
        words = ["rematched", "clean", "rematched", "noisy", "clean"]  # of f, e, d, c, a
    assert export(open_source(tars), words, tmp_path / "out", "parquet") == ["00000.parquet"]
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    before = ["url", "key", "caption", "status", "width"] if sidecar else ["key", "caption"]
    assert table.column_names[: len(before) + 2] == [*before, "jpg", "pairclean_pair_id"]
    keys = list("adef") if sidecar else list("feda")
    assert table["key"].to_pylist() == keys
    assert table["jpg"].to_pylist() == [picture(key) for key in keys]
    again = open_source(tmp_path / "out")
    assert (again.layout, again.roles.image, again.roles.id) == ("img2dataset", "jpg", "key")


def test_batches_of_images_follow_the_table(tmp_path: Path, export) -> None:
    keys = [f"{i:04d}" for i in range(200)]
    tar(tmp_path / "s.tar", {f"{k}.{kind}": data for k in keys for kind, data in (("jpg", picture(k)), ("txt", b"x"))})
    words = ["clean" if i % 3 else "noisy" for i in range(200)]
    export(open_source(tmp_path / "s.tar"), words, tmp_path / "out", "parquet")
    left = [key for i, key in enumerate(keys) if i % 3]
    assert [(row["key"], row["jpg"]) for row in rows(tmp_path / "out" / "s.parquet")] == [(k, picture(k)) for k in left]


def test_lists_of_captions(tmp_path: Path, export) -> None:
    members = {}
    for key in "ab":
        members |= {
            f"{key}.jpg": picture(key),
            f"{key}.json": json.dumps({"captions": [f"{key}1", f"{key}2"]}).encode(),
        }
    tar(tmp_path / "s.tar", members)
    source = open_source(tmp_path / "s.tar")
    assert source.many
    export(source, ["clean", "rematched", "clean", "noisy"], tmp_path / "out")
    after = read(tmp_path / "out" / "s.tar")
    assert json.loads(after["a.json"]) == {"captions": ["a1", "b1"]}
    assert json.loads(after["b.json"]) == {"captions": ["b1"]}
    first, second = rows(tmp_path / "out" / "s.parquet")
    assert (first["caption"], second["caption"]) == (["a1", "b1"], ["b1"])
    assert first["pairclean_original_caption"] == [None, "a2"]
    assert second["pairclean_pair_id"] == ["b:0"]
    export(source, ["clean", "rematched", "clean", "noisy"], tmp_path / "table", "parquet")
    assert [row["caption"] for row in rows(tmp_path / "table" / "s.parquet")] == [["a1", "b1"], ["b1"]]


def test_a_tar_that_has_changed_is_refused(tmp_path: Path, tars: Path) -> None:
    verdicts = [
        {"pair_id": key, "shard": "00000", "row": row, "caption_index": 0, "verdict": "clean"}
        for row, key in enumerate("abc")
        if key != "b"
    ]
    kept = kept_pairs(pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000.tar").write_bytes(b"old")
    tar(tars / "00000.tar", {"a.jpg": picture("a"), "a.txt": b"caption a"})  # without c
    source = open_source(tars)
    for writer in (Tars(source), TablesOfTars(source)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match="has changed since"):
            writer.write(source.shards[0], kept, tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["00000.tar"]
    assert (tmp_path / "out" / "00000.tar").read_bytes() == b"old"


def test_planted_tars(tmp_path: Path, tars: Path) -> None:
    planted = plant(tars, tmp_path / "planted", rate=1, seed=2)
    truth = {row["key"]: row for row in rows(planted.truth)}
    after = read(planted.shards / "00000.tar")
    assert list(truth) == KEYS
    assert {key: row["carried_caption"].encode() for key, row in truth.items() if key != "b"} == {
        key: after[f"{key}.txt"] for key in "acdef"
    }
    assert truth["b"]["noise_kind"] == "clean"  # which failed, and takes no part
    assert all(truth[key]["noise_kind"] == "complete" for key in "acdef")
    assert [row["caption"] for row in rows(planted.shards / "00000.parquet")] == [
        row["carried_caption"] for row in truth.values()
    ]
    assert pq.read_schema(planted.shards / "00000.parquet").names == ["url", "key", "caption", "status", "width"]
    (tars / "00000.parquet").unlink()
    plant(tars, tmp_path / "alone", rate=0.5)
    assert [f.name for f in (tmp_path / "alone").iterdir()] == ["00000.tar"]


def test_the_webdataset_library_reads_what_was_cleaned(tmp_path: Path, tars: Path, export) -> None:
    webdataset = pytest.importorskip("webdataset")
    export(open_source(tars), WORDS, tmp_path / "out")
    data = webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)
    assert [(one["__key__"], one["txt"]) for one in data] == [
        ("a", b"caption a"),
        ("d", b"caption e"),
        ("e", b"caption e"),
        ("f", b"caption a"),
    ]
