"""Columns are chosen, and values are read, by what they hold."""

from __future__ import annotations

import base64
import io
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
from pairclean.sources.tables import is_utf8
from pairclean.sources.values import from_base64, looks_like_image


def picture(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(value, ["PNG", "JPEG", "WEBP"][value % 3]) for value in range(12)]
CAPTIONS = [f"caption {i}" for i in range(12)]


def write(path: Path, /, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def images(source: Source) -> list[bytes | str | None]:
    return [row.image or row.reason for shard in source.shards for row in source.rows(shard)]


def captions(source: Source) -> list[str | None]:
    return [row.captions[0] for shard in source.shards for row in source.rows(shard)]


def refusal(path: Path | str, **named: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_base64(tmp_path: Path, start: str, kind: pa.DataType) -> None:
    encoded = [start + base64.b64encode(data).decode() for data in PICTURES]
    path = write(tmp_path / "0.parquet", image=pa.array(encoded, pa.string()).cast(kind), caption=CAPTIONS)
    source = open_source(path)
    assert images(source) == PICTURES
    check_readable(source)


def test_base64_in_a_column_of_any_name(tmp_path: Path) -> None:
    encoded = [base64.urlsafe_b64encode(data).decode().rstrip("=") for data in PICTURES]
    path = write(tmp_path / "0.parquet", url=["http://x"] * 12, payload=encoded, caption=CAPTIONS)
    assert images(open_source(path)) == PICTURES


@given(st.binary(max_size=200), st.booleans())
def test_nothing_but_images_is_taken_for_base64(data: bytes, uri: bool) -> None:
    text = base64.b64encode(data).decode()
    assert from_base64(("data:image/jpeg;base64," if uri else "") + text) == (
        data if uri or (looks_like_image(data) and len(text) >= 32) else None
    )
    assert from_base64("img/" + "a" * 40 + ".jpg") is None


@pytest.mark.parametrize("how", ["absolute", "dot", "back", "address"])
def test_paths_in_every_form(tmp_path: Path, how: str) -> None:
    (tmp_path / "a b").mkdir()
    for i, data in enumerate(PICTURES):
        (tmp_path / "a b" / f"{i}.img").write_bytes(data)
    forms = {"absolute": f"{tmp_path}/a b/", "dot": "./a b/", "back": "a b\\", "address": f"file://{tmp_path}/a%20b/"}
    path = write(tmp_path / "0.parquet", image_path=[f"{forms[how]}{i}.img" for i in range(12)], caption=CAPTIONS)
    source = open_source(path)
    assert images(source) == PICTURES
    check_readable(source)


def test_lists_of_one_image(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    lists: list[Any] = [[{"bytes": data, "path": None}] for data in PICTURES[:4]]
    lists += [None, [], [{"bytes": PICTURES[0], "path": None}, {"bytes": PICTURES[1], "path": None}]]
    path = write(tmp_path / "0.parquet", images=pa.array(lists, pa.list_(struct)), text=CAPTIONS[:7])
    null = "the image is null"
    assert images(open_source(path)) == [*PICTURES[:4], null, null, "it has 2 images, and a pair has one"]
    path = write(tmp_path / "1.parquet", images=pa.array([[d] for d in PICTURES], pa.list_(pa.binary())), text=CAPTIONS)
    assert images(open_source(path)) == PICTURES


def test_a_list_of_one_image_as_datasets_writes_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"images": datasets.Sequence(datasets.Image()), "text": datasets.Value("string")})
    rows = [
        {"images": [{"bytes": data, "path": None}], "text": text} for data, text in zip(PICTURES, CAPTIONS, strict=True)
    ]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    assert images(open_source(tmp_path)) == PICTURES


def test_a_column_that_holds_images_is_preferred(tmp_path: Path) -> None:
    path = write(tmp_path / "0.parquet", image=[b"junk"] * 12, thumb=PICTURES, hash=[b"\1\2"] * 12, caption=CAPTIONS)
    assert open_source(path).roles.image == "thumb"
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    path = write(tmp_path / "1.parquet", file_name=["gone.png"] * 12, path=["a.png"] * 12, caption=CAPTIONS)
    assert open_source(path).roles.image == "path"
    path = write(tmp_path / "2.parquet", image=PICTURES, img=PICTURES, caption=CAPTIONS)
    assert "several columns" in refusal(path)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_stored_as_bytes(tmp_path: Path) -> None:
    texts = pa.array([text.encode() for text in CAPTIONS], pa.binary())
    path = write(tmp_path / "0.parquet", image=PICTURES, caption=texts, site=pa.array([b"a"] * 12, pa.binary()))
    assert captions(open_source(path)) == CAPTIONS
    path = write(tmp_path / "1.parquet", image=PICTURES, words=texts, tags=[[1]] * 12)
    assert captions(open_source(path)) == captions(open_source(path, Columns(caption="words"))) == CAPTIONS
    assert "cannot be the caption" in refusal(path, caption="image")


def test_captions_of_another_encoding(tmp_path: Path) -> None:
    texts = [f"crème brûlée n° {i}" for i in range(12)]
    kinds = ["cp1252", "utf-8", "utf-16", "utf-8-sig"]
    data = pa.array([text.encode(kinds[i % 4]) for i, text in enumerate(texts)], pa.binary())
    assert captions(open_source(write(tmp_path / "0.parquet", image=PICTURES, caption=data))) == texts
    utf8 = pa.array([text.encode("cp1252") for text in texts], pa.binary()).view(pa.string())
    assert captions(open_source(write(tmp_path / "1.parquet", image=PICTURES, caption=utf8))) == texts


def test_one_caption_of_another_encoding_among_thousands(tmp_path: Path) -> None:
    """In the last of many shards, behind thousands of rows."""
    rows = 6000
    for shard in range(6):
        data = [f"caption {i}".encode() for i in range(rows)]
        if shard == 5:
            data[-1] = "crème brûlée".encode("cp1252")
        texts = pa.array(data, pa.binary()).view(pa.string())
        write(tmp_path / f"{shard}.parquet", image=pa.array([b"\xff\xd8\xff"] * rows), caption=texts)
    source = open_source(tmp_path)
    last = [row.captions[0] for row in source.rows(source.shards[-1], images=False)][-1]
    assert (source.encoding, last) == ("cp1252", "crème brûlée")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.list_(pa.string())])
