"""Shards with known mismatches: what the copy holds, and what the truth says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean import plant
from pairclean.pairs import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two shards of 25 and 7 rows, one caption repeated, other columns; one row without image, one without caption."""
    folder = tmp_path / "source"
    folder.mkdir()
    for shard, rows in enumerate((25, 7)):
        key = [f"{shard:05d}{i:04d}" for i in range(rows)]
        caption = ["the same" if i in (1, 2) else f"caption {shard} {i}" for i in range(rows)]
        columns = {"jpg": [k.encode() for k in key], "caption": caption, "key": key, "n": [i % 3 for i in range(rows)]}
        if shard == 0:
            columns["jpg"][5], columns["caption"][6] = None, None
        pq.write_table(pa.table(columns).replace_schema_metadata({"who": "me"}), folder / f"{shard:05d}.parquet")
    return folder


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(f) for f in sorted(folder.glob("*.parquet")))


def test_shards_are_copied_with_moved_captions_and_the_truth_says_which(tmp_path: Path, source: Path) -> None:
    planted = plant(source, tmp_path / "planted", rate=0.5, seed=3)
    assert (planted.shards, planted.truth) == (tmp_path / "planted", tmp_path / "planted.truth.parquet")
    assert sorted(f.name for f in planted.shards.iterdir()) == ["00000.parquet", "00001.parquet"]
    truth, before, after = pq.read_table(planted.truth), read(source), read(planted.shards)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.drop(["caption"]).equals(before.drop(["caption"]))
    own = dict(zip(before["key"].to_pylist(), before["caption"].to_pylist(), strict=True))
    columns = ["key", "caption_key", "caption", "carried_caption", "noise_kind", "mismatched_text"]
    assert truth.column_names == columns
    assert {f.type for f in truth.schema} == {pa.string()}
    assert truth["key"].to_pylist() == before["key"].to_pylist()
    assert truth["caption"].to_pylist() == before["caption"].to_pylist()
    assert truth["carried_caption"].to_pylist() == after["caption"].to_pylist()
    assert truth["carried_caption"].to_pylist() == [own[k] for k in truth["caption_key"].to_pylist()]
    frame = truth.to_pandas()
    assert (frame["key"] != frame["caption_key"]).sum() == 15  # half of the 30 that have an image and a caption
    assert frame.loc[[5, 6], "key"].tolist() == frame.loc[[5, 6], "caption_key"].tolist()
    expected = np.where(frame["caption"].fillna("") == frame["carried_caption"].fillna(""), "clean", "complete")
    assert frame["noise_kind"].tolist() == expected.tolist()
    assert planted.moved == (expected == "complete").sum()
    assert (planted.pairs, planted.left_out, planted.left_alone) == (32, 0, 0)


def test_the_seed_decides(tmp_path: Path, source: Path) -> None:
    first, again, other = (plant(source, tmp_path / str(i), rate=0.5, seed=s) for i, s in enumerate((1, 1, 2)))
    assert pq.read_table(first.truth).equals(pq.read_table(again.truth))
    assert not pq.read_table(first.truth).equals(pq.read_table(other.truth))
    for file in first.shards.iterdir():
        assert file.read_bytes() == (again.shards / file.name).read_bytes()


def test_planting_nothing_copies(tmp_path: Path, source: Path) -> None:
    planted = plant(source, tmp_path / "planted", rate=0)
    assert read(planted.shards).equals(read(source))
    assert set(pq.read_table(planted.truth)["noise_kind"].to_pylist()) == {"clean"}


def test_captions_stay_within_a_column(tmp_path: Path, source: Path) -> None:
    planted = plant(source, tmp_path / "planted", rate=1, kind="within:n")
    group = dict(zip(read(source)["key"].to_pylist(), read(source)["n"].to_pylist(), strict=True))
    truth = pd.read_parquet(planted.truth)
    assert (truth["key"].map(group) == truth["caption_key"].map(group)).all()
    assert (truth["key"] != truth["caption_key"]).sum() == 30


