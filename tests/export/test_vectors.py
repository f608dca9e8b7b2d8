"""Vectors, cleaned: those of DataComp and of clip-retrieval, a new caption's vector with the new caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean import plant
from pairclean.export import check_layout
from pairclean.pairs import Columns, UserError
from pairclean.sources import open_source

WORDS = ["clean", "noisy", "rematched", "rematched", "unjudged", "rematched"]
#: By pair that is left: whose caption it has.
CARRIED = {0: 0, 2: 3, 3: 4, 5: 0}
UIDS = [f"{7 * row:032x}" for row in range(6)]


def vectors(dim: int, kind: type = np.float16) -> np.ndarray:
    return np.random.default_rng(dim).normal(size=(6, dim)).astype(kind)


ARRAYS = {"b32_img": vectors(8), "b32_txt": vectors(9), "l14_img": vectors(10, np.float32), "l14_txt": vectors(11)}


@pytest.fixture
def datacomp(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for shard, rows in enumerate([slice(0, 4), slice(4, 6)]):
        table = pa.table(
            {"uid": UIDS[rows], "text": [f"text {row}" for row in range(6)][rows], "n": list(range(6))[rows]}
        )
        pq.write_table(table, tmp_path / "in" / f"{shard:08x}.parquet")
        np.savez(tmp_path / "in" / f"{shard:08x}.npz", **{name: array[rows] for name, array in ARRAYS.items()})
    return tmp_path / "in"


@pytest.fixture
def clip_retrieval(tmp_path: Path) -> Path:
    home = tmp_path / "clip"
    for shard, rows in enumerate([slice(0, 4), slice(4, 6)]):
        for name, array in (("img_emb", ARRAYS["b32_img"]), ("text_emb", ARRAYS["b32_txt"])):
            (home / name).mkdir(parents=True, exist_ok=True)
            np.save(home / name / f"{name}_{shard}.npy", array[rows])
        (home / "metadata").mkdir(exist_ok=True)
        table = pa.table({"caption": [f"text {row}" for row in range(6)][rows], "n": list(range(6))[rows]})
        pq.write_table(table, home / "metadata" / f"metadata_{shard}.parquet")
    return home


def test_datacomp(tmp_path: Path, datacomp: Path, export) -> None:
    files = export(open_source(datacomp, Columns(embeddings="b32")), WORDS, tmp_path / "out")
    assert files == ["00000000.npz", "00000000.parquet", "00000001.npz", "00000001.parquet"]
    table = pa.concat_tables(pq.read_table(tmp_path / "out" / name) for name in files if name.endswith("parquet"))
    assert table.column_names[:4] == ["uid", "text", "n", "pairclean_pair_id"]
    assert table["n"].to_pylist() == list(CARRIED)
    assert table["text"].to_pylist() == [f"text {row}" for row in CARRIED.values()]
    parts = [np.load(tmp_path / "out" / name, allow_pickle=False) for name in files if name.endswith("npz")]
    for name, array in ARRAYS.items():
        rows = list(CARRIED.values() if name.endswith("_txt") else CARRIED)
        found = np.concatenate([part[name] for part in parts])
        assert found.dtype == array.dtype
        assert found.tolist() == array[rows].tolist()
    again = open_source(tmp_path / "out", Columns(embeddings="l14"))
    assert (again.layout, sum(shard.rows for shard in again.shards)) == ("datacomp", 4)
    export(open_source(datacomp, Columns(embeddings="b32")), WORDS, tmp_path / "again")
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in files)


def test_datacomp_as_a_subset_file(tmp_path: Path, datacomp: Path, export) -> None:
    source = open_source(datacomp, Columns(embeddings="b32"))
    files = export(source, [*WORDS[:4], "clean", "rematched"], tmp_path / "out", "uids")
    assert files == ["rematched/00000000.parquet", "rematched/00000001.parquet", "uids.npy"]
    assert np.load(tmp_path / "out" / "uids.npy").tolist() == [(0, 0), (0, 28)]
    assert pq.read_table(tmp_path / "out" / "rematched")["uid"].to_pylist() == [UIDS[row] for row in (2, 3, 5)]
    assert export(source, WORDS, tmp_path / "table", "parquet") == ["00000000.parquet", "00000001.parquet"]


def test_clip_retrieval(tmp_path: Path, clip_retrieval: Path, export) -> None:
    files = export(open_source(clip_retrieval), WORDS, tmp_path / "out")
    kinds = {"img_emb": "npy", "metadata": "parquet", "text_emb": "npy"}
    assert files == [f"{name}/{name}_{shard}.{kind}" for name, kind in kinds.items() for shard in range(2)]
    for name, array, rows in (("img_emb", "b32_img", CARRIED), ("text_emb", "b32_txt", CARRIED.values())):
        parts = [np.load(tmp_path / "out" / name / f"{name}_{shard}.npy") for shard in range(2)]
        assert np.concatenate(parts).tolist() == ARRAYS[array][list(rows)].tolist()
    table = pq.read_table(tmp_path / "out" / "metadata")
    assert table["n"].to_pylist() == list(CARRIED)
    assert table["caption"].to_pylist() == [f"text {row}" for row in CARRIED.values()]
    assert open_source(tmp_path / "out").layout == "clip-retrieval"


def test_vectors_are_no_images(datacomp: Path, clip_retrieval: Path) -> None:
    for source in (open_source(datacomp, Columns(embeddings="b32")), open_source(clip_retrieval)):
        with pytest.raises(UserError, match="holds vectors, no images"):
            check_layout(source, "webdataset")
    with pytest.raises(UserError, match="is no DataComp uid"):
        check_layout(open_source(clip_retrieval), "uids")


@pytest.mark.parametrize("layout", ["datacomp", "clip_retrieval"])
def test_planted_captions_bring_their_vectors(tmp_path: Path, request: pytest.FixtureRequest, layout: str) -> None:
    options = {"embeddings": "b32"} if layout == "datacomp" else {}
    planted = plant(request.getfixturevalue(layout), tmp_path / "out", rate=1, orphans=0.4, seed=3, **options)
    source = open_source(planted.shards, Columns(**options))
    found = [part for shard in source.shards for part in source.embedded(shard)]
    captions = [row.captions[0] for part in found for row in part.rows]
    truth = pq.read_table(planted.truth).to_pydict()
    assert 0 < planted.left_out == 6 - len(captions) < 6
    assert captions == truth["carried_caption"]
    assert [row.pair_id(0) for part in found for row in part.rows] == truth["key"]
    own, carried = (
        [int(text.removeprefix("text ")) for text in truth[name]] for name in ("caption", "carried_caption")
    )
    assert all(a != b for a, b in zip(own, carried, strict=True))
    image, text = (np.concatenate([getattr(part, name) for part in found]) for name in ("image", "text"))
    assert image.tolist() == ARRAYS["b32_img"][own].astype(np.float32).tolist()
    assert text.tolist() == ARRAYS["b32_txt"][carried].astype(np.float32).tolist()
    with pytest.raises(UserError, match="none for a mixed caption"):
        plant(request.getfixturevalue(layout), tmp_path / "more", rate=1, kind="partial", **options)


def test_shards_are_written_with_the_same_arrays(tmp_path: Path, datacomp: Path, export) -> None:
    """What one of them does not have is left out, and said."""
    path = datacomp / "00000001.npz"
    arrays = {name: array[4:] for name, array in ARRAYS.items()}
    np.savez(path, **{name: array for name, array in arrays.items() if name != "l14_txt"})
    source = open_source(datacomp, Columns(embeddings="b32"))
    assert source.broken == {str(path): "has no l14_txt that can be read, so that no shard is written with it"}
    files = export(source, WORDS, tmp_path / "out")
    for name in files[::2]:
        assert sorted(np.load(tmp_path / "out" / name)) == ["b32_img", "b32_txt", "l14_img"]
    np.savez(path, **{**arrays, "l14_txt": arrays["l14_txt"][:1]})
    with pytest.raises(UserError, match=r"not as many \(1 in l14_txt of .*, 2 in "):
        open_source(datacomp, Columns(embeddings="b32"))
    np.savez(path, **{**arrays, "l14_txt": arrays["l14_txt"][:, 1:]})
    with pytest.raises(UserError, match=r"the vectors l14_txt of .* are of different lengths"):
        open_source(datacomp, Columns(embeddings="b32"))


@pytest.mark.parametrize("array", ["b32_img", "l14_img"])
def test_arrays_that_turn_out_to_be_broken(tmp_path: Path, datacomp: Path, export, array: str) -> None:
    """Only where something of them is needed."""
    path, arrays = datacomp / "00000001.npz", {name: vectors(9000 + i)[4:] for i, name in enumerate(ARRAYS)}
    np.savez(datacomp / "00000000.npz", **{name: np.ones((4, part.shape[1])) for name, part in arrays.items()})
    np.savez(path, **arrays)
    data = bytearray(path.read_bytes())
    data[data.index(arrays[array].tobytes()) + 30_000] ^= 1  # beyond what is read with the header
    path.write_bytes(data)
    source = open_source(datacomp, Columns(embeddings="b32"))
    export(source, [*WORDS[:3], "noisy", "unreadable", "unreadable"], tmp_path / "out")
    left = np.load(tmp_path / "out" / "00000001.npz")
    assert {name: left[name].shape for name in left} == {name: (0, part.shape[1]) for name, part in arrays.items()}
    with pytest.raises(UserError, match=rf"00000001\.npz cannot be read as an array \(Bad CRC-32 for file '{array}"):
        export(source, WORDS, tmp_path / "again")
