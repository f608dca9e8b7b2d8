"""What a single value holds: the bytes of an image, an image as base64 text, or the path of an image file."""

from __future__ import annotations

import base64
import binascii
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from .base import MAX_BYTES
from .storage import file_system, is_remote, reaching

#: How files of these encodings begin, and what they are called: (offset, bytes, name).
MAGIC = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\x00", "tif"),
    (0, b"MM\x00*", "tif"),
    (4, b"ftypavif", "avif"),
    (4, b"ftypavis", "avif"),
    (4, b"ftypheic", "heic"),
    (4, b"ftypheix", "heic"),
    (4, b"ftyphevc", "heic"),
    (4, b"ftypmif1", "heic"),
    (4, b"ftypmsf1", "heic"),
    (0, b"\x00\x00\x00\x0cjP  ", "jp2"),
    (0, b"\xff\x4f\xff\x51", "j2k"),
    (0, b"\x00\x00\x00\x0cJXL ", "jxl"),
    (0, b"\xff\x0a", "jxl"),
    (0, b"qoif", "qoi"),
    (0, b"\x00\x00\x01\x00", "ico"),
    *((0, b"P%d" % number, "ppm") for number in range(1, 7)),
)
#: The end of the reason why several images in one row are not read.
ONE_IMAGE = "images, and a pair has one"
_DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{32,}={0,2}\s*")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


def image_format(data: bytes) -> str | None:
    """The format of a picture by its first bytes, as in MAGIC; None where it is none of these."""
    return next((name for start, magic, name in MAGIC if data.startswith(magic, start)), None)


def looks_like_image(data: bytes) -> bool:
    """Whether bytes begin like a picture of one of the usual formats."""
    return image_format(data) is not None


def from_base64(text: str) -> bytes | None:
    """The image that a text encodes, plain or as a data URI; None where it does not."""
    found = _DATA_URI.match(text[:200])
    body = text[found.end() :] if found else text
    if not found and not (len(body) >= 32 and _BASE64.fullmatch(body[:256].rstrip("="))):
        return None
    altered = body.translate(_TO_PLAIN)
    try:
        data = base64.b64decode(altered + "=" * (-len(altered) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if found or looks_like_image(data) else None


_TO_PLAIN = {**str.maketrans("-_", "+/"), **dict.fromkeys(map(ord, " \t\r\n"))}


def from_bytes(data: bytes) -> bytes:
    """The image in a binary value: the value itself, or what it encodes where it is base64 text."""
    if not looks_like_image(data) and data[:32].isascii():
        try:
            return from_base64(data.decode("ascii")) or data
        except UnicodeDecodeError:
            return data
    return data


def is_address(text: str) -> bool:
    """Whether a text is the address of something elsewhere; `file://` is this machine."""
    return bool(_ADDRESS.match(text)) and not text.lower().startswith("file://")


def read_inside(root: str, path: str) -> tuple[bytes | None, str | None]:
    """A file's bytes, or the reason why not; never one outside the root, by `..`, absolute path or symbolic link.

    The path is relative to the root, or absolute, or a `file://` address. Where there is no file of just that name,
    back slashes separate folders, spaces around it do not count, and letters with marks may be composed or decomposed
    (macOS decomposes them). Of a remote root, the path is relative to it, or an address in it.
    """
    if is_remote(root):
        return fetch_inside(root, [path])[path]
    if is_address(path):
        return None, "the image is an address, and nothing is downloaded"
    if path.lower().startswith("file://"):
        path = unquote(urlsplit(path).path)
    try:
        top = os.path.realpath(root)
        places = [os.path.realpath(os.path.join(top, spelling)) for spelling in _spellings(path)]
        real = next(filter(os.path.exists, places), places[0])
        if os.path.commonpath([top, real]) != top:
            absolute = os.path.isabs(path) or _WINDOWS.match(path)
            return None, f"the image path {'is absolute and ' if absolute else ''}leaves the image root"
        if not os.path.isfile(real):  # reading a pipe or a device could wait for ever
            return None, "there is no image file of that path"
        if os.path.getsize(real) > MAX_BYTES:
            return None, "the image file is too large"
        with open(real, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        return None, f"the image file cannot be read: {getattr(error, 'strerror', None) or error}"
    return (data, None) if data else (None, "the image file is empty")


def _spellings(path: str) -> dict[str, None]:
    """The path as it is, and as other systems and programs write it."""
    plain = path.replace("\\", "/").strip()
    return dict.fromkeys([path, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))])


def fetch_inside(root: str, paths: Iterable[str]) -> dict[str, tuple[bytes | None, str | None]]:
    """`read_inside` of several paths for a remote root, fetched side by side where its file system can.

    Raises UserError where the file system cannot be reached, as nothing is then known about the images.
    """
    system, top = file_system(root)
    found: dict[str, tuple[bytes | None, str | None]] = {}
    places: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        if is_address(path) and not is_in(root, path):
            found[path] = None, "the image is an address, and nothing is downloaded"
            continue
        relative = path[len(root.rstrip("/")) + 1 :] if is_in(root, path) else path.replace("\\", "/")
        inside = posixpath.normpath(relative)
        if inside.startswith(("/", "..")) or path.lower().startswith("file://") or _WINDOWS.match(path):
            found[path] = None, "the image path leaves the image root"
        else:
            places[path] = f"{top.rstrip('/')}/{inside}"
    with reaching(root):
        fetched = system.cat_ranges(list(places.values()), None, None, on_error="return")
        for path, data in zip(places, fetched, strict=True):
            if isinstance(data, FileNotFoundError | IsADirectoryError):
                found[path] = None, "there is no image file of that path"
            elif isinstance(data, Exception):
                raise data
            elif len(data) > MAX_BYTES:
                found[path] = None, "the image file is too large"
            else:
                found[path] = (bytes(data), None) if data else (None, "the image file is empty")
    return found


def is_in(root: str | None, address: str) -> bool:
    """Whether an address is that of something in a remote folder."""
    return root is not None and is_remote(root) and address.startswith(f"{root.rstrip('/')}/")
