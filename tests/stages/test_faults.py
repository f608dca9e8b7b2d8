"""Captions that moved together, through the stages: found without being asked for, given back on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import pairclean
from pairclean.pipeline import redo
from pairclean.run import Execution, Run

N, SHARDS = 900, 3


def shifted_run(home: Path, rows: np.ndarray) -> Run:
    """A run over three shards of matched pairs, in which the captions of `rows` moved one row down, in a circle."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((N, 32))
    image, text = ((shared + 0.7 * rng.standard_normal((N, 32))).astype(np.float16) for _ in range(2))
    carried = np.arange(N)
    carried[rows] = np.roll(rows, 1)
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
    assert len(noisy) > 200
    assert set(noisy["reason_code"]) == {"shifted"}

    assert redo(run, "rematch", Execution(), repair=True) == ["rematch", "export", "report"]
    found = verdicts(run)
    moved = found[300:600]
    assert set(moved["verdict"]) == {"rematched"}
    assert moved["rematch_caption"].tolist() == [f"c{i}" for i in range(300, 600)]
    assert set(moved["reason"]) == {"captions moved 1 row down (offset +1)"}
    assert moved["rematch_probability"].mean() > 0.95
    assert set(found.drop(moved.index)["verdict"]) <= {"clean", "noisy"}
    report = run.report
    assert report["findings"][0]["mended"] == 300
    assert report["reason_codes"]["shifted"] == 300
    assert report["rematch"]["emitted"] == 300
    kept = pd.concat([pd.read_parquet(file) for file in sorted((run.path / "cleaned").rglob("*.parquet"))])
    kept = kept.set_index("key").loc[[f"k{i}" for i in range(300, 600)]]
    assert kept["caption"].tolist() == [f"c{i}" for i in range(300, 600)]

    redo(run, "rematch", Execution(), repair=False)
    assert run.report["findings"][0]["mended"] == 0


def test_captions_that_all_moved_come_home_though_nothing_could_be_judged(tmp_path: Path) -> None:
    run = shifted_run(tmp_path, np.arange(N))
    found = verdicts(run)
    assert set(found["verdict"]) == {"unjudged"}
    assert set(found["reason_code"]) == {"encoder_cannot_tell"}
    redo(run, "rematch", Execution(), repair=True)
    found = verdicts(run)
    assert set(found["verdict"]) == {"rematched"}
    assert found["rematch_caption"].tolist() == [f"c{i}" for i in range(N)]


def test_without_a_fault_repair_changes_nothing(tmp_path: Path) -> None:
    run = shifted_run(tmp_path, np.zeros(0, np.int64))
    before = verdicts(run)
    assert run.report["findings"] == []
    redo(run, "rematch", Execution(), repair=True)
    pd.testing.assert_frame_equal(verdicts(run), before)
