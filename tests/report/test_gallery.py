from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pairclean.pairs import VERDICT_SCHEMA, Roles, Row, Shard, UserError
from pairclean.report import Pick, choose_gallery, load_thumbnails, read_captions
from pairclean.report.gallery import thumbnail


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decode(uri: str) -> Image.Image:
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def near(pixel: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 24 for a, b in zip(pixel, wanted, strict=True))


def by_section(picks: list[Pick], section: str) -> list[Pick]:
    return [pick for pick in picks if pick.section == section]


def test_the_choice_equals_sorting_everything(fabricated_run: Any) -> None:
    picks = choose_gallery(iter(fabricated_run.verdicts), each=9, flag_below=0.5)
    rows = pa.concat_tables(fabricated_run.verdicts).to_pylist()

    def first(key: Any, wanted: Any) -> list[str]:
        return [row["pair_id"] for row in sorted(filter(wanted, rows), key=key)[:9]]

    assert [p.pair_id for p in by_section(picks, "mismatches")] == first(
        lambda r: r["clean_probability"], lambda r: r["is_noisy"]
    )
    assert [p.pair_id for p in by_section(picks, "borderline")] == first(
        lambda r: abs(r["clean_probability"] - 0.5), lambda r: r["clean_probability"] is not None
    )
    assert [p.pair_id for p in by_section(picks, "rematches")] == first(
        lambda r: -r["rematch_probability"], lambda r: r["verdict"] == "rematched"
    )
    assert [p.pair_id for p in by_section(picks, "clean")] == first(
        lambda r: -r["clean_probability"], lambda r: r["verdict"] == "clean"
    )


def test_the_choice_does_not_depend_on_how_the_rows_are_cut_into_tables(fabricated_run: Any) -> None:
    whole = pa.concat_tables(fabricated_run.verdicts)
    pieces = [whole.slice(start, 17) for start in range(0, len(whole), 17)]
    assert choose_gallery(pieces, each=6) == choose_gallery([whole], each=6)


def test_an_image_is_shown_once_a_section() -> None:
    nothing = dict.fromkeys(VERDICT_SCHEMA.names)
    rows = [
        nothing
        | {"pair_id": f"{row}:{n}", "shard": "s", "row": row, "caption_index": n, "verdict": "noisy"}
        | {"is_noisy": True, "clean_probability": (10 * row + n) / 100}
        for row in range(4)
        for n in range(5)
    ]
    table = pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)
    picks = choose_gallery([table.slice(0, 7), table.slice(7)], each=3)
    assert [p.pair_id for p in by_section(picks, "mismatches")] == ["0:0", "1:0", "2:0"]


def test_nothing_to_choose_from() -> None:
    assert choose_gallery([]) == []
    assert load_thumbnails([], None).tiles == ()


def test_captions_come_from_the_metadata_or_from_the_source(fabricated_run: Any) -> None:
    picks = choose_gallery(fabricated_run.verdicts, each=5)
    wanted = {pick.pair_id: fabricated_run.captions[pick.shard, pick.row] for pick in picks}
    captions = read_captions(picks, fabricated_run.metadata)
    assert captions == wanted
    for gallery in (load_thumbnails(picks, fabricated_run, captions), load_thumbnails(picks, fabricated_run)):
        assert {tile.pick.pair_id: tile.caption for tile in gallery.tiles} == wanted
        assert [tile.pick for tile in gallery.tiles] == picks
        assert all(tile.image for tile in gallery.tiles)


def test_each_picture_is_read_once(fabricated_run: Any) -> None:
    pick = choose_gallery(fabricated_run.verdicts, each=1)[0]
    load_thumbnails([pick, pick], fabricated_run, {})
    assert fabricated_run.image_calls == [pick.place]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 320), (160, 80)), ((30, 20), (30, 20)), ((4000, 1), (160, 1)), ((160, 400), (64, 160))],
)
def test_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert decode(thumbnail(encode(Image.new("RGB", size, "red")))).size == expected


def test_a_picture_is_turned_as_exif_says_and_its_metadata_left_behind() -> None:
    image = Image.new("RGB", (800, 400), "red")
    image.paste("blue", (0, 0, 400, 400))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    exif[0x010E] = "secret"
    data = encode(image, "JPEG", exif=exif, comment=b"secret")
    small = decode(thumbnail(data))
    assert small.size == (80, 160)
    assert near(small.getpixel((40, 10)), (0, 0, 255))
    assert near(small.getpixel((40, 150)), (255, 0, 0))
    assert b"secret" not in base64.b64decode(thumbnail(data).split(",")[1])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_a_picture(mode: str) -> None:
    image = Image.new("RGB", (64, 64), "white")
    converted = Image.new("I;16", (64, 64), 255) if mode == "I;16" else image.convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert near(decode(thumbnail(encode(converted, form))).getpixel((5, 5)), (255, 255, 255))


def test_transparent_becomes_white() -> None:
    assert near(decode(thumbnail(encode(Image.new("RGBA", (9, 9), (0, 0, 0, 0))))).getpixel((4, 4)), (255, 255, 255))


class Broken:
    """A source whose pictures and captions cannot be read."""

    def __init__(self, error: Exception | None = None, data: bytes = b"") -> None:
        self.error, self.data = error, data
        self.shards = [Shard("s", "s", 1, "")]
        self.roles = Roles("jpg", "caption", None)

    def image(self, shard: Shard, row: int) -> bytes:
        if self.error:
            raise self.error
        return self.data

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        raise OSError("gone")


class Gone:
    @property
    def shards(self) -> list[Shard]:
        raise FileNotFoundError("the folder is gone")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, "the source is no longer there"),
        (Gone(), "the source is no longer there"),
        (Broken(FileNotFoundError()), "the picture cannot be read (FileNotFoundError)"),
        (Broken(UserError("the row has no picture")), "the row has no picture"),
        (Broken(RuntimeError()), "the picture cannot be read (RuntimeError)"),
        (Broken(data=b"not a picture"), "the picture cannot be read (UnidentifiedImageError)"),
        (Broken(data=encode(Image.effect_noise((64, 64), 50))[:900]), "the picture cannot be read (OSError)"),
    ],
)
def test_what_cannot_be_read_is_a_tile_that_says_so(source: Any, problem: str) -> None:
    [tile] = load_thumbnails([Pick("clean", "a", "s", 0, 0, "clean")], source).tiles
    assert tile.image is None
    assert tile.caption is None
    assert tile.problem == problem


def test_the_pictures_stay_within_their_budget(fabricated_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    picks = choose_gallery(fabricated_run.verdicts, each=10)
    full = load_thumbnails(picks, fabricated_run, {})
    budget = sum(len(tile.image or "") for tile in full.tiles) // 2
    monkeypatch.setattr("pairclean.report.gallery._IMAGE_BUDGET", budget)
    tiles = load_thumbnails(picks, fabricated_run, {}).tiles
    assert 0 < sum(len(tile.image or "") for tile in tiles) <= budget
    assert {tile.problem for tile in tiles if not tile.image} == {"left out to keep this page small"}
