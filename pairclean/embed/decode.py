"""Bytes from the wild in, one RGB picture out, or one short reason why not."""

from __future__ import annotations

import functools
import importlib
import io
import re
from contextlib import suppress

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..sources.values import image_format
from . import jxl

MAX_MEGAPIXELS = 100
MAX_ASPECT = 200  # resizing the short side of a one-pixel-wide strip to 224 would make gigabytes of it

# Raster formats only: Pillow would hand EPS to Ghostscript.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "QOI"),
    *("HEIF", "JXL"),
)
#: Modules that give Pillow further formats, each with the function that registers them, if importing is not enough.
_PLUG_INS = (("pillow_heif", "register_heif_opener"), ("pillow_jxl", None))
#: Formats that Pillow does not always read, by the names that `MAGIC` has for them.
_OPTIONAL = {"avif": "AVIF", "heic": "HEIF", "jxl": "JXL"}
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):
    """Why a picture cannot be had, in a few words ("truncated JPEG")."""


def decode(data: bytes, least_side: int | None = None) -> Image.Image:
    """The picture in `data` as RGB, upright, its first frame, transparency on white. Thread-safe.

    least_side: a JPEG is decoded at the smallest of a whole, a half, a quarter and an eighth of its size at which its
    shorter side still has this many pixels: much cheaper, and nearly the same once it is resized. None: always whole.
    Raises Unreadable for whatever is not a whole picture of at most MAX_MEGAPIXELS (judged by the header, before
    anything is decoded); a truncated picture is never returned half decoded.
    """
    image = _open(data)
    try:
        if least_side and image.format == "JPEG":
            image.draft(None, (least_side, least_side))
        image.load()
        return _upright(_rgb(image), _orientation(image))
    except Exception as error:  # on broken bytes Pillow's plugins raise nearly anything, from KeyError to struct.error
        raise Unreadable(_reason(error, image.format or "image")) from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Unreadable("empty file")
    kind = image_format(data)
    if kind == "jxl":  # others are opened without being decoded
        _check_size(jxl.size(data))
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise Unreadable(f"too large: {int(pixels[0]) / 1e6:.0f} megapixels" if pixels else "too large") from error
    except UnidentifiedImageError as error:
        optional = _OPTIONAL.get(kind or "")
        if optional is None:
            raise Unreadable(f"not an image ({_kind(data)})") from error
        if optional not in _formats():
            raise Unreadable(f"{optional} image, a format that needs `pip install 'pairclean[formats]'`") from error
        raise Unreadable(f"broken {optional}") from error
    except Exception as error:
        raise Unreadable(_reason(error, _OPTIONAL.get(kind or "", "image"))) from error
    _check_size(image.size)
    return image


def _check_size(size: tuple[int, int] | None) -> None:
    if size is None:
        return
    width, height = size
    if width * height > MAX_MEGAPIXELS * 1e6:
        raise Unreadable(f"too large: {width * height / 1e6:.0f} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Unreadable(f"too narrow: {width} x {height}")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    for module, register in _PLUG_INS:
        with suppress(ImportError):
            plug_in = importlib.import_module(module)
            if register is not None:
                getattr(plug_in, register)()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _kind(data: bytes) -> str:
    """What bytes that are no image look like: downloads are error pages more often than noise."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if b"<svg" in head:
        return "SVG"
    if head.startswith(b"<?xml"):
        return "XML"
    if head.startswith((b"{", b"[")):
        return "JSON"
    if head.startswith(b"%pdf"):
        return "PDF"
    if not data.strip(b"\0"):
        return "only zero bytes"
    if re.fullmatch(rb"[\t\r\n\x20-\x7e]*", data[:512]):
        return "text"
    return "unknown format"


def _reason(error: Exception, what: str) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, EOFError) or re.search(r"truncat|unexpected end|broken data stream", message, re.IGNORECASE):
        return f"truncated {what}"
    return f"broken {what}: {message or type(error).__name__}"[:120]


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # La converts to LA only, and LA to everything.
        pixels = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits or floats; Pillow's own conversion clips them at 255."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite")
    peak = float(values.max())
    top = 65535.0 if image.mode.startswith("I;16") else next((t for t in (1.0, 255.0, 65535.0) if peak <= t), peak)
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)
