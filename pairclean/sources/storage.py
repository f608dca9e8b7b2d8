"""Where files lie, on a disk or at an address, and how they are opened: the one place that knows."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..pairs import UserError

#: What the reason of a pair begins with where the file that holds it is broken.
CORRUPT = "corrupt file"
#: What files of shards are usually called. Where a folder has such, its other files are not looked into.
SUFFIXES = {".parquet": "parquet", ".tar": "tar", ".npz": "npz", ".npy": "npy", ".arrow": "arrow"}
#: What lies beside shards and is about them.
_COMPANION = re.compile(
    r"(?i:readme|license|licence|notice|citation).*|_SUCCESS|_metadata|_common_metadata|.*_stats\.json"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|.*\.truth\.parquet|.*\.py"
)
#: An address, also behind other protocols of fsspec (`simplecache::s3://...`).
_REMOTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*(?:://[^:]*)?::)*[A-Za-z][A-Za-z0-9+.-]*://")
#: What changes when a remote file does, under the names that the file systems have for it.
_STAMPS = (
    "etag",
    "mtime",
    "created",
    "last_modified",
    "lastmodified",
    "updated",
    "md5hash",
    "crc32c",
    "oid",
    "blob_id",
)
#: How compressed files begin.
_COMPRESSIONS = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bz2"),
)
#: Formats that are never packed as a whole: where only the end of a file is needed, its beginning is not read.
_NEVER_PACKED = (".parquet", ".npy", ".npz")
_TAIL = 1 << 16
_FOOTER = 64 << 20


class CorruptFile(UserError):
    """A file of the source that is broken. Unless `strict`, it is reported, and the rest is read.

    what: what is wrong with it, as in "00000.parquet {what}".  reason: what the pairs say that are lost by it.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}: repair it or move it elsewhere")
        self.path = path
        self.what = what
        self.reason = f"{CORRUPT}: {path.rpartition('/')[2]} {what}"


def is_remote(path: str | Path) -> bool:
    return bool(_REMOTE.match(str(path))) and not str(path).startswith(("file://", "local://"))


def absolute(path: str | Path) -> str:
    """The absolute path on this machine; addresses of other file systems (`s3://...`) stay as they are."""
    text = str(path)
    if is_remote(text):
        return text.rstrip("/")
    text = re.sub(r"^(file|local)://", "", text)
    return os.path.abspath(Path(text).expanduser())


def parent(path: str) -> str:
    """The folder of a file; of a chain of fsspec's (`zip://a/b.csv::s3://...`), that in the first file system."""
    if not is_remote(path):
        return os.path.dirname(path)
    end = path.find("::", path.find("://"))
    inside, chained = (path, "") if end < 0 else (path[:end], path[end:])
    return inside.rpartition("/")[0] + chained


def stem(path: str) -> str:
    return os.path.splitext(os.path.basename(_unpacked_name(path)))[0]


def ending(path: str) -> str:
    """What a file is called behind the last dot, in lower case; `tar` also of `a.tar.gz`."""
    return os.path.splitext(_unpacked_name(path))[1][1:].lower()


def beside(path: str, suffix: str) -> str:
    """The path of the file of the same stem and another suffix."""
    return os.path.splitext(_unpacked_name(path))[0] + suffix


def _unpacked_name(path: str) -> str:
    """The name without the ending of a compression."""
    start, last = os.path.splitext(path)
    return start if last.lower() in (".gz", ".zst", ".bz2") else path


def is_companion(file: str) -> bool:
    """Whether a file is called like one that is about the shards beside it."""
    return bool(_COMPANION.fullmatch(os.path.basename(file)))


def listing(folder: str) -> tuple[list[str], list[str]]:
    """A folder's own files and sub-folders, in order of name.

    Hidden ones are other programs' (macOS leaves `._00000.parquet` beside `00000.parquet`). Raises CorruptFile where
    what is called like a shard is a link to nothing.
    """
    if is_remote(folder):
        system, inside = file_system(folder)
        with reaching(folder):
            found = [(entry["name"].rstrip("/"), entry["type"]) for entry in system.ls(inside, detail=True)]
        names = [(name.rpartition("/")[2], kind == "file") for name, kind in found if name != inside.rstrip("/")]
    else:
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, _type(entry)) for entry in entries]
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror}") from None
        names = [(name, kind == "file") for name, kind in found if kind in ("file", "directory")]
        for name, kind in found:
            if kind == "nothing" and name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                raise CorruptFile(f"{folder.rstrip('/')}/{name}", "is a link to a file that is not there")
    shown = sorted((name, is_file) for name, is_file in names if name and name[0] != ".")
    return (
        [f"{folder.rstrip('/')}/{name}" for name, is_file in shown if is_file],
        [f"{folder.rstrip('/')}/{name}" for name, is_file in shown if not is_file],
    )


def _type(entry: os.DirEntry[str]) -> str:
    """What fsspec calls it, or "nothing" for a link that leads nowhere."""
    if entry.is_file():
        return "file"
    if entry.is_dir():
        return "directory"
    return "nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "other"


def is_folder(path: str) -> bool:
    if is_remote(path):
        system, inside = file_system(path)
        with reaching(path):
            return bool(system.isdir(inside))
    return os.path.isdir(path)


