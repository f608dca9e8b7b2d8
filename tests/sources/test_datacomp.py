from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean import pipeline
from pairclean.embed.precomputed import keep_shard
from pairclean.embed.store import Embeddings
from pairclean.pairs import Columns, UserError, caption_id, content_id
from pairclean.sources import has_vectors, open_source


def vectors(rows: int, dim: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)


def write(folder: Path, name: str = "ab01", rows: int = 3, *, packed: bool = False, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    uids = [f"{name}{row:028x}" for row in range(rows)]
    pq.write_table(
        pa.table({"uid": uids, "text": [f"{name} {row}" for row in range(rows)]}), folder / f"{name}.parquet"
    )
    arrays = arrays or {"b32_img": vectors(rows), "b32_txt": vectors(rows, seed=1)}
    (np.savez_compressed if packed else np.savez)(folder / f"{name}.npz", **arrays)
    return folder


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_and_vectors_go_together(tmp_path, packed):
    source = open_source(write(write(tmp_path, "ab", packed=packed), "aa", 5, packed=packed))
    assert has_vectors(source)
    assert (source.layout, source.vectors, source.dims) == ("datacomp", "b32", (4, 4))
    assert (source.roles.image, source.roles.caption, source.roles.id) == (None, "text", "uid")
    assert [(shard.name, shard.rows) for shard in source.shards] == [("aa", 5), ("ab", 3)]
    (chunk,) = pickle.loads(pickle.dumps(source)).embedded(source.shards[0])
    assert [row.captions for row in chunk.rows] == [(f"aa {row}",) for row in range(5)]
    assert chunk.image.dtype == np.float32
    np.testing.assert_array_equal(chunk.image, vectors(5))
    np.testing.assert_array_equal(chunk.text, vectors(5, seed=1))
    assert [row.id for row in source.rows(source.shards[1])] == [f"ab{row:028x}" for row in range(3)]
    with pytest.raises(UserError, match="not the images"):
        source.image(source.shards[0], 0)
    assert list(source.arrays(source.shards[0])) == ["b32_img", "b32_txt"]
    np.testing.assert_array_equal(source.arrays(source.shards[0])["b32_txt"], vectors(5, seed=1))


def test_several_encoders(tmp_path):
    arrays = {f"{name}_{what}": vectors(3, dim) for name, dim in (("b32", 4), ("l14", 6)) for what in ("img", "txt")}
    write(tmp_path, **arrays)
    assert "b32, l14: choose with --embeddings" in refusal(tmp_path)
    for name, dim in (("b32", 4), ("l14", 6)):
        source = open_source(tmp_path, Columns(embeddings=name))
        assert (source.vectors, source.dims) == (name, (dim, dim))
    assert set(source.arrays(source.shards[0])) == set(arrays)


def test_one_encoder_and_another_asked_for(tmp_path):
    assert "no vectors of l14: those that are there are b32" in refusal(write(tmp_path), embeddings="l14")


def test_object_arrays_are_refused(tmp_path):
    path = write(tmp_path, b32_img=np.array([{}, {}, {}], object), b32_txt=vectors(3))
    assert "Python objects, which could run code" in refusal(path)


@pytest.mark.parametrize("wrong", [vectors(3).astype(np.int32), vectors(3)[0], np.asfortranarray(vectors(3))])
def test_other_arrays_are_refused(tmp_path, wrong):
    assert "two-dimensional array of floats" in refusal(write(tmp_path, b32_img=wrong, b32_txt=vectors(3)))


def test_lengths_that_disagree(tmp_path):
    assert "not as many" in refusal(write(tmp_path / "a", b32_img=vectors(3), b32_txt=vectors(2)))
    assert "not as many" in refusal(write(tmp_path / "b", b32_img=vectors(4), b32_txt=vectors(4)))
    write(tmp_path / "c", "x")
    write(tmp_path / "c", "y", b32_img=vectors(3, 5), b32_txt=vectors(3, 5))
    assert "different encoders" in refusal(tmp_path / "c")


def test_what_does_not_go_together(tmp_path):
    assert "leave --image-column out" in refusal(write(tmp_path / "a"), image="jpg")
    (write(tmp_path / "b") / "ab01.npz").rename(tmp_path / "b" / "other.npz")
    assert "no ab01.npz beside it" in refusal(tmp_path / "b")
    assert "called like DataComp's" in refusal(write(tmp_path / "c", img=vectors(3), txt=vectors(3)))
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "x.npz", a=vectors(1))
    assert "without the captions" in refusal(tmp_path / "d")


