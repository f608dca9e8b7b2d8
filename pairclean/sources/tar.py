"""Tar files as webdataset reads them: a header at a time, no member on disk, no name believed."""

from __future__ import annotations

import functools
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from .base import MAX_BYTES, CorruptFile, open_file

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
    """Where a sample is: consecutive members of one key, by extension in lower case; where one recurs, a new sample
    begins.

    problem: why the sample as a whole cannot be used.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def problem(self) -> str | None:
        return next((member.problem for member in self.members.values() if member.problem), None)


@dataclass(frozen=True)
class Index:
    """What a tar holds.  broken: what is wrong with the rest of the file, None where it is whole."""

    places: tuple[SampleIndex, ...]
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
def index(path: str, fingerprint: str) -> Index:
    """A tar's samples. The file is gone through header by header; the last few are remembered by their fingerprint."""
    places: list[SampleIndex] = []
    try:
        with open_file(path) as file:
            for member in _members(file, path):
                _sort_in(member, places)
    except CorruptFile as error:
        return Index(tuple(places), error)
    return Index(tuple(places), None)


def read(file: pa.NativeFile, member: Member) -> bytes:
    """A member's content.  Raises CorruptFile where the file ends within it."""
    file.seek(member.offset)
    data = bytes(file.read(member.size))
    if len(data) < member.size:
        raise CorruptFile(member.name, "is cut off")
    return data


def samples_at(path: str, places: tuple[SampleIndex, ...]) -> Iterator[Sample]:
    """These samples with their content, one in memory at a time; members that cannot be read are left out."""
    with open_file(path) as file:
        for place in places:
            members = [member for member in place.members.values() if member.problem is None]
            yield Sample(place.key, [(member.name, read(file, member)) for member in members])


def _sort_in(member: Member, places: list[SampleIndex]) -> None:
    """Put a member to the sample that it belongs to: the last, or a new one."""
    found = _NAME.fullmatch(member.name)
    if found is None or _ABOUT_THE_TAR.match(member.name.rpartition("/")[2]):  # no sample's
        return
    key, extension = found[1], found[2].lower()
    if not places or places[-1].key != key or extension in places[-1].members:
        places.append(SampleIndex(key))
    places[-1].members[extension] = member


def _members(file: pa.NativeFile, path: str) -> Iterator[Member]:
    """All members but folders. Raises CorruptFile, after those before, where the file ends early or makes no sense."""
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
        problem = f"{shown!r} leaves the folder of the tar"
    elif not regular:
        problem = f"{shown!r} is a link or a device, not a file"
    elif size > MAX_BYTES:
        problem = f"{shown!r} is too large"
    elif offset + size > end:
        problem = f"corrupt file: the tar ends within {shown!r}"
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
