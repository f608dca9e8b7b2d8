"""DataComp's metadata: `<name>.parquet` and, aligned by position, `<name>.npz` with the vectors of two encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..pairs import Columns, UserError
from .embedded import EmbeddedSource, Part, open_embedded_source
from .storage import CorruptFile, stem
from .vectors import Where, array_names

_IMAGE, _TEXT = "_img", "_txt"


def open_datacomp_source(
    path: str,
    files: Sequence[str],
    arrays: Mapping[str, str],
    columns: Columns,
    *,
    strict: bool = False,
) -> EmbeddedSource:
    """Open metadata with vectors as one source; see `open_source`.  arrays: the `.npz` file of a Parquet file, by it.

    `columns.embeddings` is needed where there are vectors of several encoders.
    """
    embeddings = columns.embeddings
    names = {file: _names(arrays[file]) for file in files}
    known = {name for there in names.values() for name in there or ()}
    encoders = sorted(
        name.removesuffix(_IMAGE) for name in known if name.endswith(_IMAGE) and name[: -len(_IMAGE)] + _TEXT in known
    )
    told = ", ".join(encoders) or "none"
    if embeddings is not None and embeddings not in encoders:
        raise UserError(f"{path} has no vectors of {embeddings}: those that are there are {told}")
    if not encoders and any(there is not None for there in names.values()):
        raise UserError(
            f"{arrays[files[0]]} has no vectors that are called like DataComp's (b32_img and b32_txt, or l14): rename "
            "its arrays"
        )
    if embeddings is None and len(encoders) > 1:
        raise UserError(f"{path} has vectors of several encoders, {told}: choose with --embeddings")
    encoder = embeddings or next(iter(encoders), "b32")
    image, text = encoder + _IMAGE, encoder + _TEXT
    parts = [
        Part(
            stem(file),
            file,
            {name: Where(arrays[file], name) for name in dict.fromkeys([image, text, *(names[file] or ())])},
            image,
            text,
        )
        for file in files
    ]
    return open_embedded_source(path, "datacomp", encoder, parts, columns, strict=strict)


def _names(path: str) -> list[str] | None:
    """A file's arrays of vectors; None where it is broken, which opening it will say."""
    try:
        return [name for name in array_names(path) if name.endswith((_IMAGE, _TEXT))]
    except CorruptFile:
        return None
