from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.pairs import Columns, UserError
from pairclean.sources import open_source
from pairclean.sources import tar as tars
from pairclean.sources.webdataset import samples


def picture(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


PNGS = [picture(value) for value in range(6)]


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, value: int, caption: str, **more: bytes) -> dict[str, bytes]:
    return {f"{key}.png": PNGS[value], f"{key}.txt": caption.encode()} | {f"{key}.{k}": v for k, v in more.items()}


def with_sidecar(folder: Path) -> Path:
    """As img2dataset leaves it: the tar in another order than the sidecar, and without what failed."""
    write_tar(folder / "00000.tar", sample("000000002", 2, "two") | sample("000000000", 0, "zero"))
    table = {
        "key": ["000000000", "000000001", "000000002"],
        "caption": ["zero", "one", "two"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 404", None],
        "label": [7, 8, 9],
    }
    pq.write_table(pa.table(table), folder / "00000.parquet")
    return folder


def all_rows(source, **options):
    return [row for shard in source.shards for row in source.rows(shard, **options)]


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_of_a_tar_in_order(tmp_path):
    write_tar(tmp_path / "a.tar", sample("k1", 1, "one") | sample("k0", 0, "zero"))
    write_tar(tmp_path / "b.tar", sample("k2", 2, "two"))
    source = open_source(tmp_path)
    assert (source.layout, source.many, source.vectors, source.broken) == ("webdataset", False, None, {})
    assert (source.roles.image, source.roles.caption, source.roles.id) == ("png", "txt", "__key__")
    assert [(shard.name, shard.rows) for shard in source.shards] == [("a", 2), ("b", 1)]
    rows = all_rows(source)
    assert [(row.row, row.id, row.captions, row.image, row.reason) for row in rows] == [
        (0, "k1", ("one",), PNGS[1], None),
        (1, "k0", ("zero",), PNGS[0], None),
        (0, "k2", ("two",), PNGS[2], None),
    ]
    assert [(row.id, row.captions, row.image) for row in all_rows(source, images=False)] == [
        ("k1", ("one",), None),
        ("k0", ("zero",), None),
        ("k2", ("two",), None),
    ]
    assert source.image(source.shards[0], 1) == PNGS[0]
    for row in (2, -1):
        with pytest.raises(UserError, match=f"no row {row}"):
            source.image(source.shards[0], row)
    assert all_rows(pickle.loads(pickle.dumps(source))) == rows


def test_a_sidecar_is_joined_by_key(tmp_path):
    source = open_source(with_sidecar(tmp_path))
    assert (source.roles.id, source.columns) == ("key", ["key", "caption", "status", "error_message", "label"])
    rows = all_rows(source)
    assert [(row.id, row.captions, row.image, row.reason) for row in rows] == [
        ("000000000", ("zero",), PNGS[0], None),
        ("000000001", ("one",), None, "failed_to_download: HTTP Error 404"),
        ("000000002", ("two",), PNGS[2], None),
    ]
    assert source.image(source.shards[0], 2) == PNGS[2]
    with pytest.raises(UserError, match="HTTP Error 404"):
        source.image(source.shards[0], 1)
    shard = source.shards[0]
    assert [(row, found.key) for row, found in source.samples(shard)] == [(0, "000000000"), (2, "000000002")]
    assert pa.Table.from_batches(source.batches(shard, ["label"]))["label"].to_pylist() == [7, 8, 9]
    with pytest.raises(UserError, match="no column 'nope'"):
        list(source.batches(shard, ["nope"]))


def test_samples_that_the_sidecar_lacks_come_last(tmp_path):
    with_sidecar(tmp_path)
    write_tar(tmp_path / "00000.tar", sample("x", 3, "more") | sample("000000002", 2, "two"))
    source = open_source(tmp_path)
    rows = all_rows(source)
    assert [(row.id, row.image, row.reason) for row in rows] == [
        ("000000000", None, "not in the tar"),
        ("000000001", None, "failed_to_download: HTTP Error 404"),
        ("000000002", PNGS[2], None),
        ("x", PNGS[3], None),
    ]
    assert pa.Table.from_batches(source.batches(source.shards[0], ["label"]))["label"].to_pylist() == [7, 8, 9, None]
    assert [row.id for row in all_rows(open_source(tmp_path, Columns(id="none")))] == [
        f"00000:{row}" for row in range(4)
    ]


def test_a_single_tar_has_its_sidecar(tmp_path):
    assert len(all_rows(open_source(with_sidecar(tmp_path) / "00000.tar"))) == 3


def test_captions_in_json(tmp_path):
    fields = [{"caption": "zero", "label": "a"}, {"caption": None, "label": "b"}, {"label": "c"}]
    members = {f"k{i}.{end}": data for i in range(3) for end, data in
               {"json": json.dumps(fields[i]).encode(), "png": PNGS[i]}.items()}  # fmt: skip
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert source.roles.caption == "caption"
    assert [row.captions for row in all_rows(source)] == [("zero",), (None,), (None,)]
    assert pa.Table.from_batches(source.batches(source.shards[0], ["label"]))["label"].to_pylist() == ["a", "b", "c"]
    with pytest.raises(UserError, match="no column 'nope'"):
        list(source.batches(source.shards[0], ["nope"]))


def test_lists_of_captions(tmp_path):
    """img2dataset writes a list into KEY.txt by `str`; where there is a list as such, that is read."""
    members = sample("k0", 0, "['a', 'b']", json=b'{"caption": ["a", "b"]}') | sample(
        "k1", 1, "c", json=b'{"caption": []}'
    )
    source = open_source(write_tar(tmp_path / "json" / "a.tar", members))
    rows = all_rows(source)
    assert source.many
    assert [row.captions for row in rows] == [("a", "b"), (None,)]
    assert rows[0].pair_id(1) == "k0:1"
    write_tar(tmp_path / "sidecar" / "a.tar", sample("k0", 0, "['a', 'b']"))
    pq.write_table(pa.table({"key": ["k0", "k1"], "caption": [["a", "b"], ["c"]]}), tmp_path / "sidecar" / "a.parquet")
    source = open_source(tmp_path / "sidecar")
    assert [row.captions for row in all_rows(source)] == [("a", "b"), ("c",)]
    assert [row.reason for row in all_rows(source)] == [None, "not in the tar"]


def test_named_columns(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"k.jpg": b"other", "k.mask.png": PNGS[0], "k.cap": b"this", "k.txt": b"that"})
    source = open_source(path, Columns(image="mask.png", caption="cap"))
    assert [(row.image, row.captions) for row in all_rows(source)] == [(PNGS[0], ("this",))]
    assert "no sample" in refusal(path, image="gif")
    assert "'nope'" in refusal(path, caption="nope")
    assert "--image-root" in refusal(path, image_root=str(tmp_path))
    assert "--id-column" in refusal(path, id="nope")