def test_orphans_have_no_partner(tmp_path: Path, source: Path) -> None:
    planted = plant(source, tmp_path / "planted", rate=0.8, orphans=0.5, seed=1)
    truth, after = pd.read_parquet(planted.truth), read(planted.shards).to_pandas()
    everyone = plant(source, tmp_path / "everyone", rate=0.8, seed=1)
    assert truth["key"].tolist() == after["key"].tolist()
    assert truth["carried_caption"].fillna("").tolist() == after["caption"].fillna("").tolist()
    whole = pd.read_parquet(everyone.truth)
    assert truth.equals(whole[whole["key"].isin(truth["key"])].reset_index(drop=True))
    assert planted.left_out == 32 - len(truth) > 5
    gone = whole[~whole["key"].isin(truth["key"])]
    assert (gone["key"] != gone["caption_key"]).all()  # only moved pairs are left out


def test_the_referee_can_plant_from_our_truth(tmp_path: Path, source: Path, shared: Path) -> None:
    planted = plant(source, tmp_path / "ours", rate=0.4, orphans=0.3, seed=7)
    tool = shared / "tools" / "plant.py"
    subprocess.run([sys.executable, tool, source, planted.truth, tmp_path / "theirs"], check=True)
    assert read(tmp_path / "ours").equals(read(tmp_path / "theirs"))


def test_partial_mismatches(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    words = [f"a{i}, b{i}" if i % 2 else f"one{i}" for i in range(40)]
    table = pa.table({"jpg": [str(i).encode() for i in range(40)], "caption": words})
    pq.write_table(table, tmp_path / "source" / "s.parquet")
    planted = plant(tmp_path / "source", tmp_path / "planted", rate=1, kind="partial")
    truth = pd.read_parquet(planted.truth)
    assert truth["noise_kind"].tolist() == ["clean", "partial"] * 20
    assert (planted.moved, planted.left_alone) == (20, 20)
    assert truth["key"].tolist() == [f"s:{i}" for i in range(40)]
    for own, now, donor in truth.loc[1::2, ["caption", "carried_caption", "caption_key"]].itertuples(index=False):
        there = words[int(donor.removeprefix("s:"))].split(", ")
        kept = [piece for piece in now.split(", ") if piece in own.split(", ")]
        assert len(kept) == 1
        assert set(now.split(", ")) - set(kept) <= set(there)
    parts = truth.loc[1::2, ["carried_caption", "caption", "mismatched_text"]]
    for now, own, foreign in parts.itertuples(index=False):
        assert set(now.split(", ")) - {foreign} <= set(own.split(", "))
    assert truth["mismatched_text"][::2].isna().all()


def test_lists_of_captions_move_one_by_one_and_are_numbered_anew(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    captions = [[f"c{i}.{k}" for k in range(3)] for i in range(20)]
    table = pa.table({"jpg": [str(i).encode() for i in range(20)], "captions": captions})
    pq.write_table(table, tmp_path / "source" / "s.parquet")
    planted = plant(tmp_path / "source", tmp_path / "planted", rate=0.8, orphans=0.6, seed=5)
    after, truth = read(planted.shards)["captions"].to_pylist(), pd.read_parquet(planted.truth)
    keys = [f"s:{row}:{index}" for row, found in enumerate(after) for index in range(len(found))]
    assert len(after) < 20  # some rows have lost all their captions
    assert truth["key"].tolist() == keys
    assert truth["carried_caption"].tolist() == [caption for found in after for caption in found]
    carries = dict(zip(truth["key"], truth["caption"], strict=True))
    there = truth[truth["caption_key"].notna()]
    assert (there["caption_key"].map(carries) == there["carried_caption"]).all()
    assert truth["caption_key"].isna().sum() > 0
    assert not set(truth.loc[truth["caption_key"].isna(), "carried_caption"]) & set(truth["caption"])
    moved = truth[truth["noise_kind"] == "complete"]
    picture = [text.partition(".")[0] for text in moved["caption"]]
    assert all(a != b.partition(".")[0] for a, b in zip(picture, moved["carried_caption"], strict=True))


def test_what_a_broken_file_has_lost_is_left_out(tmp_path: Path, source: Path) -> None:
    table = pa.table({"jpg": [bytes([i]) * 5000 for i in range(30)], "caption": [f"x {i}" for i in range(30)]})
    table = table.append_column("key", pa.array([f"k{i}" for i in range(30)])).append_column("n", pa.array(range(30)))
    pq.write_table(table, source / "00002.parquet", row_group_size=10, compression="none", use_dictionary=False)
    data = bytearray((source / "00002.parquet").read_bytes())
    place = pq.read_metadata(source / "00002.parquet").row_group(1).column(0).data_page_offset
    data[place : place + 8] = b"\xff" * 8  # the header of the page that the second row group begins with
    (source / "00002.parquet").write_bytes(data)
    (source / "00003.parquet").write_bytes(b"no Parquet at all")
    planted = plant(source, tmp_path / "planted", rate=0.5, seed=4)
    assert sorted(f.name for f in planted.shards.iterdir()) == [f"0000{shard}.parquet" for shard in range(3)]
    truth, after = pd.read_parquet(planted.truth), pq.read_table(planted.shards / "00002.parquet")
    left = [key for key in truth["key"] if key.startswith("k")]
    assert left == after["key"].to_pylist()
    assert set(left) >= {f"k{i}" for i in [*range(10), *range(20, 30)]}
    assert len(left) < 30
    assert truth["carried_caption"].tolist()[-len(left) :] == after["caption"].to_pylist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate": 1.5}, "--rate 1.5: it should be a share"),
        ({"rate": float("nan")}, "--rate nan"),
        ({"orphans": -1}, "--orphans -1"),
        ({"seed": -1}, "--seed -1"),
        ({"kind": "sideways"}, "--kind sideways: it should be random, partial or within:COLUMN"),
        ({"kind": "within:"}, "--kind within:"),
        ({"kind": "within:nothing"}, "no column 'nothing'"),
        ({"kind": "partial", "orphans": 0.5}, "leave it out with --kind partial"),
        ({"out": "source"}, "is the source itself"),
        ({"out": "full"}, "is not empty"),
        ({"out": "full/file"}, "is a file"),
        ({"out": "source/copy"}, r"source/copy is in the source, where copy\.truth\.parquet would be read as a shard"),
        ({"out": "full/../there"}, r"there\.truth\.parquet already exists"),
    ],
)
def test_what_cannot_be_planted_is_refused(tmp_path: Path, source: Path, options: dict, sentence: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "there.truth.parquet").write_text("")
    out = tmp_path / options.pop("out", "out")
    with pytest.raises(UserError, match=sentence):
        plant(source, out, **{"rate": 0.5, **options})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["full", "source", "there.truth.parquet"]