@given(st.lists(st.one_of(st.none(), st.binary(max_size=4), st.text(max_size=4).map(str.encode)), max_size=6))
def test_utf8_is_told_as_python_tells_it(kind: pa.DataType, values: list[bytes | None]) -> None:
    def whole(value: bytes) -> bool:
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
        return True

    flat = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    column = flat if kind == pa.binary() else flat.view(pa.large_string() if kind == pa.large_string() else pa.string())
    if pa.types.is_list(kind):
        column = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), column)
    assert is_utf8(column) == all(whole(value) for value in values if value is not None)


def test_names_in_capitals(tmp_path: Path) -> None:
    path = write(tmp_path / "0.parquet", ID=list(range(12)), URL=["http://a"] * 12, TEXT=CAPTIONS, JPG=PICTURES,
                 STATUS=["failed"] * 12)  # fmt: skip
    source = open_source(path)
    assert (source.roles.image, source.roles.caption, source.roles.id) == ("JPG", "TEXT", "ID")


# --- a look before anything is done -----------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    cases = {
        "junk": ({"image": [b"junk"] * 12, "caption": CAPTIONS}, "not an image (text)"),
        "gone": ({"file_name": [f"{i}.png" for i in range(12)], "caption": CAPTIONS}, "--image-root"),
        "blank": ({"image": PICTURES, "caption": [" "] * 12}, "12: empty caption"),
    }
    for name, (columns, told) in cases.items():
        source = open_source(write(tmp_path / f"{name}.parquet", **columns))
        with pytest.raises(UserError) as caught:
            check_readable(source)
        assert told in str(caught.value)
        assert "--force" in str(caught.value)
        assert len(str(caught.value)) < 500


def test_rows_that_the_source_marks_do_not_count(tmp_path: Path) -> None:
    failed = ["failed_to_download"] * 8 + ["success"] * 4
    for last in ([None] * 4, PICTURES[:4]):
        path = write(
            tmp_path / "0.parquet", jpg=pa.array([None] * 8 + last, pa.binary()), caption=CAPTIONS, status=failed
        )
        check_readable(open_source(path))
    path = write(tmp_path / "0.parquet", jpg=[None] * 8 + [b"junk"] * 4, caption=CAPTIONS, status=failed)
    with pytest.raises(UserError, match="none of 4 rows"):
        check_readable(open_source(path))


