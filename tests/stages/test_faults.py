"""Captions that moved together, through the stages: found without being asked for, given back on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairclean
from pairclean.pipeline import redo
from pairclean.run import Execution, Run

N, SHARDS = 900, 3


def shifted_run(home: Path, rows: np.ndarray, before: np.ndarray | None = None) -> Run:
    """A run over three shards, in which the captions of `rows` moved one row down, in a circle.

    before: (N,) the captions that the images had before; their own by default.
    """
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((N, 32))
    image, text = ((shared + 0.7 * rng.standard_normal((N, 32))).astype(np.float16) for _ in range(2))
    carried = np.arange(N) if before is None else before.copy()
    carried[rows] = np.roll(carried[rows], 1)
    source = home / "source"
    for folder in ("img_emb", "text_emb", "metadata"):
        (source / folder).mkdir(parents=True)
    for k, part in enumerate(np.split(np.arange(N), SHARDS)):
        np.save(source / f"img_emb/img_emb_{k}.npy", image[part])
        np.save(source / f"text_emb/text_emb_{k}.npy", text[carried[part]])
        table = pa.table({"key": [f"k{i}" for i in part], "caption": [f"c{i}" for i in carried[part]]})
        pq.write_table(table, source / f"metadata/metadata_{k}.parquet")
    return pairclean.clean(source, home / "run", method="zero-shot")


def verdicts(run: Run) -> pd.DataFrame:
    return run.verdicts().to_pandas()


def test_a_shifted_shard_is_reported_and_repaired_on_request(tmp_path: Path) -> None:
    run = shifted_run(tmp_path, np.arange(300, 600))
    (finding,) = run.report["findings"]
    assert (finding["kind"], finding["offset"], finding["first_shard"], finding["mended"]) == ("shifted", 1, "1", 0)
    assert (finding["first_row"], finding["last_row"]) == (0, 299)
    assert "carry the caption of the pair before" in finding["sentence"]
    assert finding["sentence"] in (run.path / "report.html").read_text(encoding="utf-8")
    noisy = verdicts(run)[300:600].query("is_noisy == True")
    assert len(noisy) == 300  # whatever their score
    assert 0.3 < run.report["mismatch_rate"]["estimate"] < 0.4
    assert set(noisy["reason_code"]) == {"shifted"}

    assert redo(run, "rematch", Execution(), repair=True) == ["align", "judge", "rematch", "export", "report"]
    found = verdicts(run)
    moved = found[300:600]
    assert set(moved["verdict"]) == {"rematched"}
    assert moved["rematch_caption"].tolist() == [f"c{i}" for i in range(300, 600)]
    assert set(moved["reason"]) == {"captions moved 1 row down (offset +1)"}
    assert moved["rematch_probability"].mean() > 0.95
    assert set(found.drop(moved.index)["verdict"]) <= {"clean", "noisy"}
    report = run.report
    assert report["findings"][0]["mended"] == report["rematch"]["mended"] == 300
    assert "300 captions that had moved were given back" in report["notes"][0]
    assert report["mismatch_rate"]["high"] < 0.1  # of the pairs as they are now
    assert report["reason_codes"]["shifted"] == 300
    assert report["rematch"]["emitted"] == 300
    kept = pd.concat([pd.read_parquet(file) for file in sorted((run.path / "cleaned").rglob("*.parquet"))])
    kept = kept.set_index("key").loc[[f"k{i}" for i in range(300, 600)]]
    assert kept["caption"].tolist() == [f"c{i}" for i in range(300, 600)]

    redo(run, "rematch", Execution(), repair=False)
    assert run.report["findings"][0]["mended"] == 0


def test_captions_that_all_moved_come_home_and_are_judged_there(tmp_path: Path) -> None:
    run = shifted_run(tmp_path, np.arange(N))
    found = verdicts(run)
    assert set(found["verdict"]) == {"unjudged"}
    assert set(found["reason_code"]) == {"shifted"}
    assert run.report["mismatch_rate"]["estimate"] is None
    assert "most captions are with other images" in run.report["notes"][0]
    redo(run, "rematch", Execution(), repair=True)
    found = verdicts(run)
    assert run.report["mismatch_rate"]["estimate"] < 0.05
    assert (found["clean_probability"] < 0.01).all()  # of the pairs as they came
    assert set(found["verdict"]) == {"rematched"}
    assert found["rematch_caption"].tolist() == [f"c{i}" for i in range(N)]


def test_without_a_fault_repair_changes_nothing(tmp_path: Path) -> None:
    run = shifted_run(tmp_path, np.zeros(0, np.int64))
    before = verdicts(run)
    assert run.report["findings"] == []
    redo(run, "rematch", Execution(), repair=True)
    pd.testing.assert_frame_equal(verdicts(run), before)


def test_mismatches_in_a_range_that_moved_are_judged_and_rematched_like_others(tmp_path: Path) -> None:
    """Of 600 captions that moved together, a fifth were with wrong images before."""
    rng = np.random.default_rng(1)
    before = np.arange(N)
    wrong = np.sort(rng.choice(N, N // 5, replace=False))
    before[wrong] = np.roll(wrong, len(wrong) // 2)
    run = shifted_run(tmp_path, np.arange(300, 900), before)
    redo(run, "rematch", Execution(), repair=True)
    found = verdicts(run)
    low, high = (run.report["mismatch_rate"][end] for end in ("low", "high"))
    assert low < 0.2 < high
    right = [caption == f"c{i}" for i, caption in enumerate(found["rematch_caption"])]
    moved = found["reason_code"] == "shifted"
    assert moved[300:].mean() > 0.7
    assert not moved[:300].any()
    assert np.mean(np.array(right)[found["verdict"] == "rematched"]) > 0.85
    assert found.loc[moved, "rematch_probability"].mean() > 0.85
    kept = [pd.read_parquet(file) for file in sorted((run.path / "cleaned").rglob("*.parquet"))]
    kept = pd.concat(kept)
    assert (kept["caption"] == "c" + kept["key"].str[1:]).mean() > 0.9


@pytest.mark.slow
def test_a_run_that_was_applied_is_repaired_too(tmp_path: Path) -> None:
    trained = shifted_run(tmp_path / "trained", np.zeros(0, np.int64))
    shifted_run(tmp_path / "other", np.arange(300, 600))
    applied = pairclean.apply(trained.path, tmp_path / "other" / "source", tmp_path / "applied")
    assert len(applied.report["findings"]) == 1
    redo(applied, "rematch", Execution(), repair=True)
    assert applied.report["rematch"]["mended"] == 300