def test_a_pattern_would_match_the_truth(source: Path) -> None:
    with pytest.raises(UserError, match="is in the source"):
        plant(source / "*.parquet", source / "copy", rate=0.5)


def test_the_copy_can_be_the_folder_one_is_in(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    planted = plant(source, ".", rate=0.5)
    assert (planted.shards, planted.truth) == (tmp_path / "here", tmp_path / "here.truth.parquet")
    assert read(tmp_path / "here").num_rows == 32


def not_utf8(path: Path, column: str) -> None:
    """The same table with bytes in a column of text that are none, as Parquet does not refuse them."""
    table = pq.read_table(path)
    place, texts = table.column_names.index(column), table[column].combine_chunks().cast(pa.binary())
    values = pa.array([text.replace(b"m", b"\xff") for text in texts.to_pylist()], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
    pq.write_table(table.set_column(place, column, broken), path)


def test_a_column_that_is_no_unicode(tmp_path: Path, source: Path) -> None:
    for path in sorted(source.iterdir()):
        table = pq.read_table(path)
        kinds = pa.array([f"{n}m" for n in table["n"].to_pylist()])
        pq.write_table(table.append_column("kind", kinds), path)
        not_utf8(path, "kind")
    planted = plant(source, tmp_path / "planted", rate=1, kind="within:kind")
    truth = pd.read_parquet(planted.truth)
    number = dict(zip(read(source)["key"].to_pylist(), read(source)["n"].to_pylist(), strict=True))
    assert (truth["key"].map(number) == truth["caption_key"].map(number)).all()
    assert planted.moved == 30


def test_tables_in_several_folders_are_planted_one_by_one(tmp_path: Path) -> None:
    """Their image paths are relative to each, and the copy is one folder."""
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (tmp_path / "in" / name / f"{name}.csv").write_text("image,caption\n" + "0.png,a\n0.png,b\n")
    with pytest.raises(UserError, match="tables in several folders"):
        plant(f"{tmp_path}/in/*/*.csv", tmp_path / "out", rate=1)
    assert not (tmp_path / "out").exists()
    planted = plant(tmp_path / "in" / "a", tmp_path / "out", rate=1)
    assert (planted.pairs, planted.image_root) == (2, str(tmp_path / "in" / "a"))
