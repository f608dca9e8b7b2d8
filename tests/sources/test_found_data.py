"""Data as people have them: all pairs come out with their captions as written, or one sentence says what is wrong."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.embed import check_readable
from pairclean.pairs import Columns, UserError
from pairclean.sources import Source, open_source

N = 12
CAPTIONS = [f"a thing, number {i}" for i in range(N)]
Members = Sequence[tuple[str, bytes]]


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(i) for i in range(N)]


def pairs(source: Source) -> list[tuple[bytes | None, str | None]]:
    check_readable(source)
    rows = [row for shard in source.shards for row in source.rows(shard)]
    assert len(rows) == sum(shard.rows for shard in source.shards)
    return [(row.image, row.captions[0]) for row in rows]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as found:
        check_readable(open_source(path))
    return str(found.value)


def write_pictures(folder: Path, name: Callable[[int], str] = "{}.png".format) -> None:
    folder.mkdir(exist_ok=True)
    for i, data in enumerate(PICTURES):
        (folder / name(i)).write_bytes(data)


def tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(key: Callable[[int], str], image: str = "png", text: str = "txt") -> Members:
    both = [[(f"{key(i)}.{image}", PICTURES[i]), (f"{key(i)}.{text}", CAPTIONS[i].encode())] for i in range(N)]
    return [member for sample in both for member in sample]


# --- quotes in tables of text ----------------------------------------------------------------------------------------

QUOTED = {
    "opened and never closed": '"a thing, number {}',
    "opened in some lines": '{}" nail',
    "around a part": '"thing" number {}',
    "at the end": 'number {} is 5"',
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("how", QUOTED)
def test_quotes_that_are_part_of_a_caption(tmp_path: Path, how: str, ending: str) -> None:
    write_pictures(tmp_path)
    captions = [QUOTED[how].format(i) if i % 3 == 0 else CAPTIONS[i] for i in range(N)]
    lines = ["filepath\ttitle", *(f"{i}.png\t{caption}" for i, caption in enumerate(captions))]
    (tmp_path / "a.tsv").write_bytes((ending.join(lines) + ending).encode())
    assert pairs(open_source(tmp_path / "a.tsv")) == list(zip(PICTURES, captions, strict=True))


def test_quotes_that_swallow_whole_lines_and_close_well(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    captions = ['"opened here', *CAPTIONS[1:4], 'a screw of 5"', *CAPTIONS[5:]]
    lines = ["image\tcaption", *(f"{i}.png\t{caption}" for i, caption in enumerate(captions))]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    source = open_source(tmp_path / "a.tsv")
    assert pairs(source) == list(zip(PICTURES, captions, strict=True))
    assert source.notes[str(tmp_path / "a.tsv")].startswith("has quotes that do not enclose fields")


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_captions_of_several_lines(tmp_path: Path, separator: str) -> None:
    write_pictures(tmp_path)
    captions = [f'number {i}, "so called"{separator}\r\nof two lines{separator} or\n\nfour' for i in range(N)]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(["image", "caption"])
    writer.writerows([f"{i}.png", caption] for i, caption in enumerate(captions))
    (tmp_path / "a.csv").write_bytes(file.getvalue().encode())
    source = open_source(tmp_path / "a.csv")
    assert pairs(source) == list(zip(PICTURES, captions, strict=True))
    assert str(tmp_path / "a.csv") not in source.notes


# --- names of files --------------------------------------------------------------------------------------------------


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


@pytest.mark.parametrize("of_picture", [composed, decomposed])
def test_a_picture_and_its_text_of_different_normal_forms(tmp_path: Path, of_picture: Callable[[str], str]) -> None:
    of_text = decomposed if of_picture is composed else composed
    write_pictures(tmp_path, lambda i: of_picture(f"café {i:02d}.png"))
    for i, caption in enumerate(CAPTIONS):
        (tmp_path / of_text(f"café {i:02d}.txt")).write_text(caption)
    assert pairs(open_source(tmp_path)) == list(zip(PICTURES, CAPTIONS, strict=True))
    members = [(of_picture(f"é{i}.png"), PICTURES[i]) for i in range(N)]
    members += [(of_text(f"é{i}.txt"), CAPTIONS[i].encode()) for i in range(N)]
    assert pairs(open_source(tar(tmp_path / "a.tar", members))) == list(zip(PICTURES, CAPTIONS, strict=True))


@pytest.mark.parametrize(
    ("of_file", "of_table"),
    [
        (decomposed, composed),
        (composed, decomposed),
        (composed, " {} ".format),
        (composed, "./{}".format),
        (composed, ".\\{}".format),
    ],
)
def test_paths_as_other_systems_write_them(
    tmp_path: Path, of_file: Callable[[str], str], of_table: Callable[[str], str]
) -> None:
    write_pictures(tmp_path, lambda i: of_file(f"é{i}.png"))
    lines = ["file_name,text", *(f"{of_table(f'é{i}.png')},number {i}" for i in range(N))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert pairs(open_source(tmp_path)) == [(PICTURES[i], f"number {i}") for i in range(N)]


def test_another_spelling_does_not_leave_the_root(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "a.csv").write_text("image,caption\n" + "".join(f" ..\\{i}.png ,x\n" for i in range(N)))
    assert "leaves the image root" in refusal(home / "a.csv")


@pytest.mark.parametrize(
    ("key", "image", "text"),
    [
        ("v1.{}.2023-01.x", "png", "txt"),
        ("photo.final.v2/{}.cropped", "PNG", "Txt"),
        ("{}", "image.0.png", "caption.0.txt"),
        ("a b/c.d/ {} .e", "png", "json"),
    ],
)
def test_names_with_many_dots(tmp_path: Path, key: str, image: str, text: str) -> None:
    members = samples(key.format, image, text)
    if text == "json":
        members = [(n, json.dumps({"caption": d.decode()}).encode() if n.endswith(text) else d) for n, d in members]
    assert pairs(open_source(tar(tmp_path / "a.TAR", members))) == list(zip(PICTURES, CAPTIONS, strict=True))


def test_linked_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path / "real")
    for i, caption in enumerate(CAPTIONS):
        (tmp_path / "real" / f"{i}.txt").write_text(caption)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "inside").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    expected = sorted(zip(PICTURES, CAPTIONS, strict=True))
    for path in ("home", "link"):
        assert sorted(pairs(open_source(tmp_path / path))) == expected


# --- what is in shards -----------------------------------------------------------------------------------------------


def test_empty_shards_among_others(tmp_path: Path) -> None:
    full = pa.table({"jpg": PICTURES, "caption": CAPTIONS})
    for name, rows in (("0", 0), ("1", 5), ("2", 0), ("3", N)):
        pq.write_table(full.slice(max(0, rows - 7), rows - max(0, rows - 7)), tmp_path / f"{name}.parquet")
    assert pairs(open_source(tmp_path)) == list(zip(PICTURES, CAPTIONS, strict=True))
    (tmp_path / "tars").mkdir()
    tar(tmp_path / "tars" / "0.tar", [])
    tar(tmp_path / "tars" / "1.tar", samples(str))
    assert len(pairs(open_source(tmp_path / "tars"))) == N


def test_an_archive_in_an_archive(tmp_path: Path) -> None:
    inner = tar(tmp_path / "inner.tar", samples(str)).read_bytes()
    outer = tar(tmp_path / "outer.tar", [("inner.tar", inner)])
    assert f"{outer} holds no rows (outer.tar has 1 member left out, such as 'inner.tar')" in refusal(outer)
    both = open_source(tar(outer, [*samples(str), ("inner.tar", inner)]))
    assert len(pairs(both)) == N
    assert both.notes == {str(outer): "has 1 member left out, such as 'inner.tar'"}


def test_a_zip_archive_of_pairs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in samples(str):
            archive.writestr(name, data)
    for path in (tmp_path, tmp_path / "a.zip"):
        assert refusal(path) == f"{tmp_path}/a.zip is a zip archive: unpack it, and name the folder"
    arrays = {name: np.ones((N, 4), np.float16) for name in ("b32_img", "b32_txt")}
    np.savez(tmp_path / "named.npz", **arrays)
    (tmp_path / "named.npz").rename(tmp_path / "a.zip")
    assert "a.zip holds vectors without the captions" in refusal(tmp_path / "a.zip")


def test_captions_that_are_missing_and_captions_that_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    nan = float("nan")
    pq.write_table(pa.table({"jpg": PICTURES, "caption": pa.array([nan] * N)}), path)
    assert refusal(path).startswith(f"column 'caption' of {path} is double and cannot be the caption")
    pq.write_table(pa.table({"jpg": PICTURES, "caption": list(range(N))}), path)
    assert refusal(path).startswith(f"column 'caption' of {path} is int64 and cannot be the caption")
    captions = [None if i % 3 else CAPTIONS[i] for i in range(N)]
    pq.write_table(pa.table({"jpg": PICTURES, "caption": captions}), path)
    assert pairs(open_source(path)) == list(zip(PICTURES, captions, strict=True))


def test_lists_of_no_caption_and_of_no_image(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    pq.write_table(
        pa.table({"jpg": PICTURES, "captions": [[] if i % 2 else [CAPTIONS[i]] * 2 for i in range(N)]}), path
    )
    source = open_source(path)
    rows = list(source.rows(source.shards[0]))
    assert [row.captions for row in rows] == [(None,) if i % 2 else (CAPTIONS[i],) * 2 for i in range(N)]
    pq.write_table(pa.table({"image": [[] if i % 2 else [PICTURES[i]] for i in range(N)], "caption": CAPTIONS}), path)
    source = open_source(path)
    rows = list(source.rows(source.shards[0]))
    assert [row.image for row in rows] == [None if i % 2 else PICTURES[i] for i in range(N)]
    assert {row.reason for row in rows} == {None, "the image is null"}


def test_one_key_in_two_shards(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", samples(str))
    tar(tmp_path / "1.tar", samples(str))
    assert f"{tmp_path}/1.tar has the first once more): number the rows with --id-column none" in refusal(tmp_path)
    assert len(pairs(open_source(tmp_path, Columns(id="none")))) == 2 * N


def test_a_file_that_is_called_like_another_format(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.parquet", samples(str))
    assert len(pairs(open_source(path))) == N
    path.write_text("image,caption\n0.png,x\n")
    assert refusal(path).startswith(f"{path} cannot be read as Parquet")
    other = tmp_path / "captions.doc"
    other.write_text("image,caption\n0.png,x\n")
    assert refusal(other).startswith(
        f"{other} cannot be read as Parquet or tar, and is not called like a table of text"
    )


def test_captions_in_a_text_file_beside_the_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    lines = ["image,caption", *(f"{i}.png,{caption}" for i, caption in enumerate(CAPTIONS))]
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(lines))
    for where in (path, tmp_path):
        source = open_source(where, Columns(image_root=str(tmp_path / "images")))
        assert pairs(source) == list(zip(PICTURES, CAPTIONS, strict=True))
        assert source.notes[str(path)] == f"has {N} lines with more or fewer fields than its first line"


def test_texts_without_pictures(tmp_path: Path) -> None:
    for i, caption in enumerate(CAPTIONS):
        (tmp_path / f"{i}.txt").write_text(caption)
        (tmp_path / f"{i}.pdf").write_bytes(b"%PDF-1.7")
    assert refusal(tmp_path).startswith(f"{tmp_path} has texts (0.txt), but no pictures called like them")


def test_structs_of_paths_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    path = tmp_path / "0.parquet"
    images = [{"bytes": None, "path": f"{i}.png"} for i in range(N)]
    pq.write_table(pa.table({"image": images, "text": CAPTIONS}), path)
    assert "name the folder that image paths are relative to with --image-root" in refusal(path)
    source = open_source(path, Columns(image_root=str(tmp_path / "images")))
    assert pairs(source) == list(zip(PICTURES, CAPTIONS, strict=True))
