"""clip-retrieval's folders: `img_emb/img_emb_0.npy`, `text_emb/text_emb_0.npy`, `metadata/metadata_0.parquet`.

The same is what a run keeps in its `embeddings/`.
"""

from __future__ import annotations

from ..pairs import Columns, UserError
from .embedded import EmbeddedSource, Part, open_embedded_source
from .storage import listing, stem
from .vectors import Where

#: The folders, each with what its files end in; their names begin like the folder's.
FOLDERS = {"metadata": ".parquet", "img_emb": ".npy", "text_emb": ".npy"}


def open_clip_retrieval_source(path: str, columns: Columns, *, strict: bool = False) -> EmbeddedSource:
    """Open a folder with these three in it; see `pairclean.sources.open_source`."""
    files = {folder: _numbered(f"{path}/{folder}", folder, ending) for folder, ending in FOLDERS.items()}
    numbers = {number for found in files.values() for number in found}
    for folder, found in files.items():
        missing = sorted(numbers - found.keys())
        if missing:
            raise UserError(
                f"{path}/{folder} has no {folder}_{missing[0]}{FOLDERS[folder]}, which the other folders have: "
                "finish writing the vectors, or take the rest out"
            )
    if not numbers:
        raise UserError(f"{path} has no vectors yet: finish writing them")
    # Numbers by their size, names by their letters.
    order = sorted(
        numbers, key=lambda number: (not number.isdecimal(), int(number) if number.isdecimal() else 0, number)
    )
    parts = [
        Part(
            number,
            files["metadata"][number],
            {folder: Where(files[folder][number]) for folder in ("img_emb", "text_emb")},
            "img_emb",
            "text_emb",
        )
        for number in order
    ]
    return open_embedded_source(path, "clip-retrieval", "clip-retrieval", parts, columns, strict=strict)


def _numbered(folder: str, name: str, ending: str) -> dict[str, str]:
    """A folder's files by what follows the name: `img_emb_0.npy` by "0"."""
    found = {}
    for file in listing(folder)[0]:
        if file.endswith(ending) and stem(file).startswith(f"{name}_"):
            found[stem(file).removeprefix(f"{name}_")] = file
    return found