def test_two_images_in_a_sample(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample("k", 0, "x", jpg=b"1"))
    assert "--image-column" in refusal(path)
    assert all_rows(open_source(path, Columns(image="png")))[0].image == PNGS[0]


def test_what_is_missing_says_so(tmp_path):
    members = (
        sample("full", 0, "x") | {"text.txt": b"x"} | {"image.png": PNGS[1]} | {"empty.png": b"", "empty.txt": b"x"}
    )
    rows = all_rows(open_source(write_tar(tmp_path / "a.tar", members | {"README.md": b"x", "__about__.json": b"{}"})))
    assert [(row.id, row.captions, row.reason) for row in rows] == [
        ("full", ("x",), None),
        ("text", ("x",), "no image in the tar"),
        ("image", (None,), None),
        ("empty", ("x",), "the image is empty"),
    ]


def test_hostile_members(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target in [
            ("../up.png", tarfile.REGTYPE, ""),
            ("/root.png", tarfile.REGTYPE, ""),
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "good.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("disk.png", tarfile.BLKTYPE, ""),
            ("folder.png", tarfile.DIRTYPE, ""),
            ("./good.png", tarfile.REGTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(PNGS[0]) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(PNGS[0]))
    before = sorted(tmp_path.parent.iterdir())
    rows = all_rows(open_source(_with_text(path)))
    assert {row.id: row.reason or row.image for row in rows} == {
        "../up": "a member of it leaves the folder of the tar",
        "/root": "a member of it leaves the folder of the tar",
        "link": "a member of it is a link or a device, not a file",
        "hard": "a member of it is a link or a device, not a file",
        "pipe": "a member of it is a link or a device, not a file",
        "disk": "a member of it is a link or a device, not a file",
        "good": PNGS[0],
    }
    assert sorted(tmp_path.parent.iterdir()) == before


def _with_text(path: Path) -> Path:
    """The last sample gets a caption."""
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("good.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(tmp_path, kind):
    key = "d/" + "ключ" * 60
    rows = all_rows(open_source(write_tar(tmp_path / "a.tar", sample(key, 0, "ü"), format=kind)))
    assert [(row.id, row.captions, row.image) for row in rows] == [(key, ("ü",), PNGS[0])]


def test_large_members_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_BYTES", 1000)
    path = write_tar(tmp_path / "a.tar", sample("big", 0, "x", mp4=b"0" * 1001) | sample("small", 1, "y"))
    rows = all_rows(open_source(path))
    assert [row.reason for row in rows] == ["a member of it is too large", None]
    assert [[name for name, _ in found.members] for found in samples(str(path))] == [
        ["big.png", "big.txt"],
        ["small.png", "small.txt"],
    ]


def test_keys_are_unique(tmp_path):
    write_tar(tmp_path / "a.tar", sample("k", 0, "x"))
    write_tar(tmp_path / "b.tar", sample("k", 1, "y"))
    message = refusal(tmp_path)
    assert f"('k'; {tmp_path}/b.tar has the first once more): number the rows with --id-column none" in message
    assert "--id-column none" in refusal(tmp_path)
    assert [row.id for row in all_rows(open_source(tmp_path, Columns(id="none")))] == ["a:0", "b:0"]


def test_a_shorter_shard_is_read_that_far(tmp_path):
    source = open_source(with_sidecar(tmp_path))
    for rows in (0, 1, 3):
        shard = type(source.shards[0])("00000", source.shards[0].path, rows, source.shards[0].fingerprint)
        assert [row.row for row in source.rows(shard)] == list(range(rows))
        assert sum(map(len, source.batches(shard, ["label"]))) == rows


def test_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "shard-000000.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:06d}", "jpg": picture(i, "JPEG"), "txt": f"caption {i}", "json": {"n": i}})
    source = open_source(tmp_path)
    assert [(row.id, row.captions, row.image) for row in all_rows(source)] == [
        (f"{i:06d}", (f"caption {i}",), picture(i, "JPEG")) for i in range(3)
    ]
    assert pa.Table.from_batches(source.batches(source.shards[0], ["n"]))["n"].to_pylist() == [0, 1, 2]
    found = list(samples(str(tmp_path / "shard-000000.tar")))
    assert [(each.key, dict(each.members)[f"{each.key}.txt"]) for each in found] == [
        (f"{i:06d}", b"caption %d" % i) for i in range(3)
    ]


def test_a_key_that_comes_twice_in_a_row_is_two_samples(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*sample("k", 0, "x").items(), *sample("k", 1, "y").items()])
    assert f"('k'; {path} has the first once more)" in refusal(path)
    rows = all_rows(open_source(path, Columns(id="none")))
    assert [(row.image, row.captions) for row in rows] == [(PNGS[0], ("x",)), (PNGS[1], ("y",))]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [1, 120])
