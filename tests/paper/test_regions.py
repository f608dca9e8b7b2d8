"""The network as a scorer of `clean_vectors`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pairclean import UserError, clean_vectors
from pairclean.arrays import unit
from pairclean.metrics.detection import auroc
from pairclean.paper import networks, regions
from pairclean.paper.data import RegionCaptions, Vocabulary, make_noise, open_split
from pairclean.paper.evaluation import similarities
from pairclean.paper.fit import BEST, load_model
from pairclean.paper.generated import DIM, REGIONS, architecture, draw
from pairclean.paper.networks import Architecture, RetrievalModel
from pairclean.paper.regions import RegionScorer, fold_by_image, pooled_vectors, train_out_of_fold
from pairclean.paper.training import SCHEDULES, Settings

SHORT = replace(Settings(), warm_up=1, epochs=1, batch=16, queue=16, rate=3e-3)


def several(images: int, seed: int = 0) -> RegionCaptions:
    """Five captions per image, of several lengths."""
    drawn = [draw(images, seed + k) for k in range(5)]
    captions = [drawn[k].captions[i] for i in range(images) for k in range(5)]
    return RegionCaptions(drawn[0].images, captions, np.arange(5 * images) // 5)


@pytest.mark.parametrize("module", ["SGR", "SAF"])
def test_scores_are_those_of_the_full_matrix(module: Literal["SGR", "SAF"], monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts that hold neither all pairs nor all images and captions, in any order and repeated."""
    monkeypatch.setattr(regions, "ENCODED", 12)
    monkeypatch.setattr(networks, "PAIRED", 7 * 8 * 32)
    torch.manual_seed(0)
    model, data = RetrievalModel(architecture(module)), several(12)
    data = data.with_noise(np.random.default_rng(0).integers(0, 12, len(data)))
    naive = similarities(model.eval(), data)
    rows = np.random.default_rng(1).integers(0, len(data), (2, 500))
    scorer = RegionScorer(model, data)
    found = scorer.score(*rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive[data.image_of[rows[0]], rows[1]], atol=1e-6)
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(scorer.score(rows[0][:1], rows[1][:1]), found[:1], atol=1e-6)


def test_pooled_vectors_are_means_of_regions_and_weighted_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "ENCODED", 5)
    data = several(8)
    data = data.with_noise(np.random.default_rng(0).integers(0, 8, len(data)))
    image, text = pooled_vectors(data)
    np.testing.assert_allclose(image, data.images.mean(1)[data.image_of], atol=1e-6)
    assert text.shape == (40, regions.WORD_DIM)
    again = pooled_vectors(
        replace(data, captions=[caption[[0, 2, 1, *range(3, len(caption))]] for caption in data.captions])
    )
    np.testing.assert_allclose(again[1], text, rtol=1e-4, atol=1e-4)  # the order of words does not count
    few = RegionCaptions(data.images, [np.array([1, *words, 2]) for words in ([5, 6], [5, 7], [5, 8])], np.arange(3))
    cosine = unit(pooled_vectors(few)[1]) @ unit(pooled_vectors(few)[1]).T
    assert np.abs(cosine - np.eye(3)).max() < 0.2  # words 1, 2 and 5 are in every caption, and say nothing


def test_an_image_is_in_one_fold() -> None:
    data = several(30)
    data = data.with_noise(make_noise(data, 0.4, "captions", 0))
    fold = fold_by_image(data, 3)
    assert {len(np.unique(fold[data.image_of == image])) for image in np.unique(data.image_of)} == {1}
    assert set(fold.tolist()) == {0, 1, 2}
    assert (fold != fold_by_image(data, 3, seed=1)).any()


