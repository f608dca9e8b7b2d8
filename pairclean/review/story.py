"""Everything that a run knows about one pair."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..align import Alignment, ZeroShot
from ..embed import Embeddings
from ..pairs import UserError, Verdict
from ..run import Run
from ..run.results import open_embeddings, open_judgement, open_learned, open_rematches
from ..run.source import embedded_source

NEAREST = 5
_CHUNK = 65_536
_PROMPT = 20_000  # at most this many identifiers are compared letter by letter


@dataclass(frozen=True)
class Near:
    """A pair whose caption (or image) is near, and its cosine similarity in the space in which the pair was judged."""

    pair_id: str
    caption: str | None
    similarity: float


@dataclass(frozen=True)
class Story:
    """What a run knows about one pair.

    verdict: its row of the verdicts.  caption: as in the source.  source: the file of its shard, None if it is gone.
    why: the reason for the verdict, in a sentence.  captions: the pairs with the captions nearest to its image.
    images: the pairs with the images nearest to its caption; both without its own.
    caption_rank: the rank of its own caption among the `caption_count` distinct captions, by similarity to its image.
    If the pair was not judged, the lists are empty and the ranks None.
    """

    verdict: dict[str, Any]
    caption: str | None
    source: str | None
    why: str
    captions: list[Near]
    images: list[Near]
    caption_rank: int | None = None
    caption_count: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def story(run: Run, pair_id: str) -> Story:
    """Everything that a finished run knows about one pair.

    Raises UserError if the run is not finished or has no such pair; the sentence suggests similar ids.
    """
    place, verdict = _find(run, pair_id)
    emb = open_embeddings(run)
    row = int(emb.shard_offsets[run.shards.index(verdict["shard"])]) + place
    table = emb.pair_table(verdict["shard"]).slice(place, 1)
    told = {
        "verdict": verdict,
        "caption": table["caption"][0].as_py(),
        "source": _source_file(run, verdict["shard"]),
        "why": _why(verdict, open_rematches(run).flag_below),
    }
    if verdict["clean_probability"] is None:
        return Story(**told, captions=[], images=[])
    return Story(**told, **_neighbours(emb, row, _space(run, int(emb.image_id[row]))))


def write_picture(run: Run, verdict: dict[str, Any], folder: Path) -> Path:
    """Write the pair's image, unchanged, to a new file in `folder`; returns its path.

    verdict: the pair's row of the verdicts.
    Raises UserError if the image is not available, or another file has that name.
    """
    source = embedded_source(run)
    shard = next(shard for shard in source.shards if shard.name == verdict["shard"])
    data = source.image(shard, verdict["row"])
    path = folder / (_safe_name(verdict["pair_id"]) + _ending(data))
    try:
        if path.exists() and path.read_bytes() != data:
            raise UserError(f"{path} already exists with other content: move it away first")
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def _find(run: Run, pair_id: str) -> tuple[int, dict[str, Any]]:
    """The pair's position within its shard, and its verdict."""
    run.must_be_done("export")
    if not _is_text(pair_id):
        raise UserError(f"{run.path} has no pair {pair_id!r}")
    for name in run.shards:
        path = run.path / "verdicts" / f"{name}.parquet"
        place = pc.index(pq.read_table(path, columns=["pair_id"])["pair_id"], pair_id).as_py()
        if place >= 0:
            return place, pq.read_table(path).slice(place, 1).to_pylist()[0]
    like = _ids_like(run, pair_id)
    hint = f"; similar ids are {', '.join(like)}" if like else ""
    raise UserError(f"{run.path} has no pair {pair_id!r}{hint}")


def _is_text(typed: str) -> bool:
    """Whether this is Unicode text; bytes typed into a terminal need not be."""
    try:
        typed.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ids_like(run: Run, pair_id: str) -> list[str]:
    """At most three identifiers that look like this one, among those with the longest common prefix."""
    everything = pa.chunked_array(
        [
            chunk
            for name in run.shards
            for chunk in pq.read_table(run.path / "verdicts" / f"{name}.parquet", columns=["pair_id"])["pair_id"].chunks
        ],
        pa.string(),
    )
    for length in (*range(len(pair_id) - 1, 1, -1), 0):
        ids = everything.filter(pc.starts_with(everything, pair_id[:length])).slice(0, _PROMPT).to_pylist()
        close = difflib.get_close_matches(pair_id, ids, n=3, cutoff=0.6)
        if close:
            return close
    return []


