"""Scores out of fold, the choice of a temperature, and scoring by what another run has saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pairclean.align import Alignment, ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import crossfit, embedded
from pairclean.judge.crossfit import CrossFit, Scores, cosine_scores, separates_better
from pairclean.judge.kinds import PairKinds, Partition
from pairclean.judge.scores import TEMPERATURES, Scorer

N, K = 400, 24


class Rotated(Alignment):
    """Knows the images only through a rotation that the captions have too; remembers what it was asked for."""

    def __init__(self, seed: int, noise: float = 0.0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.rotation = np.linalg.qr(rng.standard_normal((K, K)))[0].astype(np.float32)
        self.noise, self.seen = noise, [0]

    def embed_image(self, image: np.ndarray) -> np.ndarray:
        self.seen[0] += len(image)
        blur = np.random.default_rng(len(image)).standard_normal(image.shape).astype(np.float32)
        x = (image + self.noise * blur) @ self.rotation
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def embed_text(self, text: np.ndarray) -> np.ndarray:
        return text @ self.rotation


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    """Aligned vectors, a third of the captions moved; rows leave out some pairs, folds are three."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N, K))
    image, text = ((latent + 0.8 * rng.standard_normal((N, K))).astype(np.float32) for _ in range(2))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    carried = np.arange(N)
    carried[: N // 3] = np.roll(carried[: N // 3], 1)
    rows = np.setdiff1d(np.arange(N), np.arange(5, N, 50))
    return {
        "image": image,
        "text": text[carried],
        "image_id": np.arange(N),
        "caption_id": carried + 1000,
        "rows": rows,
        "fold": rows % 3,
    }


def pairs_of(data: dict[str, np.ndarray]) -> Pairs:
    return Pairs(*(data[name] for name in ("image", "text", "image_id", "caption_id")))


def scored(models: list[Alignment], data: dict[str, np.ndarray], **options: Any) -> Scores:
    return CrossFit(models, data["rows"], data["fold"]).scores(pairs_of(data), **options)


def test_each_pair_is_scored_by_its_folds_model(data: dict[str, np.ndarray]) -> None:
    models = [Rotated(k) for k in range(3)]
    found = scored(models, data, temperatures=(0.05,))
    alone = scored([ZeroShot()], data, temperatures=(0.05,))
    np.testing.assert_allclose(found.similarity, alone.similarity, atol=1e-5)  # rotations change no cosine
    np.testing.assert_allclose(found.score, alone.score, atol=1e-3)
    wrong = Rotated(9)
    wrong.embed_text = lambda text: -text @ wrong.rotation  # type: ignore[method-assign]
    partly = scored([models[0], wrong, models[2]], data)
    np.testing.assert_allclose(partly.similarity[data["fold"] != 1], alone.similarity[data["fold"] != 1], atol=1e-5)
    np.testing.assert_allclose(partly.similarity[data["fold"] == 1], -alone.similarity[data["fold"] == 1], atol=1e-5)
    assert len(partly.scorers) == 3
    assert len(alone.scorers) == 1


def test_decoys_are_twenty_a_pair_and_within_the_fold(data: dict[str, np.ndarray]) -> None:
    found = scored([Rotated(k) for k in range(3)], data)
    assert len(found.decoys) == 20 * len(data["rows"])
    # One fold's captions all point one way and another's the other way: across folds they would be far apart.
    image, text = data["image"].copy(), data["text"].copy()
    sign = np.where(np.arange(N) % 3 == 0, 1.0, -1.0).astype(np.float32)
    image[:], text[:] = 0.05 * image, 0.05 * text
    image[:, 0], text[:, 0] = sign, sign
    within = scored([ZeroShot(), ZeroShot(), ZeroShot()], {**data, "image": image, "text": text})
    assert within.similarity.min() > 0.9
    spread = np.ptp(within.decoys)
    across = scored([ZeroShot()], {**data, "image": image, "text": text})
    assert spread < np.ptp(across.decoys) / 5


def test_pairs_and_decoys_have_the_spread_of_their_captions(data: dict[str, np.ndarray]) -> None:
    pairs, rows = pairs_of(data), data["rows"]
    kinds = PairKinds.of(Partition.fit(pairs, rows), pairs, rows)
    models = [Rotated(k) for k in range(3)]
    found = scored(models, data, kinds=kinds)
    assert found.kinds is not None
    for k, (model, place) in enumerate(CrossFit(models, rows, data["fold"]).members()):
        reference = found.scorers[k].reference.image
        expected = (model.embed_text(data["text"][rows[place]]) @ reference.T).std(1)
        np.testing.assert_allclose(found.kinds.spread[place], expected, atol=1e-6)
        np.testing.assert_array_equal(found.scored.spread[place], found.kinds.spread[place])
    for drawn in (found.kinds.decoys, *found.kinds.within):
        assert np.isin(drawn.spread, found.kinds.spread).all()
    assert set(found.kinds.decoys.spread) == set(found.kinds.spread)


def test_the_temperature_is_the_one_that_separates_best(data: dict[str, np.ndarray]) -> None:
    found = scored([ZeroShot()], data)
    by_temperature = {}
    for t in TEMPERATURES:
        by_temperature[t] = scored([ZeroShot()], data, temperatures=(t,)).separation
    assert found.separation == max(by_temperature.values())
    assert by_temperature[found.scorers[0].temperature] == found.separation
    assert len(set(by_temperature.values())) > 1


def test_of_many_pairs_a_sample_chooses_the_temperature(
    data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = scored([ZeroShot()], data)
    monkeypatch.setattr(crossfit, "CHOOSING", 150)
    found = scored([ZeroShot()], data)
    chosen = found.scorers[0].temperature
    assert len(found.score) == len(data["rows"])
    assert found.separation > every.separation - 0.01
    alone = scored([ZeroShot()], data, temperatures=(chosen,))
    assert np.array_equal(found.score, alone.score)
    assert np.array_equal(found.decoys, alone.decoys)


def test_separation_is_the_auroc_against_decoys() -> None:
    rng = np.random.default_rng(0)
    score, decoys = rng.integers(8, size=50) + 0.0, rng.integers(7, size=70) + 0.0
    found = Scores(score, score.astype(np.float32), decoys, [])
    pairs = (score[:, None] > decoys) + 0.5 * (score[:, None] == decoys)
    np.testing.assert_allclose(found.rank(), pairs.mean(1))
    assert found.separation == pytest.approx(pairs.mean())
    assert Scores(score, score.astype(np.float32), decoys[:0], []).separation == 0.5


def test_frozen_scores_are_the_same_for_the_same_data(data: dict[str, np.ndarray]) -> None:
    models = [Rotated(k) for k in range(3)]
    found = scored(models, data, seed=4)
    again = scored(models, data, seed=4, scorers=found.scorers)
    assert np.array_equal(again.score, found.score)
    assert np.array_equal(again.decoys, found.decoys)
    assert np.array_equal(again.similarity, found.similarity)


def test_frozen_scores_of_a_pair_do_not_depend_on_the_others(data: dict[str, np.ndarray]) -> None:
    found = scored([ZeroShot()], data)
    few = np.array([3, 7, 250])
    at = np.searchsorted(data["rows"], few)
    alone = CrossFit.single(ZeroShot(), few).scores(pairs_of(data), scorers=found.scorers)
    np.testing.assert_allclose(alone.score, found.score[at], atol=1e-4)


def test_the_seed_draws_decoys(data: dict[str, np.ndarray]) -> None:
    one, same, other = (scored([ZeroShot()], data, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.decoys, same.decoys)
    assert not np.array_equal(one.decoys, other.decoys)
    np.testing.assert_allclose(one.score, other.score, atol=1e-4)  # all pairs are the reference, whatever the seed


def test_an_empty_fold_is_no_error(data: dict[str, np.ndarray]) -> None:
    data["fold"] = np.where(data["fold"] == 1, 2, data["fold"])
    found = scored([Rotated(k) for k in range(3)], data)
    assert np.isfinite(found.score).all()


def test_a_better_space_separates_better(data: dict[str, np.ndarray]) -> None:
    good, bad = (scored([model], data) for model in (Rotated(0), Rotated(0, noise=0.2)))
    assert isinstance(good.scorers[0], Scorer)
    assert separates_better(good, bad)
    assert not separates_better(bad, good)
    assert not separates_better(good, good)


def test_cosines_are_scores_too(data: dict[str, np.ndarray]) -> None:
    rows = data["rows"]
    found = cosine_scores(pairs_of(data), rows, seed=2)
    np.testing.assert_allclose(found.score, (data["image"][rows] * data["text"][rows]).sum(1), atol=1e-6)
    assert np.array_equal(found.similarity, found.score.astype(np.float32))
    assert len(found.decoys) == 20 * len(rows)
    cosines = data["image"][rows] @ data["text"][rows].T
    off = cosines[~np.eye(len(rows), dtype=bool)]
    assert found.decoys.mean() == pytest.approx(off.mean(), abs=0.01)
    assert np.quantile(found.decoys, 0.9) == pytest.approx(np.quantile(off, 0.9), abs=0.02)


def test_chunks_change_nothing(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scored([ZeroShot()] * 3, data)
    monkeypatch.setattr(embedded, "PART", 50)
    for held in (embedded.HELD, 0):
        monkeypatch.setattr(embedded, "HELD", held)
        parts = scored([ZeroShot()] * 3, data)
        np.testing.assert_allclose(parts.score, whole.score, atol=1e-4)
        np.testing.assert_allclose(parts.decoys, whole.decoys, atol=1e-4)


def test_of_many_pairs_some_give_the_decoys(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = scored([ZeroShot()] * 3, data)
    monkeypatch.setattr(crossfit, "DECOY_PAIRS", 90)
    some = scored([ZeroShot()] * 3, data)
    assert len(some.decoys) == 20 * 90
    np.testing.assert_allclose(some.score, all_of_them.score, atol=1e-6)
    np.testing.assert_allclose(some.decoys.mean(), all_of_them.decoys.mean(), atol=3 * all_of_them.decoys.std() / 9)
