"""Cleaned data in another layout than the source's."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean import clean
from pairclean.embed import Embeddings
from pairclean.embed.store import write_part
from pairclean.export import Tables, check_layout, kept_pairs, open_writer
from pairclean.export.tar import Samples
from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA, UserError
from pairclean.pipeline import preview, redo
from pairclean.run import Execution, Run
from pairclean.sources import open_source
from pairclean.synthetic.scenes import draw_scenes

FIVE = ["clean", "noisy", "rematched", "unjudged", "clean", "unreadable"]


def picture(value: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(value, kind) for value, kind in enumerate(["PNG", "JPEG", "WEBP", "GIF", "JPEG", "PNG"])]
UIDS = [f"{15 - row:016x}{row:016x}" for row in range(6)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for shard in range(2):
        rows = slice(3 * shard, 3 * shard + 3)
        captions = [f"caption {row}" for row in range(6)]
        columns = {"key": list("abcdef")[rows], "caption": captions[rows], "uid": UIDS[rows], "jpg": PICTURES[rows]}
        pq.write_table(pa.table(columns), tmp_path / "in" / f"{shard:05d}.parquet")
    return tmp_path / "in"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = tar.getmembers()
        assert {(one.mtime, one.uid, one.gid, one.uname) for one in found} <= {(0, 0, 0, "")}
        return {one.name: tar.extractfile(one).read() for one in found}  # type: ignore[union-attr]


def test_webdataset(tmp_path: Path, shards: Path, export) -> None:
    source = open_source(shards)
    assert export(source, FIVE, tmp_path / "out", "webdataset") == ["00000.tar", "00001.tar"]
    first, second = (members(tmp_path / "out" / f"0000{shard}.tar") for shard in range(2))
    assert list(first) == ["a.png", "a.txt", "a.json", "c.webp", "c.txt", "c.json"]
    assert list(second) == ["e.jpg", "e.txt", "e.json"]
    assert [first["a.png"], first["c.webp"], second["e.jpg"]] == [PICTURES[0], PICTURES[2], PICTURES[4]]
    assert [first["a.txt"], first["c.txt"]] == [b"caption 0", b"caption 3"]
    assert json.loads(first["a.json"]) == {
        "caption": "caption 0",
        "pairclean_pair_id": "a",
        "pairclean_verdict": "clean",
        "pairclean_clean_probability": 0.75,
        "pairclean_original_caption": None,
        "pairclean_caption_pair_id": "a",
    }
    assert json.loads(first["c.json"]) == {
        "caption": "caption 3",
        "pairclean_pair_id": "c",
        "pairclean_verdict": "rematched",
        "pairclean_clean_probability": 0.25,
        "pairclean_original_caption": "caption 2",
        "pairclean_caption_pair_id": "d",
    }
    export(source, FIVE, tmp_path / "again", "webdataset")
    assert (tmp_path / "again" / "00000.tar").read_bytes() == (tmp_path / "out" / "00000.tar").read_bytes()


def test_webdataset_of_ids_that_are_no_keys(tmp_path: Path, export) -> None:
    ids = ["../x", "x.y", "x/y", "é" * 300, "x_y"]
    table = pa.table({"id": ids, "jpg": PICTURES[:5], "caption": [["a", None], ["b"], ["c"], ["d"], ["e"]]})
    pq.write_table(table, tmp_path / "s.parquet")
    export(open_source(tmp_path / "s.parquet"), ["clean"] * 6, tmp_path / "out", "webdataset")
    found = members(tmp_path / "out" / "s.tar")
    keys = [name.removesuffix(".json") for name in found if name.endswith(".json")]
    beginnings = [key.rpartition("-")[0] for key in keys]
    assert beginnings == ["x_0", "x_1", "x_y_0", "x_y_0", "0", "x_y_0"]
    assert len(set(keys)) == 6
    assert [json.loads(found[f"{key}.json"])["pairclean_pair_id"] for key in keys][2:4] == ["x.y:0", "x/y:0"]
    assert found[f"{keys[0]}.png"] == found[f"{keys[1]}.png"] == PICTURES[0]
    assert [found[f"{key}.txt"] for key in keys] == [b"a", b"", b"b", b"c", b"d", b"e"]


def test_a_source_that_has_changed_is_noticed(tmp_path: Path, shards: Path, export) -> None:
    source = open_source(shards)
    for columns in (
        {"key": ["a"], "caption": ["x"], "uid": [UIDS[0]], "jpg": PICTURES[:1]},
        {"key": list("abc"), "caption": list("xyz"), "uid": UIDS[:3], "jpg": [*PICTURES[:2], None]},
    ):
        pq.write_table(pa.table(columns), shards / "00000.parquet")
        verdicts = pa.Table.from_pylist(
            [
                {"pair_id": key, "shard": "00000", "row": row, "caption_index": 0, "verdict": "clean"}
                for row, key in enumerate("abc")
            ],
            schema=VERDICT_SCHEMA,
        )
        with pytest.raises(UserError, match="has changed since"):
            Samples(source).write(source.shards[0], kept_pairs(verdicts), tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


def test_uids(tmp_path: Path, shards: Path, export) -> None:
    files = export(open_source(shards), FIVE, tmp_path / "out", "uids")
    assert files == ["rematched/00000.parquet", "rematched/00001.parquet", "uids.npy"]
    uids = np.load(tmp_path / "out" / "uids.npy")
    assert uids.dtype == np.dtype("u8,u8")
    assert uids.tolist() == [(11, 4), (15, 0)]  # sorted, and of the clean pairs only
    rematched = pq.read_table(tmp_path / "out" / "rematched")
    assert rematched.select(["uid", "caption", "pairclean_caption_pair_id"]).to_pylist() == [
        {"uid": UIDS[2], "caption": "caption 3", "pairclean_caption_pair_id": "d"}
    ]


def test_uids_are_32_hexadecimal_digits(tmp_path: Path, shards: Path, export) -> None:
    for column, ids in (("key", ["a", "b"]), ("uid", [UIDS[0], UIDS[1][:31] + "g"])):
        path = tmp_path / f"{column}.parquet"
        pq.write_table(pa.table({column: ids, "jpg": PICTURES[:2], "caption": ["x", "y"]}), path)
    with pytest.raises(UserError, match=r"'a' in .*key\.parquet is no DataComp uid of 32 hexadecimal digits"):
        check_layout(open_source(tmp_path / "key.parquet"), "uids")
    source = open_source(tmp_path / "uid.parquet")
    check_layout(source, "uids")  # which looks at the first only
    with pytest.raises(UserError, match="no DataComp uid"):
        export(source, ["clean", "clean"], tmp_path / "out", "uids")
    lists = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"uid": UIDS[:1], "jpg": PICTURES[:1], "caption": [["x"]]}), lists)
    with pytest.raises(UserError, match="several captions a row"):
        check_layout(open_source(lists), "uids")


def test_embeddings(tmp_path: Path, shards: Path, export) -> None:
    source = open_source(shards)
    image, text = np.eye(6, dtype=np.float16), np.eye(6, dtype=np.float16)[::-1, :4]
    for i, shard in enumerate(source.shards):
        part = slice(3 * i, 3 * i + 3)
        columns = {
            "pair_id": list("abcdef")[part],
            "shard": [shard.name] * 3,
            "row": range(3),
            "caption_index": [0] * 3,
            "caption": [f"caption {row}" for row in range(6)][part],
            "image_id": range(3),
            "caption_id": range(3),
            "reason": [None] * 3,
        }
        write_part(tmp_path / "emb", shard.name, "x", pa.table(columns, schema=PAIR_SCHEMA), image[part], text[part])
    emb = Embeddings.open(tmp_path / "emb", ["00000", "00001"])
    files = export(source, FIVE, tmp_path / "out", "embeddings", emb=emb)
    folders = {"img_emb": "npy", "metadata": "parquet", "text_emb": "npy"}
    assert files == [f"{name}/{name}_0000{i}.{kind}" for name, kind in folders.items() for i in range(2)]
    parts = [np.load(tmp_path / "out" / "img_emb" / f"img_emb_0000{i}.npy") for i in range(2)]
    assert np.concatenate(parts).tolist() == image[[0, 2, 4]].tolist()
    parts = [np.load(tmp_path / "out" / "text_emb" / f"text_emb_0000{i}.npy") for i in range(2)]
    assert np.concatenate(parts).tolist() == text[[0, 3, 4]].tolist()  # the third pair has the fourth's caption
    table = pq.read_table(tmp_path / "out" / "metadata")
    assert table["caption"].to_pylist() == ["caption 0", "caption 3", "caption 4"]
    assert table["pairclean_original_caption"].to_pylist() == [None, "caption 2", None]
    assert table["pairclean_pair_id"].to_pylist() == ["a", "c", "e"]
    assert table["row"].to_pylist() == [0, 2, 1]


def test_nothing_but_nulls_where_captions_are_lists(tmp_path: Path, export) -> None:
    (tmp_path / "in").mkdir()
    for shard, captions in enumerate([[["a", "b"]], [None]]):
        kind = None if shard else pa.list_(pa.string())
        columns = {"jpg": pa.array(PICTURES[:1]), "caption": pa.array(captions, kind)}
        pq.write_table(pa.table(columns), tmp_path / "in" / f"{shard}.parquet")
    source = open_source(tmp_path / "in")
    export(source, ["clean", "noisy", "unreadable"], tmp_path / "out")
    first, second = (pq.read_schema(tmp_path / "out" / f"{shard}.parquet") for shard in range(2))
    assert second.equals(first)
    assert first.field("pairclean_pair_id").type == pa.list_(pa.string())
    assert Tables(source).files(source.shards[1]) == ["1.parquet"]


def test_what_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path, shards: Path) -> None:
    words = pa.table({"key": ["a", "b"], "caption": ["x", "y"], "jpg": PICTURES[:2]})
    pq.write_table(words, tmp_path / "s.parquet")
    with pytest.raises(UserError, match="no DataComp uid"):
        clean(tmp_path / "s.parquet", tmp_path / "run", model="hog-tfidf", to="uids")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no DataComp uid"):
        preview(tmp_path / "s.parquet", tmp_path / "run", model="hog-tfidf", to="uids")
    run = clean(tmp_path / "s.parquet", tmp_path / "run", model="hog-tfidf")
    assert [f.name for f in (run.path / "cleaned").iterdir()] == ["s.parquet"]
    with pytest.raises(UserError, match="no DataComp uid"):
        redo(run, "export", Execution(), to="uids")
    assert Run.open(run.path).config.to == "source"
    assert run.is_done("export")
    assert redo(run, "export", Execution(), to="webdataset")[0] == "export"
    assert [f.name for f in (run.path / "cleaned").iterdir()] == ["s.tar"]
    assert redo(run, "export", Execution(), to="webdataset") == []
    assert redo(run, "export", Execution(), to="source")[0] == "export"
    assert [f.name for f in (run.path / "cleaned").iterdir()] == ["s.parquet"]


def test_keys_differ_between_shards(tmp_path: Path, export) -> None:
    (tmp_path / "in").mkdir()
    for shard, ids in enumerate((["a.b", "a_b"], ["a/b", "A_b"])):
        table = pa.table({"id": ids, "jpg": PICTURES[:2], "caption": ["x", "y"]})
        pq.write_table(table, tmp_path / "in" / f"{shard}.parquet")
    export(open_source(tmp_path / "in"), ["clean"] * 4, tmp_path / "out", "webdataset")
    again = open_source(tmp_path / "out")  # which refuses keys that come twice
    assert [row.id for shard in again.shards for row in again.rows(shard)][1::2] == ["a_b", "A_b"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_uids_of_any_type_of_text(tmp_path: Path, export, kind: pa.DataType) -> None:
    columns = {"uid": pa.array(UIDS[:2]).cast(kind), "jpg": PICTURES[:2], "caption": ["x", "y"]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    export(open_source(tmp_path / "s.parquet"), ["clean", "clean"], tmp_path / "out", "uids")
    assert np.load(tmp_path / "out" / "uids.npy").tolist() == [(14, 1), (15, 0)]


def test_uids_where_every_shard_is_broken(tmp_path: Path, shards: Path) -> None:
    """As a limit on the rows can leave it."""
    (shards / "00000.parquet").write_bytes(b"PAR1")
    (shards / "00000_stats.json").write_text('{"count": 3}')
    source = open_source(shards)
    source.shards = source.shards[:1]
    (batch,) = source.batches(source.shards[0], ["uid"])
    assert batch.column(0).null_count == 3
    with open_writer(source, "uids", offsets=np.array([0, 3]), donors=np.empty(0, int), home=tmp_path) as writer:
        writer.finish(tmp_path / "out")
    assert len(np.load(tmp_path / "out" / "uids.npy")) == 0


def test_tables_of_text_become_parquet(tmp_path: Path, export) -> None:
    """Paths stay as they are; COCO's captions stay a list for each image."""
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.png").write_bytes(picture(i, "PNG"))
    text = "image,caption\n" + "".join(f"{i}.png,caption {i}\n" for i in range(6))
    (tmp_path / "in" / "a.csv").write_text(text)
    source = open_source(tmp_path / "in" / "a.csv")
    assert export(source, FIVE, tmp_path / "csv") == ["a.parquet"]
    written = pq.read_table(tmp_path / "csv" / "a.parquet")
    assert written["image"].to_pylist()[0] == "0.png"
    assert len(written) == sum(word in ("clean", "rematched") for word in FIVE)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    notes = [{"id": j, "image_id": j % 3, "caption": f"caption {j}"} for j in range(6)]
    (tmp_path / "in" / "coco.json").write_text(json.dumps({"images": images, "annotations": notes}))
    source = open_source(tmp_path / "in" / "coco.json")
    assert export(source, ["clean", "noisy", "clean", "clean", "noisy", "clean"], tmp_path / "coco") == ["coco.parquet"]
    assert pq.read_table(tmp_path / "coco" / "coco.parquet")["captions"].to_pylist() == [
        ["caption 0"],
        ["caption 1", "caption 4"],
        ["caption 5"],
    ]
    assert export(open_source(tmp_path / "in" / "a.csv"), FIVE, tmp_path / "tar", "webdataset")[0].endswith(".tar")


