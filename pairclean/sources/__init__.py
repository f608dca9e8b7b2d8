"""Reading what users have on disk: one file per layout, and `open_source`, which looks and chooses."""

from __future__ import annotations

from pathlib import Path

from ..pairs import UserError
from .base import Source, local_path
from .parquet import open_parquet_source

__all__ = ["Source", "open_source"]


def open_source(
    path: str | Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    image_root: str | Path | None = None,
) -> Source:
    """Open a folder of shards, or one shard, and find out which column plays which part.

    path: a folder, read by its own `*.parquet` files only and not by its sub-folders, in order of name; or one file.
    image_column, caption_column, id_column: the roles, where they should not be detected; `id_column="none"` numbers
    the rows instead (`<shard>:<row>`).
    image_root: the folder that image paths are relative to; without it, the folder that the shards lie in.

    Opening reads every shard's footer and, where there is one, its id column, but no image.
    Raises UserError where the path, the columns, or the identifiers are not what is needed; the sentence says why.
    """
    found = local_path(path)
    if not found.exists():
        raise UserError(f"{path} does not exist: name a folder of Parquet shards, or one Parquet file")
    return open_parquet_source(
        found,
        image_column=image_column,
        caption_column=caption_column,
        id_column=id_column,
        image_root=image_root,
    )
