"""Sources of vectors: a Parquet file of captions, and arrays that go with it by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa

from ..pairs import PAIR_SCHEMA, Columns, Roles, Row, Shard, UserError
from .base import Faults, Vectors, shard_names
from .parquet import caption_encoding, check_ids, check_same_roles, table_rows
from .roles import caption_kind, detect_roles, id_kind
from .storage import CorruptFile, file_fingerprint
from .tables import column_types, columns_of, lost_columns, opened, read_schema, texts
from .vectors import Where, opened_vectors, whole_array

#: Rows whose vectors are in memory at once.
_BATCH = 4096


@dataclass(frozen=True)
class Part:
    """What belongs together.  arrays: all the arrays beside the metadata, by name; image, text: the two to read."""

    name: str
    metadata: str
    arrays: Mapping[str, Where]
    image: str
    text: str


def open_embedded_source(
    path: str,
    layout: str,
    vectors: str,
    parts: Sequence[Part],
    columns: Columns,
    *,
    strict: bool,
) -> EmbeddedSource:
    """Open these parts as one source.  layout, vectors: what they are called.

    Raises UserError where lengths disagree, or the vectors of one part have another dimension than those of another.
    """
    faults = Faults(strict)
    names = shard_names(part.name for part in parts)
    dims: dict[tuple[int, int], str] = {}
    shards = [_shard(name, part, faults, dims) for name, part in zip(names, parts, strict=True)]
    faults.check(path, shards)
    if len(dims) > 1:
        told = ", ".join(f"{dim} in {file}" for dim, file in dims.items())
        raise UserError(f"the vectors of {path} are of different encoders, their lengths (image, text) are {told}")
    parts = _alike(path, parts, shards, faults)
    schemas = {shard.path: read_schema(shard.path) for shard in shards if not shard.broken}
    types = column_types(schemas)
    of_run = set(PAIR_SCHEMA.names) <= types.keys()
    roles = detect_roles(
        types,
        path=next(iter(schemas)),
        columns=replace(
            columns,
            caption=columns.caption or ("caption" if of_run else None),
            id=columns.id or ("pair_id" if of_run else None),
        ),
        has_images=False,
    )
    check_same_roles(schemas, types, {roles.caption: caption_kind, roles.id: id_kind})
    if caption_kind(types[roles.caption]) == "list":
        raise UserError(
            f"column {roles.caption!r} of {next(iter(schemas))} holds lists, but there is one vector per row: name a "
            "column of texts with --caption-column"
        )
    source = EmbeddedSource(
        path=path,
        layout=layout,
        roles=roles,
        shards=[shard for shard in shards if shard.rows or not shard.broken],
        columns=list(next(iter(schemas.values())).names),
        vectors=vectors,
        dims=next(iter(dims)),
        parts=dict(zip(names, parts, strict=True)),
        of_run=of_run,
        strict=strict,
        broken=faults.found,
    )
    source.encoding = caption_encoding(source.shards, roles.caption)
    check_ids(path, source.shards, roles.id)
    return source


def _shard(name: str, part: Part, faults: Faults, dims: dict[tuple[int, int], str]) -> Shard:
    rows: dict[str, int] = {}
    broken = None
    try:
        with opened(part.metadata) as parquet:
            rows[part.metadata] = parquet.metadata.num_rows
    except CorruptFile as error:
        faults.add(error)
        broken = error.reason
    image, text = part.arrays[part.image], part.arrays[part.text]
    try:
        with opened_vectors(image) as images, opened_vectors(text) as captions:
            rows[str(image)], rows[str(text)] = images.rows, captions.rows
            dims.setdefault((images.dim, captions.dim), image.path)
    except CorruptFile as error:
        faults.add(error)
        broken = broken or error.reason
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{count} in {file}" for file, count in rows.items())
        raise UserError(f"rows that should go together by position are not as many ({told}): get the shard anew")
    paths = dict.fromkeys([part.metadata, image.path, text.path])
    return Shard(name, part.metadata, next(iter(rows.values()), 0), file_fingerprint(*paths), broken)


def _alike(path: str, parts: Sequence[Part], shards: Sequence[Shard], faults: Faults) -> list[Part]:
    """The parts with those arrays only that all of them have, as all shards are written with the same arrays."""
    lengths = [None if shard.broken else _lengths(part, shard) for part, shard in zip(parts, shards, strict=True)]
    there = [set(found) for found in lengths if found is not None]
    shared, known = set.intersection(*there), set.union(*there)
    for part, found in zip(parts, lengths, strict=True):
        if found is not None and known - found.keys():
            missing = " and ".join(sorted(known - found.keys()))
            file = part.arrays[part.image].path
            faults.add(CorruptFile(file, f"has no {missing} that can be read, so that no shard is written with it"))
    for name in sorted(shared):
        told = {found[name]: part.arrays[name] for part, found in zip(parts, lengths, strict=True) if found is not None}
        if len(told) > 1:
            files = " and ".join(f"{length} in {where.path}" for length, where in told.items())
            raise UserError(f"the vectors {name} of {path} are of different lengths, {files}: give each its own run")
    return [replace(part, arrays={k: v for k, v in part.arrays.items() if k in shared}) for part in parts]


def _lengths(part: Part, shard: Shard) -> dict[str, int]:
    """The length of the vectors in each array, also those that are not read; without the arrays that are broken."""
    found = {}
    for name, where in part.arrays.items():
        with suppress(CorruptFile), opened_vectors(where) as array:
            found[name] = array.dim
            if array.rows != shard.rows:
                raise UserError(
                    f"rows that should go together by position are not as many ({array.rows} in {where}, {shard.rows} "
                    f"in {shard.path}): get the shard anew"
                )
    return found


@dataclass
class EmbeddedSource:
    """Vectors with their captions; see `VectorSource`. Holds no open file.

    parts: by shard name.  of_run: whether the metadata are a run's own (PAIR_SCHEMA).
    encoding: that of the captions that are not UTF-8, None where it is not recognised or not needed.
    """

    path: str
    layout: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]
    vectors: str | None
    dims: tuple[int, int]
    parts: dict[str, Part]
    of_run: bool = False
    encoding: str | None = None
    strict: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    many: bool = False

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        for rows, _ in self._tables(shard):
            yield from rows

    def batches(self, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if shard.broken:
            yield lost_columns(self.shards, columns, shard.rows)
        else:
            yield from columns_of(shard.path, columns, shard.rows)

    def sample(self, shard: Shard, count: int) -> Iterator[Row]:
        return islice(self.rows(shard), count)

    def image(self, shard: Shard, row: int) -> bytes:
        raise UserError(f"{self.path} has vectors of images, not the images")

    def embedded(self, shard: Shard) -> Iterator[Vectors]:
        if shard.broken:
            for rows, _ in self._tables(shard):
                yield Vectors(rows, *(np.zeros((len(rows), dim), np.float32) for dim in self.dims))
            return
        part = self.parts[shard.name]
        with opened_vectors(part.arrays[part.image]) as images, opened_vectors(part.arrays[part.text]) as captions:
            for rows, batch in self._tables(shard):
                image, text = images.read(len(rows)), captions.read(len(rows))
                rows = [
                    replace(row, reason=row.reason or wrong) if wrong else row
                    for row, wrong in zip(rows, _wrong(image, text), strict=True)
                ]
                known = batch.column("image_id").to_numpy() if batch is not None and self.of_run else None
                yield Vectors(rows, image, text, known)
            if shard.rows == images.rows:  # the sum over a packed array is checked at its end
                images.finish()
                captions.finish()

    def arrays(self, shard: Shard, *, empty: bool = False) -> dict[str, np.ndarray]:
        """All the arrays beside a shard's metadata, also those that are not read, by name: (rows, d) each.

        empty: without their rows, which need not be readable then. Raises CorruptFile where they are not.
        """
        arrays = self.parts[shard.name].arrays
        return {name: whole_array(where, empty=empty) for name, where in arrays.items()}

    def _tables(self, shard: Shard) -> Iterator[tuple[list[Row], pa.RecordBatch | None]]:
        more = ["reason", "image_id"] if self.of_run else []
        for rows, batch in table_rows(shard, self.roles, False, more=more, batch_rows=_BATCH, encoding=self.encoding):
            if batch is None and self.strict:
                raise UserError(f"{shard.path} has rows that cannot be read: {rows[0].reason}")
            if batch is not None and self.of_run:
                reasons = texts(batch.column("reason"))
                rows = [replace(row, reason=why) for row, why in zip(rows, reasons, strict=True)]
            yield rows, batch


def _wrong(image: np.ndarray, text: np.ndarray) -> Iterator[str | None]:
    """What is wrong with the vectors of each row."""
    problems = np.full(len(image), None, object)
    for what, vectors in (("caption", text), ("image", image)):
        problems[~vectors.any(axis=1)] = f"the {what}'s vector is zero"
        problems[~np.isfinite(vectors).all(axis=1)] = f"the {what}'s vector is not finite"
    yield from problems
