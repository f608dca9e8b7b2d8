from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean.embed.precomputed import keep_shard
from pairclean.embed.store import Embeddings, write_part
from pairclean.pairs import PAIR_SCHEMA, Columns, UserError
from pairclean.sources import open_source


def vectors(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def write(folder: Path, number: str, rows: int = 3, **columns) -> Path:
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors(rows, 0))
    np.save(folder / "text_emb" / f"text_emb_{number}.npy", vectors(rows, 1))
    columns = columns or {"image_path": [f"{number}{i}.jpg" for i in range(rows)], "caption": list("abcdefgh"[:rows])}
    pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path, Columns(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_in_their_order(tmp_path):
    for number in ("10", "2", "0"):
        write(tmp_path, number)
    source = open_source(tmp_path)
    assert (source.layout, source.vectors, source.dims) == ("clip-retrieval", "clip-retrieval", (4, 4))
    assert [shard.name for shard in source.shards] == ["0", "2", "10"]
    (chunk,) = source.embedded(source.shards[1])
    assert [(row.id, row.captions) for row in chunk.rows] == [("2:0", ("a",)), ("2:1", ("b",)), ("2:2", ("c",))]
    np.testing.assert_array_equal(chunk.image, vectors(3, 0))
    np.testing.assert_array_equal(chunk.text, vectors(3, 1))
    np.testing.assert_array_equal(source.arrays(source.shards[1])["img_emb"], vectors(3, 0))


def test_more_rows_than_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pairclean.sources.embedded._BATCH", 2)
    source = open_source(write(tmp_path, "train-a", 5))
    chunks = list(source.embedded(source.shards[0]))
    assert [len(chunk.rows) for chunk in chunks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([chunk.text for chunk in chunks]), vectors(5, 1))
    shard = type(source.shards[0])("train-a", source.shards[0].path, 3, "")
    assert [row.row for chunk in source.embedded(shard) for row in chunk.rows] == [0, 1, 2]


def test_what_is_missing(tmp_path):
    write(write(tmp_path, "0"), "1")
    (tmp_path / "text_emb" / "text_emb_1.npy").unlink()
    assert "no text_emb_1.npy" in refusal(tmp_path)
    for file in (tmp_path / "text_emb").iterdir():
        file.unlink()
    (tmp_path / "text_emb").rmdir()
    assert "has no text_emb" in refusal(tmp_path)
    assert "captions" in refusal(tmp_path / "img_emb")


def test_options_that_do_not_belong(tmp_path):
    write(tmp_path, "0")
    assert "leave --embeddings out" in refusal(tmp_path, embeddings="l14")
    assert "leave --image-root out" in refusal(tmp_path, image_root=str(tmp_path))
    (tmp_path / "0.tar").write_bytes(bytes(1024))
    assert "0.tar" in refusal(tmp_path)


def test_captions_are_texts(tmp_path):
    message = refusal(write(tmp_path, "0", 1, caption=[["a", "b"]]))
    assert f"column 'caption' of {tmp_path}/metadata/metadata_0.parquet holds lists" in message


def test_pickles_are_not_read(tmp_path):
    write(tmp_path, "0", 2)
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.array([[{}], [{}]], object), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path)


def test_a_run_is_read_by_its_vectors(tmp_path):
    """Its pairs keep their ids, the identities of their images, and the reasons why some cannot be read."""
    pairs = pa.table(
        {
            "pair_id": ["k0:0", "k0:1", "k1:0"],
            "shard": ["s"] * 3,
            "row": [0, 0, 1],
            "caption_index": [0, 1, 0],
            "caption": ["a", "b", None],
            "image_id": [77, 77, 0],
            "caption_id": [1, 2, 0],
            "reason": [None, None, "no caption"],
        },
        schema=PAIR_SCHEMA,
    )
    image, text = vectors(3, 0), vectors(3, 1)
    image[2] = text[2] = 0
    write_part(tmp_path / "run" / "embeddings", "s", "print", pairs, image, text)
    assert "captions" not in refusal(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text("{}")
    source = open_source(tmp_path / "run")
    assert (source.path, source.layout) == (str(tmp_path / "run" / "embeddings"), "clip-retrieval")
    assert (source.roles.caption, source.roles.id) == ("caption", "pair_id")
    keep_shard(source, source.shards[0], tmp_path / "out", "print")
    again = Embeddings.open(tmp_path / "out", ["s"]).pair_table("s").to_pydict()
    assert again["pair_id"] == ["k0:0", "k0:1", "k1:0"]
    assert again["image_id"] == [77, 77, 0]
    assert again["reason"] == [None, None, "no caption"]


def test_a_run_without_vectors(tmp_path):
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    assert "no vectors yet" in refusal(tmp_path)
