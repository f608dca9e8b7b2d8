"""Tar files as webdataset reads them: header by header, without unpacking, and without trusting any name."""

from __future__ import annotations

import functools
import re
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from .base import IMAGES, MAX_BYTES, TEXTS
from .storage import CorruptFile, file_size, is_folder, listing, open_file, open_packed

BLOCK = 512
#: Names longer than a header holds are in a member of their own; none needs more than this.
_MAX_NAME = 1 << 20
_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)", re.DOTALL)
_ABOUT_THE_TAR = re.compile(r"__[^/]*__(\.|$)")
_NUMBER = re.compile(r"[0-9]{1,20}")
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """A member's place in its tar.  problem: why it cannot be read, None where it can."""

    name: str
    offset: int
    size: int
    problem: str | None = None


@dataclass
class SampleIndex:
    """Where the members of a sample are, by extension in lower case.

    adjacent: whether they follow one another.  problem: why the sample as a whole cannot be used.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    adjacent: bool = True

    @property
    def problem(self) -> str | None:
        return next((member.problem for member in self.members.values() if member.problem), None)


@dataclass(frozen=True)
class Index:
    """What a tar holds.

    samples: in the order of their first members.  unused: the names of members that belong to none.
    broken: what is wrong with the rest of the file, None where it is whole.
    """

    samples: tuple[SampleIndex, ...]
    unused: tuple[str, ...]
    broken: CorruptFile | None


@dataclass(frozen=True)
class Sample:
    """A sample of a tar.  members: names and contents, in the order of the tar."""

    key: str
    members: list[tuple[str, bytes]]


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar: by the checksum of its first header, or as an empty one."""
    if len(head) < BLOCK:
        return False
    if not any(head[:BLOCK]):
        return True
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


@functools.lru_cache(maxsize=4)
def index(path: str, fingerprint: str, endings: tuple[str, ...] = ()) -> Index:
    """A tar's samples. The file is read header by header; the last few are remembered by their fingerprint.

    endings: extensions that the user named, as in `input.jpg`.

    A name is split at the first dot behind the folder, as webdataset does: `a/0001.depth.png` has the key `a/0001` and
    the extension `depth.png`. What stands between the first dot and the last belongs to the key instead ("item 22.05")
    where it is followed by a picture as well as by its text, or where all names with that beginning share it and it is
    no extension that other samples have.

    The members of one key are one sample wherever they lie; an extension that is there already begins another one.
    """
    members: list[Member] = []
    broken = None
    try:
        with open_archive(path) as archive:
            for member in archive.members():
                members.append(member)  # noqa: PERF402 (those before the damage are kept)
    except CorruptFile as error:
        broken = error
    return Index(*_grouped(members, endings), broken)


class Archive(Protocol):
    """What members are read from: an open tar, or a folder of files that is read like a tar of them."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def members(self) -> Iterator[Member]:
        """All members but folders. Raises CorruptFile, after those before, where a tar ends early or makes no sense."""
        ...

    def read(self, member: Member) -> bytes:
        """A member's content. Raises CorruptFile where a tar ends within it."""
        ...

    def close(self) -> None:
        return


class Tar(Archive):
    def __init__(self, path: str) -> None:
        self.path, self._file = path, open_file(path)

    def close(self) -> None:
        self._file.close()

    def members(self) -> Iterator[Member]:
        return _members(self._file, self.path)

    def read(self, member: Member) -> bytes:
        self._file.seek(member.offset)
        data = bytes(self._file.read(member.size))
        if len(data) < member.size:
            raise CorruptFile(self.path, f"ends within {member.name}")
        return data


class Folder(Archive):
    def __init__(self, path: str) -> None:
        self.path = path

    def members(self) -> Iterator[Member]:
        for file in listing(self.path)[0]:
            name, size = file.rpartition("/")[2], file_size(file)
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            problem = "a file of it is too large" if size > MAX_BYTES else None
            yield Member(shown, 0, size, problem if shown == name else "a file of it has a name that is not UTF-8")

    def read(self, member: Member) -> bytes:
        with open_packed(f"{self.path.rstrip('/')}/{member.name}") as file:
            return bytes(file.read(member.size))


def open_archive(path: str) -> Archive:
    return Folder(path) if is_folder(path) else Tar(path)


def samples_at(path: str, samples: tuple[SampleIndex, ...]) -> Iterator[Sample]:
    """These samples with their content, one in memory at a time; members that cannot be read are left out."""
    with open_archive(path) as archive:
        for sample in samples:
            members = [member for member in sample.members.values() if member.problem is None]
            yield Sample(sample.key, [(member.name, archive.read(member)) for member in members])