def test_the_likeliest_of_several_captions(tmp_path: Path) -> None:
    """A rematched pair counts by its new caption; of equal ones, the first."""
    pairs = [
        (0, 0, "clean", 0.7, None),
        (0, 1, "clean", 0.9, None),
        (1, 0, "rematched", 0.1, 0.95),
        (1, 1, "clean", 0.8, None),
        (2, 0, "noisy", 0.2, None),
        (2, 1, "clean", 0.6, None),
        (2, 2, "clean", 0.6, None),
        (3, 0, "unreadable", None, None),
    ]
    records = [
        {"row": r, "caption_index": i, "verdict": word, "clean_probability": p, "rematch_probability": q}
        | {"pair_id": f"{r}:{i}", "shard": "a", "rematch_caption": "new" if word == "rematched" else None}
        for r, i, word, p, q in pairs
    ]
    verdicts = pa.Table.from_pylist(records, schema=VERDICT_SCHEMA)
    assert len(kept_pairs(verdicts)) == 6
    kept = kept_pairs(verdicts, best=True)
    assert kept["pairclean_pair_id"].to_pylist() == ["0:1", "1:0", "2:1"]
    assert kept["caption"].to_pylist() == [None, "new", None]
    assert len(kept_pairs(verdicts.slice(7), best=True)) == 0
    captions = [["a", "b"], ["c", "d"], ["e", "f", "g"], ["h"]]
    pq.write_table(
        pa.table({"jpg": [picture(i, "PNG") for i in range(4)], "captions": captions}), tmp_path / "a.parquet"
    )
    source = open_source(tmp_path)
    Tables(source).write(source.shards[0], kept, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "a.parquet")["captions"].to_pylist() == [["b"], ["new"], ["f"]]


