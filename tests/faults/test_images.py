"""Broken, odd and hostile pictures and captions, through a whole run: each costs its own pair and no other."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small import OPTIONS, draw_bars, use_small

import pairclean
from pairclean.embed import Embeddings
from pairclean.pairs import UserError
from pairclean.run import Run
from pairclean.synthetic.drawing import draw_picture, sample_scene
from pairclean.synthetic.scenes import Example, draw_scenes, write_shards


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def drawn(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return draw_picture(sample_scene(rng), rng)


def bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(90))) + chunk(b"IEND", b"")
    )


def faint(picture: Image.Image) -> Image.Image:
    """A palette picture whose colour 0 is transparent."""
    palette = picture.quantize(15)
    clear = Image.new("P", palette.size, 0)
    colours = palette.getpalette() or []
    clear.putpalette([1, 2, 3, *colours[:45]])
    clear.paste(Image.fromarray(np.asarray(palette)[:, :64] + 1), (0, 0))
    return clear


def on_white(palette: Image.Image) -> Image.Image:
    pixels = np.asarray(palette.convert("RGB")).copy()
    pixels[np.asarray(palette) == 0] = 255
    return Image.fromarray(pixels)


PICTURE, OTHER = drawn(1), drawn(2)
GREY = PICTURE.convert("L")
DEEP = Image.fromarray(np.asarray(GREY, np.uint16) * 257)
CLEAR = faint(PICTURE)
CMYK = PICTURE.convert("CMYK")
JPEG = encoded(PICTURE, "JPEG")

#: What cannot be read: the bytes, and the reason that the verdict gives.
BROKEN = {
    "truncated JPEG": (JPEG[:-400], "truncated JPEG"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated JPEG"),
    "no bytes": (b"", "the image is empty"),
    "null": (None, "the image is null"),
    "zeros": (bytes(3000), "not an image (only zero bytes)"),
    "HTML": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image (HTML)"),
    "bomb": (bomb(), "too large: 900 megapixels"),
    "noise": (np.random.default_rng(0).bytes(2000), "not an image (unknown format)"),
}
#: What can: the bytes, and a plain picture of the same pixels.
ODD = {
    "broken EXIF": (encoded(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), Image.open(io.BytesIO(JPEG))),
    "CMYK": (encoded(CMYK, "TIFF"), CMYK.convert("RGB")),
    "16 bits": (encoded(DEEP), GREY.convert("RGB")),
    "palette with transparency": (encoded(CLEAR, "PNG", transparency=0), on_white(CLEAR)),
    "animated GIF": (encoded(CLEAR, "GIF", save_all=True, append_images=[faint(OTHER)]), CLEAR.convert("RGB")),
    "animated WebP": (encoded(PICTURE, "WEBP", save_all=True, append_images=[OTHER], lossless=True), PICTURE),
    "greyscale": (encoded(GREY, "JPEG", quality=100), GREY.convert("RGB")),
}
CAPTIONS = {
    "null caption": (None, "no caption"),
    "empty caption": (b"", "empty caption"),
    "blank caption": (" \t\n\u3000".encode(), "empty caption"),
    "100 kB": (b"a red boat " * 9_310, None),
    "not UTF-8": (b"caf\xe9 au lait \xff", None),
    "right to left": ("قارب أحمر صغير \u202e\u2067".encode(), None),
    "control characters": (b"a \x1b[31mred\x07 boat\x00 <script>", None),
}


@dataclass
class Judged:
    """What a run says of each pair, by its name."""

    run: Run
    verdict: dict[str, str]
    reason: dict[str, str | None]
    image: dict[str, np.ndarray]
    caption: dict[str, str | None]


def judged(run: Run) -> Judged:
    verdicts = run.verdicts().to_pylist()
    names = [row["pair_id"] for row in verdicts]
    emb = Embeddings.open(run.embeddings, run.shards)
    captions = emb.captions(np.arange(len(emb)))
    return Judged(
        run,
        {row["pair_id"]: row["verdict"] for row in verdicts},
        {row["pair_id"]: row["reason"] for row in verdicts},
        dict(zip(names, emb.image[:].astype(np.float32), strict=True)),
        dict(zip(names, captions, strict=True)),
    )


def write(path: Path, ids: list[Any], images: list[Any], captions: list[bytes | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = pa.array(captions, pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())  # unchecked, as other writers' files are
    pq.write_table(pa.table({"id": ids, "image": images, "caption": texts}), path)


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A run over every fault there is a name for, one pair each."""
    home = tmp_path_factory.mktemp("odd")
    plain = encoded(PICTURE)
    rows: list[tuple[str, bytes | None, bytes | None]] = [("1x1", encoded(Image.new("RGB", (1, 1), "red")), b"a dot")]
    rows += [(name, data, b"a picture") for name, (data, _) in BROKEN.items()]
    for name, (data, same) in ODD.items():
        rows += [(name, data, b"a picture"), (f"{name}, plain", encoded(same), b"a picture")]
    rows += [(name, plain, caption) for name, (caption, _) in CAPTIONS.items()]
    rows += [("plain", plain, b"a boat"), ("another", encoded(OTHER), b"a house")]
    write(home / "in/0.parquet", *(list(column) for column in zip(*rows, strict=True)))
    return judged(pairclean.clean(home / "in", home / "run", **OPTIONS))


