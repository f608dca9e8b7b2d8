"""Tables that are no Parquet: CSV and TSV, JSON lines and JSON documents, Arrow files; each read like a Parquet file.

The texts of a file are held in memory, all at once. Images are paths; Arrow files, which may hold them, are mapped.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..pairs import UserError
from .base import IMAGES, counted_as
from .encoding import decode, guess
from .storage import CorruptFile, ending, is_remote, open_file, stamp

_SEPARATORS = ("\t", ",", ";", "|")
#: Marks of where an image stands in a text (LLaVA, Data-Juicer), which are no part of the caption.
_MARKS = re.compile(r"\s*(?:<image>|<__dj__image>|<\|__dj__eoc\|>)\s*")


@dataclass(frozen=True)
class Document:
    """A table in memory, with as much of `pyarrow.parquet.ParquetFile` as reading shards takes.

    note: what of the file is no row, None where everything is.
    """

    table: pa.Table
    note: str | None = None
    num_row_groups: int = 1

    @property
    def schema_arrow(self) -> pa.Schema:
        return self.table.schema

    @property
    def metadata(self) -> Document:
        return self

    @property
    def num_rows(self) -> int:
        return len(self.table)

    def row_group(self, _: int) -> Document:
        return self

    def iter_batches(
        self, batch_rows: int, *, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        names = self.table.column_names
        table = self.table.select([name for name in names if columns is None or name in columns])
        if not table.column_names:
            return
        for start in range(0, len(table), batch_rows):
            piece = table.slice(start, batch_rows).combine_chunks()
            yield from piece.to_batches()


def open_document(path: str) -> Document:
    """The table of a file whose ending is one of ENDINGS.  Raises CorruptFile where it cannot be read."""
    return _opened(path, stamp(path))


@functools.lru_cache(maxsize=8)
def _opened(path: str, _: str) -> Document:
    kind = ending(path)
    if kind not in READERS:
        return Document(_arrow(path))
    with open_file(path) as file:
        return READERS[kind](path, _text(path, bytes(file.read())))


def _arrow(path: str) -> pa.Table:
    with open_file(path) as file:
        start = bytes(file.read(6))
    packed = not start.startswith((b"ARROW1", b"\xff\xff\xff\xff"))
    source = open_file(path) if is_remote(path) or packed else pa.memory_map(path)
    try:
        reader = pa.ipc.open_file(source) if start.startswith(b"ARROW1") else pa.ipc.open_stream(source)
        table = reader.read_all()
        for column in table.columns:  # Arrow trusts offsets, and would read beyond the file
            for chunk in column.chunks:
                chunk.view(_as_bytes(chunk.type)).validate(full=True)
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a name of a column can be damaged, too
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptFile(path, f"cannot be read as Arrow ({first})") from error


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with bytes instead of texts, which need not be UTF-8."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(_as_bytes(kind.value_type))
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    return kind


def _text(path: str, data: bytes) -> str:
    text = decode(data, guess([data]) if decode(data) is None else None)
    if text is None:
        raise UserError(f"{path} is not UTF-8, and its encoding is not recognised: save it as UTF-8")
    return text


# --- CSV --------------------------------------------------------------------------------------------------------------


def _from_csv(path: str, text: str) -> Document:
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = functools.partial(csv.reader, delimiter=separator, skipinitialspace=f"{separator} " in first)
    csv.field_size_limit(1 << 27)
    try:
        rows = [row for row in reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise CorruptFile(path, f"cannot be read as CSV ({error})") from error
    if not rows:
        return Document(pa.table({}))
    by_line = None if '"' not in text else _by_line(text, rows, reader)
    names, *records = by_line or rows
    if any(ending(name) in IMAGES for name in names):
        raise UserError(
            f"{path} has no names of its columns in its first line, but {names[0][:60]!r}: add a line such as "
            f"'image{separator}caption'"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of one name in its first line: give each a name of its own")
    uneven = sum(len(record) != len(names) for record in records)
    last = len(names) - 1  # often the caption, whose separators were not quoted
    records = [[*row[:last], separator.join(row[last:])] if len(row) > len(names) else row for row in records]
    columns = {
        name: pa.array([record[i] if i < len(record) else None for record in records], pa.string())
        for i, name in enumerate(names)
    }
    notes = [f"has {counted_as(uneven, 'line')} with more or fewer fields than its first line"] if uneven else []
    notes += ["has quotes that do not enclose fields, so that each line is read by itself"] if by_line else []
    return Document(pa.table(columns), "; ".join(notes) or None)


def _by_line(text: str, rows: list[list[str]], reader: Callable[..., Iterator[list[str]]]) -> list[list[str]] | None:
    """One row per line where quotes are part of the texts; None where they delimit fields, also of several lines.

    rows: as read with quotes that delimit; one that is never closed joins all lines up to the next quote in one row.
    """
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line]
    try:
        for _ in reader(io.StringIO(text, newline=""), strict=True):
            pass
        closed = True
    except csv.Error:
        closed = False
    if closed and len(lines) == len(rows):
        return None
    names, *records = rows
    found = [_fields(line, reader) for line in lines]
    if closed:  # captions of several lines, or captions that begin with a quote
        of_pictures = [i for i in range(len(names)) if all(_names_picture(row, i) for row in records)]
        if not of_pictures or not all(_names_picture(row, i) for row in found[1:] for i in of_pictures):
            return None
    uneven, uneven_by_line = (sum(len(row) != len(names) for row in some) for some in (rows, found))
    return found if uneven_by_line <= uneven else None


def _fields(line: str, reader: Callable[..., Iterator[list[str]]]) -> list[str]:
    """The fields of a line; with their quotes, where these do not delimit them."""
    try:
        return next(reader([line], strict=True))
    except csv.Error:
        return next(reader([line], quoting=csv.QUOTE_NONE))


def _names_picture(row: list[str], column: int) -> bool:
    return column < len(row) and ending(row[column]) in IMAGES


# --- JSON -------------------------------------------------------------------------------------------------------------


def _from_lines(path: str, text: str) -> Document:
    records: list[Mapping[str, Any]] = []
    bad = 0
    for line in text.split("\n"):
        if line.strip():
            found = _parsed(line)
            bad += not isinstance(found, dict)
            records.append(found if isinstance(found, dict) else {})
    note = f"has {counted_as(bad, 'line')} that {'is' if bad == 1 else 'are'} no JSON object" if bad else None
    return Document(_table(path, records), note)


def _from_json(path: str, text: str) -> Document:
    found = _parsed(text)
    if isinstance(found, dict) and isinstance(found.get("images"), list) and isinstance(found.get("annotations"), list):
        return _coco(path, found["images"], found["annotations"])
    if isinstance(found, dict):  # columns of equal length, or one list under some name
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise UserError(f"{path} is no list of objects and no COCO captions: write one JSON object a line, as .jsonl")
    return Document(_table(path, found))


def _parsed(text: str) -> Any:
    try:
        return as_unicode(json.loads(text))
    except (ValueError, RecursionError):
        return None


def as_unicode(value: Any) -> Any:
    """The same JSON, with U+FFFD for halves of surrogate pairs, which JSON can hold but UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [as_unicode(one) for one in value]
    return {as_unicode(name): as_unicode(one) for name, one in value.items()} if isinstance(value, dict) else value