def _grouped(members: list[Member], endings: tuple[str, ...]) -> tuple[tuple[SampleIndex, ...], tuple[str, ...]]:
    """The samples that these members make, and the names of those that belong to none."""
    names = [_split(member.name, endings) for member in members]
    in_key = _dots_in_keys([name for name in names if name])
    samples: list[SampleIndex] = []
    latest: dict[str, SampleIndex] = {}
    unused = []
    last = None
    for member, name in zip(members, names, strict=True):
        if name is None:
            unused.append(member.name)
            continue
        key, middle, ending = name
        if (key, middle) in in_key:
            key = f"{key}.{middle}"
        elif middle:
            ending = f"{middle.lower()}.{ending}"
        composed = unicodedata.normalize("NFC", key)  # macOS decomposes letters with marks in names of files
        sample = latest.get(composed)
        if sample is None or ending in sample.members:
            sample = latest[composed] = SampleIndex(key)
            samples.append(sample)
        elif sample is not last:
            sample.adjacent = False
        sample.members[ending] = member
        last = sample
    return tuple(samples), tuple(unused)


def _split(name: str, endings: tuple[str, ...]) -> tuple[str, str, str] | None:
    """All before the first dot, what stands between the first and the last, and the ending in lower case."""
    found = _NAME.fullmatch(name)
    if found is None or _ABOUT_THE_TAR.match(name.rpartition("/")[2]):
        return None
    for ending in endings:
        if "." in ending and len(found[1]) + len(ending) < len(name) and name.lower().endswith("." + ending):
            return name[: -len(ending) - 1], "", ending
    middle, _, ending = found[2].rpartition(".")
    return found[1], middle, ending.lower()


def _dots_in_keys(names: list[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """The beginnings and middles that make up a key together."""
    groups: dict[str, dict[str, set[str]]] = {}
    for key, middle, ending in names:
        groups.setdefault(key, {}).setdefault(middle, set()).add(ending)
    found, extensions, alone = set(), set(), []
    for key, middles in groups.items():
        whole = {middle for middle, kinds in middles.items() if middle and kinds & IMAGES and kinds & TEXTS}
        found |= {(key, middle) for middle in whole}
        if len(middles) == 1:
            alone += [(key, middle) for middle in middles if middle and middle not in whole]
        else:
            extensions |= {
                (middle, kind) for middle, kinds in middles.items() if middle and middle not in whole for kind in kinds
            }
    # A sample of which only the depth map is left: KEY.depth.png is no picture of the key KEY.depth.
    return found | {
        (key, middle) for key, middle in alone if not any((middle, kind) in extensions for kind in groups[key][middle])
    }


def _members(file: pa.NativeFile, path: str) -> Iterator[Member]:
    offset, end = 0, file.size()
    name: str | None = None
    size: int | None = None
    while True:
        file.seek(offset)
        block = bytes(file.read(BLOCK))
        if not any(block) and len(block) == BLOCK:
            return
        if len(block) < BLOCK:
            raise CorruptFile(path, "ends early")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise CorruptFile(path, f"cannot be read as a tar from byte {offset} on ({error})") from None
        if header.size < 0:
            raise CorruptFile(path, f"cannot be read as a tar from byte {offset} on (negative size)")
        offset += BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            if header.size > _MAX_NAME:
                raise CorruptFile(path, f"has a name of {header.size} bytes")
            data = bytes(file.read(header.size))
            if header.type == tarfile.GNUTYPE_LONGNAME:
                name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type == tarfile.XHDTYPE:
                facts = _pax(data)
                name = facts.get("path", name)
                size = int(facts["size"]) if _NUMBER.fullmatch(facts.get("size", "")) else None
            offset += _padded(header.size)
            continue
        regular = header.type in _REGULAR
        # Links, folders and devices have no content, whatever their header says.
        length = (header.size if size is None else size) if regular else 0
        called = header.name if name is None else name
        if header.type != tarfile.DIRTYPE and not called.endswith("/"):
            member = _member(called, offset, length, end, regular)
            yield member
        offset += _padded(length)
        if offset - (_padded(length) - length) > end:
            raise CorruptFile(path, "ends early")
        name = size = None


def _member(name: str, offset: int, size: int, end: int, regular: bool) -> Member:
    # Bytes that are no UTF-8 are spelled out, so that names stay apart.
    shown = re.sub(r"^(\./)+", "", name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    problem = None
    if shown.startswith("/") or ".." in shown.split("/"):
        problem = "a member of it leaves the folder of the tar"
    elif not regular:
        problem = "a member of it is a link or a device, not a file"
    elif size > MAX_BYTES:
        problem = "a member of it is too large"
    elif offset + size > end:
        problem = "corrupt file: the tar ends within it"
    return Member(shown, offset, size, problem)


def _pax(data: bytes) -> dict[str, str]:
    """Path and size from an extended header: records of "<length> <name>=<value>\\n"."""
    facts: dict[str, str] = {}
    place = 0
    while place < len(data):
        digits, space, _ = data[place : place + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        record = data[place + len(digits) + 1 : place + int(digits) - 1]
        name, _, value = record.partition(b"=")
        facts[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place += int(digits)
    return facts


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
