"""Which layout a path holds: by what is in its files, not by what they are called."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path

from ..pairs import PYTHON, Columns, UserError
from .base import IMAGES, TEXTS, Source, counted_as
from .clip_retrieval import FOLDERS, open_clip_retrieval_source
from .datacomp import open_datacomp_source
from .documents import ENDINGS
from .embedded import EmbeddedSource
from .parquet import ParquetSource, open_parquet_source
from .patterns import is_pattern, matching, parts
from .storage import SUFFIXES, absolute, beside, ending, exists, head, is_companion, is_folder, listing, parent, stem
from .tar import BLOCK, is_tar
from .webdataset import WebdatasetSource, open_webdataset_source

#: Files of arrays, which may also lie beside pictures that they were made from.
_ARRAYS = ("npz", "npy")
#: The kinds of files that are read as tables.
_TABLES = ("parquet", "arrow", "table")
#: How many sub-folders are looked into for shards that are not read.
_FOLDERS_LOOKED_INTO = 20


def open_source(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    strict: bool = False,
) -> Source:
    """Open a folder of shards, or one shard, and find out which layout it has and which column plays which part.

    path: a folder, read by its own files only and not by its sub-folders, in order of name; one file; a pattern
    (`DIR/*.tar`, `DIR/{00000..00123}.tar`, `lang=*/*.parquet`); several of these joined with `::`; a folder of
    clip-retrieval's; or a run directory, whose `embeddings/` is then read. Remote addresses (`s3://...`) go through
    fsspec.
    columns: the roles, where they should not be detected.
    strict: whether a broken file raises UserError; otherwise it is noted in `broken`, and the rest is read.

    Opening reads every shard's footer, or the headers of its members, and the ids, but no image.
    Raises UserError where the path, the columns, or the identifiers are not what is needed; the sentence says why.
    """
    if str(path).startswith(PYTHON):
        raise UserError(f"the source is a Python object ({path}), which is not here: give it to pairclean.clean again")
    where = "::".join(absolute(part) for part in parts(str(path)))
    about_images = {"image_column": columns.image, "image_root": columns.image_root}
    folder = _clip_retrieval_folder(where)
    if folder is not None:
        _no_options(folder, "vectors, not images", **about_images)
        _no_options(folder, "one kind of vectors", embeddings=columns.embeddings)
        return open_clip_retrieval_source(folder, columns, strict=strict)
    files = _files(where)
    kinds = {file: _kind(file) for file in files}
    source = _opened(where, files, kinds, columns, strict)
    used = {shard.path for shard in source.shards}
    beside_shards = {file for name in files for file in (beside(name, ".parquet"), beside(name, ".npz"))}
    names = _left_out(where, {*files, *used, *beside_shards})
    if source.layout == "folder":  # the pictures that the paths lead to
        names = [name for name in names if ending(name) not in IMAGES]
    if names:
        told = f"{counted_as(len(names), 'file or folder', 'files or folders')} in it not read, such as {names[0]!r}"
        source.notes[where] = "; ".join(filter(None, [source.notes.get(where), told]))
    return source


def _opened(
    where: str, files: Sequence[str], kinds: dict[str, str], columns: Columns, strict: bool
) -> ParquetSource | WebdatasetSource | EmbeddedSource:
    about_images = {"image_column": columns.image, "image_root": columns.image_root}
    tables = [file for file in files if kinds[file] in _TABLES]
    tars = [file for file in files if kinds[file] == "tar"]
    arrays = _beside(tables, ".npz", "npz", kinds)
    if tables and not tars and (arrays or any(kinds[file] == "npz" for file in files)):
        _check_arrays(where, files, kinds, arrays)
        _no_options(where, "vectors, not images", **about_images)
        return open_datacomp_source(where, tables, arrays, columns, strict=strict)
    _no_options(where, "no vectors beside the metadata", embeddings=columns.embeddings)
    folders = {file: "" for file in files if kinds[file] == "folder"} or _folders_of_tables(tables)
    if folders:
        if tars or (tables and not any(folders.values())):
            other = (tars or tables)[0]
            raise UserError(f"{where} means folders of pictures and {other}, which are read differently: name one kind")
        sidecars = {folder: table for folder, table in folders.items() if table}
        return open_webdataset_source(where, list(folders), sidecars, columns, strict=strict)
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
    if len(parts(where)) > 1 or not is_folder(where):
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
    joined = parts(where)
    if len(joined) > 1:
        return list(dict.fromkeys(file for part in joined for file in _files(part)))
    if not is_folder(where):
        found = [where] if exists(where) else matching(where) if is_pattern(where) else []
        if not found:
            raise UserError(f"{where} does not exist: name a folder of shards, one file, or a pattern in quotes")
        found = [file for file in found if not is_companion(file)] or found
        return [file for one in found for file in (_files(one) if is_folder(one) else [one])]
    files, folders = listing(where)
    if not files and not folders:
        raise UserError(f"{where} is empty: name a folder with shards")
    _check_no_table_format(where, files, folders)
    shards = [file for file in files if _is_shard(file)]
    if shards and not (_has_pairs(where) and all(ending(shard) in _ARRAYS for shard in shards)):
        return shards
    documents = _documents(files)
    metadata = [file for file in documents if stem(file) == "metadata"]  # what `datasets` calls it
    if metadata:
        return metadata
    # Beside pictures, JSON is about one of them each.
    files = [file for file in files if not is_companion(file)]
    if _has_pairs(where):
        return [where]
    return documents or list(filter(_has_pairs, folders)) or [file for file in files if ending(file) not in TEXTS]


def _documents(files: Sequence[str]) -> list[str]:
    """The tables of text among the files of a folder. Of texts that may be about one picture each, `captions.txt`."""
    tables = [file for file in files if ending(file) in ENDINGS and not is_companion(file)]
    return [file for file in tables if ending(file) != "txt" or stem(file).lower() == "captions"]


def _folders_of_tables(tables: Sequence[str]) -> dict[str, str]:
    """The folders of pictures called like tables beside them (img2dataset's `files`), if every table has one."""
    folders = {os.path.splitext(table)[0]: table for table in tables}
    return folders if all(is_folder(folder) and _has_pairs(folder) for folder in folders) else {}


def _has_pairs(folder: str) -> bool:
    """Whether a folder has pictures, and texts called like one of them."""
    names = [unicodedata.normalize("NFC", os.path.basename(file)) for file in listing(folder)[0]]
    pictures, texts = (
        {name.partition(".")[0] for name in names if os.path.splitext(name)[1][1:].lower() in endings}
        for endings in (IMAGES, TEXTS)
    )
    return bool(pictures & texts)


def _is_shard(file: str) -> bool:
    """Whether a file is called like a shard."""
    return f".{ending(file)}" in SUFFIXES


def _check_no_table_format(where: str, files: Sequence[str], folders: Sequence[str]) -> None:
    """Of a table with a log, only some of the files are live: to read all of them would be wrong."""
    names = {os.path.basename(folder.rstrip("/")) for folder in folders}
    hidden = exists(f"{where.rstrip('/')}/.hoodie")
    kind = "Delta Lake" if "_delta_log" in names else "Hudi" if hidden else "Lance" if "_versions" in names else None
    if kind is None and {"metadata", "data"} <= names and not files:
        inside = listing(f"{where.rstrip('/')}/metadata")[0]
        kind = "Iceberg" if any(file.endswith(".metadata.json") for file in inside) else None
    if kind is not None:
        raise UserError(
            f"{where} is a {kind} table, whose live files are listed in its log: write the rows that you mean as plain "
            "Parquet, and name that"
        )


def _left_out(where: str, used: Container[str]) -> list[str]:
    """The names of files of a folder that are not read, but for those that go with shards; and folders with pairs."""
    if len(parts(where)) > 1 or not is_folder(where):
        return []
    files, folders = listing(where)
    if where in used:  # a folder of pictures, whose reader says which of its files are left out
        files = []
    names = [os.path.basename(file) for file in files if file not in used]
    inside = [
        folder
        for folder in folders[:_FOLDERS_LOOKED_INTO]
        if folder not in used and (_has_pairs(folder) or _has_shards(folder))
    ]
    return [name for name in names if not is_companion(name)] + [f"{os.path.basename(f)}/" for f in inside]


def _kind(file: str) -> str:
    """What a file is by its first bytes; a broken one is what it is called. "" for everything else."""
    if is_folder(file):
        return "folder"
    try:
        first = head(file, BLOCK)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(b"\x93NUMPY"):
        return "npy"
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz" if ending(file) == "npz" or b".npy" in first else "zip"
    if is_tar(first) and (any(first) or ending(file) == "tar"):
        return "tar"
    return SUFFIXES.get(f".{ending(file)}", "table" if ending(file) in ENDINGS else "")


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
    archives = [file for file in files if kinds[file] == "zip"]
    if archives:
        return f"{archives[0]} is a zip archive: unpack it, and name the folder"
    arrays = [file for file in files if kinds[file] in ("npz", "npy")]
    if arrays:
        return (
            f"{arrays[0]} holds vectors without the captions: name the folder with img_emb, text_emb and metadata, or "
            "the Parquet file of the same name"
        )
    if is_folder(where):
        if any(ending(file) in IMAGES for file in files):
            return (
                f"{where} has pictures, but no captions beside them (KEY.txt, KEY.caption or KEY.json, or a table "
                "metadata.csv): name a folder that has both"
            )
        texts = [file for file in listing(where)[0] if ending(file) in TEXTS and not is_companion(file)]
        if texts and not _folders_of_shards(where):
            return (
                f"{where} has texts ({os.path.basename(texts[0])}), but no pictures called like them: name a folder "
                "that has both, or a table of paths and captions"
            )
        return f"{where} has no shards of its own (.parquet, .tar, .csv, .jsonl): {_where_instead(where)}"
    return (
        f"{files[0]} cannot be read as Parquet or tar, and is not called like a table of text (.csv, .tsv, .txt, "
        ".jsonl, .json): name a shard, or a folder of shards"
    )


def _where_instead(where: str) -> str:
    """Which folders or files to name where a folder has no shards of its own."""
    here = where.rstrip("/")
    inside = _folders_of_shards(where)
    if not inside:
        return "name the folder that has, as sub-folders are not searched"
    if len(inside) == 1:
        return f"name {here}/{inside[0]}, as sub-folders are not searched"
    key = inside[0].partition("=")[0] if all("=" in name for name in inside) else ""
    return f"name one of its sub-folders, or all with a pattern in quotes, '{here}/{key + '=' if key else ''}*/*'"


def _folders_of_shards(where: str) -> list[str]:
    """The names of the sub-folders that have shards."""
    folders = listing(where)[1][:_FOLDERS_LOOKED_INTO]
    return [os.path.basename(folder.rstrip("/")) for folder in folders if _has_shards(folder)]


def _has_shards(folder: str) -> bool:
    files = listing(folder)[0]
    return any(map(_is_shard, files)) or bool(_documents(files))
