"""The drawn data set: captions are true, pictures show them, flaws come at their rates, shards have the layout."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.pairs import UserError
from pairclean.synthetic.captions import caption_scene
from pairclean.synthetic.drawing import (
    COLOURS,
    LAYOUTS,
    SHAPES,
    SIDE,
    TEXTURES,
    Group,
    Scene,
    draw_picture,
    sample_scene,
    slots,
)
from pairclean.synthetic.scenes import Example, draw_scenes, write_shards

NUMBER = 600
ALIASES = {"violet": "purple", "teal": "turquoise", "gray": "grey"}
KINDS = {
    "circle": "ball", "square": "box", "cottage": "house", "fir tree": "tree", "mug": "cup", "crescent moon": "moon",
    "blossom": "flower", "sailing boat": "boat", "toadstool": "mushroom", "parasol": "umbrella",
}  # fmt: skip
COUNTS = {"a": 1, "an": 1, "a pair of": 2, "two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(draw_scenes(NUMBER, seed=5))


def decode(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=float)


def scenes(number: int) -> list[tuple[Scene, str]]:
    rngs = [np.random.default_rng(i) for i in range(number)]
    return [(scene := sample_scene(rng), caption_scene(scene, rng)) for rng in rngs]


def plural(noun: str) -> str:
    return noun if noun == "fish" else noun + ("es" if noun.endswith("x") else "s")


def things(text: str) -> list[tuple[str, str, int]]:
    """(kind, colour, count) of every group that a caption names, read back with a grammar of its own."""
    nouns = {n: k for noun in [*SHAPES, *KINDS] for k in [KINDS.get(noun, noun)] for n in (noun, plural(noun))}
    count, colour, noun = (
        "|".join(sorted(words, key=len, reverse=True)) for words in (COUNTS, [*COLOURS, *ALIASES], nouns)
    )
    phrase = rf"\b({count}) (?:(?:small|little|tiny|big|large) )?(?:({colour}) ({noun})|({noun}) in ({colour}))\b"
    found = []
    for number, colour1, noun1, noun2, colour2 in re.findall(phrase, text.lower()):
        word = colour1 or colour2
        found.append((nouns[noun1 or noun2], ALIASES.get(word, word), COUNTS[number]))
    return found


def test_captions_name_exactly_the_groups_of_their_scene() -> None:
    for scene, caption in scenes(500):
        assert sorted(things(caption)) == sorted((g.kind, g.colour, g.count) for g in scene.groups), caption


def test_captions_name_no_other_colour_and_the_background_mostly() -> None:
    told = 0
    pairs = scenes(500)
    for scene, caption in pairs:
        words = {ALIASES.get(w, w) for w in re.findall(r"[a-z]+", caption.lower())} & set(COLOURS)
        ground = words - {g.colour for g in scene.groups}
        assert ground <= set(scene.colours), caption
        assert not (scene.texture == "plain" and scene.colours[1] in words), caption
        told += scene.colours[0] in ground
    assert 0.8 < told / len(pairs) < 0.95


def test_relations_in_captions_are_true() -> None:
    axis_and_sign = {
        "left of": (0, -1), "right of": (0, 1), "above": (1, -1), "over": (1, -1), "below": (1, 1), "under": (1, 1),
    }  # fmt: skip
    seen = Counter()
    for scene, caption in scenes(600):
        if len(scene.groups) != 2:
            continue
        for words, (axis, sign) in axis_and_sign.items():
            if f" {words} " not in caption or f"other {words}" in caption:
                continue
            first, second = things(caption)
            place = {
                (g.kind, g.colour, g.count): box[axis]
                for g, box in zip(scene.groups, LAYOUTS[scene.layout], strict=True)
            }
            assert sign * (place[first] - place[second]) > 0, caption
            seen[words] += 1
    assert set(seen) == set(axis_and_sign)


def test_sizes_in_captions_hold_on_the_page() -> None:
    seen = Counter()
    for scene, caption in scenes(600):
        for word in re.findall(r"\b(small|little|tiny|big|large)\b", caption):
            radii = [slots(b, g)[1] for b, g in zip(LAYOUTS[scene.layout], scene.groups, strict=True)]
            seen[word] += 1
            assert (max(radii) >= 0.2) if word in ("big", "large") else (min(radii) <= 0.14), caption
    assert set(seen) == {"small", "little", "tiny", "big", "large"}


def test_captions_vary_and_seldom_repeat() -> None:
    captions = [caption for _, caption in scenes(1000)]
    assert not [c for c in captions if re.search(r"\ba [aeiou]|\ban [^aeiou]", c)]
    assert len(set(captions)) > 990
    assert not [c for c in captions if re.search(r"[Tt]here (is (two|three|four|[2-4]|a pair)|are an? (?!pair))", c)]
    lengths = [len(c.split()) for c in captions]
    assert min(lengths) <= 5
    assert max(lengths) >= 25
    one = sample_scene(np.random.default_rng(0))
    assert len({caption_scene(one, np.random.default_rng(i)) for i in range(50)}) > 40


@pytest.mark.parametrize(
    ("layout", "count"), list(itertools.product(["centre", "left", "top", "top right", "above", "row"], [1, 2, 3, 4]))
)
def test_things_are_drawn_where_their_layout_says(layout: str, count: int) -> None:
    colours = ["red", "blue", "green"]
    groups = tuple(Group("ball", c, count) for c, _ in zip(colours, LAYOUTS[layout], strict=False))
    picture = np.asarray(draw_picture(Scene("plain", ("white", "black"), layout, groups), np.random.default_rng(1)))
    for box, group in zip(LAYOUTS[layout], groups, strict=True):
        centres, radius = slots(box, group)
        assert len(centres) == count
        for x, y in centres:
            assert picture[int(SIDE * y), int(SIDE * x)].tolist() == list(COLOURS[group.colour])
            assert box[0] - box[2] / 2 - 1e-9 <= x - radius
            assert x + radius <= box[0] + box[2] / 2 + 1e-9
            assert box[1] - box[3] / 2 - 1e-9 <= y - radius
            assert y + radius <= box[1] + box[3] / 2 + 1e-9


def test_boxes_of_a_layout_do_not_overlap_and_stay_on_the_page() -> None:
    for boxes in LAYOUTS.values():
        for x, y, w, h in boxes:
            assert min(x - w / 2, y - h / 2) >= 0
            assert max(x + w / 2, y + h / 2) <= 1
        for (x, y, w, h), (u, v, a, b) in itertools.combinations(boxes, 2):
            assert abs(x - u) >= (w + a) / 2 - 1e-9 or abs(y - v) >= (h + b) / 2 - 1e-9


@pytest.mark.parametrize("texture", sorted(TEXTURES))
def test_backgrounds_show_their_colours(texture: str) -> None:
    scene = Scene(texture, ("black", "white"), "top left", (Group("star", "red", 1, small=True),))
    corner = np.asarray(draw_picture(scene, np.random.default_rng(2)), dtype=float)[SIDE // 2 :]
    bright = (corner.mean(2) > 128).mean()
    assert bright == 0 if texture == "plain" else 0.1 < bright < 0.9 or texture == "gradient"


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_thing_is_mostly_of_its_colour(kind: str) -> None:
    scene = Scene("plain", ("white", "grey"), "centre", (Group(kind, "green", 1),))
    picture = np.asarray(draw_picture(scene, np.random.default_rng(3)), dtype=float)
    greener = (picture[..., 1] > picture[..., 0] + 25) & (picture[..., 1] > picture[..., 2] + 25)
    assert 0.1 < greener.mean() < 0.85
    painted = (picture.min(2) < 200).mean()
    assert greener.mean() > 0.45 * painted


def test_kinds_come_at_their_shares(examples: list[Example]) -> None:
    assert Counter(e.kind for e in examples) == {
        "plain": 561, "near_duplicate": 24, "boilerplate": 12, "corrupt": 2, "missing": 1,
    }  # fmt: skip
    assert examples[0].kind == "plain"
    assert [list(draw_scenes(n, 0)) for n in (0,)] == [[]]
    assert [e.kind for e in draw_scenes(1, 0)] == ["plain"]


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    assert list(draw_scenes(40, 9)) == list(draw_scenes(40, 9))
    assert not {e.image for e in draw_scenes(20, 9)} & {e.image for e in draw_scenes(20, 10)}


def test_images_decode_except_the_corrupt_ones(examples: list[Example]) -> None:
    for example in examples:
        if example.kind == "missing":
            assert example.image is None
        elif example.kind == "corrupt":
            assert example.image is not None
            with pytest.raises(OSError):  # noqa: PT011 - what Pillow says depends on the corruption
                decode(example.image)
        else:
            assert example.image is not None
            assert decode(example.image).shape == (SIDE, SIDE, 3)


def test_near_duplicates_resemble_an_earlier_picture_with_the_same_things(examples: list[Example]) -> None:
    def thumbnail(e: Example) -> np.ndarray:
        assert e.image is not None
        return decode(e.image).reshape(8, 16, 8, 16, 3).mean((1, 3))

    copies = 0
    for i, example in enumerate(examples):
        if example.kind == "near_duplicate":
            earlier = [e for e in examples[:i] if e.kind == "plain" and things(e.caption) and e.image]
            same = [e for e in earlier if sorted(things(e.caption)) == sorted(things(example.caption))]
            assert min(np.abs(thumbnail(e) - thumbnail(example)).mean() for e in same) < 40
            copies += any(e.image == example.image for e in same)
    assert 3 <= copies <= 15  # about a third of 24 are byte-identical


def test_boilerplate_says_nothing(examples: list[Example]) -> None:
    captions = [e.caption for e in examples if e.kind == "boilerplate"]
    assert not any(things(c) for c in captions)
    assert any(re.fullmatch(r"(IMG_|DSC|picture)\d+\.\w+", c) for c in captions)


def test_shards_have_the_layout_of_img2dataset(tmp_path, examples: list[Example]) -> None:
    write_shards(iter(examples), tmp_path / "shards", shard_size=250)
    names = sorted(p.name for p in (tmp_path / "shards").iterdir())
    assert names == [f"0000{i}{end}" for i in range(3) for end in (".parquet", "_stats.json")]
    last = pq.ParquetFile(tmp_path / "shards" / "00002.parquet")
    assert [last.metadata.row_group(i).num_rows for i in range(last.num_row_groups)] == [100]
    assert last.schema_arrow.field("jpg").type == pa.binary()
    assert {last.schema_arrow.field(c).type for c in ("width", "height", "original_width", "original_height")} == {
        pa.int32()
    }
    table = pa.concat_tables(pq.read_table(tmp_path / "shards" / f"0000{i}.parquet") for i in range(3))
    rows = table.to_pylist()
    assert rows[12]["key"] == "000000012"
    assert rows[599]["key"] == "000020099"
    assert len({r["key"] for r in rows}) == NUMBER
    for row, example in zip(rows, examples, strict=True):
        assert row["caption"] == example.caption
        assert row["jpg"] == example.image
        assert row["url"].endswith(f"{row['key']}.jpg")
        if example.image is None:
            assert (row["status"], row["sha256"], row["width"]) == ("failed_to_download", None, None)
            assert row["error_message"] == "HTTP Error 404: Not Found"
        else:
            assert (row["status"], row["error_message"], row["width"], row["exif"]) == ("success", None, SIDE, "{}")
            assert row["sha256"] == hashlib.sha256(example.image).hexdigest()
    stats = [json.loads((tmp_path / "shards" / f"0000{i}_stats.json").read_text()) for i in range(3)]
    assert [s["count"] for s in stats] == [250, 250, 100]
    assert sum(s["successes"] for s in stats) == NUMBER - 1
    assert sum(s["failed_to_download"] for s in stats) == 1
    assert all(sum(s["status_dict"].values()) == s["count"] for s in stats)


@pytest.mark.parametrize("size", [0, 10_001])
def test_a_shard_size_that_keys_cannot_hold_is_refused(tmp_path, size: int) -> None:
    with pytest.raises(UserError, match=r"1 to 10,000 pairs"):
        write_shards([], tmp_path, shard_size=size)