@pytest.mark.slow
def test_a_run_writes_the_likeliest_caption(tmp_path: Path) -> None:
    scenes = [scene for scene in draw_scenes(80, seed=0) if scene.kind == "plain"][:60]
    captions = [[f"a picture: {scene.caption}", scene.caption] for scene in scenes]
    pq.write_table(pa.table({"jpg": [scene.image for scene in scenes], "captions": captions}), tmp_path / "a.parquet")
    run = clean(tmp_path / "a.parquet", tmp_path / "run", model="hog-tfidf", captions="best")
    written = pq.read_table(tmp_path / "run" / "cleaned" / "a.parquet")
    kept = [verdict in ("clean", "rematched") for verdict in run.verdicts()["verdict"].to_pylist()]
    assert (len(kept), any(kept)) == (120, True)
    assert [len(lists) for lists in written["captions"].to_pylist()] == [1] * len(written)
    assert len(written) == sum(any(kept[2 * i : 2 * i + 2]) for i in range(60))
    counts = run.report["several_captions"]
    assert counts["besides_best"] == sum(kept) - len(written)
    assert any("with several captions" in note for note in run.report["notes"]) == (counts["rows"] > 0)
    assert redo(run, "export", Execution(), captions="all")[0] == "export"
    assert sum(map(len, pq.read_table(tmp_path / "run" / "cleaned" / "a.parquet")["captions"].to_pylist())) == sum(kept)
