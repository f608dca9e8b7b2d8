"""Which layout a path holds: by what is in its files, not by what they are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..pairs import PYTHON, Columns, UserError
from .base import SUFFIXES, Source, absolute, beside, exists, head, is_folder, listing, matching, parent, stem
from .clip_retrieval import FOLDERS, open_clip_retrieval_source
from .datacomp import open_datacomp_source
from .parquet import open_parquet_source
from .tar import BLOCK, is_tar
from .webdataset import open_webdataset_source

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def open_source(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    strict: bool = False,
) -> Source:
    """Open a folder of shards, or one shard, and find out which layout it has and which column plays which part.

    path: a folder, read by its own files only and not by its sub-folders, in order of name; one file; a pattern in the
    last part of the path (`DIR/*.tar`); a folder of clip-retrieval's; or a run directory, whose `embeddings/` is then
    read. Remote addresses (`s3://...`) go through fsspec.
    columns: the roles, where they should not be detected.
    strict: whether a broken file raises UserError; otherwise it is noted in `broken`, and the rest is read.

    Opening reads every shard's footer, or the headers of its members, and the ids, but no image.
    Raises UserError where the path, the columns, or the identifiers are not what is needed; the sentence says why.
    """
    if str(path).startswith(PYTHON):
        raise UserError(f"the source is a Python object ({path}), which is not here: give it to pairclean.clean again")
    where = absolute(path)
    about_images = {"image_column": columns.image, "image_root": columns.image_root}
    folder = _clip_retrieval_folder(where)
    if folder is not None:
        _no_options(folder, "vectors, not images", **about_images)
        _no_options(folder, "one kind of vectors", embeddings=columns.embeddings)
        return open_clip_retrieval_source(folder, columns, strict=strict)
    files = _files(where)
    kinds = {file: _kind(file) for file in files}
    tables = [file for file in files if kinds[file] == "parquet"]
    tars = [file for file in files if kinds[file] == "tar"]
    arrays = _beside(tables, ".npz", "npz", kinds)
    if tables and not tars and (arrays or any(kinds[file] == "npz" for file in files)):
        _check_arrays(where, files, kinds, arrays)
        _no_options(where, "vectors, not images", **about_images)
        return open_datacomp_source(where, tables, arrays, columns, strict=strict)
    _no_options(where, "no vectors beside the metadata", embeddings=columns.embeddings)
    if tars:
        sidecars = _beside(tars, ".parquet", "parquet", kinds)
        alone = [table for table in tables if table not in sidecars.values()]
        if alone:
            name = os.path.basename(alone[0])
            raise UserError(
                f"{where} has tars and Parquet files that do not go together ({name} has no tar of its name): choose "
                f"with a pattern in quotes, '{parent(alone[0])}/*.tar' or '{parent(alone[0])}/*.parquet'"
            )
        return open_webdataset_source(where, tars, sidecars, columns, strict=strict)
    if not tables:
        raise UserError(_no_tables(where, files, kinds))
    return open_parquet_source(where, tables, columns, strict=strict)


def _clip_retrieval_folder(where: str) -> str | None:
    """The folder that has clip-retrieval's folders: this one, or its `embeddings/` if it is a run directory."""
    if not is_folder(where):
        return None
    files, folders = listing(where)
    names = {os.path.basename(folder) for folder in folders}
    if FOLDERS.keys() <= names:
        shards = [file for file in files if os.path.splitext(file)[1].lower() in SUFFIXES]
        if shards:
            raise UserError(
                f"{where} has both vectors in folders and {os.path.basename(shards[0])}: "
                "name that file, or move either elsewhere"
            )
        return where
    if "embeddings" in names and f"{where.rstrip('/')}/manifest.json" in files:
        inside = f"{where.rstrip('/')}/embeddings"
        if FOLDERS.keys() <= {os.path.basename(folder) for folder in listing(inside)[1]}:
            return inside
        raise UserError(f"{where} is a run that has no vectors yet: run `pairclean clean` on it first")
    if names & FOLDERS.keys() and not any(os.path.splitext(file)[1].lower() in SUFFIXES for file in files):
        missing = ", ".join(sorted(FOLDERS.keys() - names))
        raise UserError(f"{where} has no {missing}: vectors of images, of texts and their metadata are all needed")
    return None


def _files(where: str) -> list[str]:
    """The files that are meant: what looks like a shard by its name, or else everything."""
    if not is_folder(where):
        files = [where] if exists(where) else matching(where)
        if not files:
            raise UserError(f"{where} does not exist: name a folder of shards, or one file")
        return files
    files, folders = listing(where)
    if not files and not folders:
        raise UserError(f"{where} is empty: name a folder with shards")
    return [file for file in files if os.path.splitext(file)[1].lower() in SUFFIXES] or files


def _kind(file: str) -> str:
    """What a file is by its first bytes; a broken one is what it is called. "" for everything else."""
    try:
        first = head(file, BLOCK)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(b"\x93NUMPY"):
        return "npy"
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if is_tar(first) and (any(first) or file.endswith(".tar")):
        return "tar"
    return SUFFIXES.get(os.path.splitext(file)[1].lower(), "")


def _beside(files: Sequence[str], suffix: str, kind: str, kinds: dict[str, str]) -> dict[str, str]:
    """The file of the same stem, where there is one of that kind: also one that the path itself does not mean."""
    found = {}
    for file in files:
        other = beside(file, suffix)
        if kinds.get(other) == kind or (other not in kinds and exists(other) and _kind(other) == kind):
            found[file] = other
    return found


def _check_arrays(where: str, files: Sequence[str], kinds: dict[str, str], arrays: dict[str, str]) -> None:
    """Every Parquet file has its `.npz` and the other way round."""
    for file in files:
        other = ".npz" if kinds[file] == "parquet" else ".parquet"
        if file not in arrays and file not in arrays.values():
            raise UserError(
                f"{file} has no {stem(file)}{other} beside it: vectors and metadata go together by name, "
                "so get that file, or move this one elsewhere"
            )


def _no_options(where: str, what: str, **options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{where} holds {what}: leave --{name.replace('_', '-')} out")


def _no_tables(where: str, files: Sequence[str], kinds: dict[str, str]) -> str:
    arrays = [file for file in files if kinds[file] in ("npz", "npy")]
    if arrays:
        return (
            f"{arrays[0]} holds vectors without the captions: name the folder with img_emb, text_emb and metadata, or "
            "the Parquet file of the same name"
        )
    if is_folder(where):
        return (
            f"{where} has no .parquet files or tars of its own (sub-folders are not searched): name the folder that has"
        )
    if head(files[0], 8).startswith(_PACKED):
        return f"{files[0]} is compressed: unpack it first (a tar of pictures gets no smaller by compression)"
    return f"{files[0]} cannot be read as Parquet or tar, by what is in it: name a shard, or a folder of shards"
