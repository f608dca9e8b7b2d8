"""One case for every format and every kind of corruption that reaches the decoder."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pairclean.embed import decode as decoder
from pairclean.embed import jxl
from pairclean.embed.decode import Unreadable, decode

RED, BLUE = (220, 30, 40), (20, 60, 200)


def two_halves(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red on the left, blue on the right, with noise, so that the encoded file is not tiny."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.int16)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    pixels += np.random.default_rng(0).integers(-8, 9, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colours(image: Image.Image) -> tuple[list[int], list[int]]:
    """The mean colours of the left and the right half."""
    pixels = np.asarray(image, np.float64)
    middle = pixels.shape[1] // 2
    return tuple(half.mean((0, 1)).round().astype(int).tolist() for half in (pixels[:, :middle], pixels[:, middle:]))


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(format: str) -> None:
    image = decode(encoded(two_halves(), format))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    left, right = colours(image)
    assert np.abs(np.subtract(left, RED)).max() <= 12
    assert np.abs(np.subtract(right, BLUE)).max() <= 12


@pytest.mark.parametrize(("format", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl"), ("AVIF", "PIL._avif")])
def test_formats_of_plug_ins(format: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plug-in the reason names the format and what to install."""
    pytest.importorskip(module)
    decode(encoded(two_halves(), "PNG"))  # which loads the plug-ins
    data = encoded(two_halves(), format, quality=95)
    left, right = colours(decode(data))
    assert np.abs(np.subtract([left, right], [RED, BLUE])).max() <= 8
    with pytest.raises(Unreadable, match=f"(broken|truncated) {format}"):
        decode(data[: len(data) // 2])
    monkeypatch.setattr(decoder, "_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(Unreadable) as caught:
        decode(data)
    assert str(caught.value) == f"{format} image, a format that needs `pip install 'pairclean[formats]'`"


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (300, 200), (1, 999), (9000, 3), (16, 9), (1600, 900), (513, 8193)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_a_jpeg_xl(size: tuple[int, int], container: bool) -> None:
    """As its header says it, in a container too; the plug-in would decode it first."""
    pytest.importorskip("pillow_jxl")
    data = encoded(Image.new("RGB", size), "JXL", use_container=container)
    assert data.startswith(b"\xff\x0a") != container
    assert jxl.size(data) == size


def test_a_large_jpeg_xl_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    header = int("1" * 30 + "11" + "0", 2) | 1 << 33  # not small, 30 bits of height, as wide as high
    bomb = b"\xff\x0a" + header.to_bytes(8, "little") + bytes(20)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(Unreadable, match="too large"):
        decode(bomb)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_header_of_jpeg_xl(data: bytes) -> None:
    for start in (b"", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x01jxlp"):
        found = jxl.size(start + data)
        assert found is None or min(found) > 0


def test_plug_ins_that_are_missing_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_PLUG_INS", (("no_such_plug_in", None),))
    assert "JPEG" in decoder._formats.__wrapped__()


def test_cmyk() -> None:
    left, right = colours(decode(encoded(two_halves().convert("CMYK"), "JPEG", quality=95)))
    assert left[0] > 180 > 80 > left[2]
    assert right[2] > 160 > 80 > right[0]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(format: str) -> None:
    levels = np.array([[0, 16384, 32768, 65535]], np.uint16).repeat(4, 0)
    image = decode(encoded(Image.fromarray(levels), format))
    assert np.asarray(image)[0, :, 1].tolist() == [0, 64, 128, 255]


def test_a_dark_sixteen_bit_picture_stays_dark() -> None:
    image = decode(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PNG"))
    assert np.asarray(image).max() == 1


def test_float_grey() -> None:
    image = decode(encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


def test_float_grey_that_is_not_finite() -> None:
    with pytest.raises(Unreadable, match="not finite"):
        decode(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    image = decode(encoded(Image.new(mode, (8, 8), 255 if mode == "1" else 90), "PNG"))
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == ((255,) * 3 if mode == "1" else (90,) * 3)


def test_transparency_is_white() -> None:
    clear = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    clear.paste((200, 0, 0, 255), (2, 0, 4, 2))
    assert colours(decode(encoded(clear, "PNG"))) == ([255, 255, 255], [200, 0, 0])
    assert colours(decode(encoded(clear.convert("LA"), "PNG")))[0] == [255, 255, 255]


def test_palette_with_transparency_is_white() -> None:
    palette = Image.new("P", (4, 2), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (2, 0, 4, 2))
    for format in ("PNG", "GIF"):
        assert colours(decode(encoded(palette, format, transparency=0))) == ([255, 255, 255], [200, 0, 0])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(np.subtract(decode(data).getpixel((8, 8)), RED)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = two_halves()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encoded(stored, "PNG", exif=exif)).tobytes() == upright.tobytes()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0garbage of no use",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
    ],
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    plain = two_halves()
    assert decode(encoded(plain, "JPEG", exif=exif)).tobytes() == decode(encoded(plain, "JPEG")).tobytes()


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_truncated(format: str, options: dict[str, object], kept: float) -> None:
    data = encoded(two_halves(), format, **options)
    with pytest.raises(Unreadable, match=f"^(truncated|broken) ({format}|image)"):
        decode(data[: int(len(data) * kept)])


def test_truncated_jpeg_says_so() -> None:
    data = encoded(two_halves(), "JPEG")
    with pytest.raises(Unreadable, match=r"^truncated JPEG$"):
        decode(data[:-40])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not an image (HTML)"),
        (b"\n <HTML>\n", "not an image (HTML)"),
        (b'{"error": "expired"}', "not an image (JSON)"),
        (b'<?xml version="1.0"?><Error/>', "not an image (XML)"),
        (b'<?xml version="1.0"?><svg width="5" height="5"/>', "not an image (SVG)"),
        (b"Access denied\n", "not an image (text)"),
        (bytes(500), "not an image (only zero bytes)"),
        (b"%PDF-1.7 ...", "not an image (PDF)"),
        (b"\x93\xe1\xff\x00 noise \x88", "not an image (unknown format)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image (text)"),
    ],
)
def test_not_an_image(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        decode(data)
    assert str(caught.value) == reason


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(Unreadable, match=r"^too large: 900 megapixels$"):
        decode(png(30_000, 30_000, 8, 2, b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_bomb_is_refused_too() -> None:
    with pytest.raises(Unreadable, match=r"^too large: 121 megapixels$"):
        decode(png(11_000, 11_000, 8, 2, b""))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_where_warnings_are_errors() -> None:
    with pytest.raises(Unreadable, match=r"^too large: 121 megapixels$"):
        decode(png(11_000, 11_000, 8, 2, b""))


def test_a_strip_is_refused() -> None:
    with pytest.raises(Unreadable, match=r"^too narrow: 1 x 5000$"):
        decode(encoded(Image.new("RGB", (1, 5000)), "PNG"))


def test_a_png_with_a_wrong_checksum() -> None:
    data = bytearray(encoded(two_halves(), "PNG"))
    data[data.index(b"IDAT") + 50] ^= 0xFF
    with pytest.raises(Unreadable, match="PNG"):
        decode(bytes(data))


def test_noise_in_the_middle_never_raises_anything_else() -> None:
    rng = np.random.default_rng(1)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        clean = encoded(two_halves(), format)
        for _ in range(60):
            data = bytearray(clean)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(256)
            try:
                image = decode(bytes(data))
            except Unreadable:
                continue
            assert image.mode == "RGB"


def test_threads_agree() -> None:
    data = [encoded(two_halves((64 + i, 48)), format) for i in range(8) for format in ("JPEG", "PNG", "WEBP")]
    alone = [decode(d).tobytes() for d in data]
    barrier = threading.Barrier(4)

    def together(_: int) -> list[bytes]:
        barrier.wait()
        return [decode(d).tobytes() for d in data]

    with ThreadPoolExecutor(4) as pool:
        assert all(result == alone for result in pool.map(together, range(4)))


# --- at a fraction of its size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "format", "expected"),
    [
        ((1280, 960), "JPEG", (640, 480)),
        ((960, 1280), "JPEG", (480, 640)),
        ((512, 384), "JPEG", (512, 384)),  # a half would be less than twice what the model sees
        ((3600, 3600), "JPEG", (450, 450)),
        ((1280, 960), "PNG", (1280, 960)),
    ],
)
def test_large_jpegs_are_decoded_at_a_fraction(size: tuple[int, int], format: str, expected: tuple[int, int]) -> None:
    data = encoded(two_halves(size), format)
    image = decode(data, 448)
    assert image.size == expected
    assert np.abs(np.subtract(colours(image), colours(decode(data)))).max() <= 2


def test_a_fraction_of_a_truncated_jpeg_is_unreadable_too() -> None:
    data = encoded(two_halves((1280, 960)), "JPEG")
    with pytest.raises(Unreadable, match=r"^truncated JPEG$"):
        decode(data[: len(data) // 2], 448)
