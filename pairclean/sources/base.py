"""What every layout has in common: the `Source` protocol, the faults of its files, and the names of its shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeGuard

import numpy as np
import pyarrow as pa

from ..pairs import Roles, Row, Shard, UserError
from .storage import CorruptFile, beside, read_small

#: The largest image that is read at all.
MAX_BYTES = 256 << 20
#: Endings of files that hold a picture: those of all formats that are decoded, and img2dataset's `img`.
IMAGES = frozenset(
    [
        *(
            "jpg",
            "jpeg",
            "jpe",
            "jfif",
            "mpo",
            "png",
            "apng",
            "webp",
            "gif",
            "bmp",
            "dib",
            "tif",
            "tiff",
            "avif",
            "avifs",
        ),
        *("heic", "heics", "heif", "heifs", "hif", "jxl", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "ico", "tga", "icb", "vda", "vst", "qoi", "img"),
    ]
)
#: Endings of files that hold a caption beside a picture.
TEXTS = frozenset(["txt", "caption", "json"])


class Source(Protocol):
    """Shards of image-text pairs in one layout.

    A source of your own derives from this class. It sets `path` and `shards` and defines `rows`; everything else has a
    default. `pairclean.clean(MySource(), "run/")` reads it.

    path: absolute, or a remote address; of a source of your own, a name that tells it from others.
    shards: in the order in which they are read. Their fingerprints decide what a later call embeds again.
    layout: `img2dataset`, `huggingface`, `folder` (a table with image paths), `parquet` (with binary images),
    `webdataset` (tars), `files` (folders of pictures with texts beside them), `datacomp`, `clip-retrieval`, or `python`
    for a source of your own.
    many: whether a row has a list of captions.
    vectors: the name of the vectors where there are vectors instead of images (`VectorSource`), else None.
    strict: whether a broken file raises UserError.
    encoding: that of captions which are stored as other bytes than UTF-8, if there are any.
    """

    path: str
    shards: list[Shard]
    layout: str = "python"
    roles: Roles = Roles("image", "caption", "id")
    many: bool = False
    vectors: str | None = None
    strict: bool = False
    encoding: str | None = None

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the first shard, in order: what `batches` can be asked for."""
        return []

    @property
    def broken(self) -> Mapping[str, str]:
        """The files that can be read only in part, as far as opening them showed, each with what is wrong with it."""
        return {}

    @property
    def notes(self) -> Mapping[str, str]:
        """What is left out although it can be read, by file or folder: members and files that belong to no pair."""
        return {}

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        """The first `shard.rows` rows in file order, read batch by batch: memory does not grow with the shard.

        With images=False no image is read: `image` is then None, and so is `reason` unless the row itself is lost.
        Raises CorruptFile where a file is broken and the source was opened as `strict`; otherwise its rows say so.
        """
        ...

    def batches(self, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of the first `shard.rows` rows, in file order: labels, domains, what a user groups by.

        Null where a row is lost. Raises UserError where there is no such column.
        """
        raise UserError(f"{self.path} has no column {columns[0]!r}")

    def sample(self, shard: Shard, count: int) -> Iterator[Row]:
        """About so many rows with their images, from all over the shard where that is cheap."""
        return islice(self.rows(shard), count)

    def image(self, shard: Shard, row: int) -> bytes:
        """One row's encoded image. Raises UserError where there is none."""
        found = next((found for found in self.rows(shard) if found.row == row), None)
        if found is None or found.image is None:
            raise UserError(
                f"row {row} of {shard.path} has no image to show: {found.reason if found else 'no such row'}"
            )
        return found.image


@dataclass(frozen=True)
class Vectors:
    """Some rows of a source of vectors.

    rows: n, each with one caption; `reason` where a row is lost.  image: (n, d), text: (n, d') float32, as they came.
    image_id, caption_id: (n,) int64 identities, where the source knows them better than the vectors and captions do.
    """

    rows: list[Row]
    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray | None = None
    caption_id: np.ndarray | None = None


class VectorSource(Source, Protocol):
    """A source whose images and captions are vectors already.  dims: lengths of the vectors of image and text."""

    dims: tuple[int, int]

    def embedded(self, shard: Shard) -> Iterator[Vectors]:
        """The first `shard.rows` rows with their vectors, in file order, some thousand at a time.

        Raises CorruptFile where the vectors cannot be read: rows and vectors go together by position, so that none of
        the shard's can be relied on.
        """
        ...


def has_vectors(source: Source) -> TypeGuard[VectorSource]:
    return source.vectors is not None


@dataclass
class Faults:
    """The broken files of a source, and what is wrong with them.

    strict: whether the first one ends it.  notes: by file, what of it is left out although it is whole.
    """

    strict: bool = False
    found: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, error: CorruptFile) -> None:
        if self.strict:
            raise error
        self.found[error.path] = error.what

    def note_unused(self, path: str, names: Sequence[str], what: str) -> None:
        """Say what is left out, with a count and an example, so that nothing vanishes silently."""
        if names:
            self.note(path, f"has {counted_as(len(names), what)} left out, such as {names[0]!r}")

    def note(self, path: str, what: str) -> None:
        self.notes[path] = f"{self.notes[path]}; {what}" if path in self.notes else what

    def check(self, path: str, shards: Sequence[Shard]) -> None:
        """Raises UserError where there is nothing to read, and where nothing of what there is can be read."""
        if any(shard.rows and not shard.broken for shard in shards):
            return
        if not self.found:
            told = next((f" ({file.rpartition('/')[2]} {what})" for file, what in self.notes.items()), "")
            raise UserError(f"{path} holds no rows{told}: name a folder with pairs in its shards")
        file, what = next(iter(self.found.items()))
        if len(self.found) == 1:
            raise CorruptFile(file, what)
        raise UserError(
            f"none of the {len(self.found)} files of {path} can be read, {file.rpartition('/')[2]} {what}: "
            "get them again"
        )


def counted_as(count: int, one: str, many: str | None = None) -> str:
    """ "1 file", "2 files"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def counted(path: str, what: str = "count") -> int:
    """How many rows img2dataset noted down for a shard in `<stem>_stats.json`; 0 where nothing is known."""
    data = read_small(beside(path, "_stats.json"))
    try:
        count = json.loads(data or b"{}")[what]
    except (ValueError, KeyError, TypeError):
        return 0
    return count if isinstance(count, int) and 0 <= count <= 100_000_000 else 0


def lost_row(shard: Shard, row: int, reason: str, many: bool) -> Row:
    """A row of which nothing can be read but that it is there."""
    return Row(row, f"{shard.name}:{row}", None, (None,), many, reason)


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


class UniqueIds:
    """Whether identifiers are unique. Only hashes are kept; where two agree, a second pass compares the texts."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []

    def add(self, ids: Sequence[str]) -> None:
        self._hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))

    def check(self, again: Iterable[tuple[str, str]], what: str, remedy: str) -> None:
        """Raises UserError, with some of the identifiers and a file, if some are there twice.

        again: all identifiers once more, each behind the path of its file.
        """
        hashes = np.sort(np.concatenate([np.empty(0, np.int64), *self._hashes]))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not suspects:
            return
        seen: set[str] = set()
        twice: dict[str, str] = {}
        for file, value in again:
            if hash(value) in suspects:
                if value in seen:
                    twice.setdefault(value, file)
                seen.add(value)
        if twice:
            examples = ", ".join([repr(value) for value in list(twice)[:3]] + ["..."] * (len(twice) > 3))
            raise UserError(
                f"{what} are not unique ({examples}; {next(iter(twice.values()))} has the first once more): {remedy}"
            )
