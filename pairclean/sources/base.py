"""What every layout has in common: the `Source` protocol, and the one place where a shard is opened."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ..pairs import Roles, Row, Shard, UserError


class Source(Protocol):
    """Shards of image-text pairs in one layout.

    path: absolute.  layout: `img2dataset`, `huggingface`, `folder` (Parquet with image paths) or `parquet` (with
    binary images).  shards: in the order in which they are read.  columns: those of the first shard, in order.
    """

    path: str
    layout: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        """The first `shard.rows` rows in file order, read batch by batch: memory does not grow with the shard.

        With images=False the image column is not read: `image` and `reason` are then None on every row.
        """
        ...

    def image(self, shard: Shard, row: int) -> bytes:
        """One row's encoded image. Raises UserError where it cannot be had."""
        ...


def local_path(path: str | Path) -> Path:
    """The absolute path on this machine; remote addresses are refused."""
    if "://" in str(path):
        raise UserError(f"{path} is a remote path, which cannot be read yet: copy the shards to this machine first")
    return Path(os.path.abspath(Path(path).expanduser()))


def open_file(path: str) -> pa.NativeFile:
    """The only place where a shard is opened."""
    return pa.OSFile(path)


def file_fingerprint(path: str) -> str:
    """A hash of size, time of modification and Parquet footer: cheap, and different when the file is."""
    status = os.stat(path)
    with open_file(path) as file:
        size = file.size()
        file.seek(max(0, size - 8))
        footer = int.from_bytes(file.read(4), "little") + 8
        file.seek(max(0, size - footer))
        digest = hashlib.blake2b(f"{status.st_size}:{status.st_mtime_ns}:".encode(), digest_size=16)
        digest.update(file.read())
    return digest.hexdigest()


def shard_names(stems: Iterable[str]) -> list[str]:
    """Names for files, one for each stem and in the same order: distinct (also where case does not count) and safe."""
    names: list[str] = []
    taken: set[str] = set()
    for stem in stems:
        # Not on every file system, or (the surrogates of undecodable names) not in a Parquet string.
        name = safe = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]', "_", stem)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{safe}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