def test_every_pair_has_one_verdict(odd: Judged) -> None:
    assert len(odd.verdict) == 1 + len(BROKEN) + 2 * len(ODD) + len(CAPTIONS) + 2
    unreadable = {*BROKEN, *(name for name, (_, reason) in CAPTIONS.items() if reason)}
    assert {name for name, verdict in odd.verdict.items() if verdict == "unreadable"} == unreadable
    # Twenty pairs cannot be judged, and none of them is called clean.
    assert {verdict for name, verdict in odd.verdict.items() if name not in unreadable} == {"unjudged"}
    assert odd.run.report["unreadable"] == len(unreadable)
    assert None not in odd.reason.values()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_says_why(odd: Judged, name: str) -> None:
    assert odd.reason[name] == BROKEN[name][1]
    assert not odd.image[name].any()


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_read_as_what_it_shows(odd: Judged, name: str) -> None:
    assert odd.image[name] @ odd.image[f"{name}, plain"] > 0.998
    assert odd.image[name] @ odd.image["another"] < 0.9


def test_a_picture_of_one_pixel_is_read(odd: Judged) -> None:
    assert odd.verdict["1x1"] == "unjudged"
    assert np.linalg.norm(odd.image["1x1"]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions(odd: Judged, name: str) -> None:
    given, reason = CAPTIONS[name]
    if reason:
        assert odd.reason[name] == reason
    else:
        assert odd.verdict[name] == "unjudged"
        assert odd.caption[name] == (given or b"").decode("cp1252" if name == "not UTF-8" else "utf-8")


def test_control_characters_stay_out_of_the_page(odd: Judged) -> None:
    page = (odd.run.path / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert "\x07" not in page
    assert "boat\x00" not in page
    assert "<script> " not in page


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A run over a column of paths, of which one is a picture inside the root."""
    home = tmp_path_factory.mktemp("paths")
    root = home / "pictures"
    root.mkdir()
    (root / "there.png").write_bytes(encoded(PICTURE))
    (home / "secret.png").write_bytes(encoded(OTHER))
    os.symlink(home / "secret.png", root / "link.png")
    (root / "empty.png").touch()
    os.mkfifo(root / "pipe.png")
    names = {
        "there": "there.png",
        "missing": "nowhere.png",
        "above": "../secret.png",
        "absolute": str(home / "secret.png"),
        "link": "link.png",
        "empty": "empty.png",
        "pipe": "pipe.png",
        "zero": "a\0.png",
        "escape": "\x1b[2J.png",
        "null": None,
    }
    write(home / "in/0.parquet", [*names], [*names.values()], [b"a picture"] * len(names))
    return judged(pairclean.clean(home / "in", home / "run", image_root=str(root), **OPTIONS))


def test_a_path_never_leaves_its_root(paths: Judged) -> None:
    assert paths.verdict.pop("there") == "unjudged"
    assert set(paths.verdict.values()) == {"unreadable"}
    for name, words in {
        "missing": "there is no image file of that path",
        "above": "leaves the image root",
        "absolute": "is absolute",
        "link": "leaves the image root",
        "empty": "is empty",
        "pipe": "there is no image file",
        "zero": "cannot be read",
        "escape": "there is no image file of that path",
        "null": "the image is null",
    }.items():
        assert words in (paths.reason[name] or "")


@pytest.mark.parametrize(
    ("ids", "words"),
    [(["a", "b", "a"], "'a'"), (["a", None, "c"], "nulls"), ([1, 1, 2], "'1'|1")],
)
def test_ids_that_are_not_ids_are_named(tmp_path: Path, ids: list[Any], words: str) -> None:
    write(tmp_path / "in/0.parquet", ids, [encoded(PICTURE)] * 3, [b"a", b"b", b"c"])
    with pytest.raises(UserError, match=rf"({words}).*--id-column none"):
        pairclean.clean(tmp_path / "in", tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()
    run = pairclean.clean(tmp_path / "in", tmp_path / "run", id_column="none", **OPTIONS)
    assert run.verdicts()["pair_id"].to_pylist() == ["0:0", "0:1", "0:2"]


WAYS: list[Callable[[bytes], bytes | None]] = [
    lambda image: image[: len(image) // 2],
    lambda image: image[:-60],
    lambda image: b"",
    lambda image: None,
    lambda image: bytes(len(image)),
    lambda image: b"<html><body>403</body></html>",
    lambda image: b'{"error": "gone"}',
    lambda image: bomb(),
    lambda image: image[::-1],
    lambda image: encoded(Image.new("RGB", (1, 4000))),
]


@pytest.mark.parametrize("encoder", ["small", pytest.param("hog-tfidf", marks=pytest.mark.slow)])
def test_broken_pictures_change_nothing_for_the_others(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in ten is broken in some way; with those rows absent the others get the same verdicts."""
    if encoder == "small":
        use_small(monkeypatch)
        examples = draw_bars(600)
    else:
        examples = [example for example in draw_scenes(600, 0) if example.kind not in ("corrupt", "missing")]
        captions = [example.caption for example in examples]
        moved = [*captions[:5], *captions[45:205], *captions[5:45], *captions[205:]]  # a third of them elsewhere
        examples = [Example(e.image, caption, e.kind) for e, caption in zip(examples, moved, strict=True)]
    broken = {i: WAYS[(i // 10) % len(WAYS)] for i in range(7, len(examples), 10)}
    write_shards(examples, tmp_path / "all", shard_size=200)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    for k, path in enumerate(sorted((tmp_path / "all").glob("*.parquet"))):
        table = pq.read_table(path)
        images = table["jpg"].to_pylist()
        here = [i - 200 * k for i in broken if 200 * k <= i < 200 * k + len(images)]
        for i in here:
            images[i] = broken[i + 200 * k](images[i])
        column = table.column_names.index("jpg")
        pq.write_table(table.set_column(column, "jpg", pa.array(images, pa.binary())), tmp_path / "with" / path.name)
        good = np.setdiff1d(np.arange(len(images)), here)
        pq.write_table(table.take(good), tmp_path / "without" / path.name)

    broken_too = pairclean.clean(tmp_path / "with", tmp_path / "run", **OPTIONS).verdicts()
    alone = pairclean.clean(tmp_path / "without", tmp_path / "alone", **OPTIONS).verdicts()
    unreadable = np.array([verdict == "unreadable" for verdict in broken_too["verdict"].to_pylist()])
    assert unreadable.sum() == len(broken) == len(broken_too) - len(alone) >= 59
    assert len(set(alone["verdict"].to_pylist()) & {"clean", "noisy", "rematched"}) >= 2
    good = broken_too.filter(pa.array(~unreadable))
    for name in ("pair_id", "verdict", "is_noisy", "clean_probability", "rematch_pair_id", "reason"):
        assert good[name].equals(alone[name]), name