def test_rows_from_all_over_the_shard_are_tried(tmp_path: Path) -> None:
    table = pa.table({"jpg": [b"junk"] * 900 + [PICTURES[0]] * 100, "caption": ["x"] * 1000})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=100)
    check_readable(open_source(tmp_path))


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_reasons_do_not_hold_the_value(tmp_path: Path) -> None:
    paths = [
        "missing-name.png",
        "../missing-name",
        "/missing-name",
        "x" * 5000,
        "http://missing-name",
        "a\0missing-name",
    ]
    path = write(tmp_path / "0.parquet", file_name=paths, caption=CAPTIONS[:6])
    found = images(open_source(path))
    assert all(isinstance(reason, str) and "missing-name" not in reason and len(reason) < 100 for reason in found)
    assert found[0] == "there is no image file of that path"


VALUES = st.one_of(
    st.none(),
    st.sampled_from(PICTURES),
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(VALUES, st.one_of(st.none(), st.binary(max_size=20))), min_size=1, max_size=8),
    st.sampled_from([pa.binary(), pa.large_binary()]),
    st.integers(1, 4),
)
def test_every_row_is_accounted_for(
    tmp_path: Path, rows: list[tuple[bytes | None, bytes | None]], kind: pa.DataType, group: int
) -> None:
    table = pa.table(
        {
            "jpg": pa.array([image for image, _ in rows], kind),
            "caption": pa.array([text for _, text in rows], pa.binary()).view(pa.string()),
        }
    )
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=group)
    source = open_source(tmp_path / "0.parquet", Columns(image="jpg", caption="caption"))
    found = [row for shard in source.shards for row in source.rows(shard)]
    assert [row.row for row in found] == list(range(len(rows)))
    assert all((row.image is None) <= (row.reason is not None) for row in found)
    assert all("\ufffd" not in (row.captions[0] or "") for row in found)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_split_without_captions_is_named(tmp_path: Path) -> None:
    write(tmp_path / "data" / "test-00000-of-00001.parquet", image=PICTURES)
    write(tmp_path / "data" / "train-00000-of-00001.parquet", image=PICTURES, text=CAPTIONS)
    message = refusal(tmp_path / "data")
    assert "test-00000-of-00001.parquet has no column 'text'" in message
    assert f"'{tmp_path}/data/train-*'" in message
    assert images(open_source(f"{tmp_path}/data/train-*")) == PICTURES
    assert f"name {tmp_path}/data" in refusal(tmp_path)


def test_folders_of_partitions(tmp_path: Path) -> None:
    for language in ("de", "en"):
        write(tmp_path / f"lang={language}" / "part-0.parquet", image=PICTURES, text=CAPTIONS)
    assert f"'{tmp_path}/lang=*/*'" in refusal(tmp_path)
    source = open_source(f"{tmp_path}/lang=*/*")
    assert [shard.name for shard in source.shards] == ["part-0", "part-0-2"]
    assert images(source) == PICTURES * 2


def test_files_that_are_left_out_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=PICTURES, text=CAPTIONS)
    for name in ("b.parquet.part", "README.md", "a_stats.json", "notes.txt"):
        (tmp_path / name).write_text("x")
    write(tmp_path / "more" / "c.parquet", image=PICTURES, text=CAPTIONS)
    note = open_source(tmp_path).notes[str(tmp_path)]
    assert note == "3 files or folders in it not read, such as 'b.parquet.part'"


@pytest.mark.parametrize("log", ["_delta_log", "_versions", ".hoodie"])
def test_tables_with_a_log_are_refused(tmp_path: Path, log: str) -> None:
    write(tmp_path / "a.parquet", image=PICTURES, text=CAPTIONS)
    (tmp_path / log).mkdir()
    assert "whose live files are listed in its log" in refusal(tmp_path)


def test_braces_globs_and_several_sources(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i:05d}.parquet", image=PICTURES[i : i + 1], text=["x"])
    one = [PICTURES[0]]
    assert images(open_source(f"{tmp_path}/{{00000..00002}}.parquet")) == PICTURES[:3]
    assert images(open_source(f"{tmp_path}/{{00002,00000}}.parquet")) == [PICTURES[2], PICTURES[0]]
    assert images(open_source(f"{tmp_path}/00001.parquet::{tmp_path}/00000.parquet")) == [PICTURES[1], *one]
    assert images(open_source(f"{tmp_path}/0000?.parquet")) == PICTURES[:3]
    assert "00003.parquet does not exist" in refusal(f"{tmp_path}/{{00000..00003}}.parquet")
    assert "does not exist" in refusal(f"{tmp_path}/nothing-*.parquet")
