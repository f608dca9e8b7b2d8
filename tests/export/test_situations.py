"""Situations that people report of their data, small and drawn: all pairs come out, with their captions as written."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.embed import check_readable
from pairclean.pairs import Columns, UserError
from pairclean.sources import Source, open_source
from pairclean.synthetic.scenes import draw_scenes

N = 24
SCENES = [scene for scene in draw_scenes(2 * N, seed=0) if scene.kind == "plain"][:N]
PICTURES = [scene.image or b"" for scene in SCENES]
CAPTIONS = [f"{scene.caption} ({i})" for i, scene in enumerate(SCENES)]
Members = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Found:
    """What a source gives: identifiers, pictures and captions of the rows that can be read, reasons of the others."""

    ids: list[str]
    pictures: list[bytes]
    captions: list[str | None]
    reasons: list[str | None]


def read(source: Source) -> Found:
    check_readable(source)
    rows = [row for shard in source.shards for row in source.rows(shard)]
    assert len(rows) == sum(shard.rows for shard in source.shards)
    good = [row for row in rows if row.image is not None]
    return Found(
        [row.id for row in good],
        [row.image for row in good if row.image is not None],
        [row.captions[0] for row in good],
        [row.reason for row in rows if row.image is None],
    )


def tar(path: Path, members: Members) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def samples(key: Callable[[int], str], image: str = "jpg", text: str = "txt") -> Members:
    return [
        member
        for i in range(N)
        for member in ((f"{key(i)}.{image}", PICTURES[i]), (f"{key(i)}.{text}", CAPTIONS[i].encode()))
    ]


def webp(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "WEBP")
    return buffer.getvalue()


# --- tars -------------------------------------------------------------------------------------------------------------


def apart(folder: Path) -> None:
    """All pictures, then all captions: a tar that was not sorted by name."""
    members = samples("{:06d}".format)
    tar(folder / "0.tar", [*members[::2], *members[1::2]])


def partly_apart(folder: Path) -> None:
    """The caption of every tenth sample at the end."""
    members = samples("{:06d}".format)
    late = members[1::20]
    tar(folder / "0.tar", [*(member for member in members if member not in late), *late])


@pytest.mark.parametrize(
    ("write", "key"),
    [
        (apart, "{:06d}"),
        (partly_apart, "{:06d}"),
        (lambda folder: tar(folder / "0.tar", samples("item {}.05".format)), "item {}.05"),
        (lambda folder: tar(folder / "0.tar", samples("s{:04d}".format, "input.jpg", "outputs.txt")), "s{:04d}"),
    ],
)
def test_tars(tmp_path: Path, write: Callable[[Path], None], key: str) -> None:
    write(tmp_path)
    found = read(open_source(tmp_path))
    assert (found.ids, found.pictures) == ([key.format(i) for i in range(N)], PICTURES)
    assert (found.captions, found.reasons) == (CAPTIONS, [])


def test_some_keys_have_dots(tmp_path: Path) -> None:
    names = [f"item {i}.05" if i % 10 == 0 else f"item {i}" for i in range(N)]
    tar(tmp_path / "0.tar", samples(names.__getitem__))
    assert read(open_source(tmp_path)) == Found(names, PICTURES, CAPTIONS, [])


def test_a_text_in_every_encoding_of_a_windows_program(tmp_path: Path) -> None:
    texts = [f"{caption} é" for caption in CAPTIONS]
    written = [text + "\r\n" if i % 4 == 2 else text for i, text in enumerate(texts)]
    encodings = ["utf-8-sig", "utf-16", "utf-8", "cp1252"]
    members = [
        member
        for i, text in enumerate(written)
        for member in ((f"{i:05d}.jpg", PICTURES[i]), (f"{i:05d}.txt", text.encode(encodings[i % 4])))
    ]
    tar(tmp_path / "0.tar", members)
    found = read(open_source(tmp_path))
    assert (found.captions, found.reasons) == (written, [])


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    fields = [json.dumps({"caption": caption}).encode("utf-8-sig") for caption in CAPTIONS]
    pairs = zip(PICTURES, fields, strict=True)
    tar(tmp_path / "0.tar", [m for i, (p, f) in enumerate(pairs) for m in ((f"{i}.jpg", p), (f"{i}.json", f))])
    assert read(open_source(tmp_path)).captions == CAPTIONS


@pytest.mark.parametrize("named", [None, "jpg"])
def test_some_samples_have_another_picture(tmp_path: Path, named: str | None) -> None:
    """A depth map and a mask each; every third picture as WebP; and one sample with a second picture."""
    members: list[tuple[str, bytes]] = []
    for i, (data, caption) in enumerate(zip(PICTURES, CAPTIONS, strict=True)):
        key = f"a/b.v2/{i:05d}"
        members.append((f"{key}.webp", webp(data)) if i % 3 == 0 else (f"{key}.jpg", data))
        members += [(f"{key}.depth.png", b"depth"), (f"{key}.mask.png", b"mask"), (f"{key}.txt", caption.encode())]
    members.append(("a/b.v2/00010.png", b"another"))
    tar(tmp_path / "0.tar", members)
    source = open_source(tmp_path, Columns(image=named))
    found = read(source)
    assert (found.ids, found.captions) == ([f"a/b.v2/{i:05d}" for i in range(N)], CAPTIONS)
    assert [data for i, data in enumerate(found.pictures) if i % 3] == [p for i, p in enumerate(PICTURES) if i % 3]
    assert (str(tmp_path) in source.notes) == (named is None)  # the choice between the two was not the user's


def test_braces(tmp_path: Path) -> None:
    members = samples("{:09d}".format)
    for shard in range(3):
        tar(tmp_path / f"{shard:05d}.tar", members[shard * 16 : (shard + 1) * 16])
    assert read(open_source(f"{tmp_path}/{{00000..00002}}.tar")).captions == CAPTIONS
    assert read(open_source(f"{tmp_path}/00001.tar::{tmp_path}/00002.tar")).captions == CAPTIONS[8:]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "data:image/jpeg;base64,"])
def test_pictures_as_base64(tmp_path: Path, start: str) -> None:
    table(tmp_path / "0.parquet", image=[start + base64.b64encode(p).decode() for p in PICTURES], caption=CAPTIONS)
    found = read(open_source(tmp_path))
    assert (found.pictures, found.captions) == (PICTURES, CAPTIONS)


def test_texts_that_are_not_marked_as_text(tmp_path: Path) -> None:
    """As Impala, Hive and older versions of Spark write them."""
    sites = [b"ab"[i % 2 :][:1] for i in range(N)]
    table(tmp_path / "0.parquet", image=PICTURES, caption=[c.encode() for c in CAPTIONS], site=sites)
    assert read(open_source(tmp_path, Columns(caption="caption"))).captions == CAPTIONS
    assert read(open_source(tmp_path)).captions == CAPTIONS


def test_lists_of_one_picture(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"images": datasets.List(datasets.Image()), "text": datasets.Value("string")})
    rows = [{"images": [{"bytes": p, "path": None}], "text": c} for p, c in zip(PICTURES, CAPTIONS, strict=True)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    found = read(open_source(tmp_path))
    assert (found.pictures, found.captions) == (PICTURES, CAPTIONS)


def test_lists_of_several_pictures_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "0.parquet", images=[PICTURES[:2]] * N, caption=CAPTIONS)
    with pytest.raises(UserError, match="it has 2 images, and a pair has one"):
        read(open_source(tmp_path))


@pytest.mark.parametrize(
    "path", ["{folder}/img/{i}.jpg", "./img/{i}.jpg", "img\\{i}.jpg", "file://{folder}/img/{i}.jpg"]
)
def test_paths_of_pictures(tmp_path: Path, path: str) -> None:
    (tmp_path / "img").mkdir()
    for i, data in enumerate(PICTURES):
        (tmp_path / "img" / f"{i}.jpg").write_bytes(data)
    paths = [path.format(folder=tmp_path, i=i) for i in range(N)]
    table(tmp_path / "0.parquet", image_path=paths, caption=CAPTIONS)
    found = read(open_source(tmp_path))
    assert (found.pictures, found.captions) == (PICTURES, CAPTIONS)


def test_names_in_capitals(tmp_path: Path) -> None:
    addresses = [f"https://a.example/{i}.jpg" for i in range(N)]
    table(tmp_path / "0.parquet", SAMPLE_ID=list(range(N)), URL=addresses, TEXT=CAPTIONS, jpg=PICTURES)
    source = open_source(tmp_path)
    assert (source.roles.image, source.roles.caption, read(source).captions) == ("jpg", "TEXT", CAPTIONS)


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """A folder `data/`, and a split without captions."""
    for name in ("README.md", ".gitattributes"):
        (tmp_path / name).write_text("x")
    table(tmp_path / "data" / "test-00000-of-00001.parquet", image=PICTURES)
    table(tmp_path / "data" / "train-00000-of-00001.parquet", image=PICTURES, text=CAPTIONS)
    with pytest.raises(UserError, match=f"name {tmp_path}/data"):
        open_source(tmp_path)
    with pytest.raises(UserError, match=r"test-00000-of-00001.parquet has no column 'text'.*/train-\*' alone"):
        open_source(tmp_path / "data")
    assert read(open_source(f"{tmp_path}/data/train-*")).captions == CAPTIONS


# --- both -------------------------------------------------------------------------------------------------------------


def test_files_of_img2dataset(tmp_path: Path) -> None:
    (tmp_path / "00000").mkdir()
    failed = {i for i in range(N) if i % 10 == 3}
    for i in set(range(N)) - failed:
        for ending, data in (("jpg", PICTURES[i]), ("txt", CAPTIONS[i].encode()), ("json", b"{}")):
            (tmp_path / "00000" / f"{i:09d}.{ending}").write_bytes(data)
    table(
        tmp_path / "00000.parquet",
        url=[f"https://a.example/{i}.jpg" for i in range(N)],
        caption=CAPTIONS,
        key=[f"{i:09d}" for i in range(N)],
        status=["failed_to_download" if i in failed else "success" for i in range(N)],
        error_message=["HTTP Error 404" if i in failed else None for i in range(N)],
    )
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": N, "successes": N - len(failed)}))
    found = read(open_source(tmp_path))
    good = [i for i in range(N) if i not in failed]
    assert found.ids == [f"{i:09d}" for i in good]
    assert (found.pictures, found.captions) == ([PICTURES[i] for i in good], [CAPTIONS[i] for i in good])
    assert found.reasons == ["failed_to_download: HTTP Error 404"] * len(failed)


def test_a_tar_and_its_twin(tmp_path: Path, export: Callable[..., list[str]]) -> None:
    """img2dataset ran twice, as webdataset and as Parquet; what is made of both opens everywhere."""
    keys = [f"{i:09d}" for i in range(N)]
    tar(tmp_path / "in.tar", samples(keys.__getitem__))
    table(tmp_path / "in.parquet", url=["http://a.example"] * N, caption=CAPTIONS, key=keys, jpg=PICTURES)
    source = open_source(tmp_path)
    assert read(source).captions == CAPTIONS
    assert export(source, ["clean"] * N, tmp_path / "out", "parquet") == ["in.parquet"]
    written = pq.read_table(tmp_path / "out" / "in.parquet")
    assert (written["jpg"].to_pylist(), written["caption"].to_pylist()) == (PICTURES, CAPTIONS)
    datasets = pytest.importorskip("datasets")
    again = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "in.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert again["caption"][:] == CAPTIONS


@pytest.mark.parametrize("written", ["files", "webdataset", "parquet"])
def test_what_img2dataset_wrote_is_written_like_that(
    written: str, tmp_path: Path, export: Callable[..., list[str]]
) -> None:
    home = Path(__file__).parents[1] / "sources" / "img2dataset" / written
    source = open_source(home)
    words = ["clean", "noisy", *["clean"] * 5, "unreadable"]
    export(source, words, tmp_path / "out")
    again = open_source(tmp_path / "out")
    kept = [row for shard in again.shards for row in again.rows(shard)]
    before = [row for shard in source.shards for row in source.rows(shard)]
    assert [(row.id, row.captions, row.image) for row in kept] == [
        (row.id, row.captions, row.image) for row, word in zip(before, words, strict=True) if word == "clean"
    ]
    table, names = pq.read_table(tmp_path / "out" / "00000.parquet"), pq.read_schema(home / "00000.parquet").names
    assert table.column_names[: len(names)] == names
    assert table["number"].to_pylist() == [0, 2, 3, 4]
