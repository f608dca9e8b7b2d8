"""What a refusal names: the file that was looked at, and the column or member in it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.embed import check_readable
from pairclean.pairs import Columns, UserError
from pairclean.sources import open_source
from pairclean.sources.storage import CorruptFile


def picture(format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    return file.getvalue()


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def tar(path: Path, *members: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in members:
            data = picture() if name.endswith(("png", "webp")) else b"a caption"
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refusal(path: Path | str, **named: str) -> str:
    with pytest.raises(UserError) as found:
        open_source(path, Columns(**named))
    return str(found.value)


def test_columns_are_those_of_the_file_that_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        table(tmp_path / f"{name}.parquet", jpg=[picture()], one=["x"], two=["y"])
    first = tmp_path / "a.parquet"
    assert refusal(tmp_path).startswith(f"{first} has several columns that could be the caption, 'one', 'two'")
    assert refusal(tmp_path, caption="three").startswith(f"{first} has no column 'three'; its columns are: jpg, one")
    assert refusal(tmp_path, caption="one", image="two", id="jpg").startswith(f"column 'jpg' of {first} is binary")
    assert f"column 'jpg' of {first} holds the images" in refusal(tmp_path, caption="one", image_root=str(tmp_path))


def test_no_column_for_a_role(tmp_path: Path) -> None:
    for name in ("a", "b"):
        table(tmp_path / f"{name}.parquet", url=["https://x.example/1.jpg"], caption=["x"])
    assert refusal(tmp_path).startswith(f"{tmp_path}/a.parquet has no images, only their URLs (column 'url')")
    for name in ("a", "b"):
        table(tmp_path / f"{name}.parquet", jpg=[picture()], number=[1])
    assert refusal(tmp_path).startswith(f"{tmp_path}/a.parquet has no column that looks like a caption")


def test_two_files_that_differ_are_both_named(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", jpg=[picture()], caption=["x"])
    table(tmp_path / "b.parquet", jpg=[picture()], caption=[["x"]])
    told = f"column 'caption' is list<element: string> in {tmp_path}/b.parquet and string in a.parquet: write all"
    assert refusal(tmp_path).startswith(told)
    table(tmp_path / "b.parquet", jpg=[picture()])
    assert refusal(tmp_path).startswith(f"{tmp_path}/b.parquet has no column 'caption', which a.parquet has")


def test_options_that_a_tar_does_not_have(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", "0.png", "0.txt")
    tar(tmp_path / "b.tar", "1.png", "1.txt")
    assert refusal(tmp_path, image_root="x").startswith(f"{tmp_path}/a.tar holds the images themselves")
    told = f"the samples of {tmp_path}/a.tar have no ids but their keys: leave --id-column out"
    assert refusal(tmp_path, id="uid").startswith(told)


def test_a_sample_of_several_images_is_named_with_its_tar(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", "0.png", "0.webp", "0.txt", "1.webp", "1.png", "1.txt")
    told = f"0 of {tmp_path}/a.tar has several images, png, webp, and so have most samples: choose with --image-column"
    assert refusal(tmp_path) == told


def test_a_row_that_cannot_be_read_is_named_with_its_file(tmp_path: Path) -> None:
    for shard in range(2):
        table(tmp_path / f"{shard}.parquet", image=["no.png"] * 3, caption=["x"] * 3)
    with pytest.raises(UserError) as found:
        check_readable(open_source(tmp_path))
    assert str(found.value).startswith(
        "none of 6 rows that were tried can be read, with the image from 'image' and the caption from 'caption' "
        f"(6: there is no image file of that path, such as row 0 of {tmp_path}/0.parquet): name the folder"
    )


def test_a_tar_that_was_cut_after_it_was_opened(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", "0.png", "0.txt")
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:530])
    with pytest.raises(CorruptFile, match=rf"{path} ends within 0\.(txt|png): repair it"):
        list(source.rows(source.shards[0]))


def test_vectors(tmp_path: Path) -> None:
    for name, dim in (("a", 4), ("b", 5)):
        table(tmp_path / f"{name}.parquet", uid=[name * 32], text=["x"])
        here = {"b32_img": np.ones((1, 4)), "b32_txt": np.ones((1, 4)), "l14_img": np.ones((1, dim))}
        np.savez(tmp_path / f"{name}.npz", **here)
    told = (
        f"the vectors l14_img of {tmp_path} are of different lengths, 4 in {tmp_path}/a.npz and 5 in {tmp_path}/b.npz"
    )
    assert refusal(tmp_path).startswith(told)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", image=np.ones((1, 4)))
    assert refusal(tmp_path).startswith(f"{tmp_path}/a.npz has no vectors that are called like DataComp's")


def test_coco_images_and_captions_that_do_not_go_together(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(2)]
    said = [{"image_id": k, "caption": f"number {k}"} for k in (1, 0, 7, 8, 1)]
    (tmp_path / "0.png").write_bytes(picture())
    path.write_text(json.dumps({"images": images, "annotations": said}))
    source = open_source(path)
    assert source.notes[str(path)] == "has 2 captions of images it does not list"
    rows = list(source.rows(source.shards[0]))
    assert [row.captions for row in rows] == [("number 0",), ("number 1", "number 1")]
    assert [row.reason for row in rows] == [None, "there is no image file of that path"]
    path.write_text(json.dumps({"images": images * 2, "annotations": said}))
    assert refusal(path).startswith(f"{path} has several images of one id")
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": [0], "caption": "x"}]}))
    assert refusal(path).startswith(f"{path} is no COCO captions file (unhashable type: 'list')")
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 0}]}))
    assert refusal(path).startswith(f"{path} is no COCO captions file ('caption' is missing)")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(path: str) -> None:
        raise ImportError("Please install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    told = "s3://bucket/x cannot be opened, as s3:// addresses need another package (Please install s3fs): install it"
    assert refusal("s3://bucket/x") == told


def test_a_range_of_too_many_files() -> None:
    assert refusal("/data/{0..9999999}.tar").startswith("/data/{0..9999999}.tar names 10,000,000 files")