def _why(verdict: dict[str, Any], threshold: float) -> str:
    probability, reason = verdict["clean_probability"], verdict["reason"]
    kind = Verdict(verdict["verdict"])
    if kind is Verdict.UNREADABLE:
        return f"It cannot be read: {reason}."
    if kind is Verdict.UNJUDGED:
        return f"It was not judged: {reason}."
    said = f"Its clean probability is {probability:.3g}"
    if kind is Verdict.CLEAN:
        return f"{said}, so it is kept."
    if kind is Verdict.REMATCHED:
        sure, partner = verdict["rematch_probability"], verdict["rematch_pair_id"]
        return f"{said}, so it is flagged; the caption of {partner} fits it with a probability of {sure:.1%}."
    below = f", below {threshold:g}" if probability < threshold else ""
    return f"{said}{below}, so it is flagged; it got no other caption because {reason}."


def _space(run: Run, image_id: int) -> Alignment:
    """The space in which this image was judged: the encoder's own, or that of a model that never trained on it."""
    learned = open_learned(run)
    models = open_judgement(run).models(learned)
    if not models:
        return ZeroShot()
    (fold,) = learned.folds(np.array([image_id]))
    return models[fold % len(models)]


def _neighbours(emb: Embeddings, row: int, space: Alignment) -> dict[str, Any]:
    this = np.array([row])
    image, text = space.embed_image(emb.image[this])[0], space.embed_text(emb.text[this])[0]
    captions = _similarities(emb.text, space.embed_text, image)
    images = _similarities(emb.image, space.embed_image, text)
    captions[~emb.readable] = images[~emb.readable] = -np.inf
    texts, first = np.unique(emb.caption_id[emb.readable], return_index=True)
    distinct = captions[emb.readable][first]
    own = float(captions[row])
    return {
        "captions": _nearest(emb, captions, emb.caption_id, emb.caption_id[row]),
        "images": _nearest(emb, images, emb.image_id, emb.image_id[row]),
        "caption_rank": int((distinct > own).sum()) + 1,
        "caption_count": len(texts),
    }


def _similarities(vectors: Any, embed: Callable[[np.ndarray], np.ndarray], to: np.ndarray) -> np.ndarray:
    out = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = embed(vectors[part]) @ to
    return out


def _nearest(emb: Embeddings, similarity: np.ndarray, identity: np.ndarray, own: int) -> list[Near]:
    """The nearest pairs, each identity once, without the pair's own."""
    found: list[int] = []
    seen = {int(own)}
    for row in np.argsort(-similarity, kind="stable").tolist():
        if len(found) == NEAREST or not np.isfinite(similarity[row]):
            break
        if int(identity[row]) not in seen:
            seen.add(int(identity[row]))
            found.append(row)
    rows = np.array(found, np.int64)
    ids = _pair_ids(emb, rows)
    return [
        Near(pair_id, caption, float(similarity[row]))
        for pair_id, caption, row in zip(ids, emb.captions(rows), found, strict=True)
    ]


def _pair_ids(emb: Embeddings, rows: np.ndarray) -> list[str]:
    shard = np.searchsorted(emb.shard_offsets, rows, side="right") - 1
    local = rows - emb.shard_offsets[shard]
    return [
        emb.pair_table(emb.shard_names[s])["pair_id"][int(place)].as_py() for s, place in zip(shard, local, strict=True)
    ]


def _source_file(run: Run, shard_name: str) -> str | None:
    try:
        return next((shard.path for shard in run.open_source().shards if shard.name == shard_name), None)
    except UserError:  # the source was moved; the run still knows the pair
        return None


def _safe_name(pair_id: str) -> str:
    return re.sub(r"[^\w.-]+", "_", pair_id).strip("._")[:120] or "pair"


def _ending(data: bytes) -> str:
    from io import BytesIO

    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            kind = (image.format or "").lower()
    except Exception:  # not an image that Pillow reads: the bytes are written as they are
        return ".bin"
    return ".jpg" if kind == "jpeg" else f".{kind}"
