"""Tars as `webdataset` reads them: the members of a sample follow one another and share all before the first dot."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..pairs import Shard, UserError
from ..sources import Source
from ..sources.values import MAGIC
from .kept import added_fields, changed, whole

_KEY_LENGTH = 200  # what file systems take, with an extension to come


@dataclass(frozen=True)
class Samples:
    """Any shards with pictures as tars: `<shard>.tar`, a sample a pair.

    KEY is the pair's id, made safe. KEY.jpg (or what the picture's first bytes say) holds its bytes as they were,
    KEY.txt the caption, KEY.json the caption and the added columns. A picture with several captions is several samples.
    """

    source: Source

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.tar"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        keys = _Keys()
        with opened(out / f"{shard.name}.tar") as tar:
            for image, own, pair in self._pairs(shard, kept):
                caption = own if pair["caption"] is None else pair["caption"]
                key = keys.of(pair["pairclean_pair_id"])
                add(tar, f"{key}.{extension(image)}", image)
                add(tar, f"{key}.txt", encoded(caption or ""))
                add(tar, f"{key}.json", as_json({"caption": caption, **added_fields(pair, own)}))

    def _pairs(self, shard: Shard, kept: pa.Table) -> Iterator[tuple[bytes, str | None, dict[str, Any]]]:
        """Each kept pair with its picture and the caption that the source has."""
        pairs = iter(kept.to_pylist())
        pair = next(pairs, None)
        for row in self.source.rows(shard) if pair else ():
            while pair and pair["row"] == row.row:
                if row.image is None or pair["caption_index"] >= len(row.captions):
                    raise changed(shard)
                yield row.image, row.captions[pair["caption_index"]], pair
                pair = next(pairs, None)
            if pair is None:
                return
        if pair:
            raise changed(shard)

    def finish(self, out: Path) -> None: ...


class _Keys:
    """Ids as keys: letters, digits, `-` and `_` only, as `.` and `/` have a meaning; each of them once.

    An id that is no key gets a hash of the id, so that no other one, also in another shard, becomes the same.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, pair_id: str) -> str:
        # Names that begin with "__" are about the tar.
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", pair_id).lstrip("_")[:_KEY_LENGTH] or "pair"
        if safe != pair_id or safe.casefold() in self._taken:
            safe += "-" + hashlib.blake2b(encoded(pair_id), digest_size=4).hexdigest()
        key, number = safe, 1
        while key.casefold() in self._taken:
            number += 1
            key = f"{safe}-{number}"
        self._taken.add(key.casefold())
        return key


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar that is there when the block ends well."""
    with whole(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        yield tar


@contextmanager
def opened_folder(path: Path) -> Iterator[Path]:
    """A folder that is there with all of its files when the block ends well, in the place of what was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def add(tar: tarfile.TarFile | Path, name: str, data: bytes) -> None:
    """A member without owner and time, so that the same members make the same bytes; or a file of a folder."""
    if isinstance(tar, Path):
        (tar / name).write_bytes(data)
        return
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def extension(image: bytes) -> str:
    """What a picture's file is called after its first bytes; `img` where they tell nothing."""
    return next((name for start, magic, name in MAGIC if image.startswith(magic, start)), "img")


def as_json(content: Any) -> bytes:
    return encoded(json.dumps(content, ensure_ascii=False))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
