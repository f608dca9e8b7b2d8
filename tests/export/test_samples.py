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
from pairclean.pairs import VERDICT_SCHEMA, Columns, UserError
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
    files = export(open_source(tars, Columns(id="none")), words, tmp_path / "out")
    assert files == ["00000.parquet", "00000.tar"]
    assert [name for name in read(tmp_path / "out" / "00000.tar") if "txt" in name] == [f"{k}.txt" for k in "feca"]
    found = rows(tmp_path / "out" / "00000.parquet")
    assert [row["key"] for row in found] == list("feca")  # not the numbers that the pairs go by
    assert [row["pairclean_pair_id"] for row in found] == [f"00000:{row}" for row in (0, 1, 3, 4)]
    assert [row["caption"] for row in found] == ["caption e", "caption e", "caption c", "caption a"]
    export(open_source(tars, Columns(id="none")), words, tmp_path / "again")
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


@pytest.mark.parametrize("column", ["alt_text", "key", "txt"])
def test_only_the_column_of_captions_is_written(tmp_path: Path, export, column: str) -> None:
    """A sidecar may have several columns of texts, and a sample several texts."""
    (tmp_path / "in").mkdir()
    fields = {"caption": "a title", "n": 1}
    members = {}
    for key in "ab":
        members |= {f"{key}.jpg": picture(key), f"{key}.txt": f"caption {key}".encode()}
        members[f"{key}.json"] = json.dumps(fields).encode()
    tar(tmp_path / "in" / "s.tar", members)
    own = {"key": list("ab"), "alt_text": ["alt a", "alt b"], "txt": ["t a", "t b"], "caption": ["c a", "c b"]}
    columns = ["alt_text", "caption", "key"] if column != "txt" else ["caption", "txt", "key"]
    pq.write_table(pa.table({name: own[name] for name in columns}), tmp_path / "in" / "s.parquet")
    named = "alt_text" if column == "alt_text" else "txt"
    source = open_source(tmp_path / "in", Columns(caption=named))
    export(source, ["rematched", "clean"], tmp_path / "out")
    carried = "alt b" if named == "alt_text" else "caption b"
    written = {"alt_text": "alt_text", "key": "caption", "txt": "txt"}[column]
    first = rows(tmp_path / "out" / "s.parquet")[0]
    assert {name: first[name] for name in columns} == {name: own[name][0] for name in columns} | {written: carried}
    after = read(tmp_path / "out" / "s.tar")
    # A text that was not the caption stays.
    assert after["a.txt"] == (b"caption b" if named == "txt" else b"caption a")
    assert json.loads(after["a.json"]) == fields


def test_a_key_that_comes_again_gets_a_number(tmp_path: Path, export) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as file:
        for name, data in [("k.jpg", b"1"), ("k.txt", b"one"), ("k.jpg", b"2"), ("k.txt", b"two")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    export(open_source(tmp_path / "s.tar", Columns(id="none")), ["clean", "clean"], tmp_path / "out")
    after = read(tmp_path / "out" / "s.tar")
    assert after == {"k.jpg": b"1", "k.txt": b"one", "k-2.jpg": b"2", "k-2.txt": b"two"}
    assert [row["key"] for row in rows(tmp_path / "out" / "s.parquet")] == ["k", "k-2"]
    again = open_source(tmp_path / "out")
    assert [row.captions for row in again.rows(again.shards[0])] == [("one",), ("two",)]


def test_sidecars_of_some_tars_name_the_column_of_keys(tmp_path: Path, export) -> None:
    """Keys that are numbers stay so where all of them are."""
    (tmp_path / "in").mkdir()
    for name, keys in (("a", ["1", "2"]), ("b", ["3", "x"]), ("c", ["y"])):
        tar(tmp_path / "in" / f"{name}.tar", {f"{key}.{kind}": key.encode() for key in keys for kind in ("jpg", "txt")})
    pq.write_table(pa.table({"__key__": [1, 2]}), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"__key__": [3]}), tmp_path / "in" / "b.parquet")
    export(open_source(tmp_path / "in"), ["clean"] * 5, tmp_path / "out")
    found = [pq.read_table(tmp_path / "out" / f"{name}.parquet")["__key__"].to_pylist() for name in "abc"]
    assert found == [[1, 2], ["3", "x"], ["y"]]


