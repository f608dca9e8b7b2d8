"""Labels in and out: a table of those that were given, a sheet to fill in elsewhere, labels made elsewhere."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import written_whole
from ..pairs import UserError
from ..run import Run
from ..run.results import open_embeddings
from .labels import ANSWERS, CANNOT_TELL, LABEL_SCHEMA, Label, Labels
from .sample import Design

#: What a sheet asks people to fill in, and other words for it.
_WORDS = {
    **{answer: answer for answer in ANSWERS},
    **{answer.replace("_", " "): answer for answer in ANSWERS},
    "1": "belongs",
    "2": "partly",
    "3": "does_not",
    "4": "cannot_tell",
    "yes": "belongs",
    "no": "does_not",
    "match": "belongs",
    "mismatch": "does_not",
    "unsure": CANNOT_TELL,
}
_SHEET_SIDE = 480  # pixels of a picture in a sheet


@dataclass(frozen=True)
class Imported:
    """What became of the labels of a file.

    drawn: labels of pairs that the design had drawn, or that are copies of such; they count for the estimate.
    not_drawn: kept, but nobody knows how these pairs were chosen, so that they say nothing about the others.
    mismatched_not_drawn: how many of the latter do not belong.  empty: rows without an answer.
    """

    drawn: int
    not_drawn: int
    mismatched_not_drawn: int
    empty: int


def export_labels(labels: Labels, path: Path) -> int:
    """Write every answer that is not withdrawn to a .csv or .parquet file, in the order given; returns how many."""
    given = [label for reviewer in labels.reviewers for label in labels.history(reviewer)]
    rows = [vars(label) for label in sorted(given, key=lambda label: label.labelled_at)]
    if path.suffix.lower() == ".parquet":
        with written_whole(path) as file:
            pq.write_table(pa.Table.from_pylist(rows, LABEL_SCHEMA), file)
    elif path.suffix.lower() == ".csv":
        with written_whole(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, LABEL_SCHEMA.names)
            writer.writeheader()
            writer.writerows({**row, "labelled_at": row["labelled_at"].isoformat()} for row in rows)
            text.detach()
    else:
        raise UserError(f"{path} has no known format: end its name in .csv or .parquet")
    return len(rows)


def import_labels(run: Run, sample: Design, labels: Labels, path: Path, reviewer: str) -> Imported:
    """Take labels from a file: a filled-in sheet (.csv), a table with `pair_id` and `answer` (.csv, .parquet), or an
    export of Label Studio (.json) or Argilla (.jsonl, .json) whose records carry the `pair_id`.

    reviewer: who gave them, where the file does not say.
    Raises UserError for an unknown pair or answer; nothing is taken then.
    """
    given = [(str(pair_id), answer, by or reviewer) for pair_id, answer, by in _answers(path)]
    answered = [(pair_id, word(answer, path), by) for pair_id, answer, by in given if answer]
    row_of = _rows(run, {pair_id for pair_id, _, _ in answered}, path)
    drawn = {sample.unit(row) for row in sample.drawn}
    now = datetime.now(timezone.utc)
    new = [Label(pair_id, *sample.unit(row_of[pair_id]), answer, by, now) for pair_id, answer, by in answered]
    labels.add(new)
    others = [label for label in new if label.unit not in drawn]
    mismatched = sum(1 for label in others if label.answer == "does_not")
    return Imported(len(new) - len(others), len(others), mismatched, len(given) - len(answered))


def word(text: str, path: Path) -> str:
    known = _WORDS.get(str(text).strip().lower())
    if known is None:
        raise UserError(f"{path} holds the answer {text!r}: answers are {', '.join(ANSWERS)}")
    return known


def write_sheet(run: Run, sample: Design, labels: Labels, path: Path) -> int:
    """Write the drawn pairs that are not labelled yet, at least as many as are planned, to label them elsewhere.

    path: .csv to be filled in and imported, or .html with the pictures, which writes such a .csv itself.  Returns the
    number of pairs.
    """
    if path.suffix.lower() not in (".csv", ".html"):
        raise UserError(f"{path} has no known format: end its name in .csv or .html")
    sample.refresh()
    while len(sample.drawn) < sample.labels and sample.draw(labels):
        pass
    units = {sample.unit(row): row for row in reversed(sample.drawn) if labels.answer(sample.unit(row)) is None}
    rows = sorted(units.values(), key={row: place for place, row in enumerate(sample.drawn)}.__getitem__)
    found = list(_described(run, rows))
    if path.suffix.lower() == ".csv":
        with written_whole(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(["pair_id", "shard", "row", "caption", "answer"])
            writer.writerows([pair_id, shard, row, caption, ""] for pair_id, shard, row, caption in found)
            text.detach()
    else:
        with written_whole(path) as file:
            file.write(_sheet_page(run, found).encode())
    return len(found)


def _described(run: Run, rows: list[int]) -> Iterator[tuple[str, str, int, str]]:
    """pair_id, shard, row in the shard, and caption."""
    emb = open_embeddings(run)
    tables: dict[str, pa.Table] = {}
    for row in rows:
        shard = int((emb.shard_offsets <= row).sum()) - 1
        name = emb.shard_names[shard]
        table = tables.setdefault(name, emb.pair_table(name).select(["pair_id", "row", "caption"]))
        found = table.slice(row - int(emb.shard_offsets[shard]), 1).to_pylist()[0]
        yield found["pair_id"], name, found["row"], found["caption"] or ""


def _sheet_page(run: Run, found: list[tuple[str, str, int, str]]) -> str:
    from .page.pictures import Pictures

    pictures = Pictures(run, _SHEET_SIDE)
    items = []
    for pair_id, shard, row, caption in found:
        try:
            data = base64.b64encode(pictures.jpeg(shard, row)).decode()
            picture = f'<img loading="lazy" alt="" src="data:image/jpeg;base64,{data}">'
        except UserError as reason:
            picture = f"<p>This picture cannot be shown: {html.escape(str(reason))}</p>"
        options = "".join(f"<option>{answer}</option>" for answer in ("", *ANSWERS))
        name = html.escape(pair_id, quote=True)
        choice = f'<select aria-label="answer" data-pair="{name}">{options}</select>'
        items.append(f'<li>{picture}<p dir="auto">{html.escape(caption)}</p>{choice}</li>')
    page = Path(__file__).parent / "page" / "sheet.html"
    return page.read_text(encoding="utf-8").replace("<!--pairs-->", "\n".join(items))


def _rows(run: Run, wanted: set[str], path: Path) -> dict[str, int]:
    emb, found = open_embeddings(run), dict[str, int]()
    values = pa.array(sorted(wanted), pa.string())
    for name, start in zip(emb.shard_names, emb.shard_offsets[:-1], strict=True):
        ids = emb.pair_table(name)["pair_id"]
        places = pc.indices_nonzero(pc.is_in(ids, value_set=values)).to_numpy().astype(np.int64)
        found.update(zip(ids.take(pa.array(places)).to_pylist(), (places + start).tolist(), strict=True))
    unknown = sorted(wanted - found.keys())
    if unknown:
        raise UserError(f"{path} labels {len(unknown)} pairs that {run.path} does not hold, such as {unknown[0]!r}")
    return found


def _answers(path: Path) -> Iterator[tuple[Any, Any, str | None]]:
    """pair_id, answer and reviewer of each record."""
    try:
        if path.suffix.lower() == ".parquet":
            records = pq.read_table(path).to_pylist()
        elif path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                records = list(csv.DictReader(file))
        elif path.suffix.lower() == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif path.suffix.lower() == ".json":
            records = json.loads(path.read_text(encoding="utf-8"))
        else:
            raise UserError(f"{path} has no known format: end its name in .csv, .parquet, .json or .jsonl")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path} holds something other than a list of records: export it again")
        yield from _record(record, path)


def _record(record: dict[str, Any], path: Path) -> Iterator[tuple[Any, Any, str | None]]:
    if "annotations" in record:  # Label Studio
        pair_id = (record.get("data") or {}).get("pair_id")
        for annotation in record["annotations"]:
            for result in annotation.get("result", ()):
                for choice in result.get("value", {}).get("choices", ()):
                    yield _known(pair_id, path), choice, _name(annotation.get("completed_by"))
    elif "responses" in record:  # Argilla
        pair_id = (record.get("metadata") or {}).get("pair_id") or (record.get("fields") or {}).get("pair_id")
        for given in record["responses"].get("answer", ()):
            yield _known(pair_id, path), given["value"], _name(given.get("user_id"))
    else:
        if not {"pair_id", "answer"} <= record.keys():
            raise UserError(f"{path} has no columns `pair_id` and `answer`: name them so")
        yield _known(record["pair_id"], path), record["answer"], record.get("reviewer")


def _known(pair_id: Any, path: Path) -> Any:
    if not pair_id:
        raise UserError(f"{path} has a record without a pair_id: export the pair_id with the labels")
    return pair_id


def _name(who: Any) -> str | None:
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)
