from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.pairs import Columns, UserError
from pairclean.sources import open_source
from pairclean.sources.base import shard_names


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [png(value) for value in range(6)]


def write(path: Path, columns: dict, schema: pa.Schema | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path, **options)
    return path


def img2dataset(folder: Path) -> Path:
    """Two shards of three rows: the second row of each shard failed."""
    for shard in range(2):
        write(
            folder / f"{shard:05d}.parquet",
            {
                "url": ["http://a"] * 3,
                "key": [f"{shard:05d}{row:04d}" for row in range(3)],
                "caption": [f"caption {shard} {row}" for row in range(3)],
                "jpg": [PNGS[shard], None, PNGS[shard + 2]],
                "status": ["success", "failed_to_download", "success"],
                "error_message": [None, "HTTP Error 404: Not Found", None],
                "width": pa.array([4, None, 4], pa.int32()),
            },
            row_group_size=2,
        )
    (folder / "00000_stats.json").write_text("{}")
    return folder


def refusal(path: Path, *, strict: bool = False, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**options), strict=strict)
    message = str(caught.value)
    assert "\n" not in message
    return message


def all_rows(source, **options):
    return [row for shard in source.shards for row in source.rows(shard, **options)]


def test_img2dataset(tmp_path):
    source = open_source(img2dataset(tmp_path))
    assert source.layout == "img2dataset"
    assert (source.roles.image, source.roles.caption, source.roles.id) == ("jpg", "caption", "key")
    assert source.roles.image_root is None
    assert source.path == str(tmp_path)
    assert source.columns == ["url", "key", "caption", "jpg", "status", "error_message", "width"]
    assert [(shard.name, shard.rows) for shard in source.shards] == [("00000", 3), ("00001", 3)]
    rows = list(source.rows(source.shards[1]))
    assert [row.row for row in rows] == [0, 1, 2]
    assert [row.id for row in rows] == ["000010000", "000010001", "000010002"]
    assert [row.captions for row in rows] == [("caption 1 0",), ("caption 1 1",), ("caption 1 2",)]
    assert [row.image for row in rows] == [PNGS[1], None, PNGS[3]]
    assert [row.reason for row in rows] == [None, "failed_to_download: HTTP Error 404: Not Found", None]
    assert rows[0].pair_id(0) == "000010000"


def test_one_image_by_row(tmp_path):
    source = open_source(img2dataset(tmp_path))
    assert source.image(source.shards[0], 0) == PNGS[0]
    assert source.image(source.shards[0], 2) == PNGS[2]  # in the second row group
    with pytest.raises(UserError, match="failed_to_download: HTTP Error 404"):
        source.image(source.shards[0], 1)
    for row in (3, -1):
        with pytest.raises(UserError, match=f"no row {row}"):
            source.image(source.shards[0], row)


def test_a_single_file_is_a_source(tmp_path):
    source = open_source(str(img2dataset(tmp_path) / "00001.parquet"))
    assert [shard.name for shard in source.shards] == ["00001"]
    assert len(all_rows(source)) == 3


def test_a_folder_is_its_own_files_in_order(tmp_path):
    for name in ("b", "a", "sub/c", "._a"):
        write(tmp_path / f"{name}.parquet", {"jpg": [PNGS[0]], "caption": [name]})
    source = open_source(tmp_path)
    assert [shard.name for shard in source.shards] == ["a", "b"]
    assert [row.id for row in all_rows(source)] == ["a:0", "b:0"]


def test_a_shorter_shard_is_read_that_far(tmp_path):
    source = open_source(img2dataset(tmp_path))
    for rows in (0, 1, 3):
        shard = type(source.shards[0])("00000", source.shards[0].path, rows, "")
        assert [row.row for row in source.rows(shard)] == list(range(rows))


def test_sources_travel_between_processes(tmp_path):
    source = pickle.loads(pickle.dumps(open_source(img2dataset(tmp_path))))
    assert all_rows(source)[0].image == PNGS[0]


