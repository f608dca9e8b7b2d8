"""The stages on drawn scenes and on data that supports no judgement: what every pair is said to be."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pairclean
from pairclean import scratch
from pairclean.align import ZeroShot
from pairclean.embed import Embeddings
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.rematch.rematches import UNCALIBRATED
from pairclean.run import Execution, Run
from pairclean.run.results import open_embeddings, open_judgement, open_learned, open_rematches, save_learned
from pairclean.stages.export import verdict_tables
from pairclean.stages.report import _sampled
from pairclean.synthetic.scenes import draw_scenes, write_shards

HOG = {"model": "hog-tfidf", "method": "canonical"}  # which learns in a moment
NO_HIGHER = "the pairs score no higher than random re-pairings"


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def caption(seed: int) -> str:
    words = ["red", "blue", "cat", "dog", "tree", "house", "car", "sky", "old", "new"]
    return " ".join(np.random.default_rng(seed).choice(words, 4)) + f" {seed}"


def cleaned(run: Run) -> pd.DataFrame:
    return pd.concat([pq.read_table(f).to_pandas() for f in sorted((run.path / "cleaned").glob("*.parquet"))])


def frame(run: Run) -> pd.DataFrame:
    return run.verdicts().to_pandas()


def nothing_was_judged(run: Run, why: str) -> None:
    """All readable pairs say why, nothing is lost, and report and export are there."""
    verdicts = frame(run)
    assert set(verdicts["verdict"]) <= {"unjudged", "unreadable"}
    readable = verdicts[verdicts["verdict"] == "unjudged"]
    assert readable["reason"].str.startswith(why).all()
    for column in ("is_noisy", "clean_probability", "rematch_pair_id", "rematch_probability"):
        assert verdicts[column].isna().all()
    assert run.report["mismatch_rate"]["estimate"] is None
    assert run.report["verdicts"]["unjudged"] == len(readable) > 0
    assert run.report["rematch"]["emitted"] == 0
    assert any(why in note for note in run.report["notes"])
    assert (run.path / "report.html").stat().st_size > 1000
    assert (
        list((run.path / "cleaned").glob("*.parquet")) == []
        or cleaned(run).empty
        or not (set(cleaned(run)["pairclean_verdict"]) & {"clean", "rematched"})
    )


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


def tiles(seed: int) -> tuple[bytes, str]:
    """Nine coloured fields and a caption that names them all, which a linear model can learn."""
    names = np.random.default_rng(seed).choice(list(COLOURS), 9)
    pixels = np.array([COLOURS[name] for name in names], np.uint8).reshape(3, 3, 3).repeat(16, 0).repeat(16, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), " ".join(f"{place}{name}" for place, name in zip("abcdefghi", names, strict=True))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pd.DataFrame]:
    """500 pairs, 150 of them moved and three of them broken, in four shards; and the truth."""
    home = tmp_path_factory.mktemp("noisy")
    (home / "drawn").mkdir()
    rows = [tiles(seed) for seed in range(500)]
    images = [None if i in (7, 300) else b"no picture" if i == 400 else image for i, (image, _) in enumerate(rows)]
    columns = {"key": [f"{i:04d}" for i in range(500)], "jpg": images, "caption": [text for _, text in rows]}
    for shard in range(4):
        part = {name: column[125 * shard : 125 * (shard + 1)] for name, column in columns.items()}
        pq.write_table(pa.table(part), home / "drawn" / f"{shard}.parquet")
    planted = pairclean.plant(home / "drawn", home / "shards", rate=0.3)
    truth = pd.read_parquet(planted.truth).set_index("key")
    return pairclean.clean(home / "shards", home / "run", **HOG, min_precision=0.8), truth


def test_every_pair_has_one_verdict(noisy: tuple[Run, pd.DataFrame]) -> None:
    run, truth = noisy
    verdicts = frame(run)
    assert verdicts["pair_id"].tolist() == truth.index.tolist()
    assert verdicts["verdict"].isin(["clean", "rematched", "noisy", "unreadable"]).all()
    assert verdicts["verdict"].value_counts().to_dict() == {k: v for k, v in run.report["verdicts"].items() if v}
    judged = verdicts["verdict"] != "unreadable"
    assert judged.sum() == verdicts["clean_probability"].notna().sum() == verdicts["is_noisy"].notna().sum()
    flagged = verdicts["is_noisy"].fillna(False).astype(bool)
    assert (flagged == verdicts["verdict"].isin(["noisy", "rematched"])).all()
    assert (flagged[judged] == (verdicts["clean_probability"][judged] < 0.5)).all()
    has_reason = verdicts["reason"].notna()
    assert (has_reason == verdicts["verdict"].isin(["noisy", "unreadable"])).all()


def test_what_was_planted_is_found(noisy: tuple[Run, pd.DataFrame]) -> None:
    run, truth = noisy
    verdicts = frame(run).set_index("pair_id")
    judged = verdicts[verdicts["clean_probability"].notna()]
    moved = truth.loc[judged.index, "caption"] != truth.loc[judged.index, "carried_caption"]
    clean = judged["clean_probability"].to_numpy()
    assert (clean[~moved][:, None] > clean[moved]).mean() > 0.97
    rate = run.report["mismatch_rate"]
    assert rate["low"] <= rate["estimate"] <= rate["high"]
    assert rate["estimate"] == pytest.approx(moved.mean(), abs=0.06)


def test_rematches_take_only_captions_that_are_free(noisy: tuple[Run, pd.DataFrame]) -> None:
    run, truth = noisy
    verdicts = frame(run).set_index("pair_id")
    rematched = verdicts[verdicts["verdict"] == "rematched"]
    assert len(rematched) > 50
    assert (verdicts["rematch_pair_id"].notna() == (verdicts["verdict"] == "rematched")).all()
    assert (verdicts["rematch_caption"].notna() == (verdicts["verdict"] == "rematched")).all()
    assert rematched["rematch_probability"].between(0, 1).all()
    assert rematched["rematch_pair_id"].is_unique
    donors = verdicts.loc[rematched["rematch_pair_id"]]
    assert donors["is_noisy"].all()
    assert (donors.index != rematched.index).all()
    assert rematched["rematch_caption"].tolist() == truth.loc[donors.index, "carried_caption"].tolist()
    assert (rematched["rematch_caption"] != truth.loc[rematched.index, "carried_caption"]).all()
    emitted = run.report["rematch"]
    assert emitted["emitted"] == len(rematched)
    assert emitted["expected_precision"] == pytest.approx(rematched["rematch_probability"].mean(), abs=1e-6)
    right = rematched["rematch_caption"].to_numpy() == truth.loc[rematched.index, "caption"].to_numpy()
    assert right.mean() > 0.7


def test_the_cleaned_data_are_the_clean_and_the_rematched(noisy: tuple[Run, pd.DataFrame]) -> None:
    run, truth = noisy
    verdicts = frame(run).set_index("pair_id")
    kept = verdicts[verdicts["verdict"].isin(["clean", "rematched"])]
    out = cleaned(run).set_index("key")
    assert out.index.tolist() == kept.index.tolist()
    expected = truth.loc[kept.index, "carried_caption"].where(kept["verdict"] == "clean", kept["rematch_caption"])
    assert out["caption"].tolist() == expected.tolist()


def test_a_frozen_run_gives_the_same_probabilities(noisy: tuple[Run, pd.DataFrame], tmp_path: Path) -> None:
    """Up to pairs whose fold their own run drew by a copy or a shared caption, and this one by their image alone."""
    run, _ = noisy
    out = pairclean.apply(run.path, run.manifest["source"], tmp_path / "out")
    ours, theirs = frame(out), frame(run)
    judged = theirs["clean_probability"].notna()
    same = np.isclose(ours["clean_probability"][judged], theirs["clean_probability"][judged], atol=1e-3)
    assert same.mean() > 0.9
    shared = theirs.set_index("pair_id").index[judged][~same]
    assert len(shared) < 0.1 * judged.sum()
    assert out.report["mismatch_rate"]["estimate"] == pytest.approx(run.report["mismatch_rate"]["estimate"], abs=0.1)


def test_a_frozen_run_over_what_is_all_alike_judges_nothing(noisy: tuple[Run, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    table = pa.table({"key": [f"{i}" for i in range(120)], "jpg": [picture(0)] * 120, "caption": ["a cat"] * 120})
    pq.write_table(table, tmp_path / "shards" / "0.parquet")
    nothing_was_judged(pairclean.apply(noisy[0].path, tmp_path / "shards", tmp_path / "out"), "every pair scores")


@pytest.mark.slow
def test_data_without_noise_come_out_clean(tmp_path: Path) -> None:
    write_shards(draw_scenes(1500, seed=3), tmp_path / "shards")
    run = pairclean.clean(tmp_path / "shards", tmp_path / "run", **HOG)
    assert run.report["mismatch_rate"]["estimate"] < 0.05
    verdicts = frame(run)
    plain = pd.Series([e.kind for e in draw_scenes(1500, seed=3)]) == "plain"
    assert (verdicts["verdict"][plain].isin(["noisy", "rematched"])).mean() < 0.05


def test_fewer_than_a_hundred_are_not_judged(tmp_path: Path) -> None:
    write_shards(draw_scenes(99, seed=0), tmp_path / "shards")
    run = pairclean.clean(tmp_path / "shards", tmp_path / "run", **HOG)
    readable = run.report["pairs"] - run.report["unreadable"]
    nothing_was_judged(run, f"only {readable} readable pairs: at least 100 are needed to judge")


@pytest.mark.parametrize("method", ["canonical", pytest.param("l2rm", marks=pytest.mark.slow)])
def test_captions_drawn_at_random_are_not_judged(method: str, tmp_path: Path) -> None:
    write_shards(draw_scenes(300, seed=1), tmp_path / "drawn")
    pairclean.plant(tmp_path / "drawn", tmp_path / "shards", rate=1.0)
    run = pairclean.clean(tmp_path / "shards", tmp_path / "run", **{**HOG, "method": method})
    nothing_was_judged(run, NO_HIGHER)
    assert not list((run.path / "model").glob("aligned_*"))  # there was nothing to learn from either
    kept = frame(run)
    assert kept["aligned_similarity"].notna().sum() == (kept["verdict"] == "unjudged").sum()


SAME, TWO = (lambda i: 0), (lambda i: i % 2)


@pytest.mark.parametrize(
    ("pairs", "image", "text", "why"),
    [
        (1, int, int, "only 1 readable pair:"),
        (2, int, int, "only 2 readable pairs"),
        (150, SAME, SAME, "every pair scores the same"),
        (150, int, SAME, "every pair scores the same"),
        (150, SAME, int, "every pair scores the same"),
        (150, TWO, int, ""),
        (150, int, TWO, ""),
        (150, TWO, TWO, ""),  # too few to tell, one way or the other
    ],
    ids=["one", "two", "identical", "one caption", "one image", "two images", "two captions", "two pairs"],
)
def test_hostile_data(
    pairs: int, image: Callable[[int], int], text: Callable[[int], int], why: str, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    columns = {"jpg": [picture(image(i)) for i in range(pairs)], "caption": [caption(text(i)) for i in range(pairs)]}
    pq.write_table(pa.table(columns), tmp_path / "shards" / "0.parquet")
    run = pairclean.clean(tmp_path / "shards", tmp_path / "run", **HOG)
    assert len(frame(run)) == pairs
    nothing_was_judged(run, why)


def test_without_a_pair_to_calibrate_by_nothing_is_rematched(noisy: tuple[Run, pd.DataFrame], tmp_path: Path) -> None:
    """As where no pair was likely enough to be clean to be held out."""
    shutil.copytree(noisy[0].path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    save_learned(run, replace(open_learned(run), held_out=np.zeros(0, np.int64)))
    redo(run, "rematch", Execution(), min_precision=0.7)
    verdicts = frame(run)
    assert set(verdicts["verdict"]) <= {"clean", "noisy", "unreadable"}
    assert set(verdicts["reason"][verdicts["verdict"] == "noisy"]) == {UNCALIBRATED}
    assert open_rematches(run).calibrated_on == 0


def test_the_captions_of_partners_are_read_once(
    noisy: tuple[Run, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read, captions = noisy[0], [], Embeddings.captions
    monkeypatch.setattr(Embeddings, "captions", lambda emb, rows: read.append(len(rows)) or captions(emb, rows))
    tables = list(verdict_tables(run, open_embeddings(run)))
    assert len(tables) > 1
    assert pa.concat_tables(tables).equals(run.verdicts())
    assert len(read) == 1


def test_the_kind_of_a_mismatch_is_told_of_flagged_pairs_alone(noisy: tuple[Run, pd.DataFrame]) -> None:
    run, truth = noisy
    verdicts = frame(run).set_index("pair_id")
    flagged = verdicts["is_noisy"].fillna(False).astype(bool)
    assert verdicts["noise_kind"][~flagged].isna().all()
    moved = flagged & (truth["noise_kind"].reindex(verdicts.index) == "complete")
    assert moved.sum() > 100
    assert (verdicts["noise_kind"][moved] == "complete").mean() > 0.9
    mixed = open_judgement(run).mixed_clean_probability
    said = f"about {(mixed < 0.5).mean():.0%} are flagged"
    assert any(said in note for note in run.report["notes"])


def test_of_large_data_the_report_says_that_models_learned_from_a_sample(noisy: tuple[Run, pd.DataFrame]) -> None:
    learned = replace(open_learned(noisy[0]), method="l2rm", aligned=[ZeroShot()])
    said = ["Each model learned from a sample: at most 16,384 of about 80,000 pairs in an epoch."]
    assert _sampled(learned, 100_000) == said
    assert _sampled(learned, 20_480) == []  # without a fifth, they fit into an epoch
    assert _sampled(replace(learned, method="rcar"), 100_000) == []
    assert _sampled(replace(learned, method="zero-shot"), 10**9) == []
    assert _sampled(replace(learned, aligned=[]), 10**9) == []  # the encoder judges


def test_a_disk_without_room_for_what_rematching_needs_is_said(
    noisy: tuple[Run, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run can be gone on with."""
    shutil.copytree(noisy[0].path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    before = frame(run)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(scratch, "SMALL", 1)
        patched.setattr(scratch, "_reserve", full)
        with pytest.raises(UserError, match=r"cannot write to .*run: No space left on device; make room, then go on"):
            redo(run, "rematch", Execution(), min_precision=0.7)
    assert redo(Run.open(run.path), "rematch", Execution(), min_precision=0.7) == ["rematch", "export", "report"]
    found = frame(Run.open(run.path))
    assert found["pair_id"].tolist() == before["pair_id"].tolist()
    assert (found["verdict"] == "rematched").sum() >= (before["verdict"] == "rematched").sum() > 100