def test_parts_are_of_unit_length_and_say_what_is_wrong(tmp_path):
    image, text = vectors(5).astype(np.float32), vectors(5, 6, seed=1).astype(np.float64)
    image[1, 2], image[3] = np.nan, image[4]
    text[2] = 0
    write(tmp_path / "in", "s", 5, b32_img=image, b32_txt=text)
    source = open_source(tmp_path / "in")
    keep_shard(source, source.shards[0], tmp_path / "out", "print")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["img_emb", "metadata", "text_emb"]
    emb = Embeddings.open(tmp_path / "out", ["s"])
    pairs = emb.pair_table("s").to_pydict()
    assert pairs["reason"] == [None, "the image's vector is not finite", "the caption's vector is zero", None, None]
    assert pairs["pair_id"] == [f"s{row:028x}" for row in range(5)]
    assert pairs["image_id"][0] == content_id(image[0].tobytes())
    assert pairs["image_id"][3] == pairs["image_id"][4] != pairs["image_id"][0]
    assert pairs["caption_id"][4] == caption_id("s 4")
    for got, given in ((emb.image[:], image), (emb.text[:], text)):
        assert got.dtype == np.float16
        assert not got[[1, 2]].any()
        np.testing.assert_allclose(
            got[[0, 3, 4]], given[[0, 3, 4]] / np.linalg.norm(given[[0, 3, 4]], axis=1)[:, None], atol=1e-3
        )


def test_preview_loads_no_model(tmp_path):
    found = pipeline.preview(write(tmp_path / "in"), tmp_path / "run")
    assert (found["layout"], found["model"], found["pairs"]) == ("datacomp", "b32", 3)
    assert found["embedding_bytes"] == 2 * 3 * 8
    assert not (tmp_path / "run").exists()


def test_a_packed_array_that_is_cut(tmp_path):
    """What a sum over the whole shows only at the end takes the whole shard with it, and no other."""
    write(write(tmp_path / "in", "aa", 200, packed=True), "bb", 3)
    path = tmp_path / "in" / "aa.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    source = open_source(tmp_path / "in")
    for shard in source.shards:
        keep_shard(source, shard, tmp_path / "out", "print")
    emb = Embeddings.open(tmp_path / "out", ["aa", "bb"])
    assert emb.readable.tolist() == [False] * 200 + [True] * 3
    assert emb.pair_table("aa")["reason"][0].as_py().startswith("corrupt file: aa.npz ")


def test_flickr8k_clip(shared):
    source = open_source(shared / "data" / "flickr8k_clip")
    assert (source.layout, source.vectors, source.dims) == ("datacomp", "b32", (512, 512))
    (chunk,) = source.embedded(source.shards[0])
    assert len({vector.tobytes() for vector in chunk.image}) == 100
    cosine = (chunk.image * chunk.text).sum(1)
    assert 0.28 < cosine.mean() < 0.33


def test_captions_of_another_encoding(tmp_path):
    write(tmp_path, "aa")
    texts = [f"crème brûlée {row}" for row in range(3)]
    written = pa.array([text.encode("cp1252") for text in texts], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"uid": [f"{row:032x}" for row in range(3)], "text": written}), tmp_path / "aa.parquet")
    source = open_source(tmp_path)
    assert [row.captions[0] for row in source.rows(source.shards[0])] == texts
