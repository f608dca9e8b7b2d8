"""Planted mismatches: who moves, how many, and what the copied shards and the truth say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairclean.evaluate.plant import plant, plant_shards
from pairclean.pairs import UserError


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0, 1), st.integers(0, 1000))
def test_a_cycle_inside_each_group(labels: list[str], rate: float, seed: int) -> None:
    groups = np.array(labels, dtype=str)
    carried = plant(groups, rate, np.random.default_rng(seed))
    assert carried.dtype == np.int64
    assert sorted(carried) == list(range(len(groups)))  # every caption is still there once
    assert (groups[carried] == groups).all()
    for label in set(labels):
        members = np.flatnonzero(groups == label)
        due = round(rate * len(members))
        moved = members[carried[members] != members]
        assert len(moved) == (due if due > 1 else 0)
        if len(moved):
            loop = [moved[0]]
            while (following := carried[loop[-1]]) != loop[0]:
                loop.append(following)
            assert len(loop) == len(moved)  # one cycle


def test_the_same_generator_state_plants_the_same() -> None:
    groups = np.zeros(100, dtype=int)
    first, again, other = (plant(groups, 0.3, np.random.default_rng(s)) for s in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()
    assert (first != np.arange(100)).sum() == 30


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        plant(np.zeros(3), rate, np.random.default_rng(0))


@pytest.fixture
def source(tmp_path):
    """Two shards of 25 and 7 rows, one caption repeated, with other columns and row groups of 10."""
    folder = tmp_path / "source"
    folder.mkdir()
    for shard, rows in enumerate((25, 7)):
        key = [f"{shard:05d}{i:04d}" for i in range(rows)]
        caption = ["the same" if i in (1, 2) else f"caption {shard} {i}" for i in range(rows)]
        table = pa.table({"jpg": [k.encode() for k in key], "caption": caption, "key": key, "n": list(range(rows))})
        pq.write_table(table.replace_schema_metadata({"who": "me"}), folder / f"{shard:05d}.parquet", row_group_size=10)
    return folder


def read(folder) -> pa.Table:
    return pa.concat_tables(pq.read_table(f) for f in sorted(folder.glob("*.parquet")))


def test_shards_are_copied_with_moved_captions_and_the_truth_says_which(tmp_path, source) -> None:
    truth = plant_shards(source, tmp_path / "planted", rate=0.5, seed=3)
    before, after = read(source), read(tmp_path / "planted")
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.drop(["caption"]).equals(before.drop(["caption"]))
    own = dict(zip(before["key"].to_pylist(), before["caption"].to_pylist(), strict=True))
    assert truth.column_names == ["key", "caption_key", "caption", "carried_caption"]
    assert {f.type for f in truth.schema} == {pa.string()}
    assert truth["key"].to_pylist() == before["key"].to_pylist()
    assert truth["caption"].to_pylist() == before["caption"].to_pylist()
    assert truth["carried_caption"].to_pylist() == after["caption"].to_pylist()
    assert truth["carried_caption"].to_pylist() == [own[k] for k in truth["caption_key"].to_pylist()]
    moved = sum(a != b for a, b in zip(truth["key"].to_pylist(), truth["caption_key"].to_pylist(), strict=True))
    assert moved == 16
    groups = pq.ParquetFile(tmp_path / "planted" / "00000.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [10, 10, 5]


def test_the_seed_decides(tmp_path, source) -> None:
    first, again, other = (plant_shards(source, tmp_path / str(i), rate=0.5, seed=s) for i, s in enumerate((1, 1, 2)))
    assert first.equals(again)
    assert not first.equals(other)


def test_planting_nothing_copies(tmp_path, source) -> None:
    truth = plant_shards(source, tmp_path / "planted", rate=0, seed=3)
    assert read(tmp_path / "planted").equals(read(source))
    assert truth["caption_key"].equals(truth["key"])


def test_the_referee_can_plant_from_our_truth(tmp_path, source, shared) -> None:
    truth = plant_shards(source, tmp_path / "ours", rate=0.4, seed=7)
    pq.write_table(truth, tmp_path / "truth.parquet")
    tool = shared / "tools" / "plant.py"
    subprocess.run([sys.executable, tool, source, tmp_path / "truth.parquet", tmp_path / "theirs"], check=True)
    assert read(tmp_path / "ours").equals(read(tmp_path / "theirs"))


def test_what_cannot_be_planted_in_is_refused_in_one_sentence(tmp_path, source) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no Parquet files"):
        plant_shards(empty, out, rate=0.5, seed=0)
    with pytest.raises(UserError, match="in a copy"):
        plant_shards(source, source, rate=0.5, seed=0)
    pq.write_table(pa.table({"key": ["a"], "caption": [["a list"]]}), empty / "0.parquet")
    with pytest.raises(UserError, match="'caption' of strings"):
        plant_shards(empty, out, rate=0.5, seed=0)
    pq.write_table(pa.table({"caption": ["a"]}), empty / "0.parquet")
    with pytest.raises(UserError, match="'key' of strings"):
        plant_shards(empty, out, rate=0.5, seed=0)
    pq.write_table(pa.table({"key": ["a", "a"], "caption": ["x", "y"]}), empty / "0.parquet")
    with pytest.raises(UserError, match="not unique"):
        plant_shards(empty, out, rate=0.5, seed=0)
    assert not out.exists()
