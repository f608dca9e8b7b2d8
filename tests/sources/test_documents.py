"""Layouts of tables that are no Parquet, of folders of files, and of whatever is compressed."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pairclean.embed import check_readable
from pairclean.pairs import Columns, UserError
from pairclean.sources import Source, open_source
from pairclean.sources.documents import Document


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [picture(value) for value in range(6)]
CAPTIONS = [f'a "quoted", caption;\t{i}' for i in range(6)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with pictures in a folder."""
    (tmp_path / "img").mkdir()
    for i, data in enumerate(PICTURES):
        (tmp_path / "img" / f"{i}.png").write_bytes(data)
    return tmp_path


def pairs(source: Source) -> list[tuple[bytes | None, str | None]]:
    rows = [row for shard in source.shards for row in source.rows(shard)]
    return [(row.image, row.captions[0]) for row in rows]


EXPECTED = list(zip(PICTURES, CAPTIONS, strict=True))


def refusal(path: Path, **named: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(path: Path, data: bytes, how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not how:
        path.write_bytes(data)
        return path
    with pa.CompressedOutputStream(str(path), how) as file:
        file.write(data)
    return path


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "how"), [("", ""), (".gz", "gzip"), (".zst", "zstd"), (".bz2", "bz2")])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.csv", ";")])
def test_csv(home: Path, ending: str, how: str, name: str, separator: str) -> None:
    """As open_clip reads it: `filepath` and `title`, by default with tabs."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(["filepath", "title"])
    writer.writerows([f"img/{i}.png", caption] for i, caption in enumerate(CAPTIONS))
    source = open_source(packed(home / (name + ending), text.getvalue().encode(), how))
    assert pairs(source) == EXPECTED
    assert source.shards[0].name == "a"


@pytest.mark.parametrize("separator", ["\t", ","])
def test_csv_as_open_clip_reads_it(home: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    """Written by pandas, which open_clip reads its CSV files with."""
    pandas, data = pytest.importorskip("pandas"), pytest.importorskip("open_clip_train.data")
    frame = pandas.DataFrame({"filepath": [f"img/{i}.png" for i in range(6)], "title": CAPTIONS})
    frame.to_csv(home / "a.csv", sep=separator, index=False)
    monkeypatch.chdir(home)  # its paths are relative to the working directory
    theirs = data.CsvDataset("a.csv", lambda image: image.getpixel((0, 0)), "filepath", "title", separator, list)
    found = pairs(open_source(home / "a.csv"))
    assert found == EXPECTED
    assert [(theirs[i][0][0], "".join(theirs[i][1])) for i in range(6)] == list(enumerate(CAPTIONS))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_csv_as_spreadsheets_write_it(home: Path, encoding: str) -> None:
    text = "image,caption\r\n" + "".join(f"img/{i}.png,crème brûlée à emporter n° {i}\r\n" for i in range(6))
    (home / "a.csv").write_bytes(text.encode(encoding))
    assert [caption for _, caption in pairs(open_source(home / "a.csv"))] == [
        f"crème brûlée à emporter n° {i}" for i in range(6)
    ]


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def llava(i: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": CAPTIONS[i]}]


@pytest.mark.parametrize(
    ("name", "rows", "write"),
    [
        ("a.jsonl", lambda i: {"image": f"img/{i}.png", "text": CAPTIONS[i]}, json_lines),
        (
            "a.ndjson",
            lambda i: {"images": [f"img/{i}.png"], "text": f"<__dj__image> {CAPTIONS[i]}"},
            json_lines,
        ),
        ("a.json", lambda i: {"id": f"x{i}", "image": f"img/{i}.png", "conversations": llava(i)}, json.dumps),
        ("a.json", lambda i: {"image": f"img/{i}.png", "caption": CAPTIONS[i], "size": [1, "x"][i % 2]}, json.dumps),
    ],
)
def test_json(home: Path, name: str, rows: Callable[[int], Any], write: Callable[[list[Any]], str]) -> None:
    """JSON lines, Data-Juicer's, LLaVA's conversations, and a list of objects."""
    (home / name).write_text(write([rows(i) for i in range(6)]), encoding="utf-8")
    assert pairs(open_source(home / name)) == EXPECTED


def test_coco_captions(home: Path) -> None:
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(6)]
    notes = [{"id": j, "image_id": 10 + j % 6, "caption": f"{CAPTIONS[j % 6]} {j}"} for j in range(12)]
    (home / "captions.json").write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    source = open_source(home / "captions.json", Columns(image_root=str(home / "img")))
    rows = list(source.rows(source.shards[0]))
    assert source.many
    assert [(row.id, row.image) for row in rows] == [(str(10 + i), PICTURES[i]) for i in range(6)]
    assert [row.captions for row in rows] == [(f"{c} {i}", f"{c} {i + 6}") for i, c in enumerate(CAPTIONS)]
    coco = pytest.importorskip("pycocotools.coco").COCO(str(home / "captions.json"))
    assert [tuple(note["caption"] for note in coco.loadAnns(coco.getAnnIds(int(row.id)))) for row in rows] == [
        row.captions for row in rows
    ]
    (home / "other.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    assert "'file_name' is missing" in refusal(home / "other.json")


def test_a_column_of_numbers_is_no_caption(home: Path) -> None:
    (home / "a.csv").write_text("image,width\n" + "".join(f"img/{i}.png,{24 + i}\n" for i in range(6)))
    assert "has no column that looks like a caption" in refusal(home / "a.csv")
    source = open_source(home / "a.csv", Columns(caption="width"))
    assert pairs(source) == [(data, str(24 + i)) for i, data in enumerate(PICTURES)]
    (home / "b.csv").write_text("image,width,said\n" + "".join(f"img/{i}.png,24,so {i}\n" for i in range(6)))
    assert pairs(open_source(home / "b.csv"))[0] == (PICTURES[0], "so 0")


def test_what_is_no_pair_in_json_is_said(home: Path) -> None:
    turns = [*llava(0), {"from": "human", "value": "more"}, {"from": "gpt", "value": "more"}]
    (home / "a.json").write_text(json.dumps([{"image": "img/0.png", "conversations": turns}]))
    assert "a pair has one caption" in refusal(home / "a.json")
    (home / "b.jsonl").write_text('{"image": "img/0.png", "text": "x"}\nnot JSON\n')
    source = open_source(home / "b.jsonl")
    assert source.notes == {str(home / "b.jsonl"): "has 1 line that is no JSON object"}
    assert len(pairs(source)) == 2
    (home / "c.csv").write_text("image,caption\nimg/0.png,x,more\nimg/1.png\n")
    source = open_source(home / "c.csv")
    assert source.notes == {str(home / "c.csv"): "has 2 lines with more or fewer fields than its first line"}
    assert pairs(source) == [(PICTURES[0], "x,more"), (PICTURES[1], None)]


def test_metadata_of_an_image_folder(home: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with (home / "img" / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        writer.writerows([f"{i}.png", caption] for i, caption in enumerate(CAPTIONS))
    source = open_source(home / "img")
    assert pairs(source) == EXPECTED
    assert source.notes == {}
    there = datasets.load_dataset(
        "imagefolder", data_dir=str(home / "img"), split="train", cache_dir=str(home / "cache")
    )
    assert sorted(there["text"]) == sorted(CAPTIONS)
    (home / "img" / "metadata.csv").unlink()
    rows = [{"file_name": f"{i}.png", "text": caption} for i, caption in enumerate(CAPTIONS)]
    (home / "img" / "metadata.jsonl").write_text(json_lines(rows))
    assert pairs(open_source(home / "img")) == EXPECTED


def test_what_datasets_saves_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": data, "path": None}, "text": text} for data, text in EXPECTED]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    source = open_source(tmp_path / "saved")
    assert pairs(source) == EXPECTED
    assert (source.layout, len(source.shards), source.notes) == ("huggingface", 2, {})
    assert source.image(source.shards[1], 0) == PICTURES[3]


def test_the_splits_that_datasets_saves_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": data, "path": None}, "text": text} for data, text in EXPECTED]
    splits = {"train": rows[:4], "test": rows[4:]}
    saved = {name: datasets.Dataset.from_list(part, features=features) for name, part in splits.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "saved"))
    assert "'/" in refusal(tmp_path / "saved")  # a pattern
    for pattern in ("*", "*/*", "{test,train}"):
        assert pairs(open_source(f"{tmp_path}/saved/{pattern}")) == EXPECTED[4:] + EXPECTED[:4]


def test_an_arrow_file_of_wrong_offsets_is_refused(tmp_path: Path) -> None:
    """Arrow itself would read beyond the file. Texts that are not UTF-8 are no damage."""
    texts = pa.array([b"caf\xe9 au lait", b"th\xe9 \xe0 la menthe"], pa.binary()).view(pa.string())
    for number, offset in enumerate((texts.buffers()[1].to_pybytes(), b"\0\0\0\0\xff\xff\xff\x7f\x1a\0\0\0")):
        data = pa.py_buffer(offset)
        captions = pa.Array.from_buffers(pa.string(), 2, [None, data, texts.buffers()[2]])
        table = pa.table({"image": PICTURES[:2], "caption": captions})
        with (
            pa.OSFile(str(tmp_path / f"{number}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
    assert [caption for _, caption in pairs(open_source(tmp_path / "0.arrow"))] == ["café au lait", "thé à la menthe"]
    assert "cannot be read as Arrow" in refusal(tmp_path / "1.arrow")
    (tmp_path / "2.arrow").write_bytes((tmp_path / "0.arrow").read_bytes().replace(b"caption", b"\x93aption"))
    assert "cannot be read as Arrow" in refusal(tmp_path / "2.arrow")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.sampled_from("\t,;|"), st.booleans())
def test_every_record_is_a_row(tmp_path: Path, rows: list[tuple[str, str]], separator: str, as_json: bool) -> None:
    path = tmp_path / ("a.jsonl" if as_json else "a.csv")
    if as_json:
        path.write_text(json_lines([{"image": a, "caption": b} for a, b in rows]), encoding="utf-8", newline="")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows([("image", "caption"), *rows])
    source = open_source(path, Columns(image="image", caption="caption"))
    found = [row for shard in source.shards for row in source.rows(shard)]
    assert [row.captions[0] for row in found] == [caption for _, caption in rows]
    assert all(row.reason for row in found)


def test_a_document_is_read_like_a_parquet_file() -> None:
    document = Document(pa.table({"a": range(5), "b": list("vwxyz")}))
    assert (document.num_row_groups, document.metadata.row_group(0).num_rows) == (1, 5)
    batches = list(document.iter_batches(2, columns=["b", "nothing"]))
    assert [batch.to_pydict() for batch in batches] == [{"b": ["v", "w"]}, {"b": ["x", "y"]}, {"b": ["z"]}]


# --- folders of files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["txt", "caption", "json"])
def test_pictures_with_texts_beside_them(home: Path, ending: str) -> None:
    for i, caption in enumerate(CAPTIONS):
        text = json.dumps({"caption": caption}) if ending == "json" else caption
        (home / "img" / f"{i}.{ending}").write_text(text)
    (home / "img" / "notes.md").write_text("x")
    for path in (home / "img", home):
        source = open_source(path)
        assert source.layout == "files"
        assert pairs(source) == EXPECTED
        assert source.notes == {str(home / "img"): "has 1 member left out, such as 'notes.md'"}


def img2dataset_files(folder: Path) -> Path:
    """As img2dataset leaves `--output_format files`: the last download failed."""
    (folder / "00000").mkdir(parents=True)
    for i in range(5):
        (folder / "00000" / f"{i:09d}.jpg").write_bytes(PICTURES[i])
        (folder / "00000" / f"{i:09d}.txt").write_text(CAPTIONS[i])
        (folder / "00000" / f"{i:09d}.json").write_text(json.dumps({"caption": CAPTIONS[i], "key": f"{i:09d}"}))
    table = {
        "url": [f"http://x.example/{i}.jpg" for i in range(6)],
        "caption": CAPTIONS,
        "key": [f"{i:09d}" for i in range(6)],
        "status": ["success"] * 5 + ["failed_to_download"],
        "error_message": [None] * 5 + ["HTTP Error 404"],
    }
    pq.write_table(pa.table(table), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 6, "successes": 5}))
    return folder


def test_files_of_img2dataset(tmp_path: Path) -> None:
    source = open_source(img2dataset_files(tmp_path / "in"))
    rows = list(source.rows(source.shards[0]))
    assert [(row.id, row.image) for row in rows] == [(f"{i:09d}", [*PICTURES[:5], None][i]) for i in range(6)]
    assert rows[5].reason == "failed_to_download: HTTP Error 404"
    assert rows[5].captions == (CAPTIONS[5],)
    before = source.shards[0].fingerprint
    (tmp_path / "in" / "00000" / "000000000.txt").write_text("another, longer caption")
    assert open_source(tmp_path / "in").shards[0].fingerprint != before


# --- compressed tars --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how"), [("a.tar.gz", "gzip"), ("a.tar.zst", "zstd"), ("a.tar", "gzip"), ("a.tar.bz2", "bz2")]
)
def test_compressed_tars(tmp_path: Path, name: str, how: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i, (data, caption) in enumerate(EXPECTED):
            for ending, content in (("png", data), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{i}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    source = open_source(packed(tmp_path / name, buffer.getvalue(), how))
    assert pairs(source) == EXPECTED
    assert source.shards[0].name == "a"
    cut = (tmp_path / name).read_bytes()[:200]
    (tmp_path / "b" / name).parent.mkdir()
    (tmp_path / "b" / name).write_bytes(cut)
    with pytest.raises(UserError):
        open_source(tmp_path / "b")


def test_folders_that_are_not_read_are_said(home: Path) -> None:
    for folder in (home, home / "more"):
        folder.mkdir(exist_ok=True)
        (folder / "0.png").write_bytes(PICTURES[0])
        (folder / "0.txt").write_text("a")
    source = open_source(home)
    assert pairs(source) == [(PICTURES[0], "a")]
    assert source.notes == {str(home): "1 file or folder in it not read, such as 'more/'"}
    table = home / "img" / "a.csv"
    table.write_text("image,caption\n0.png,a\n")
    assert "read differently" in refusal(Path(f"{home / 'more'}::{table}"))


def test_a_caption_that_begins_like_a_compressed_file(home: Path) -> None:
    for i in range(6):
        (home / "img" / f"{i}.txt").write_bytes(b"\x1f\x8bBZh9")
    assert open_source(home / "img").shards[0].rows == 6


# --- several folders --------------------------------------------------------------------------------------------------


def metadata(folder: Path, pictures: list[bytes], captions: list[str]) -> None:
    folder.mkdir(parents=True)
    for i, data in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(data)
    rows = [{"file_name": f"{i}.png", "text": caption} for i, caption in enumerate(captions)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


@pytest.mark.parametrize("pattern", ["*", "*/*", "{train,test}", "*/metadata.parquet"])
def test_every_split_has_its_own_pictures(tmp_path: Path, pattern: str) -> None:
    metadata(tmp_path / "train", PICTURES, CAPTIONS)
    metadata(tmp_path / "test", PICTURES[::-1], CAPTIONS[::-1])
    assert "/*/*'" in refusal(tmp_path)
    found = pairs(open_source(f"{tmp_path}/{pattern}"))
    expected = EXPECTED + EXPECTED[::-1] if pattern.startswith("{") else EXPECTED[::-1] + EXPECTED
    assert found == expected


def test_several_splits_that_datasets_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": data, "path": None}, "text": text} for data, text in EXPECTED]
    split = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "saved"))
    assert f"'{tmp_path}/saved/*/*'" in refusal(tmp_path / "saved")
    assert pairs(open_source(f"{tmp_path}/saved/*/*")) == EXPECTED * 2


# --- what is asked or refused -----------------------------------------------------------------------------------------


def test_two_texts_beside_each_picture(home: Path) -> None:
    for i, caption in enumerate(CAPTIONS):
        (home / "img" / f"{i}.txt").write_text("tag, tag")
        (home / "img" / f"{i}.caption").write_text(caption)
        (home / "img" / f"{i}.npz").write_bytes(b"PK\x03\x04")  # what trainers keep of a picture
    assert "'txt', 'caption': choose with --caption-column" in refusal(home / "img")
    assert pairs(open_source(home / "img", Columns(caption="caption"))) == EXPECTED


def test_what_a_csv_needs(home: Path) -> None:
    (home / "a.csv").write_text("img/0.png,a thing\nimg/1.png,another\n")
    assert "add a line such as 'image,caption'" in refusal(home / "a.csv")
    (home / "a.csv").write_text("image_name| comment_number| comment\nimg/0.png| 0| a thing\n")
    source = open_source(home / "a.csv", Columns(caption="comment"))
    assert pairs(source) == [(PICTURES[0], "a thing")]


def test_pictures_without_captions(home: Path) -> None:
    assert "has pictures, but no captions beside them" in refusal(home / "img")


def test_a_document_beside_its_pictures(home: Path) -> None:
    rows = [{"image": f"{i}.png", "caption": caption} for i, caption in enumerate(CAPTIONS)]
    (home / "img" / "blip.json").write_text(json.dumps(rows))
    source = open_source(home / "img")
    assert (pairs(source), source.notes) == (EXPECTED, {})


def test_messages(home: Path) -> None:
    turns = [
        [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": caption}] for caption in CAPTIONS
    ]
    (home / "a.jsonl").write_text(
        json_lines([{"images": [f"img/{i}.png"], "messages": said} for i, said in enumerate(turns)])
    )
    assert pairs(open_source(home / "a.jsonl")) == EXPECTED


def test_several_images_in_a_row_are_refused(home: Path) -> None:
    rows = [{"images": ["img/0.png", "img/1.png"], "text": caption} for caption in CAPTIONS]
    (home / "a.jsonl").write_text(json_lines(rows))
    with pytest.raises(UserError, match=r"it has 2 images, and a pair has one.*write a row for each image"):
        check_readable(open_source(home / "a.jsonl"))
