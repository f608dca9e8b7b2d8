"""What is left of a shard, pair by pair, and what every writer of it shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..files import written_whole
from ..pairs import ReasonCode, Shard, UserError, Verdict
from ..sources.encoding import decode, encode
from ..sources.roles import is_one_of

#: The columns that are added to cleaned data, one value a pair, and their types.
ADDED = pa.schema(
    [
        pa.field("pairclean_pair_id", pa.string()),
        pa.field("pairclean_verdict", pa.string()),
        pa.field("pairclean_clean_probability", pa.float32()),
        pa.field("pairclean_original_caption", pa.string()),
        pa.field("pairclean_caption_pair_id", pa.string()),
    ]
)
_ORIGINAL = "pairclean_original_caption"


class Writer(Protocol):
    """Writes what is left of the shards in one layout.

    `kept`: the pairs of a shard that stay, in input order, with the columns `row` and `caption_index` (where a pair
    comes from), `caption` (its new one, null where it keeps its own), `pair` and `donor` (int64: the pair, and the pair
    whose caption it carries, among all pairs of the source), `probability` (that it is right), and, if they are to be
    written beside, the ADDED columns.
    """

    def files(self, shard: Shard) -> Sequence[str]:
        """What the shard becomes, relative to the folder; the last one is written last."""
        ...

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        """Write these files below `out`, each whole or not at all, a few rows in memory at a time.

        Raises UserError where the shard is not what `kept` is about, or `out` cannot be written.
        """
        ...

    def finish(self, out: Path) -> None:
        """What can be written once all shards are."""
        ...


def kept_pairs(verdicts: pa.Table, *, start: int = 0, donor: np.ndarray | None = None, best: bool = False) -> pa.Table:
    """The clean and the rematched pairs of a shard, but for duplicates, as a `Writer` takes them.

    verdicts: VERDICT_SCHEMA, the shard's n pairs in input order.  start: place of the first among all pairs.
    donor: (n,) int64, the pair whose caption each carries, negative for its own.
    best: of several captions of a row, only the one that is most likely to be right.
    """
    own = start + np.arange(len(verdicts))
    donor = own if donor is None else np.where(donor < 0, own, donor)
    table = verdicts.append_column("pair", pa.array(own)).append_column("donor", pa.array(donor))
    left = pa.array([Verdict.CLEAN.value, Verdict.REMATCHED.value])
    duplicate = pc.equal(table["reason_code"], ReasonCode.DUPLICATE.value)
    table = table.filter(pc.and_not(pc.is_in(table["verdict"], left), pc.fill_null(duplicate, False)))
    right = pc.if_else(
        pc.equal(table["verdict"], Verdict.REMATCHED.value), table["rematch_probability"], table["clean_probability"]
    )
    table = table.append_column("probability", pc.fill_null(right, 0)).combine_chunks()
    if best:
        likeliest = best_of_rows(table["row"].to_numpy(), table["probability"].to_numpy())
        table = table.filter(pa.array(likeliest)).combine_chunks()
    rematched = pc.equal(table["verdict"], Verdict.REMATCHED.value)
    columns = {
        **{name: table[name] for name in ("row", "caption_index", "pair", "donor", "probability")},
        "caption": pc.if_else(rematched, table["rematch_caption"], pa.scalar(None, pa.string())),
        "pairclean_pair_id": table["pair_id"],
        "pairclean_verdict": table["verdict"],
        "pairclean_clean_probability": table["clean_probability"],
        _ORIGINAL: pa.nulls(len(table), pa.string()),  # the source knows
        "pairclean_caption_pair_id": pc.if_else(rematched, table["rematch_pair_id"], table["pair_id"]),
    }
    return pa.table(columns).combine_chunks()


def best_of_rows(row: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(n,) bool, the pair of each row that has the highest value; of equal ones, the first.

    row: (n,) int, of each pair.  value: (n,) float.

    >>> best_of_rows(np.array([0, 0, 1, 2, 2]), np.array([0.2, 0.9, 0.1, 0.5, 0.5])).tolist()
    [False, True, True, True, False]
    """
    order = np.lexsort((-value, row))  # stable
    first = np.r_[True, np.diff(row[order]) != 0][: len(row)]
    best = np.zeros(len(row), bool)
    best[order[first]] = True
    return best


def column(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece."""
    found = table[name].combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def captions_now(kept: pa.Table, originals: pa.Array, encoding: str | None = None) -> pa.Array:
    """The captions that the pairs carry now; untouched, byte for byte, where none is new.

    encoding: of captions that are bytes and not UTF-8, in which the new ones are then written, too.
    """
    new = column(kept, "caption")
    if new.null_count == len(new):
        return originals
    if is_one_of(originals.type, "binary", "large_binary"):
        old = originals.to_pylist()
        now = [
            was if text is None else encode(text, was, encoding) for text, was in zip(new.to_pylist(), old, strict=True)
        ]
        return pa.array(now, originals.type)
    return pc.if_else(pc.is_valid(new), new, originals.cast(pa.string())).cast(originals.type)


def _as_text(captions: pa.Array, encoding: str | None) -> pa.Array:
    """Captions as text, also where they are stored as bytes."""
    if not is_one_of(captions.type, "binary", "large_binary"):
        return captions.cast(pa.string())
    return pa.array([None if data is None else decode(data, encoding) for data in captions.to_pylist()], pa.string())


def added(kept: pa.Table, originals: pa.Array, encoding: str | None = None) -> dict[str, pa.Array]:
    """The ADDED columns that `kept` asks for, one value a pair.

    encoding: of captions that are bytes and not UTF-8.
    """
    found = {field.name: column(kept, field.name) for field in ADDED if field.name in kept.column_names}
    if _ORIGINAL in found:
        new = pc.is_valid(column(kept, "caption"))
        if pc.any(new).as_py():
            found[_ORIGINAL] = pc.if_else(new, _as_text(originals, encoding), pa.scalar(None, pa.string()))
    return found


def added_fields(pair: Mapping[str, Any], original: str | None) -> dict[str, Any]:
    """The same for one pair of `kept` as a dictionary."""
    found = {field.name: pair[field.name] for field in ADDED if field.name in pair}
    if _ORIGINAL in found and pair["caption"] is not None:
        found[_ORIGINAL] = original
    return found


def as_lists(values: pa.Array, ends: np.ndarray) -> pa.Array:
    """The values as lists.  ends: (n,) where each list ends."""
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int64()), values)


def adds(kept: pa.Table) -> bool:
    """Whether the ADDED columns are to be written."""
    return _ORIGINAL in kept.column_names


def changed(shard: Shard) -> UserError:
    return UserError(f"{shard.path} is not what was judged, it has changed since: run `pairclean clean` again")


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """`files.written_whole`, with a sentence for a full disk and the like."""
    try:
        with written_whole(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
