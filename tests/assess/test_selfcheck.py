"""The self-check: what it draws, what it plants, and that its sentence says no more than was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean.assess.selfcheck import _result, _sampled, selfcheck
from pairclean.pairs import UserError
from pairclean.sources import open_source
from pairclean.synthetic.scenes import draw_scenes, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(360, seed=0), folder, shard_size=60)
    return folder


def test_rows_are_drawn_from_all_shards(shards: Path) -> None:
    sample = _sampled(open_source(shards), 200, np.random.default_rng(0))
    drawn = {shard.name: list(sample.rows(shard)) for shard in sample.shards}
    assert sum(map(len, drawn.values())) == sum(shard.rows for shard in sample.shards) == 200
    assert all(20 <= len(rows) <= 47 for rows in drawn.values())
    assert len(drawn) == 6
    whole = {row.id: row for shard in open_source(shards).shards for row in open_source(shards).rows(shard)}
    assert all(row == whole[row.id] for rows in drawn.values() for row in rows)
    for shard in sample.shards:
        keys = [key for batch in sample.batches(shard, ["key"]) for key in batch["key"].to_pylist()]
        assert [keys[row.row] for row in drawn[shard.name]] == [row.id for row in drawn[shard.name]]
        assert sample.image(shard, 0) == open_source(shards).image(shard, 0)
    other = _sampled(open_source(shards), 200, np.random.default_rng(1))
    assert {shard.fingerprint for shard in other.shards}.isdisjoint(shard.fingerprint for shard in sample.shards)


@pytest.mark.slow
def test_a_whole_check(shards: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in shards.iterdir()}
    options = ["--model", "hog-tfidf", "--method", "canonical", "--pairs", "250", "--rate", "0.3", "--seed", "1"]
    arguments = ["selfcheck", str(shards), *options, "--keep", str(tmp_path / "kept")]
    done = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    truth = pq.read_table(tmp_path / "kept/truth.parquet").to_pandas()
    verdicts = pq.read_table(tmp_path / "kept/verdicts.parquet").to_pandas()
    assert truth["key"].tolist() == verdicts["pair_id"].tolist()
    assert len(truth) == found["pairs"] > 240  # some pictures of the 250 do not decode
    planted = truth["caption"] != truth["carried_caption"]
    assert set(truth["noise_kind"]) == {"clean", "random", "within_kind"}  # too few pairs for the other kinds
    assert not planted[truth["noise_kind"] == "clean"].any()
    assert 0.25 * len(truth) < planted.sum() <= round(0.3 * len(truth))
    assert found["scores"]["kinds"]["random"]["pairs"] > found["scores"]["kinds"]["within_kind"]["pairs"] > 0
    flagged = verdicts["is_noisy"].to_numpy(bool)
    assert found["rate"] == pytest.approx(planted.mean())
    assert found["scores"]["flag_recall"] == pytest.approx(flagged[planted].mean())
    assert found["flag_precision"]["at_least"] == pytest.approx(planted[flagged].mean())
    assert found["flag_precision"]["at_least"] <= found["flag_precision"]["about"] <= 1
    assert found["scores"]["auroc"] > 0.7
    assert {file.name: file.read_bytes() for file in shards.iterdir()} == before
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "is not empty: name a new directory" in again.stderr


def verdicts_and_truth() -> tuple[Any, Any]:
    """100 pairs, 40 with another's caption; 45 flagged: 36 of those 40, and 9 others. Two rematched, one rightly."""
    n = 100
    keys = [f"{i:03d}" for i in range(n)]
    carried = [(i + 1) % 40 if i < 40 else i for i in range(n)]
    flagged = [i < 36 or 40 <= i < 49 for i in range(n)]
    partner = {1: "000", 2: "050"}
    table = pa.table(
        {
            "pair_id": keys,
            "verdict": ["rematched" if i in partner else "noisy" if flagged[i] else "clean" for i in range(n)],
            "clean_probability": [0.1 if f else 0.9 for f in flagged],
            "rematch_pair_id": pa.array([partner.get(i) for i in range(n)], pa.string()),
            "rematch_probability": pa.array([0.95 if i in partner else None for i in range(n)], pa.float32()),
        }
    )
    text = [f"caption {i}" for i in range(n)]
    truth = {"key": keys, "caption_key": [keys[i] for i in carried], "caption": text}
    return table, pa.table({**truth, "carried_caption": [text[i] for i in carried]})


def test_what_was_mismatched_before_is_allowed_for() -> None:
    rate = {"estimate": 0.46, "low": 0.43, "high": 0.5}
    found = _result(*verdicts_and_truth(), rate, None, 0)
    assert found["own_rate"] == pytest.approx({"estimate": 0.1, "low": 0.05, "high": 1 / 6})
    # 6 of the 60 were mismatched before, by that estimate, and 9 in 10 mismatches are found: 5.4 more are right.
    assert found["flag_precision"] == pytest.approx({"at_least": 36 / 45, "about": (36 + 5.4) / 45})
    assert found["sentence"] == (
        "In a random sample of 100 of your pairs, 40 in 100 of which were mismatched on purpose, pairclean "
        "finds 90 in 100 of these mismatches; at least 80 in 100 of the pairs that it flags are mismatched (about 92 "
        "in 100, if 10 in 100 were mismatched before, as it estimates); 2 pairs get another caption, of which at least "
        "50 in 100 are correct."
    )


def test_what_was_found_of_each_kind_is_said() -> None:
    verdicts, truth = verdicts_and_truth()
    kind = ["random"] * 20 + ["generic"] * 20 + ["clean"] * 60
    found = _result(
        verdicts,
        truth.append_column("noise_kind", pa.array(kind)),
        dict.fromkeys(("estimate", "low", "high"), 0.4),
        None,
        0,
    )
    assert "(100 of captions moved at random, 80 of one caption under many images)" in found["sentence"]


def test_fewer_found_than_planted_allows_for_nothing() -> None:
    rate = {"estimate": 0.35, "low": 0.3, "high": 0.41}
    found = _result(*verdicts_and_truth(), rate, None, 0)
    assert found["own_rate"] == pytest.approx({"estimate": 0, "low": 0, "high": 1 / 60})
    assert found["flag_precision"] == pytest.approx({"at_least": 0.8, "about": 0.8})
    assert "at least 80 in 100 of the pairs that it flags are mismatched; 2 pairs" in found["sentence"]


def test_without_a_judgement_it_says_so() -> None:
    verdicts, truth = verdicts_and_truth()
    nothing = dict.fromkeys(("estimate", "low", "high", "level"))
    verdicts = verdicts.set_column(1, "verdict", pa.array(["unjudged"] * 100))
    found = _result(verdicts, truth, nothing, "the pairs score no higher than random re-pairings", 0)
    assert found["sentence"] == (
        "In a random sample of 100 of your pairs nothing could be judged, so there are no flags to trust: the pairs "
        "score no higher than random re-pairings."
    )
    assert found["own_rate"] == {"estimate": None, "low": None, "high": None}


def test_what_makes_no_sense_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rate 1"):
        selfcheck(shards, rate=1.0)
    with pytest.raises(UserError, match="--pairs 50: at least 200"):
        selfcheck(shards, pairs=50)
    (tmp_path / "few").mkdir()
    write_shards(draw_scenes(40, seed=0), tmp_path / "few")
    with pytest.raises(UserError, match="can be read: at least 200"):
        selfcheck(tmp_path / "few", model="hog-tfidf")
