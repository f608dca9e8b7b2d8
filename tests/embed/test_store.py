"""Parts are whole or absent, and many parts read as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean import files
from pairclean.embed import store
from pairclean.embed.store import Embeddings, ShardedArray, part_is_done, write_part
from pairclean.pairs import PAIR_SCHEMA

SIZES = {"a": 5, "empty": 0, "b": 3, "c": 7}


def pairs(shard: str, rows: int) -> pa.Table:
    return pa.table(
        {
            "pair_id": [f"{shard}:{i}" for i in range(rows)],
            "shard": [shard] * rows,
            "row": list(range(rows)),
            "caption_index": [0] * rows,
            "caption": [None if i == 1 else f"caption {shard}{i}" for i in range(rows)],
            "image_id": [100 * rows + i for i in range(rows)],
            "caption_id": [-i for i in range(rows)],
            "reason": ["no caption" if i == 1 else None for i in range(rows)],
        },
        schema=PAIR_SCHEMA,
    )


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Four parts, one of them empty, and all their vectors."""
    rng = np.random.default_rng(0)
    image, text = [], []
    for name, rows in SIZES.items():
        image.append(rng.normal(size=(rows, 6)).astype(np.float16))
        text.append(rng.normal(size=(rows, 4)).astype(np.float16))
        write_part(tmp_path, name, "f1", pairs(name, rows), image[-1].astype(np.float32), text[-1])
    return tmp_path, np.concatenate(image), np.concatenate(text)


def test_layout(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, image, _ = filled
    files = {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}
    assert files == {
        f"{folder}/{folder}_{name}.{kind}"
        for folder, kind in (("img_emb", "npy"), ("text_emb", "npy"), ("metadata", "parquet"))
        for name in SIZES
    }
    assert np.array_equal(np.load(root / "img_emb" / "img_emb_a.npy"), image[:5])
    table = pq.read_table(root / "metadata" / "metadata_b.parquet")
    assert table.schema.metadata[b"pairclean"] == b"f1"
    assert table.replace_schema_metadata(None).equals(pairs("b", 3))


def test_a_part_is_done_under_its_fingerprint_only(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, _ = filled
    assert part_is_done(root, "a", "f1")
    assert part_is_done(root, "empty", "f1")
    assert not part_is_done(root, "a", "f2")
    assert not part_is_done(root, "nowhere", "f1")


@pytest.mark.parametrize("folder", ["img_emb", "text_emb", "metadata"])
def test_a_part_with_a_damaged_file_is_not_done(filled: tuple[Path, np.ndarray, np.ndarray], folder: str) -> None:
    root, _, _ = filled
    (file,) = (root / folder).glob("*_a.*")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense"):
        file.write_bytes(damaged)
        assert not part_is_done(root, "a", "f1")
    file.unlink()
    assert not part_is_done(root, "a", "f1")


@pytest.mark.parametrize("files_before_the_kill", [0, 1, 2])
def test_a_kill_while_overwriting_leaves_no_part(
    filled: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, files_before_the_kill: int
) -> None:
    root, image, text = filled
    replace, left = files.os.replace, [files_before_the_kill]

    def replace_until_killed(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", replace_until_killed)
    with pytest.raises(KeyboardInterrupt):
        write_part(root, "a", "f2", pairs("a", 5), -image[:5], -text[:5])
    assert not part_is_done(root, "a", "f1")
    assert not part_is_done(root, "a", "f2")
    assert not list(root.rglob("*.tmp"))


def test_misaligned_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 pairs, 2 image and 3 text"):
        write_part(tmp_path, "a", "f", pairs("a", 3), np.zeros((2, 4)), np.zeros((3, 4)))


def test_sharded_array_is_the_concatenation(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, image, _ = filled
    array = ShardedArray([store.image_path(root, name) for name in SIZES])
    assert (array.shape, array.dtype, len(array)) == ((15, 6), np.float16, 15)
    for start in range(16):
        for stop in range(16):
            assert np.array_equal(array[start:stop], image[start:stop])
    assert np.array_equal(array[::-2], image[::-2])
    assert np.array_equal(array[:-3], image[:-3])
    for rows in ([14, 0, 5, 5, 4, 7, 8], [], [-1, 3, -15], list(range(15))[::-1]):
        index = np.array(rows, np.int64)
        assert np.array_equal(array[index], image[index])
    assert [len(chunk) for chunk in array.chunks(4)] == [4, 4, 4, 3]
    assert np.array_equal(np.concatenate(list(array.chunks(4))), image)
    with pytest.raises(IndexError, match="out of range"):
        array[np.array([15])]
    with pytest.raises(IndexError, match="integer"):
        array[np.ones(15, bool)]


@pytest.mark.parametrize(
    "rows", [[], [3], [0, 1, 4, 5, 7, 8, 14], [2, 2, 6, 6, 14, 14], [-15, -9, -1], [5, 4, 5, 14, 0]]
)
def test_rows_in_any_order_are_those_of_the_concatenation(
    rows: list[int], filled: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    root, image, _ = filled
    found = ShardedArray([store.image_path(root, name) for name in SIZES])[np.array(rows, np.int64)]
    assert np.array_equal(found, image[np.array(rows, np.int64)])
    assert found.flags.writeable


def test_a_sharded_array_is_read_only(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, _ = filled
    with pytest.raises(ValueError, match="read-only"):
        ShardedArray([store.image_path(root, "a")])[:2][0] = 1


def test_more_parts_than_may_be_mapped_at_once(
    filled: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, image, _ = filled
    monkeypatch.setattr(store, "_MAPPED_FILES", 1)
    array = ShardedArray([store.image_path(root, name) for name in SIZES])
    rows = np.array([0, 14, 6, 1, 9, 5])
    assert np.array_equal(array[rows], image[rows])
    assert np.array_equal(array[:], image)


def test_parts_of_different_encoders_are_refused(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, _ = filled
    with pytest.raises(ValueError, match="different encoders"):
        ShardedArray([store.image_path(root, "a"), store.text_path(root, "b")])


def test_embeddings(filled: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, image, text = filled
    run = Embeddings.open(root, list(SIZES))
    assert len(run) == 15
    assert np.array_equal(run.image[:], image)
    assert np.array_equal(run.text[:], text)
    assert run.image_id.tolist() == [*range(500, 505), *range(300, 303), *range(700, 707)]
    assert run.caption_id.dtype == np.int64
    assert np.flatnonzero(~run.readable).tolist() == [1, 6, 9]
    assert run.shard_offsets.tolist() == [0, 5, 5, 8, 15]
    assert run.pair_table("c").equals(pairs("c", 7))
    assert run.pair_table("b", ["caption"]).equals(pairs("b", 3).select(["caption"]))
    assert run.captions(np.array([14, 0, 6, 5, 14])) == ["caption c6", "caption a0", "", "caption b0", "caption c6"]
    assert run.captions(np.array([], np.int64)) == []


def test_embeddings_of_no_shards(tmp_path: Path) -> None:
    run = Embeddings.open(tmp_path, [])
    assert (len(run), run.image_id.shape, run.readable.dtype) == (0, (0,), bool)