def test_no_model_sees_the_pairs_that_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, dev = draw(60, 0), draw(12, 1)
    seen: list[RegionCaptions] = []
    monkeypatch.setattr(regions, "fit", lambda training, dev, home, progress: seen.append(training.data))
    monkeypatch.setattr(regions, "load_model", lambda path: RetrievalModel(architecture("SAF")))
    given: list[RegionCaptions] = []

    def clean(part: RegionCaptions) -> np.ndarray:
        given.append(part)
        return np.ones(len(part))

    made = train_out_of_fold(data, dev, tmp_path, architecture("SAF"), SHORT, folds=3, clean=clean)
    assert len(made.scorers) == len(seen) == 3
    for k, part in enumerate(seen):
        assert sorted(part.image_of.tolist()) == sorted(data.image_of[made.fold != k].tolist())
        expected = [data.captions[i].tolist() for i in np.flatnonzero(made.fold != k)]
        assert [caption.tolist() for caption in part.captions] == expected
        assert given[k] is part
    with pytest.raises(UserError, match="1 fold leaves no pair to train on"):
        train_out_of_fold(data, dev, tmp_path, architecture("SAF"), SHORT, folds=1)


@pytest.mark.slow
def test_regions_are_cleaned_from_end_to_end(tmp_path: Path) -> None:
    """Too little training to be good, and enough to be better than chance."""
    right, dev = draw(500, 0), draw(60, 1)
    data = right.with_noise(make_noise(right, 0.3, "captions", 0))
    longer = replace(SHORT, warm_up=14, epochs=2, rate=6e-3)
    made = train_out_of_fold(data, dev, tmp_path, architecture("SAF"), longer)
    weights = (tmp_path / "fold0" / BEST).read_bytes()
    again = train_out_of_fold(data, dev, tmp_path, architecture("SAF"), longer)  # nothing is trained again
    assert (tmp_path / "fold0" / BEST).read_bytes() == weights
    np.testing.assert_array_equal(made.fold, again.fold)
    captions = [" ".join(map(str, words)) for words in data.captions]
    found = clean_vectors(
        *pooled_vectors(data),
        captions=captions,
        image_ids=data.image_of,
        comparable=False,
        scorer=made.scorers,
        fold=made.fold,
    )
    assert found.judgement.score == "scorer"
    rows, own = np.arange(500), np.empty(500, np.float32)
    for k in range(2):
        mine = rows[made.fold == k]
        own[mine] = RegionScorer(load_model(tmp_path / f"fold{k}" / BEST), data).score(mine, mine)
    np.testing.assert_allclose(found.judgement.aligned_similarity, own, atol=1e-6)
    wrong = data.image_of != right.image_of
    probability = np.nan_to_num(found.judgement.clean_probability, nan=0.5)
    assert auroc(-probability, wrong) > 0.6
    low, high = (found.mismatch_rate[end] for end in ("low", "high"))
    assert low <= wrong.mean() <= high


def test_a_folder_that_lacks_a_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f30k_precomp_vocab\.json is missing"):
        Vocabulary.read(tmp_path / "f30k_precomp_vocab.json")
    with pytest.raises(UserError, match=r"train_ims\.npy is missing"):
        open_split(tmp_path, "train", Vocabulary.of([]))
    np.save(tmp_path / "train_ims.npy", np.zeros((2, 3, 4), np.float32))
    with pytest.raises(UserError, match=r"train_caps\.txt is missing"):
        open_split(tmp_path, "train", Vocabulary.of([]))


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "DIR" / "f30k_precomp").mkdir(parents=True)
    for number, split in enumerate(("train", "dev")):
        drawn = draw((24, 4)[number], number)
        lines = [" ".join(f"thing{word}" for word in caption[1:-1]) for caption in drawn.captions for _ in range(5)]
        np.save(tmp_path / "DIR" / "f30k_precomp" / f"{split}_ims.npy", drawn.images)
        (tmp_path / "DIR" / "f30k_precomp" / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))
        if split == "train":
            Vocabulary.of(lines, least=1).write(tmp_path / "DIR" / "vocab" / "f30k_precomp_vocab.json")
    small = partial(Architecture, image_dim=DIM, regions=REGIONS, word_dim=8, joint_dim=8, similarity_dim=4)
    monkeypatch.setattr(networks, "Architecture", small)
    monkeypatch.setitem(SCHEDULES, "f30k", SHORT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace('device="cuda"', 'device="cpu"'), names)
    assert len(names["found"].verdicts) == 120
    assert [scorer.data is names["data"] for scorer in names["made"].scorers] == [True] * 2
    assert (tmp_path / "OUT" / "fold1" / BEST).exists()
