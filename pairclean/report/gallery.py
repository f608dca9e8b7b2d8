"""The report's gallery: which pairs are shown, their captions and thumbnails."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..pairs import Shard, UserError, Verdict
from ..sources import Source

#: The galleries, in the order of the page.
SECTIONS = ("mismatches", "borderline", "rematches", "clean")

THUMBNAIL_SIDE = 160
_IMAGE_BUDGET = 7_000_000  # characters of data URIs, so that the page stays below 10 MB


@dataclass(frozen=True)
class Pick:
    """A pair chosen for the gallery: its section, and its row of the verdicts."""

    section: str
    pair_id: str
    shard: str
    row: int
    caption_index: int
    verdict: str
    is_noisy: bool | None = None
    clean_probability: float | None = None
    similarity: float | None = None
    aligned_similarity: float | None = None
    rematch_pair_id: str | None = None
    rematch_caption: str | None = None
    rematch_probability: float | None = None
    reason: str | None = None
    noise_kind: str | None = None
    reason_code: str | None = None
    mismatched_text: str | None = None
    image_group: int | None = None
    caption_group: int | None = None

    @property
    def place(self) -> tuple[str, int]:
        return self.shard, self.row


@dataclass(frozen=True)
class Tile:
    """A pick as it is shown.

    image: a data URI, None if there is no picture.  problem: then the reason, or None if the source has no pictures.
    """

    pick: Pick
    caption: str | None
    image: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Gallery:
    tiles: tuple[Tile, ...] = ()

    def section(self, name: str) -> list[Tile]:
        return [tile for tile in self.tiles if tile.pick.section == name]


def choose_gallery(verdicts: Iterable[pa.Table], *, each: int = 24, flag_below: float = 0.5) -> list[Pick]:
    """The pairs to show, best first in each section.

    The sections are mismatches (the flagged pairs with the lowest clean probability), borderline (nearest to
    `flag_below`), rematches (highest rematch probability) and clean (highest clean probability).

    verdicts: tables with VERDICT_SCHEMA, read one by one; only the best so far are kept.  each: pairs per section.
    Within a section an image is shown once.  Ties go to the earlier pair.
    """
    best = {section: _Best(section, each) for section in SECTIONS}
    for table in verdicts:
        probability = _floats(table["clean_probability"])
        noisy = _mask(pc.fill_null(table["is_noisy"], False))
        best["mismatches"].offer(table, np.where(noisy, probability, np.nan))
        best["borderline"].offer(table, np.abs(probability - flag_below))
        rematched = _mask(pc.equal(table["verdict"], Verdict.REMATCHED.value))
        best["rematches"].offer(
            table, np.where(rematched, -np.nan_to_num(_floats(table["rematch_probability"])), np.nan)
        )
        clean = _mask(pc.equal(table["verdict"], Verdict.CLEAN.value))
        best["clean"].offer(table, np.where(clean, -probability, np.nan))
    return [pick for section in SECTIONS for pick in best[section].picks()]


def finding_section(number: int) -> str:
    """The section of the pairs that show a finding."""
    return f"finding {number}"


def pick_examples(verdicts: Iterable[pa.Table], examples: Sequence[np.ndarray]) -> list[Pick]:
    """The pairs that show each finding, in sections of `finding_section`.

    verdicts: as in `choose_gallery`.  examples: for each finding (n,) int64 pairs, by their place in all verdicts.
    """
    picks: dict[tuple[int, int], Pick] = {}
    start = 0
    for table in verdicts:
        for number, rows in enumerate(examples):
            for row in rows[(rows >= start) & (rows < start + len(table))].tolist():
                values = table.slice(row - start, 1).to_pylist()[0]
                picks[number, row] = Pick(section=finding_section(number), **values)
        start += len(table)
    return [picks[key] for key in sorted(picks)]


@dataclass
class _Best:
    """The `count` pairs with the lowest keys so far, at most one per image."""

    section: str
    count: int
    kept: list[tuple[float, Pick]] = field(default_factory=list)

    def offer(self, table: pa.Table, key: np.ndarray) -> None:
        """Consider a table of pairs.  key: (rows,) float64, lower is better, NaN where a pair does not qualify."""
        candidates = np.flatnonzero(~np.isnan(key))
        found: dict[tuple[str, int], tuple[float, Pick]] = {}
        for index in candidates[np.argsort(key[candidates], kind="stable")].tolist():
            full = len(self.kept) == self.count and key[index] >= self.kept[-1][0]
            if full or len(found) == self.count:
                break
            pick = self._pick(table, index)
            found.setdefault(pick.place, (float(key[index]), pick))
        self._merge(found.values())

    def _pick(self, table: pa.Table, index: int) -> Pick:
        return Pick(section=self.section, **table.slice(index, 1).to_pylist()[0])

    def _merge(self, found: Iterable[tuple[float, Pick]]) -> None:
        merged: dict[tuple[str, int], tuple[float, Pick]] = {}
        for key, pick in sorted([*self.kept, *found], key=lambda item: item[0]):  # stable: the earlier pair wins a tie
            merged.setdefault(pick.place, (key, pick))
        self.kept = list(merged.values())[: self.count]

    def picks(self) -> list[Pick]:
        return [pick for _, pick in self.kept]


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy()  # null becomes NaN


def _mask(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def read_captions(picks: Iterable[Pick], metadata: Iterable[pa.Table]) -> dict[str, str | None]:
    """The picks' captions by pair id, from the tables of `embeddings/metadata` (PAIR_SCHEMA), read one by one."""
    wanted = pa.array(sorted({pick.pair_id for pick in picks}), pa.string())
    captions: dict[str, str | None] = {}
    for table in metadata:
        found = table.select(["pair_id", "caption"]).filter(pc.is_in(table["pair_id"], value_set=wanted))
        captions.update(zip(found["pair_id"].to_pylist(), found["caption"].to_pylist(), strict=True))
    return captions