def test_names_that_are_no_unicode_stay_apart(tmp_path, kind, length):
    if length > 100 and kind == tarfile.USTAR_FORMAT:
        length = 80  # all that it holds
    keys = ["\udcff" * length, "\udcfe" * length]
    members = sample(keys[0], 0, "x") | sample(keys[1], 1, "y")
    rows = all_rows(open_source(write_tar(tmp_path / "a.tar", members, format=kind, errors="surrogateescape")))
    assert [(row.id, row.image) for row in rows] == [("\\xff" * length, PNGS[0]), ("\\xfe" * length, PNGS[1])]


def test_only_names_in_double_underscores_are_about_the_tar(tmp_path):
    members = sample("__k", 0, "x") | sample("__about__", 1, "y") | sample("d/__about__.x", 2, "z")
    assert [row.id for row in all_rows(open_source(write_tar(tmp_path / "a.tar", members)))] == ["__k"]


def test_halves_of_surrogate_pairs(tmp_path):
    fields = b'{"caption": "a \\ud800 b", "tags": [{"\\udfff": "\\ud83d\\ude00"}]}'
    source = open_source(write_tar(tmp_path / "a.tar", {"k.png": PNGS[0], "k.json": fields}))
    (row,) = all_rows(source)
    assert row.captions == ("a \ufffd\ufffd\ufffd b",)
    tags = pa.Table.from_batches(source.batches(source.shards[0], ["tags"]))["tags"].to_pylist()
    assert list(tags[0][0].values()) == ["\U0001f600"]


def test_a_size_that_is_no_number(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample("k" * 120, 0, "x"), format=tarfile.PAX_FORMAT)
    data = path.read_bytes()
    record = data[512:1024].rstrip(b"\0")
    extra = "11 size=²\n".encode()
    header = tarfile.TarInfo.frombuf(data[:512], "utf-8", "surrogateescape")
    header.size = len(record + extra)
    changed = header.tobuf(tarfile.USTAR_FORMAT) + (record + extra).ljust(512, b"\0") + data[1024:]
    path.write_bytes(changed)
    assert [row.image for row in all_rows(open_source(path))] == [PNGS[0]]


def test_a_sidecar_of_another_tar_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", sample("000000005", 0, "x"))
    pq.write_table(pa.table({"key": [5], "caption": ["x"]}), tmp_path / "a.parquet")
    assert "(the first are '5' and '000000005')" in refusal(tmp_path)
    assert "--id-column" in refusal(tmp_path)


def test_members_are_columns(tmp_path):
    members = sample("k0", 0, "x", cls=b"7\n", json=b'{"n": 1}') | sample("k1", 1, "y", cls=b"\xff", json=b'{"n": 2}')
    source = open_source(write_tar(tmp_path / "a.tar", members | sample("k2", 2, "z")))
    assert source.columns == ["png", "txt", "cls", "json", "n"]
    found = pa.Table.from_batches(source.batches(source.shards[0], ["cls", "n", "png"])).to_pydict()
    assert found == {"cls": ["7", None, None], "n": [1, 2, None], "png": [None] * 3}


@pytest.mark.parametrize("ending", ["gif", "bmp", "tif", "tiff", "avif", "heic", "jp2", "img"])
def test_endings_of_images(tmp_path, ending):
    source = open_source(write_tar(tmp_path / "a.tar", {f"k.{ending}": b"picture", "k.txt": b"x"}))
    assert (source.roles.image, all_rows(source)[0].image) == (ending, b"picture")
