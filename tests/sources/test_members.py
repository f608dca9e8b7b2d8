"""Every member of a tar is a pair's or is accounted for, however the samples lie and whatever they are called."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pairclean.embed import decode
from pairclean.pairs import UNKNOWN_ENCODING, Columns, UserError
from pairclean.sources import Source, encoding, open_source
from pairclean.sources.base import IMAGES


def picture(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(value) for value in range(40)]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(source: Source) -> list[tuple[str, bytes | None, str | None]]:
    found = [row for shard in source.shards for row in source.rows(shard)]
    return [(row.id, row.image, row.reason or row.captions[0]) for row in found]


def refusal(path: Path, **named: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- torn samples -----------------------------------------------------------------------------------------------------


def test_members_that_lie_apart_are_one_sample(tmp_path: Path) -> None:
    images = [(f"{i:03d}.png", PICTURES[i]) for i in range(20)]
    texts = [(f"{i:03d}.txt", f"caption {i}".encode()) for i in range(20)]
    expected = [(f"{i:03d}", PICTURES[i], f"caption {i}") for i in range(20)]
    for name, members in {
        "all.tar": images + texts,
        "reversed.tar": images + texts[::-1],
        "some.tar": [m for i in range(20) for m in ([images[i]] if i % 10 == 0 else [images[i], texts[i]])]
        + texts[::10],
    }.items():
        source = open_source(write_tar(tmp_path / name, members))
        assert pairs(source) == expected
        assert source.notes == source.broken == {}
        assert source.image(source.shards[0], 10) == PICTURES[10]


def test_samples_of_one_key_that_lie_in_each_other_are_refused(tmp_path: Path) -> None:
    one, two = [("k.png", PICTURES[0]), ("k.txt", b"x")], [("k.png", PICTURES[1]), ("k.txt", b"y")]
    for members in ([one[0], two[0], one[1], two[1]], [*one, ("l.txt", b"z"), two[1], ("m.txt", b"z"), two[0]]):
        path = write_tar(tmp_path / "a.tar", members)
        for named in ({}, {"id": "none"}):
            assert "several samples called 'k'" in refusal(path, **named)
            assert "a name of its own" in refusal(path, **named)


# --- dots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 10])
def test_dots_in_keys(tmp_path: Path, every: int) -> None:
    keys = [f"a/b.c/item {i}.05" if i % every == 0 else f"a/b.c/item {i}" for i in range(20)]
    members = [(f"{key}.{e}", d) for i, key in enumerate(keys) for e, d in (("png", PICTURES[i]), ("txt", b"x"))]
    assert pairs(open_source(write_tar(tmp_path / "a.tar", members))) == [
        (key, PICTURES[i], "x") for i, key in enumerate(keys)
    ]


def test_keys_that_differ_behind_the_dot(tmp_path: Path) -> None:
    keys = ["item 22.05", "item 22.10", "item 22", "v1.final.2"]
    members = [
        (f"{key}.{e}", d) for i, key in enumerate(keys) for e, d in (("PNG", PICTURES[i]), ("json", b'{"text": "x"}'))
    ]
    assert pairs(open_source(write_tar(tmp_path / "a.tar", members))) == [
        (key, PICTURES[i], "x") for i, key in enumerate(keys)
    ]


def test_endings_with_dots_are_found_or_can_be_named(tmp_path: Path) -> None:
    members = [
        (f"{i:03d}.{e}", d)
        for i in range(5)
        for e, d in (("input.png", PICTURES[i]), ("outputs.txt", f"c{i}".encode()))
    ]
    path = write_tar(tmp_path / "a.tar", members)
    expected = [(f"{i:03d}", PICTURES[i], f"c{i}") for i in range(5)]
    assert pairs(open_source(path)) == expected
    assert pairs(open_source(path, Columns(image="input.png", caption="outputs.txt"))) == expected


def test_more_pictures_than_one(tmp_path: Path) -> None:
    def members(i: int) -> list[tuple[str, bytes]]:
        depth = [(f"{i}.depth.png", PICTURES[30]), (f"{i}.mask.png", PICTURES[31])]
        return [
            *([] if i == 3 else [(f"{i}.png", PICTURES[i])]),
            *depth[: 1 if i == 3 else 2],
            (f"{i}.json", b'{"caption": "x"}'),
        ]

    path = write_tar(tmp_path / "a.tar", [m for i in range(6) for m in members(i)] + [("7.depth.png", PICTURES[30])])
    found = pairs(open_source(path))
    assert [(key, image) for key, image, _ in found if image] == [(f"{i}", PICTURES[i]) for i in (0, 1, 2, 4, 5)]
    assert [(key, reason) for key, image, reason in found if not image] == [
        (key, "no image in the tar") for key in "37"
    ]
    numbered = [(f"{i}.{n}.jpg", PICTURES[2 * i + n]) for i in range(4) for n in range(2)]
    path = write_tar(tmp_path / "b.tar", numbered + [(f"{i}.json", b'{"caption": "x"}') for i in range(4)])
    assert "KEY.0.jpg, KEY.1.jpg" in refusal(path)
    assert [image for _, image, _ in pairs(open_source(path, Columns(image="1.jpg")))] == PICTURES[1:8:2]


def test_a_named_ending_is_preferred_and_excludes_nothing(tmp_path: Path) -> None:
    kinds = ["webp" if i % 3 == 0 else "jpg" for i in range(12)]
    members = [(f"{i:02d}.{e}", d) for i, kind in enumerate(kinds) for e, d in ((kind, PICTURES[i]), ("txt", b"x"))]
    path = write_tar(tmp_path / "a.tar", [*members, ("05.png", PICTURES[20]), ("06.png", PICTURES[21])])
    source = open_source(path)
    assert [image for _, image, _ in pairs(source)] == PICTURES[:12]
    assert list(source.notes.values()) == ["has .jpg and .png in 1 sample: .jpg is read; "
                                           "has .webp and .png in 1 sample: .webp is read"]  # fmt: skip
    assert [image for _, image, _ in pairs(open_source(path, Columns(image="jpg")))] == PICTURES[:12]
    named = [image for _, image, _ in pairs(open_source(path, Columns(image="png")))]
    assert named == [*PICTURES[:5], PICTURES[20], PICTURES[21], *PICTURES[7:12]]
    every = [(f"{i}.{e}", PICTURES[i]) for i in range(4) for e in ("jpg", "png")] + [
        (f"{i}.txt", b"x") for i in range(4)
    ]
    assert "has several images, jpg, png" in refusal(write_tar(tmp_path / "b.tar", every))


def test_endings_of_all_that_is_decoded() -> None:
    Image.init()
    endings = {end[1:] for end, kind in Image.registered_extensions().items() if kind in decode._FORMATS}
    assert endings <= IMAGES


# --- what is no pair --------------------------------------------------------------------------------------------------


def test_what_belongs_to_no_pair_is_counted(tmp_path: Path) -> None:
    members = [(f"{i}.{e}", d) for i in range(3) for e, d in (("png", PICTURES[i]), ("txt", b"x"), ("cls", b"1"))]
    foreign = [("README", b""), ("._0.png", b""), ("__meta__.json", b""), ("classes.csv", b"")]
    source = open_source(write_tar(tmp_path / "a.tar", [*foreign, *members, ("lost.cls", b"2")]))
    assert source.notes == {str(tmp_path / "a.tar"): "has 4 members left out, such as 'README'"}
    assert pairs(source)[-1] == ("lost", None, "no image in the tar")
    assert len(pairs(source)) == 4


NAMES = st.text(st.sampled_from("ab.0 _/"), min_size=1, max_size=6)
ENDINGS = st.sampled_from(["png", "PNG", "jpg", "txt", "json", "depth.png", "cls", "README", ""])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, ENDINGS), min_size=1, max_size=14))
def test_every_member_is_accounted_for(tmp_path: Path, names: list[tuple[str, str]]) -> None:
    members = [(f"x{key}.{ending}", b"{}") for key, ending in names]
    path = write_tar(tmp_path / "a.tar", [("sure.png", PICTURES[0]), ("sure.txt", b"x"), *members])
    try:
        source = open_source(path, Columns(image="png", caption="txt", id="none"))
    except UserError as error:
        assert "several samples called" in str(error)  # noqa: PT017 (nothing else may be refused)
        return
    shard = source.shards[0]
    used = [name for _, sample in source.samples(shard) for name, _ in sample.members]
    note = source.notes.get(str(path), "has 0 members left out")
    left_out = int(note.split(" member")[0].split()[-1]) if "left out" in note else 0
    stored = [name for name, _ in members if not name.endswith("/")]
    unsafe = [n for row in source.rows(shard) if row.reason and "leaves the folder" in row.reason for n in [row.id]]
    assert len(used) + left_out + len(unsafe) >= len(stored) + 2
    assert len(list(source.rows(shard))) == shard.rows


# --- encodings --------------------------------------------------------------------------------------------------------


def test_a_text_is_encoded_like_another() -> None:
    for kind in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "cp1252"):
        fallback = "cp1252" if kind == "cp1252" else None
        written = encoding.encode("crème", "brûlée".encode(kind), fallback)
        assert written == "crème".encode(kind)
        assert encoding.decode(written, fallback) == "crème"
    assert encoding.encode("крем", b"plain", "cp1252") == "крем".encode()
    assert encoding.encode("\ud800", None) == b"\xed\xa0\x80"


def test_captions_of_other_encodings(tmp_path: Path) -> None:
    texts = [f"Une robe d'été n° {i}, crème brûlée" for i in range(24)]
    kinds = ["utf-8-sig", "utf-16", "utf-8", "cp1252", "utf-16-le", "utf-32"]
    members = [
        (f"{i:02d}.{e}", d)
        for i, text in enumerate(texts)
        for e, d in (("png", PICTURES[i]), ("txt", text.encode(kinds[i % len(kinds)])))
    ]
    assert [caption for _, _, caption in pairs(open_source(write_tar(tmp_path / "a.tar", members)))] == texts
    fields = [
        (f"{i}.{e}", d)
        for i, kind in enumerate(["utf-8", "utf-8-sig", "utf-16"])
        for e, d in (("png", PICTURES[i]), ("json", json.dumps({"caption": "été"}, ensure_ascii=False).encode(kind)))
    ]
    assert [caption for _, _, caption in pairs(open_source(write_tar(tmp_path / "b.tar", fields)))] == ["été"] * 3


@pytest.mark.parametrize("many", [False, True])
def test_captions_of_a_sidecar_in_another_encoding(tmp_path: Path, many: bool) -> None:
    texts = [f"crème brûlée n° {i}" for i in range(12)]
    written = pa.array([text.encode("cp1252") for text in texts], pa.binary()).view(pa.string())
    if many:
        written = pa.ListArray.from_arrays(pa.array(range(13), pa.int32()), written)
    write_tar(tmp_path / "a.tar", [(f"{i}.png", data) for i, data in enumerate(PICTURES[:12])])
    pq.write_table(pa.table({"key": [str(i) for i in range(12)], "caption": written}), tmp_path / "a.parquet")
    assert [caption for _, _, caption in pairs(open_source(tmp_path))] == texts


def test_json_in_another_encoding(tmp_path: Path) -> None:
    texts = [f"crème brûlée n° {i}" for i in range(12)]
    fields = [json.dumps({"caption": text}, ensure_ascii=False).encode("cp1252") for text in texts]
    members = [m for i, f in enumerate(fields) for m in ((f"{i}.png", PICTURES[i]), (f"{i}.json", f))]
    assert [caption for _, _, caption in pairs(open_source(write_tar(tmp_path / "a.tar", members)))] == texts


def test_a_caption_of_no_known_encoding_is_unreadable(tmp_path: Path) -> None:
    noise = bytes(range(128, 160)) * 3 + b"\xff\xfe\x81\x8d\x8f\x90\x9d"
    members = [("0.png", PICTURES[0]), ("0.txt", b"x"), ("1.png", PICTURES[1]), ("1.txt", noise)]
    found = pairs(open_source(write_tar(tmp_path / "a.tar", members)))
    assert found == [("0", PICTURES[0], "x"), ("1", None, UNKNOWN_ENCODING)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("cp1252", "Robe d'été – crème brûlée à 20 €"),
        ("cp1251", "Красное платье с длинным рукавом"),
        ("shift_jis", "赤いドレスの写真、黒い革の靴と帽子"),
        ("gb18030", "红色连衣裙的照片，黑色皮鞋和帽子"),
        ("euc_kr", "빨간 드레스 사진, 검은 가죽 신발"),
    ],
)
def test_encodings_are_told_from_all_texts_together(kind: str, text: str) -> None:
    texts = [text.encode(kind)] * 20
    assert all(map(encoding.needs_guess, texts))
    assert encoding.decode(texts[0], encoding.guess(texts)) == text