def test_fingerprint_follows_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", {"jpg": [PNGS[0]], "caption": ["a"]})
    os.utime(path, ns=(10**18, 10**18))
    first = open_source(tmp_path).shards[0].fingerprint
    assert open_source(tmp_path).shards[0].fingerprint == first
    os.utime(path, ns=(10**18, 10**18 + 1))
    touched = open_source(tmp_path).shards[0].fingerprint
    write(path, {"jpg": [PNGS[0]], "caption": ["b"]})
    os.utime(path, ns=(10**18, 10**18))
    assert len({first, touched, open_source(tmp_path).shards[0].fingerprint}) == 3


def test_huggingface_struct_and_list(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "notes": [datasets.Value("string")]})
    pictures = [Image.open(io.BytesIO(data)) for data in PNGS[:4]]
    notes = [["a", "b"], [], None, ["c", None]]
    table = datasets.Dataset.from_dict({"photo": pictures, "notes": notes}, features=features)
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    source = open_source(tmp_path)
    assert source.layout == "huggingface"
    assert (source.roles.image, source.roles.caption, source.roles.id) == ("photo", "notes", None)
    rows = all_rows(source)
    assert [row.captions for row in rows] == [("a", "b"), (None,), (None,), ("c", None)]
    assert [row.many for row in rows] == [True] * 4
    assert rows[0].pair_id(1) == "train-00000-of-00001:0:1"
    assert Image.open(io.BytesIO(rows[3].image)).getpixel((0, 0)) == (3, 0, 0)
    assert source.image(source.shards[0], 1) == rows[1].image


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
)
def test_caption_strings_of_every_kind(tmp_path, kind):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:3], "caption": pa.array(["x", None, "x"]).cast(kind)})
    assert [row.captions for row in all_rows(open_source(tmp_path))] == [("x",), (None,), ("x",)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_caption_lists_of_every_kind(tmp_path, kind):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:2], "captions": pa.array([["x", "y"], None], kind)})
    rows = all_rows(open_source(tmp_path))
    assert [row.captions for row in rows] == [("x", "y"), (None,)]
    assert [row.pair_id(0) for row in rows] == ["a:0:0", "a:1:0"]