def _coco(path: str, images: Sequence[Any], annotations: Sequence[Any]) -> Document:
    """COCO captions: a row an image, with the list of its captions in their order."""
    try:
        rows = [{"id": image["id"], "file_name": image["file_name"], "captions": []} for image in images]
        captions: dict[Any, list[Any]] = {row["id"]: row["captions"] for row in rows}
        alone = 0
        for annotation in annotations:
            image, caption = annotation["image_id"], annotation["caption"]
            alone += image not in captions
            captions.get(image, []).append(caption)
    except (KeyError, TypeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no COCO captions file ({missing}): every image needs id and file_name, every annotation "
            "image_id and caption"
        ) from None
    if len(captions) < len(rows):
        raise UserError(f"{path} has several images of one id, so that nothing tells whose a caption is: number them")
    return Document(
        _table(path, rows), f"has {counted_as(alone, 'caption')} of images it does not list" if alone else None
    )


def _table(path: str, records: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    turns = next((name for name in ("conversations", "messages") if name in columns), None)
    if turns is not None and "caption" not in columns:
        columns["caption"] = [_answer(path, value) for value in columns[turns]]
    for name in ("text", "caption"):
        if name in columns and {"image", "images"} & columns.keys():
            columns[name] = [
                _MARKS.sub(" ", t).strip() if isinstance(t, str) and "<" in t else t for t in columns[name]
            ]
    return pa.table({name: column_of(values) for name, values in columns.items()})


def _answer(path: str, turns: Any) -> str | None:
    """The caption of a conversation: its one answer.  Raises UserError where there are several."""
    if not isinstance(turns, list):
        return None
    spoken = [turn for turn in turns if isinstance(turn, dict)]
    said = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in spoken]
    answers = [text for who, text in said if who in ("gpt", "assistant", "model")]
    if len(answers) > 1:
        raise UserError(
            f"{path} has conversations of several answers, and a pair has one caption: keep the answer that describes "
            "the image, as a field `caption`"
        )
    return answers[0] if answers and isinstance(answers[0], str) else None


def column_of(values: list[Any]) -> pa.Array:
    """JSON values as a column; where they are of several types, each as JSON."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else json.dumps(value) for value in values])


#: What makes a table of the path and the text of a file, by the ending of the file's name.
READERS: dict[str, Callable[[str, str], Document]] = {
    "csv": _from_csv,
    "tsv": _from_csv,
    "txt": _from_csv,
    "jsonl": _from_lines,
    "ndjson": _from_lines,
    "json": _from_json,
}
#: The endings of files that are read here, also with the ending of a compression behind it.
ENDINGS = frozenset([*READERS, "arrow"])
