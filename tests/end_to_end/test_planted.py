"""Real pictures with captions moved, through the whole corridor, checked by a script that knows nothing of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import pairclean

pytestmark = [pytest.mark.slow, pytest.mark.data]


def scored(shared: Path, name: str, noise: str, tmp_path: Path, model: str) -> dict[str, float]:
    clean, moved = shared / "data" / name, shared / "data/noise" / name / f"{noise}.parquet"
    tools = shared / "tools"
    subprocess.run([sys.executable, tools / "plant.py", clean, moved, tmp_path / "in"], check=True)
    pairclean.clean(tmp_path / "in", tmp_path / "run", model=model)
    command = [sys.executable, tools / "score.py", tmp_path / "run", moved, clean, "--json"]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def test_hand_crafted_features_find_what_was_moved(shared: Path, tmp_path: Path) -> None:
    found = scored(shared, "fashion", "random_0.4_0", tmp_path, "hog-tfidf")
    assert found["pairs"] == 6004
    assert found["unreadable"] == found["unjudged"] == 0
    assert found["auroc"] >= 0.95
    assert abs(found["mismatch_rate_error"]) <= 0.05
    assert found["ece"] <= 0.05
    assert found["correct_after"] > 0.93 > found["correct_before"]


def test_an_encoder_that_is_aligned_is_not_made_worse(shared: Path, tmp_path: Path) -> None:
    model = f"local-dir:{shared}/models/tinyclip"
    found = scored(shared, "fashion_unseen", "random_0.4_0", tmp_path, model)
    assert found["pairs"] == 2405
    assert found["auroc"] >= 0.9903 - 0.001  # the zero-shot cosine of this encoder on this data
    assert abs(found["mismatch_rate_error"]) <= 0.02
    assert found["ece"] <= 0.03


def test_lists_of_captions_come_back_as_lists(shared: Path, tmp_path: Path) -> None:
    import datasets

    model = f"local-dir:{shared}/models/tinyclip"
    run = pairclean.clean(shared / "data/flickr8k", tmp_path / "run", model=model)
    verdicts = run.verdicts().to_pandas()
    assert len(verdicts) == 5000
    assert verdicts["pair_id"].is_unique
    assert (verdicts["is_noisy"]).mean() < 0.03  # people wrote these captions for these pictures
    assert run.report["mismatch_rate"]["estimate"] < 0.03

    files = str(tmp_path / "run/cleaned/*.parquet")
    cleaned = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert cleaned[0]["image"].size[0] > 1
    assert len(cleaned[0]["caption"]) == len(cleaned[0]["pairclean_pair_id"]) > 1
    kept = verdicts["verdict"].isin(["clean", "rematched"]).sum()
    assert sum(map(len, cleaned["caption"])) == kept
    frame = pd.read_parquet(tmp_path / "run/cleaned")
    assert Image.open(io.BytesIO(frame["image"][0]["bytes"])).size == cleaned[0]["image"].size
