"""`python -m benchmarks.paper` on small files in the published layout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import paper
from pairclean.pairs import VERDICT_SCHEMA
from pairclean.paper import generated
from pairclean.paper.networks import Architecture, RetrievalModel
from pairclean.paper.training import Settings

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command with a small network and a short schedule, and what it prints."""
    short = replace(Settings(), warm_up=1, epochs=1, batch=16, queue=16)
    monkeypatch.setattr(paper, "SCHEDULES", dict.fromkeys(paper.SIZES, short))
    monkeypatch.setattr(paper, "Architecture", partial(Architecture, word_dim=8, joint_dim=8, similarity_dim=4))

    def call(*arguments: str) -> str:
        folders = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["paper", *folders, *arguments])
        paper.main()
        return capsys.readouterr().out

    return call


def write_set(data: Path, name: str, sizes: dict[str, int]) -> None:
    folder = data / f"{name}_precomp"
    folder.mkdir()
    for number, (split, images) in enumerate(sizes.items()):
        drawn = generated.draw(images, number)
        np.save(folder / f"{split}_ims.npy", drawn.images)
        lines = [" ".join(f"thing{word}" for word in caption[1:-1]) for caption in drawn.captions for _ in range(5)]
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))


def test_a_dry_run_says_what_is_missing_and_where_it_comes_from(run: Run, tmp_path: Path) -> None:
    said = run("--set", "f30k", "--noise", "0.4", "--dry-run")
    assert f"missing: {tmp_path}/f30k_precomp/train_ims.npy, 29,000 x 36 x 2048, 8.0 GiB: from https://" in said
    assert f"missing: {tmp_path}/vocab/f30k_precomp_vocab.json" in said
    assert f"missing: {tmp_path}/noise_index/f30k_precomp_0.4.npy" in said
    assert said.count("_caps") == 3
    write_set(tmp_path, "f30k", {"train": 8})
    said = run("--set", "f30k", "--dry-run")
    assert "train_caps.txt has 40 captions, usually 145,000" in said
    assert not (tmp_path / "out").exists()


def test_missing_features_stop_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--set", "coco")
    assert stopped.value.code == 2
    assert "files of coco are missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--set", "f30k", "--method", "rcar", "--faithful")
    assert "only l2rm can be faithful" in capsys.readouterr().err


def test_a_row_of_the_table(run: Run, tmp_path: Path) -> None:
    write_set(tmp_path, "f30k", {"train": 20, "dev": 5, "test": 6})
    said = run("--set", "f30k", "--method", "plain", "--model", "both")
    assert "f30k_precomp_0.2.npy is drawn anew: 0.2 of the images move" in said
    assert "| L2RM, published | | | | | | | 503.8 |" in said
    (file,) = (tmp_path / "out").rglob("results-both.json")
    found = json.loads(file.read_text())["recalls"]["test"]
    assert found["rsum"] == pytest.approx(sum(found["i2t"]) + sum(found["t2i"]))
    assert f"{found['rsum']:.1f} |" in said
    image_of = np.load(tmp_path / "noise_index" / "f30k_precomp_0.2.npy").reshape(20, 5)
    assert 2 <= (image_of[:, 0] != np.arange(20)).sum() <= 4
    again = run("--set", "f30k", "--method", "plain", "--model", "both")
    assert "epoch" not in again  # everything was done
    assert "missing" not in again.replace("missing: the package", "")
    assert f"{found['rsum']:.1f} |" in again


def test_published_checkpoints_are_evaluated_with_their_own_vocabulary(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path, "f30k", {"train": 8, "dev": 2, "test": 4})
    images = np.random.default_rng(0).random((4, 36, generated.DIM), np.float32)
    np.save(tmp_path / "f30k_precomp" / "test_ims.npy", images)
    words = len(paper.Files(tmp_path, "f30k", 0.2).words())
    of = paper.Architecture(words=words, module="SAF", image_dim=generated.DIM)
    options = argparse.Namespace(
        vocab_size=words,
        module_name="SAF",
        img_dim=generated.DIM,
        word_dim=8,
        embed_size=8,
        sim_dim=4,
        sgr_step=3,
        num_layers=1,
        bi_gru=True,
        no_imgnorm=False,
        no_txtnorm=False,
    )
    path = tmp_path / "model_best.pth.tar"
    torch.save({"opt": options, "net": RetrievalModel(of).state_dict()}, path)
    said = run("--set", "f30k", "--weights", str(path), str(path))
    assert "| R@5 |" in said
    assert not (tmp_path / "out").exists()
    paper.Vocabulary.of(["one two"], least=1).write(tmp_path / "vocab" / "f30k_precomp_vocab.json")
    with pytest.raises(SystemExit):
        run("--set", "f30k", "--weights", str(path))
    assert "was trained with" in capsys.readouterr().err


@pytest.mark.slow
def test_the_judge_splits_the_pairs(run: Run, tmp_path: Path) -> None:
    write_set(tmp_path, "f30k", {"train": 200, "dev": 10, "test": 12})
    said = run("--set", "f30k", "--noise", "0.4", "--method", "l2rm", "--model", "SAF")
    assert "the judge calls " in said
    assert "rSum" in said


def test_recalls_of_coco_are_the_mean_of_five_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "FOLD_IMAGES", 4)
    data = generated.draw(20, 0)
    rng = np.random.default_rng(0)
    matrices = [rng.random((20, 20)) for _ in range(2)]
    given = iter(matrices)
    monkeypatch.setattr(paper, "similarities", lambda model, data, half: next(given))
    found = paper.evaluate([None, None], data, half=False)
    whole = sum(matrices) / 2
    folds = [paper.recalls(whole[k : k + 4, k : k + 4], 1).rsum for k in range(0, 20, 4)]
    assert found["1K"].rsum == pytest.approx(np.mean(folds))
    assert found["5K"] == paper.recalls(whole, 1)


def test_the_training_pairs_are_cleaned(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--set", "f30k", "--clean")
    assert "--clean takes --model SGR or SAF" in capsys.readouterr().err
    write_set(tmp_path, "f30k", {"train": 22, "dev": 5})
    (tmp_path / "f30k_precomp" / "dev_caps.txt").rename(tmp_path / "elsewhere.txt")
    with pytest.raises(SystemExit):
        run("--set", "f30k", "--model", "SAF", "--clean")
    said = capsys.readouterr()
    assert f"missing: {tmp_path}/f30k_precomp/dev_caps.txt" in said.out
    assert "test_ims" not in said.out
    (tmp_path / "elsewhere.txt").rename(tmp_path / "f30k_precomp" / "dev_caps.txt")
    found = run("--set", "f30k", "--model", "SAF", "--clean")
    (file,) = (tmp_path / "out").rglob("verdicts.parquet")
    assert str(file) in found
    verdicts = pq.read_table(file)
    assert verdicts.schema.equals(VERDICT_SCHEMA)
    assert len(verdicts) == 110
    assert verdicts["row"].to_pylist() == list(range(110))
    assert not (tmp_path / "noise_index").exists()  # the noise is the data's own
