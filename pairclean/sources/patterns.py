"""Which files a path means: `DIR/*.tar`, `DIR/{00000..00123}.tar`, `a.tar::b.tar`, `lang=*/part-*.parquet`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from ..pairs import UserError
from .storage import exists, is_companion, is_folder, listing

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_WILD = re.compile(r"[*?[]")
_MOST = 1_000_000
#: Protocols of fsspec that read what lies behind another one.
_WRAPPERS = frozenset(
    ["blockcache", "cached", "dir", "filecache", "libarchive", "reference", "simplecache", "tar", "zip"]
)


def parts(path: str) -> list[str]:
    """The sources that are joined with `::`.  Chains of fsspec (`simplecache::s3://...`, `zip://...::...`) are one."""
    found = path.split("::")
    protocol, separator, _ = found[0].partition("://")
    if len(found) == 1 or (protocol in _WRAPPERS if separator else _is_protocol(protocol)):
        return [path]
    return [part for part in found if part]


def _is_protocol(name: str) -> bool:
    from fsspec import available_protocols

    return name in available_protocols()


def is_pattern(path: str) -> bool:
    """Whether a path that does not exist means other files."""
    return bool(_WILD.search(path) or _RANGE.search(path) or _CHOICE.search(path))


def matching(path: str) -> list[str]:
    """The files that a pattern means, or the folders if it means no file.

    Braces are read in their order, what `*`, `?` and `[...]` stand for in order of name.

    Raises UserError where a file that braces name one by one does not exist.
    """
    files: dict[str, None] = {}
    for one in _braces(path):
        if _WILD.search(one):
            files |= dict.fromkeys(_globbed(one))
        elif exists(one):
            files[one] = None
        else:
            raise UserError(f"{one} does not exist, which {path} names: get that file, or name a shorter range")
    return list(files)


def _braces(path: str) -> Iterator[str]:
    """`{00000..00002}` counts, with the zeros of its beginning; `{a,b}` chooses."""
    found = _RANGE.search(path)
    if found is not None:
        first, last = int(found[1]), int(found[2])
        if last - first >= _MOST:
            raise UserError(f"{path} names {last - first + 1:,} files: name a folder or a pattern instead")
        width = len(found[1]) if found[1].startswith("0") else 0
        for number in range(first, last + 1):
            yield from _braces(f"{path[: found.start()]}{number:0{width}d}{path[found.end() :]}")
        return
    found = _CHOICE.search(path)
    if found is None:
        yield path
        return
    for choice in found[1].split(","):
        yield from _braces(path[: found.start()] + choice + path[found.end() :])


def _globbed(path: str) -> list[str]:
    """Folder by folder: hidden names are not matched, and a pattern in one part of the path matches in that part."""
    steps = path.split("/")
    first = next(i for i, step in enumerate(steps) if _WILD.search(step))
    folders, files = ["/".join(steps[:first]) or "/"], []
    for step in steps[first:]:
        inside = [listing(folder) for folder in folders if is_folder(folder)]
        files, folders = (
            [path for found in inside for path in found[kind] if fnmatch.fnmatchcase(path.rpartition("/")[2], step)]
            for kind in (0, 1)
        )
    return [file for file in files if not is_companion(file)] or folders or files