def exists(path: str) -> bool:
    if is_remote(path):
        system, inside = file_system(path)
        with reaching(path):
            return bool(system.exists(inside))
    return os.path.exists(path)


def open_file(path: str) -> pa.NativeFile:
    """A file of the source, for reading anywhere in it.

    What is compressed (gzip, zstd, bzip2), whatever it is called, is unpacked to a temporary file first.
    """
    file = open_packed(path)
    compression = _compression(path, file)
    if compression is None:
        return file
    file.close()
    return pa.OSFile(_unpacked(path, compression, stamp(path)).name)


def _compression(path: str, file: pa.NativeFile) -> str | None:
    """What a file is compressed with; then it is at its beginning again."""
    if path.lower().endswith(_NEVER_PACKED):
        return None
    start = bytes(file.read(10))
    file.seek(0)
    return next((name for magic, name in _COMPRESSIONS if magic.match(start)), None)


@functools.lru_cache(maxsize=4)
def _unpacked(path: str, compression: str, _: str) -> Any:
    """A temporary file with the content; it is removed when it is no longer remembered."""
    unpacked = tempfile.NamedTemporaryFile(prefix="pairclean-")  # noqa: SIM115 (outlives this call)
    try:
        with open_packed(path) as file, pa.CompressedInputStream(file, compression) as stream:
            # Not `read`, which never frees what it has allocated where the stream turns out to be broken.
            while (chunk := stream.read_buffer(1 << 20)).size:
                unpacked.write(chunk)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{path} cannot be unpacked: {tempfile.gettempdir()} is full (TMPDIR names another)"
            ) from None
        raise CorruptFile(path, f"cannot be unpacked ({' '.join(str(error).split())[:100]})") from error
    unpacked.flush()
    return unpacked


def open_packed(path: str) -> pa.NativeFile:
    """A file as it is, also where that is compressed."""
    if not is_remote(path):
        return pa.OSFile(path)
    system, inside = file_system(path)
    with reaching(path):
        # Blocks that are kept, as readers go back and forth within some megabytes (a tar and its sidecar differ in
        # order); file systems that hold files whole take no notice.
        file = system.open(inside, "rb", block_size=4 << 20, cache_type="blockcache", cache_options={"maxblocks": 16})
    return pa.PythonFile(file, mode="r")


def file_size(path: str) -> int:
    if is_remote(path):
        system, inside = file_system(path)
        with reaching(path):
            return int(system.size(inside) or 0)
    return os.path.getsize(path)


def head(path: str, count: int) -> bytes:
    """The first bytes of a file, unpacked where it is compressed."""
    with open_packed(path) as file:
        compression = _compression(path, file)
        if compression is None:
            return bytes(file.read(count))
        try:
            return pa.CompressedInputStream(file, compression).read_buffer(count).to_pybytes()
        except (OSError, pa.ArrowException):  # broken: the reader says so
            return b""


def read_small(path: str, limit: int = 1 << 20) -> bytes | None:
    """A file's bytes; None where it is not there or larger than the limit."""
    if not exists(path) or file_size(path) > limit:
        return None
    with open_file(path) as file:
        return bytes(file.read(limit))


def file_fingerprint(*paths: str) -> str:
    """A hash of size, time of modification and end (a Parquet's footer): cheap, and different when the files are.

    Of a folder: of the names, sizes and times of its files.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        if is_folder(path):
            digest.update("".join(f"{file}:{stamp(file)}" for file in listing(path)[0]).encode())
            continue
        digest.update(stamp(path).encode())
        with open_packed(path) as file:
            size = file.size()
            file.seek(max(0, size - 8))
            last = file.read(8)
            is_parquet = last[4:] == b"PAR1"
            end = min(int.from_bytes(last[:4], "little") + 8, _FOOTER) if is_parquet else _TAIL
            file.seek(max(0, size - end))
            digest.update(file.read(end))
    return digest.hexdigest()


def stamp(path: str) -> str:
    """What a file system says about a file that changes when the file does."""
    if not is_remote(path):
        status = os.stat(path)
        return f"{status.st_size}:{status.st_mtime_ns}:"
    system, inside = file_system(path)
    with reaching(path):
        facts = {str(name).lower(): value for name, value in system.info(inside).items()}
    return ":".join(str(facts.get(name)) for name in ("size", *_STAMPS)) + ":"


def file_system(path: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it."""
    import fsspec

    scheme = path.split("://")[0]
    try:
        system, inside = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise UserError(
            f"{path} cannot be opened, as {scheme}:// addresses need another package ({str(error).rstrip('.')}): "
            "install it"
        ) from None
    except ValueError:
        raise UserError(f"{path}: there is no file system called {scheme}:// (is the address spelled right?)") from None
    except Exception as error:  # whatever a file system's own library has to say about credentials and settings
        raise UserError(f"cannot reach {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return system, str(inside)


class reaching:
    """Errors of a remote file system, of whatever type, as a sentence."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{self.path} does not exist") from None
        if isinstance(error, Exception) and not isinstance(error, UserError):
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"cannot reach {self.path}: {why}") from error