def test_images_in_the_tar_and_in_its_sidecar(tmp_path: Path, export) -> None:
    """img2dataset ran twice into one folder: the table has the images' column once."""
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in" / "0.tar", {f"{k}.{e}": d for k in "ab" for e, d in (("jpg", picture(k)), ("txt", b"x"))})
    columns = {"caption": ["x", "x"], "key": ["a", "b"], "jpg": [b"other", b"other"]}
    pq.write_table(pa.table(columns), tmp_path / "in" / "0.parquet")
    export(open_source(tmp_path / "in"), ["clean", "clean"], tmp_path / "out", to="parquet")
    written = pq.read_table(tmp_path / "out" / "0.parquet")
    assert written.column_names[:3] == ["caption", "key", "jpg"]
    assert len(set(written.column_names)) == len(written.column_names)
    assert written["jpg"].to_pylist() == [picture("a"), picture("b")]


def test_captions_stored_as_bytes_stay_bytes(tmp_path: Path, export) -> None:
    texts = pa.array([b"one", "zwö".encode("cp1252"), b"three"], pa.binary())
    images = [b"\xff\xd8\xff" + bytes([i]) for i in range(3)]
    pq.write_table(pa.table({"image": images, "caption": texts}), tmp_path / "0.parquet")
    source = open_source(tmp_path / "0.parquet", Columns(image="image", caption="caption"))
    export(source, ["rematched", "rematched", "clean"], tmp_path / "out")
    written = pq.read_table(tmp_path / "out" / "0.parquet")
    assert written.schema.field("caption").type == pa.binary()
    assert written["caption"].to_pylist() == ["zwö".encode("cp1252"), b"three", b"three"]
    assert written["pairclean_original_caption"].to_pylist() == ["one", "zwö", None]


def test_a_new_text_has_the_encoding_of_the_one_that_it_replaces(tmp_path: Path, export) -> None:
    texts = ["ein Bär", "zwei Bären", "drei Bären im Wald"]
    encodings = ["utf-16", "utf-8", "utf-8-sig"]
    (tmp_path / "in").mkdir()
    for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(picture(str(i)))
        (tmp_path / "in" / f"{i}.txt").write_bytes(text.encode(encoding))
    export(open_source(tmp_path / "in"), ["rematched", "rematched", "clean"], tmp_path / "out")
    found = [(tmp_path / "out" / "in" / f"{i}.txt").read_bytes() for i in range(3)]
    new = [texts[1], texts[2], texts[2]]
    assert found == [text.encode(encoding) for text, encoding in zip(new, encodings, strict=True)]


def test_a_cleaned_folder_is_a_folder(tmp_path: Path, export) -> None:
    """Also where a former export has left one of that name."""
    folder = tmp_path / "in" / "00000"
    folder.mkdir(parents=True)
    members = {f"{key}.jpg": picture(key) for key in KEYS} | {f"{key}.txt": f"caption {key}".encode() for key in KEYS}
    for name, data in members.items():
        (folder / name).write_bytes(data)
    (tmp_path / "out" / "00000").mkdir(parents=True)
    (tmp_path / "out" / "00000" / "old.jpg").write_bytes(b"old")
    files = export(open_source(folder), WORDS, tmp_path / "out")
    assert files == ["00000.parquet", *(f"00000/{key}.{kind}" for key in "adef" for kind in ("jpg", "txt"))]
    again = open_source(tmp_path / "out")
    assert again.layout == "files"
    found = {row.id: (row.image, row.captions[0]) for row in again.rows(again.shards[0])}
    assert found == {
        key: (picture(key), f"caption {now}") for key, now in {"a": "a", "d": "e", "e": "e", "f": "a"}.items()
    }
    assert export(open_source(folder), WORDS, tmp_path / "tables", "parquet") == ["00000.parquet"]
    assert pq.read_table(tmp_path / "tables" / "00000.parquet").column("caption").to_pylist() == [
        f"caption {now}" for now in "aeea"
    ]