def test_text_that_is_not_utf8_is_recognised(tmp_path):
    texts = pa.array([b"caf\xe9", b"ok", None]).view(pa.string())
    write(tmp_path / "one" / "a.parquet", {"jpg": PNGS[:3], "caption": texts})
    assert [row.captions for row in all_rows(open_source(tmp_path / "one"))] == [("café",), ("ok",), (None,)]
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), texts)
    write(tmp_path / "many" / "a.parquet", {"jpg": PNGS[:2], "caption": lists})
    assert [row.captions for row in all_rows(open_source(tmp_path / "many"))] == [("café", "ok"), (None,)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes(tmp_path, kind):
    write(tmp_path / "a.parquet", {"image": pa.array([PNGS[0], None, b""], kind), "text": ["x", "y", "z"]})
    source = open_source(tmp_path)
    assert source.layout == "parquet"
    assert [(row.image, row.reason) for row in all_rows(source)] == [
        (PNGS[0], None),
        (None, "the image is null"),
        (None, "the image is empty"),
    ]


def test_struct_nulls_and_paths(tmp_path):
    images = [{"bytes": PNGS[0], "path": None}, None, {"bytes": None, "path": "x.png"}, {"bytes": None, "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write(tmp_path / "a.parquet", {"picture": pa.array(images, kind), "text": list("abcd")})
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x.png").write_bytes(PNGS[1])
    source = open_source(tmp_path)
    assert source.layout == "huggingface"
    assert [row.image for row in all_rows(source)] == [PNGS[0], None, None, None]
    assert [row.reason for row in all_rows(source)] == [
        None,
        "the image is null",
        "no image bytes, only a path (name its folder with --image-root)",
        "the image is null",
    ]
    assert [row.image for row in all_rows(open_source(tmp_path, Columns(image_root=str(tmp_path / "root"))))][
        2
    ] == PNGS[1]


@pytest.fixture
def folder(tmp_path):
    """A table of image paths, an image root, and files inside and outside of it."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").write_bytes(PNGS[0])
    (root / "sub" / "b.png").write_bytes(PNGS[1])
    (root / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(PNGS[2])
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too" / "secret.png").write_bytes(PNGS[2])
    (root / "inside.png").symlink_to("sub/b.png")
    (root / "escape.png").symlink_to(tmp_path / "secret.png")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    return tmp_path


def test_image_paths(folder):
    paths = {
        "a.png": PNGS[0],
        "sub/b.png": PNGS[1],
        "sub/../a.png": PNGS[0],
        "inside.png": PNGS[1],
        "../secret.png": "the image path leaves the image root",
        "../images-too/secret.png": "the image path leaves the image root",
        "escape.png": "the image path leaves the image root",
        str(folder / "images" / "a.png"): PNGS[0],
        str(folder / "secret.png"): "the image path is absolute and leaves the image root",
        f"file://{folder}/images/sub/b.png": PNGS[1],
        "sub\\b.png": PNGS[1],
        "https://x.example/a.png": "the image is an address, and nothing is downloaded",
        "gone.png": "there is no image file of that path",
        "pipe.png": "there is no image file of that path",
        "sub": "there is no image file of that path",
        "loop.png": "there is no image file of that path",
        "empty.png": "the image file is empty",
    }
    path = write(folder / "t.parquet", {"file_name": [*paths, "a\0b", None], "words": ["x"] * (len(paths) + 2)})
    source = open_source(path, Columns(image_root=str(folder / "images")))
    assert source.layout == "folder"
    assert source.roles.image == "file_name"
    assert source.roles.caption == "words"
    assert source.roles.image_root == str(folder / "images")
    rows = all_rows(source)
    assert [row.image or row.reason for row in rows[:-2]] == list(paths.values())
    assert all((row.image is None) == (row.reason is not None) for row in rows)
    assert rows[-2].reason.startswith("the image file cannot be read")
    assert rows[-1].reason == "the image is null"
    assert source.image(source.shards[0], 1) == PNGS[1]
    with pytest.raises(UserError, match="leaves the image root"):
        source.image(source.shards[0], 4)


def test_image_root_is_the_tables_folder_where_it_is_not_named(folder):
    path = write(folder / "images" / "metadata.parquet", {"file_name": ["sub/b.png"], "text": ["x"]})
    source = open_source(path)
    assert source.roles.image_root == str(folder / "images")
    assert all_rows(source)[0].image == PNGS[1]


def test_image_root_must_be_a_folder_and_be_needed(folder):
    path = write(folder / "t.parquet", {"file_name": ["a.png"], "text": ["x"]})
    assert "is not a folder" in refusal(path, image_root=str(folder / "nowhere"))
    path = write(folder / "u.parquet", {"jpg": [PNGS[0]], "text": ["x"]})
    assert "leave --image-root out" in refusal(path, image_root=str(folder))


def test_without_images_the_image_column_is_not_read(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        {"caption": ["x", "y"], "jpg": [os.urandom(10_000), os.urandom(10_000)]},
        compression="none",
        use_dictionary=False,
    )
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    assert column.path_in_schema == "jpg"
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + 100] = b"\xff" * 100  # the page's header
    path.write_bytes(data)
    source = open_source(tmp_path)
    rows = all_rows(source, images=False)
    assert [(row.captions, row.image, row.reason) for row in rows] == [(("x",), None, None), (("y",), None, None)]
    rows = all_rows(source)
    assert [(row.captions, row.image) for row in rows] == [(("x",), None), (("y",), None)]
    assert all(row.reason.startswith("corrupt file: a.parquet cannot be read as Parquet (") for row in rows)
    with pytest.raises(UserError, match=r"a\.parquet has rows that cannot be read"):
        all_rows(open_source(tmp_path, strict=True))


def test_memory_does_not_grow_with_the_row_group(tmp_path):
    images = [os.urandom(20_000) for _ in range(3000)]  # 60 MB in one row group
    path = write(
        tmp_path / "a.parquet", {"jpg": images, "caption": ["x"] * 3000}, use_dictionary=False, write_batch_size=64
    )
    del images
    source = open_source(path)
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() for _ in source.rows(source.shards[0])) - before
    assert peak < 12e6


def test_ids(tmp_path):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:2], "caption": ["x", "y"], "id": [7, 8]})
    assert [row.id for row in all_rows(open_source(tmp_path))] == ["7", "8"]
    source = open_source(tmp_path, Columns(id="none"))
    assert source.roles.id is None
    assert [row.id for row in all_rows(source)] == ["a:0", "a:1"]
    for images in (True, False):
        assert [row.id for row in all_rows(source, images=images)] == ["a:0", "a:1"]


def test_duplicate_ids_are_named(tmp_path):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:3], "caption": ["x"] * 3, "key": ["p", "q", "p"]})
    message = refusal(tmp_path)
    assert "'key'" in message
    assert f"('p'; {tmp_path}/a.parquet has the first once more)" in message
    assert "--id-column none" in message
    assert len(all_rows(open_source(tmp_path, Columns(id="none")))) == 3
    write(tmp_path / "b.parquet", {"jpg": PNGS[:4], "caption": ["x"] * 4, "key": ["q", "r", "r", "r"]})
    assert "('p', 'q', 'r'; " in refusal(tmp_path)
    write(tmp_path / "c.parquet", {"jpg": PNGS[:3], "caption": ["x"] * 3, "key": ["s", "s", "t"]})
    assert "('p', 'q', 'r', ...; " in refusal(tmp_path)


def test_ids_whose_hashes_agree_are_not_duplicates(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:3], "caption": ["x"] * 3, "key": ["p", "q", "r"]})
    monkeypatch.setattr("pairclean.sources.base.hash", lambda value: 1, raising=False)
    assert [row.id for row in all_rows(open_source(tmp_path))] == ["p", "q", "r"]


def test_null_ids(tmp_path):
    write(tmp_path / "a.parquet", {"jpg": PNGS[:2], "caption": ["x", "y"], "uid": ["p", None]})
    message = refusal(tmp_path)
    assert "'uid'" in message
    assert "nulls" in message
    assert "--id-column none" in message


def test_paths_that_hold_nothing(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.md").write_text("x")
    assert "no shards of its own" in refusal(tmp_path)
    assert "Parquet" in refusal(tmp_path / "x.md")
    fsspec.register_implementation(
        "uninstalled", "no_such_package.FileSystem", errtxt="it needs a package", clobber=True
    )
    assert "need another package" in refusal("uninstalled://bucket/shards")
    write(tmp_path / "a.parquet", {"jpg": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})
    assert "holds no rows" in refusal(tmp_path)


def test_a_corrupt_file_is_named(tmp_path):
    img2dataset(tmp_path)
    data = (tmp_path / "00001.parquet").read_bytes()
    for broken in (b"", data[: len(data) // 2], b"PAR1" * 10):
        (tmp_path / "00001.parquet").write_bytes(broken)
        assert "00001.parquet cannot be read as Parquet" in refusal(tmp_path, strict=True)
        assert "00001.parquet cannot be read as Parquet" in refusal(tmp_path / "00001.parquet")


def test_shards_must_agree_about_the_roles(tmp_path):
    img2dataset(tmp_path)
    write(tmp_path / "00002.parquet", {"key": ["k"], "caption": ["x"], "png": [PNGS[0]]})
    message = refusal(tmp_path)
    assert "00002.parquet has no column 'jpg'" in message
    write(tmp_path / "00002.parquet", {"key": ["k"], "caption": [["x"]], "jpg": [PNGS[0]]})
    message = refusal(tmp_path)
    assert "'caption'" in message
    assert "00002.parquet" in message


def test_shards_may_differ_elsewhere_and_in_width(tmp_path):
    write(tmp_path / "a.parquet", {"caption": ["x"], "jpg": [PNGS[0]], "more": [1]})
    write(
        tmp_path / "b.parquet",
        {"jpg": pa.array([PNGS[1]], pa.large_binary()), "caption": pa.array(["y"], pa.large_string())},
    )
    assert [(row.captions[0], row.image) for row in all_rows(open_source(tmp_path))] == [("x", PNGS[0]), ("y", PNGS[1])]


def test_a_shard_of_nulls_only_does_not_matter(tmp_path):
    """Where a shard has nothing but nulls, pandas writes the type null."""
    write(tmp_path / "a.parquet", {"captions": pa.nulls(2), "jpg": pa.nulls(2)})
    write(tmp_path / "b.parquet", {"captions": [["x", "y"]], "jpg": [PNGS[1]]})
    source = open_source(tmp_path)
    assert (source.roles.image, source.roles.caption) == ("jpg", "captions")
    rows = all_rows(source)
    assert [row.captions for row in rows] == [(None,), (None,), ("x", "y")]
    assert [row.pair_id(0) for row in rows] == ["a:0:0", "a:1:0", "b:0:0"]
    assert [row.reason for row in rows] == ["the image is null", "the image is null", None]


def test_a_shard_of_empty_lists_only_does_not_matter(tmp_path):
    write(tmp_path / "a.parquet", {"captions": pa.array([[], [None]], pa.list_(pa.null())), "jpg": PNGS[:2]})
    write(tmp_path / "b.parquet", {"captions": [["x", "y"]], "jpg": [PNGS[2]]})
    source = open_source(tmp_path)
    assert source.many
    assert [row.captions for row in all_rows(source)] == [(None,), (None,), ("x", "y")]
    assert [row.pair_id(0) for row in all_rows(source)] == ["a:0:0", "a:1:0", "b:0:0"]


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"]), pa.array([PNGS[0]])], ["caption", "caption", "jpg"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "more than one column called 'caption'" in refusal(tmp_path)


def test_only_urls(tmp_path):
    write(tmp_path / "a.parquet", {"url": ["http://a/b.jpg"], "caption": ["x"]})
    assert "img2dataset" in refusal(tmp_path)
    write(tmp_path / "a.parquet", {"image": [None, "https://a/b.jpg"], "caption": ["x", "y"]})
    assert "img2dataset" in refusal(tmp_path)


def test_shard_names():
    assert shard_names(["a", "b", "A", "a", "x:y/z", "ü.1", "a\udc80"]) == [
        "a",
        "b",
        "A-2",
        "a-3",
        "x_y_z",
        "ü.1",
        "a_",
    ]
    assert shard_names(["a-2", "a", "a"]) == ["a-2", "a", "a-3"]


def test_fashion(shared):
    source = open_source(shared / "data" / "fashion")
    assert source.layout == "img2dataset"
    rows = all_rows(source)
    assert len(rows) == 6004
    assert len({row.id for row in rows}) == 6004
    assert len({row.captions for row in rows}) == 4799
    assert Image.open(io.BytesIO(rows[6003].image)).size == (224, 224)
    assert source.image(source.shards[1], 1999) == rows[3999].image


def test_flickr8k(shared):
    source = open_source(shared / "data" / "flickr8k")
    assert source.layout == "huggingface"
    assert (source.roles.image, source.roles.caption) == ("image", "caption")
    rows = all_rows(source)
    pair_ids = {row.pair_id(index) for row in rows for index in range(len(row.captions))}
    assert (len(rows), len(pair_ids)) == (1000, 5000)
    assert all(np.asarray(Image.open(io.BytesIO(row.image))).ndim == 3 for row in rows[::250])
