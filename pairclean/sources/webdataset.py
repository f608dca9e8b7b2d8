"""Tars of webdataset and img2dataset, or folders of such files, alone or with a Parquet sidecar of all rows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice
from typing import Any

import pyarrow as pa

from ..pairs import UNKNOWN_ENCODING, Columns, Roles, Row, Shard, UserError
from .base import IMAGES, TEXTS, Faults, UniqueIds, counted, lost_row, shard_names
from .documents import as_unicode, column_of
from .encoding import decode, guess, needs_guess
from .members import Captions, find_captions, find_images, last_part
from .parquet import check_same_roles, failed
from .roles import CAPTION_NAMES, caption_kind, id_kind
from .storage import CorruptFile, file_fingerprint, is_folder, is_remote, stem
from .tables import (
    TEXT_BATCH,
    Gap,
    column_types,
    columns_of,
    nulls,
    opened,
    raw_texts,
    read_schema,
    readable_batches,
    record_batches,
    schema_of,
    texts,
)
from .tar import Archive, Index, Sample, SampleIndex, index, open_archive, samples_at

#: What a sidecar calls the samples' keys.
KEYS = ("key", "__key__")
#: How many samples are looked at to see where captions are.
_LOOKED_AT = 20
#: How many captions are looked at to see whether they are UTF-8.
_TEXTS_HERE, _TEXTS_REMOTE = 20_000, 200
#: Larger texts are no caption, and larger JSON is not about one image.
_MAX_TEXT = 16 << 20
#: Larger members are no label.
_MAX_LABEL = 1 << 14


def samples(path: str) -> Iterator[Sample]:
    """The samples of a tar, in its order, one in memory at a time: what has an image, a text, or JSON about one.

    Members that are no files, are too large or have hostile names are left out. Ends where a broken tar does.
    """
    yield from samples_at(path, _pairs(index(path, file_fingerprint(path)))[0])


def open_webdataset_source(
    path: str,
    tars: Sequence[str],
    sidecars: Mapping[str, str],
    columns: Columns,
    *,
    strict: bool = False,
) -> WebdatasetSource:
    """Open tars, or folders of files that are named like their members, as one source; see `open_source`.

    sidecars: the Parquet file of a tar, by tar.
    """
    if columns.image_root is not None:
        raise UserError(f"{tars[0]} holds the images themselves, not paths: leave --image-root out")
    faults = Faults(strict)
    folders = is_folder(tars[0])
    names = shard_names(map(os.path.basename if folders else stem, tars))
    schemas = _sidecar_schemas([sidecars[tar] for tar in tars if tar in sidecars], faults)
    key = _key_column(tars[0], schemas, columns.id)
    source = WebdatasetSource(
        path=path,
        roles=Roles(None, "", None),
        shards=[],
        columns=[],
        captions=Captions("member", "txt"),
        images=(),
        named=tuple(name.lower() for name in (columns.image, columns.caption) if name),
        key=key,
        sidecars={name: sidecars[tar] for name, tar in zip(names, tars, strict=True) if sidecars.get(tar) in schemas},
        strict=strict,
        broken=faults.found,
        notes=faults.notes,
        layout="files" if folders else "webdataset",
    )
    source.shards = [source._open(name, tar, sidecars.get(tar), faults) for name, tar in zip(names, tars, strict=True)]
    faults.check(path, source.shards)
    source.shards = [shard for shard in source.shards if shard.rows or not shard.broken]
    source._detect(schemas, columns, faults)
    identifier = None if columns.id == "none" else (key if schemas else "__key__")
    source.roles = replace(source.roles, id=identifier)
    if identifier:
        unique = UniqueIds()
        for shard in source.shards:
            unique.add(list(source._ids(shard)))
        again = ((shard.path, found) for shard in source.shards for found in source._ids(shard))
        unique.check(again, f"the keys of the samples of {path}", "number the rows with --id-column none")
    return source


def _sidecar_schemas(files: Sequence[str], faults: Faults) -> dict[str, pa.Schema]:
    """The schemas of the sidecars that can be read."""
    schemas = {}
    for file in files:
        try:
            schemas[file] = read_schema(file)
        except CorruptFile as error:  # noqa: PERF203
            faults.add(error)
    return schemas


def _key_column(tar: str, schemas: Mapping[str, pa.Schema], id_column: str | None) -> str:
    """The sidecars' column that a tar's keys are in.  tar: the first of the source."""
    names = KEYS if id_column in (None, "none") else (str(id_column),)
    if not schemas:
        if names[-1] not in KEYS:
            raise UserError(
                f"the samples of {tar} have no ids but their keys: leave --id-column out, or number them with "
                "--id-column none"
            )
        return KEYS[0]
    for file, schema in schemas.items():
        found = next((name for name in names if name in schema.names), None)
        if found is None:
            raise UserError(
                f"{file} has no column {names[0]!r} that says which sample of the tar a row is about: "
                "move it elsewhere, or name another with --id-column"
            )
        names = (found,)
    check_same_roles(schemas, column_types(schemas), {names[0]: id_kind})
    return names[0]


def _pairs(found: Index, named: Sequence[str] = ()) -> tuple[tuple[SampleIndex, ...], list[str]]:
    """The samples that are pairs, or should be; and the names of all members that belong to none.

    A sample of which neither the image nor the caption is left is known by what else the pairs have. A README or a list
    of classes has nothing of these.
    """
    known = {*named, *IMAGES, *TEXTS}
    whole = [bool(known & {*sample.members, *map(last_part, sample.members)}) for sample in found.samples]
    extensions = {
        name for sample, is_one in zip(found.samples, whole, strict=True) if is_one for name in sample.members
    }
    pairs, unused = [], list(found.unused)
    for sample, is_one in zip(found.samples, whole, strict=True):
        if is_one or extensions & sample.members.keys():
            pairs.append(sample)
        else:
            unused += [member.name for member in sample.members.values()]
    return tuple(pairs), unused


@dataclass
class WebdatasetSource:
    """Tars, their sidecars joined by key; see `Source`. Holds no open file.

    With a sidecar the rows are the sidecar's, then the samples that it does not have; without, the samples in order.
    captions: where they are.  images: extensions of members that hold an image, the preferred one first.
    key: the sidecars' column of keys.  sidecars: by shard name, those that can be read.  named: extensions that the
    user named.  encoding: that of the captions that are not UTF-8, None where it is not recognised or not needed.
    """

    path: str
    roles: Roles
    shards: list[Shard]
    columns: list[str]
    captions: Captions
    images: tuple[str, ...]
    key: str
    sidecars: dict[str, str]
    named: tuple[str, ...] = ()
    encoding: str | None = None
    strict: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    layout: str = "webdataset"
    many: bool = False
    vectors: str | None = None

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        reader = _Reader(self, shard.path, images)
        try:
            for row, entry in enumerate(islice(self._entries(shard), shard.rows)):
                identifier = entry.key if self.roles.id and entry.key is not None else f"{shard.name}:{row}"
                if entry.place is None:
                    captions, _ = self.as_captions(entry.caption)
                    reason = entry.reason if images or entry.lost else None
                    yield Row(row, identifier, None, captions, self.many, reason)
                else:
                    yield replace(reader.row(entry.place, entry.caption), row=row, id=identifier)
        finally:
            reader.close()

    def batches(self, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the sidecar or, where there is none, fields of KEY.json and texts of members (KEY.cls)."""
        sidecar = self.sidecars.get(shard.name)
        if sidecar is not None:
            rows = shard.rows
            for batch in columns_of(sidecar, columns, rows):
                rows -= len(batch)
                yield batch
            if rows:
                yield nulls(schema_of(sidecar, columns), rows)
            return
        missing = sorted(set(columns) - set(self.columns))
        if missing:
            raise UserError(f"{shard.path} has no column {missing[0]!r}; there are {', '.join(self.columns)}")
        with open_archive(shard.path) as archive:
            entries = islice(self._entries(shard), shard.rows)
            while found := [self._labels(archive, entry.place, columns) for entry in islice(entries, TEXT_BATCH)]:
                yield pa.RecordBatch.from_arrays([column_of([f.get(n) for f in found]) for n in columns], list(columns))

    def sample(self, shard: Shard, count: int) -> Iterator[Row]:
        reader = _Reader(self, shard.path, True)
        step = max(1, shard.rows // count)
        try:
            for row, entry in enumerate(islice(self._entries(shard), shard.rows)):
                if row % step == 0 and entry.place is not None:
                    yield replace(reader.row(entry.place, entry.caption), row=row)
        finally:
            reader.close()

    def image(self, shard: Shard, row: int) -> bytes:
        entry = next(islice(self._entries(shard), row, None), None) if 0 <= row < shard.rows else None
        if entry is None:
            raise UserError(f"{shard.path} has no row {row}")
        found = lost_row(shard, row, entry.reason or "", self.many)
        if entry.place is not None:
            reader = _Reader(self, shard.path, True)
            try:
                found = reader.row(entry.place, None)
            finally:
                reader.close()
        if found.image is None:
            raise UserError(f"row {row} of {shard.path} has no image to show: {found.reason}")
        return found.image

    def samples(self, shard: Shard) -> Iterator[tuple[int, Sample]]:
        """A shard's samples in the order of its rows, each with its row; rows without a sample are left out."""
        entries = islice(self._entries(shard), shard.rows)
        there = [(row, entry.place) for row, entry in enumerate(entries) if entry.place is not None]
        places = tuple(place for _, place in there)
        yield from zip((row for row, _ in there), samples_at(shard.path, places), strict=True)

    # --- what a row is ---------------------------------------------------------------------------------------------

    def _index(self, shard: Shard) -> tuple[tuple[SampleIndex, ...], str | None]:
        found = index(shard.path, shard.fingerprint, self.named)
        return _pairs(found, self.named)[0], found.broken.reason if found.broken else None

    def _entries(self, shard: Shard) -> Iterator[_Entry]:
        """Every row; those that nothing is known of but their number come last, without end."""
        places, broken = self._index(shard)
        unclaimed = dict.fromkeys(range(len(places)))
        if shard.name in self.sidecars:
            of_key = {places[i].key: i for i in reversed(range(len(places)))}
            where = "tar" if self.layout == "webdataset" else "folder"
            missing = f"not in the {where} ({broken})" if broken else f"not in the {where}"
            for key, caption, status, error in self._sidecar_rows(self.sidecars[shard.name]):
                place = of_key.get(key)
                if place is None:
                    yield _Entry(key, None, caption, failed(status, error) or missing)
                else:
                    unclaimed.pop(place, None)
                    yield _Entry(key, places[place], caption)
        yield from (_Entry(places[i].key, places[i], None) for i in unclaimed)
        reason = broken or next((f"corrupt file: {what}" for what in self.broken.values()), "the row is lost")
        while True:
            yield _Entry(None, None, None, reason, lost=True)

    def _sidecar_rows(self, sidecar: str) -> Iterator[tuple[str, Any, Any, Any]]:
        caption = self.sidecar_caption(read_schema(sidecar))
        more = [name for name in (caption, "status", "error_message") if name]
        for _, piece in readable_batches(sidecar, [self.key, *more], batch_rows=TEXT_BATCH):
            if isinstance(piece, Gap):  # the keys were read when the source was opened
                if self.strict:
                    raise UserError(f"{sidecar} has rows that cannot be read: {piece.reason}")
                for _, keys in readable_batches(sidecar, [self.key], batch_rows=TEXT_BATCH, groups=[piece.group]):
                    if isinstance(keys, Gap):
                        raise CorruptFile(sidecar, "has keys that can no longer be read")
                    yield from ((key, None, None, None) for key in map(str, texts(keys.column(0))[piece.offset :]))
                continue
            found = [
                (raw_texts if name == caption else texts)(piece.column(name))
                if name in piece.schema.names
                else [None] * len(piece)
                for name in (self.key, caption or "", "status", "error_message")
            ]
            yield from ((str(key), *rest) for key, *rest in zip(*found, strict=True))

    def sidecar_caption(self, schema: pa.Schema) -> str | None:
        """The sidecar's column of captions, also where they are read from elsewhere."""
        if self.captions.place == "sidecar" and self.captions.name in schema.names:
            return self.captions.name
        texts = [field.name for field in schema if caption_kind(field.type)]
        known = (name for name in texts if name.lower() in CAPTION_NAMES)
        return next((name for name in (self.captions.name, "caption") if name in texts), None) or next(known, None)

    def _ids(self, shard: Shard) -> Iterator[str]:
        return (
            f"{shard.name}:{row}" if entry.key is None else entry.key
            for row, entry in enumerate(islice(self._entries(shard), shard.rows))
        )

    def as_captions(self, value: Any) -> tuple[tuple[str | None, ...], str | None]:
        """A row's captions, and what is wrong with them."""
        found = value if self.many and isinstance(value, list) else [value]
        captions = tuple(decode(text, self.encoding) if isinstance(text, bytes) else text for text in found)
        if any(text is None and isinstance(raw, bytes) for text, raw in zip(captions, found, strict=True)):
            known = tuple(text if isinstance(text, str) else None for text in captions)
            return known, None if self.many else UNKNOWN_ENCODING
        if all(text is None or isinstance(text, str) for text in captions):
            return captions or (None,), None
        return (None,), f"its caption is {type(value).__name__}, not text"

    def fields(self, archive: Archive, place: SampleIndex | None) -> dict[str, Any]:
        """KEY.json, where it is there and an object."""
        member = None if place is None else place.members.get("json")
        if member is None or member.problem or member.size > _MAX_TEXT:
            return {}
        try:
            found = as_unicode(json.loads(decode(archive.read(member), self.encoding) or ""))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _labels(self, archive: Archive, place: SampleIndex | None, columns: Sequence[str]) -> dict[str, Any]:
        """The fields of KEY.json and, for columns that are none of them, what KEY.<column> says."""
        found = self.fields(archive, place)
        for name in columns:
            member = None if place is None or name in IMAGES else place.members.get(name)
            if name not in found and member and not member.problem and member.size <= _MAX_LABEL:
                with suppress(UnicodeDecodeError):
                    found[name] = archive.read(member).decode("utf-8").strip()
        return found

    # --- finding out -----------------------------------------------------------------------------------------------

    def _open(self, name: str, tar: str, sidecar: str | None, faults: Faults) -> Shard:
        """One shard: how many rows it has, and whether anything of it can be read."""
        fingerprint = file_fingerprint(tar, *([sidecar] if sidecar else []))
        found = index(tar, fingerprint, self.named)
        places, unused = _pairs(found, self.named)
        if found.broken:
            faults.add(found.broken)
        faults.note_unused(tar, unused, "member")
        _check_apart(tar, places)
        rows = self._count(name, tar, places, found.broken is not None, sidecar, faults)
        return Shard(name, tar, rows, fingerprint, found.broken.reason if found.broken and not places else None)

    def _count(
        self, name: str, tar: str, places: Sequence[SampleIndex], broken: bool, sidecar: str | None, faults: Faults
    ) -> int:
        """The rows of a shard. Where the sidecar is broken, it is left out, and what it has more is lost."""
        if sidecar is None:
            return max(len(places), counted(tar, "successes") if broken else 0)
        if name not in self.sidecars:
            return max(len(places), counted(tar))
        keys: dict[str, None] = {}  # a set that keeps its order
        rows = 0
        try:
            for batch in record_batches(sidecar, [self.key], batch_rows=TEXT_BATCH):
                rows += len(batch)
                if batch.column(0).null_count:
                    raise UserError(
                        f"column {self.key!r} of {sidecar} has nulls, so that its rows cannot be told apart"
                    )
                keys.update(dict.fromkeys(map(str, texts(batch.column(0)))))
        except CorruptFile as error:
            faults.add(error)
            del self.sidecars[name]
            with opened(sidecar) as parquet:
                return max(len(places), parquet.metadata.num_rows)
        both = keys.keys() & {place.key for place in places}
        if keys and places and not both:
            raise UserError(
                f"no key in column {self.key!r} of {sidecar} is in the tar (the first are {next(iter(keys))!r} and "
                f"{places[0].key!r}): name the right column with --id-column, or move the Parquet file elsewhere"
            )
        return rows + len(places) - len(both)

    def _detect(self, schemas: Mapping[str, pa.Schema], columns: Columns, faults: Faults) -> None:
        """Find the images, the captions and the columns."""
        kinds: Counter[str] = Counter()
        together: dict[tuple[str, str], list[str]] = {}
        for shard in self.shards:
            for sample in self._index(shard)[0]:
                kinds.update(sample.members.keys())
                for pair in combinations(sorted(IMAGES & sample.members.keys()), 2):
                    together.setdefault(pair, []).append(f"{sample.key} of {shard.path}")
        self.images = find_images(self.path, kinds, together, columns.image, faults) if kinds else ("jpg",)
        fields: dict[str, Any] = {}
        shard, places = next(
            ((shard, places) for shard in self.shards if (places := self._index(shard)[0])), (self.shards[0], ())
        )
        self.encoding = guess(filter(needs_guess, self._texts("json", [(shard, places[:_LOOKED_AT])])))
        with open_archive(shard.path) as archive:
            for place in places[:_LOOKED_AT]:
                fields = {**self.fields(archive, place), **fields}
        self.columns = list(dict.fromkeys(chain(*[schema.names for schema in schemas.values()][:1] or [kinds, fields])))
        self.captions = find_captions(
            self.path, kinds, fields, column_types(schemas) if schemas else {}, columns.caption
        )
        self.many = self.captions.many
        self.encoding = guess(filter(needs_guess, self._raw_captions()))
        self.roles = replace(self.roles, image=self.images[0], caption=self.captions.name)

    def _raw_captions(self) -> Iterator[bytes]:
        """Captions from all over the source, as bytes where they may be of any encoding."""
        if self.captions.place == "sidecar":
            rows = (caption for sidecar in self.sidecars.values() for _, caption, *_ in self._sidecar_rows(sidecar))
            for value in islice(rows, _TEXTS_HERE):
                yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, bytes))
            return
        each = (_TEXTS_REMOTE if is_remote(self.path) else _TEXTS_HERE) // len(self.shards) + 1
        all_places = ((shard, self._index(shard)[0]) for shard in self.shards)
        some = ((shard, places[:: max(1, len(places) // each)]) for shard, places in all_places)
        yield from self._texts(self.captions.name if self.captions.place == "member" else "json", some)

    def _texts(self, extension: str, some: Iterable[tuple[Shard, Sequence[SampleIndex]]]) -> Iterator[bytes]:
        """The members of this extension of some samples, as they are in the tars."""
        for shard, places in some:
            with open_archive(shard.path) as archive:
                for place in places:
                    member = place.members.get(extension)
                    if member is not None and member.problem is None and member.size <= _MAX_TEXT:
                        yield archive.read(member)


def _check_apart(tar: str, places: Sequence[SampleIndex]) -> None:
    """Raises UserError where several samples of one key lie in each other, so that nothing tells what is whose."""
    of_key: dict[str, list[SampleIndex]] = {}
    for place in places:
        of_key.setdefault(place.key, []).append(place)
    for key, found in of_key.items():
        alike = len({frozenset(place.members) for place in found}) == 1
        if len(found) > 1 and not (alike and all(place.adjacent for place in found)):
            raise UserError(
                f"{tar} has several samples called {key!r}, whose members lie apart, so that nothing tells which "
                "belong together: give each sample a name of its own"
            )


@dataclass(frozen=True)
class _Entry:
    """A row as it is known without its content.  lost: whether nothing but its number is known."""

    key: str | None
    place: SampleIndex | None
    caption: Any
    reason: str | None = None
    lost: bool = False


class _Reader:
    """Reads samples from one tar, by their places."""

    def __init__(self, source: WebdatasetSource, path: str, images: bool) -> None:
        self._source, self._images = source, images
        self._archive = open_archive(path)

    def close(self) -> None:
        self._archive.close()

    def row(self, place: SampleIndex, of_sidecar: Any) -> Row:
        many = self._source.many
        if place.problem:
            return Row(0, place.key, None, (None,), many, place.problem)
        value = self._caption(place, of_sidecar)
        captions, reason = self._source.as_captions(value)
        image: bytes | None = None
        if self._images:
            member = next((place.members[kind] for kind in self._source.images if kind in place.members), None)
            if member is None:
                reason = "no image in the tar" if self._source.layout == "webdataset" else "no image beside it"
            elif not reason:
                image = self._archive.read(member) or None
                reason = None if image else "the image is empty"
        return Row(0, place.key, image, captions, many, reason if self._images else None)

    def _caption(self, place: SampleIndex, of_sidecar: Any) -> Any:
        where = self._source.captions
        if where.place == "member":
            member = place.members.get(where.name)
            if member is None or member.size > _MAX_TEXT:
                return None
            return self._archive.read(member)
        if where.place == "sidecar" and of_sidecar is not None:
            return of_sidecar
        return self._source.fields(self._archive, place).get(where.name)
