"""L2RM on generated views of one latent space, two fifths of the pairs mismatched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.align import L2RM, Alignment, Canonical, training
from pairclean.arrays import Pairs

TRAIN, TEST, RATE = 1500, 500, 0.4


class Data:
    """image, text: (2000, d) unit float16 of two nonlinear views of 16 latent dimensions; the pairs are moved at RATE.

    clean: (2000,) bool, whose caption is its own."""

    def __init__(self, seed: int, text_dim: int = 48):
        rng = np.random.default_rng(seed)
        n = TRAIN + TEST
        latent = rng.standard_normal((n, 16))
        self.image, self.text = (_view(latent, d, rng) for d in (64, text_dim))
        carried = np.arange(n)
        for part in (np.arange(TRAIN), np.arange(TRAIN, n)):
            moved = rng.permutation(part)[: round(RATE * len(part))]
            carried[moved] = np.roll(moved, 1)
        self.clean = carried == np.arange(n)
        self.text = self.text[carried]
        self.image_id, self.caption_id = np.arange(n), carried + 10_000
        self.rows, self.test = np.arange(TRAIN), np.arange(TRAIN, n)

    def fit(self, method: Alignment, clean: np.ndarray | None = None) -> Alignment:
        return method.fit(self.pairs, self.rows, clean)  # type: ignore[attr-defined, no-any-return]

    @property
    def pairs(self) -> Pairs:
        return Pairs(self.image, self.text, self.image_id, self.caption_id)

    def auroc(self, model: Alignment) -> float:
        """Of matched above mismatched, among pairs that the model has not seen."""
        similarity = (model.embed_image(self.image[self.test]) * model.embed_text(self.text[self.test])).sum(1)
        clean = self.clean[self.test]
        return float((similarity[clean][:, None] > similarity[~clean]).mean())


def _view(latent: np.ndarray, d: int, rng: np.random.Generator) -> np.ndarray:
    hidden = np.tanh(latent @ rng.standard_normal((16, d)) / 3)
    x = np.c_[hidden, 0.3 * hidden**2] @ rng.standard_normal((2 * d, d)) + 4 * rng.standard_normal((len(latent), d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(0)


@pytest.fixture(scope="module")
def canonical(data: Data) -> float:
    found = data.auroc(data.fit(Canonical()))
    assert 0.75 < found < 0.995  # room on both sides
    return found


def test_on_foreign_spaces_it_is_as_good_as_its_start(data: Data, canonical: float) -> None:
    assert data.auroc(data.fit(L2RM(comparable=False))) > canonical - 0.02


def test_a_judge_that_knows_makes_it_better(data: Data, canonical: float) -> None:
    knows = np.where(data.clean, 0.9, 0.1)
    assert data.auroc(data.fit(L2RM(comparable=False), knows)) > canonical
    misled = data.auroc(data.fit(L2RM(comparable=False), 1 - knows))
    assert misled < canonical - 0.1


def test_comparable_spaces_start_at_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    data = Data(3, text_dim=64)
    latent = rng.standard_normal((TRAIN + TEST, 64)) * np.geomspace(1, 0.1, 64)
    noisy = [latent + 0.8 * rng.standard_normal(latent.shape) for _ in range(2)]
    data.image, text = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in noisy)
    data.text = text[data.caption_id - 10_000]
    encoder = data.auroc(Alignment())
    assert 0.85 < encoder < 0.98
    learned = data.fit(L2RM(comparable=True), np.where(data.clean, 0.9, 0.1))
    assert learned.image is not None
    assert learned.image.matrix is None
    assert data.auroc(learned) > encoder - 0.01
    monkeypatch.setattr(training, "TUNING_RATE", 1e-12)
    unchanged = data.fit(L2RM(comparable=True), np.ones(TRAIN + TEST))
    np.testing.assert_allclose(unchanged.embed_image(data.image), Alignment().embed_image(data.image), atol=1e-5)


def test_the_same_twice_and_another_seed_is_another_model(data: Data) -> None:
    clean = np.where(data.clean, 0.9, 0.1)
    torch.manual_seed(0)
    one = data.fit(L2RM(comparable=False), clean).embed_image(data.image[:50])
    torch.manual_seed(1)
    assert np.array_equal(data.fit(L2RM(comparable=False), clean).embed_image(data.image[:50]), one)
    assert not np.array_equal(data.fit(L2RM(comparable=False, seed=1), clean).embed_image(data.image[:50]), one)


def test_only_the_rows_are_learned_from(data: Data) -> None:
    clean = np.where(data.clean, 0.9, 0.1)
    one = data.fit(L2RM(comparable=False), clean).embed_image(data.image[:20])
    other = Data(0)
    other.image[TRAIN:], other.text[TRAIN:] = 0, 0
    other.image_id[TRAIN:] = other.caption_id[TRAIN:] = 0
    changed = np.where(np.arange(TRAIN + TEST) < TRAIN, clean, np.nan)
    assert np.array_equal(other.fit(L2RM(comparable=False), changed).embed_image(data.image[:20]), one)


def test_a_long_epoch_is_cut(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = np.where(data.clean, 0.9, 0.1)
    monkeypatch.setattr(L2RM, "largest_epoch", 600)
    monkeypatch.setattr(training, "BATCH", 300)
    model = data.fit(L2RM(comparable=False), clean)
    assert isinstance(model, L2RM)
    assert model.schedule.last_epoch == model.schedule.total_steps == 10 * 2  # of about 900 clean pairs


@pytest.mark.parametrize("comparable", [False, True])
def test_copies_do_no_harm(comparable: bool) -> None:
    """All captions alike, all images alike, and all but a few: there is nothing to rematch, and nothing breaks."""
    n = 200
    rng = np.random.default_rng(0)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, n, 20)).astype(np.float32))
    apart, same = np.arange(n), np.zeros(n, np.int64)
    few = np.where(apart < 190, 0, apart)
    for image_id, caption_id in ((apart, same), (same, apart), (same, same), (apart, few)):
        for clean in (np.full(n, 0.2), np.full(n, 0.8), None):
            model = L2RM(comparable=comparable)
            model.fit(Pairs(x, y, image_id, caption_id), apart, clean)
            assert np.isfinite(model.embed_image(x)).all()
            assert np.isfinite(model.embed_text(y)).all()


def test_the_rematching_loss_ignores_copies_and_the_pair_itself(data: Data) -> None:
    """It is least where suspects resemble other suspects' captions, and is nothing where all are copies."""
    model = L2RM(comparable=False)
    pairs = model._begin(data.pairs, data.rows, np.ones(TRAIN), 1)
    suspects = torch.arange(64)
    assert float(model._rematching_loss(pairs.similarity(suspects), pairs.same(suspects), 1.0).detach()) > 0
    one_image = data.pairs.with_ids(np.zeros_like(data.image_id), data.caption_id)
    alike = model._begin(one_image, data.rows, np.ones(TRAIN), 1)
    assert float(model._rematching_loss(alike.similarity(suspects), alike.same(suspects), 1.0).detach()) == 0


def test_suspects_take_part(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = L2RM._rematching_loss

    def watched(self: L2RM, similarity: torch.Tensor, forbidden: torch.Tensor, present: float) -> torch.Tensor:
        sizes.append((len(similarity), round(present, 3)))
        return original(self, similarity, forbidden, present)

    monkeypatch.setattr(L2RM, "_rematching_loss", watched)
    data.fit(L2RM(comparable=False), np.where(data.clean, 0.9, 0.1))
    assert sum(~data.clean[:TRAIN]) == 600
    assert sizes == [(512, 0.853)] * 10  # a step an epoch, its suspects drawn anew
    sizes.clear()
    data.fit(L2RM(comparable=False), np.full(TRAIN + TEST, 0.9))
    assert sizes == []