def load_thumbnails(
    picks: Sequence[Pick],
    source: Source | None,
    captions_of: Mapping[str, str | None] | None = None,
    *,
    side: int = THUMBNAIL_SIDE,
) -> Gallery:
    """The picks with their captions and thumbnails (JPEG, at most `side` pixels long, rotated according to EXIF).

    source: where the pictures are read, None if it is gone.  captions_of: captions by pair id (`read_captions`); None
    reads them from the source.  Never raises because of the source: if a picture cannot be read, its tile says why.
    """
    shards = _shards(source)
    if captions_of is None:
        captions_of = _captions_from_source(picks, source, shards)
    places = sorted({pick.place for pick in picks})  # in the order of the files, each picture once
    pictures = {place: _picture(source, shards.get(place[0]), place[1], side) for place in places}

    tiles, left = [], _IMAGE_BUDGET
    for pick in picks:
        image, problem = pictures[pick.place]
        if image is not None and len(image) > left:
            image, problem = None, "left out to keep this page small"
        left -= len(image or "")
        tiles.append(Tile(pick, captions_of.get(pick.pair_id), image, problem))
    return Gallery(tuple(tiles))


def thumbnail(data: bytes, *, side: int = THUMBNAIL_SIDE) -> str:
    """An encoded image as a small JPEG in a data URI; transparency becomes white.  Raises what Pillow raises."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * side, 2 * side))  # decoding a JPEG at a fraction of its size is many times faster
        turned = ImageOps.exif_transpose(image)
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    small = turned.convert("RGB")
    small.thumbnail((side, side))
    small.info.clear()  # no metadata of the original enters the report
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(source: Any, shard: Shard | None, row: int, side: int) -> tuple[str | None, str | None]:
    """The thumbnail, or the reason why there is none; neither if the source has captions and vectors only."""
    if shard is None:
        return None, "the source is no longer there"
    if source.roles.image is None:
        return None, None
    try:
        return thumbnail(source.image(shard, row), side=side), None
    except UserError as error:
        return None, str(error)
    except Exception as error:  # the report is written even if a hostile file makes a decoder fail
        return None, f"the picture cannot be read ({type(error).__name__})"


def _shards(source: Source | None) -> dict[str, Shard]:
    try:
        return {} if source is None else {shard.name: shard for shard in source.shards}
    except Exception:  # as in load_thumbnails: the report does not depend on the source
        return {}


def _captions_from_source(
    picks: Iterable[Pick], source: Source | None, shards: Mapping[str, Shard]
) -> dict[str, str | None]:
    wanted: dict[str, dict[int, list[Pick]]] = defaultdict(lambda: defaultdict(list))
    for pick in picks:
        if pick.shard in shards:
            wanted[pick.shard][pick.row].append(pick)
    captions: dict[str, str | None] = {}
    for name, by_row in wanted.items():
        with suppress(Exception):  # as in load_thumbnails
            captions.update(_captions_of_shard(source, shards[name], by_row))
    return captions


def _captions_of_shard(source: Any, shard: Shard, by_row: Mapping[int, list[Pick]]) -> dict[str, str | None]:
    captions: dict[str, str | None] = {}
    last = max(by_row)
    for row in source.rows(shard, images=False):
        for pick in by_row.get(row.row, ()):
            if pick.caption_index < len(row.captions):
                captions[pick.pair_id] = row.captions[pick.caption_index]
        if row.row >= last:
            break
    return captions
