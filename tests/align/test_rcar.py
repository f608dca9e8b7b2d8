"""RCAR: its loss by hand, and what it learns from generated views of one latent space, two fifths mismatched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.align import RCAR, Alignment, Canonical, rcar
from pairclean.arrays import Pairs

TRAIN, TEST, RATE = 800, 400, 0.4


class Data:
    """image, text: (1200, d) unit float16 of two nonlinear views of 12 latent dimensions; pairs are moved at RATE.

    clean: (1200,) bool, whose caption is its own."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n = TRAIN + TEST
        latent = rng.standard_normal((n, 12))
        self.image, text = (_view(latent, d, rng) for d in (48, 40))
        carried = np.arange(n)
        for part in (np.arange(TRAIN), np.arange(TRAIN, n)):
            moved = rng.permutation(part)[: round(RATE * len(part))]
            carried[moved] = np.roll(moved, 1)
        self.clean, self.text = carried == np.arange(n), text[carried]
        self.ids = np.arange(n), carried
        self.rows, self.test = np.arange(TRAIN), np.arange(TRAIN, n)

    def fit(self, method: Alignment, clean: np.ndarray | None = None) -> Alignment:
        return method.fit(self.pairs, self.rows, clean)  # type: ignore[attr-defined, no-any-return]

    @property
    def pairs(self) -> Pairs:
        return Pairs(self.image, self.text, *self.ids)

    def auroc(self, model: Alignment) -> float:
        """Of matched above mismatched, among pairs that the model has not seen."""
        similarity = (model.embed_image(self.image[self.test]) * model.embed_text(self.text[self.test])).sum(1)
        clean = self.clean[self.test]
        return float((similarity[clean][:, None] > similarity[~clean]).mean())


def _view(latent: np.ndarray, d: int, rng: np.random.Generator) -> np.ndarray:
    hidden = np.tanh(latent @ rng.standard_normal((12, d)) / 3)
    x = np.c_[hidden, 0.3 * hidden**2] @ rng.standard_normal((2 * d, d)) + 4 * rng.standard_normal((len(latent), d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def test_the_refurbished_loss_is_cross_entropy_with_the_mixed_label() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    noisy = torch.tensor([0.0, 0.2, 1.0, 0.7, 0.5, 0.1], dtype=torch.float64)
    expected = 0.0
    for side in (logits, logits.T):
        p = side.softmax(1)
        belief = p**rcar.SHARPNESS / (p**rcar.SHARPNESS).sum(1, keepdim=True)
        label = (1 - noisy)[:, None] * torch.eye(6, dtype=torch.float64) + noisy[:, None] * belief
        expected += float(-(label * p.log()).sum(1).mean()) / 2
    apart = torch.eye(6, dtype=torch.bool)
    assert float(rcar.refurbished_loss(logits, noisy, apart)) == pytest.approx(expected, rel=1e-6)
    clean = rcar.refurbished_loss(logits, torch.zeros(6), apart)
    assert float(clean) == pytest.approx(float(rcar.matching_loss(logits, apart).mean()), rel=1e-6)


def test_a_refurbished_label_moves_towards_what_the_model_believes() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 3.0]], requires_grad=True)
    rcar.refurbished_loss(logits, torch.tensor([1.0, 0.0, 0.0]), torch.eye(3, dtype=torch.bool)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0  # its own caption is pushed away
    trusted = logits.detach().clone().requires_grad_()
    rcar.refurbished_loss(trusted, torch.zeros(3), torch.eye(3, dtype=torch.bool)).backward()
    assert trusted.grad is not None
    assert trusted.grad[0, 0] < 0


def test_copies_are_no_negatives() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    changed = logits.clone()
    changed[0, 1], changed[1, 0] = 50, -50
    noisy = torch.tensor([0.5, 0.5, 0.1, 0.9])
    assert torch.equal(rcar.refurbished_loss(logits, noisy, same), rcar.refurbished_loss(changed, noisy, same))
    assert torch.equal(rcar.matching_loss(logits, same), rcar.matching_loss(changed, same))
    assert not torch.equal(rcar.matching_loss(logits, torch.eye(4, dtype=torch.bool)), rcar.matching_loss(logits, same))


def test_its_own_mixture_finds_the_mismatched(data: Data) -> None:
    """What memory of a pair leaves of its loss: the posterior after the warm-up, of the pairs it was learned from."""
    found = []
    original = RCAR._noisy

    class Watched(RCAR):
        def _noisy(self, pairs: object) -> torch.Tensor:
            found.append(original(self, pairs))  # type: ignore[arg-type]
            return found[-1]

    model = data.fit(Watched(comparable=False))
    clean, first = data.clean[:TRAIN], found[0].numpy()
    assert len(found) == rcar.EPOCHS
    assert (first[~clean][:, None] > first[clean]).mean() > 0.85
    assert data.auroc(model) > data.auroc(data.fit(Canonical())) - 0.03


def test_a_judge_that_knows_makes_it_better(data: Data) -> None:
    knows = np.where(data.clean, 0.95, 0.05)
    start = data.auroc(data.fit(Canonical()))
    assert data.auroc(data.fit(RCAR(comparable=False), knows)) > start
    assert data.auroc(data.fit(RCAR(comparable=False), 1 - knows)) < start - 0.1


def test_the_second_task_brings_views_together_and_never_looks_at_the_pairs(data: Data) -> None:
    model = RCAR(comparable=False)
    pairs = model._begin(data.pairs, data.rows, np.ones(TRAIN), 1)
    batch = torch.arange(200)
    before = float(model._consistency(pairs, batch, 0).detach())
    assert before == float(model._consistency(pairs, batch, 0).detach())
    assert before != float(model._consistency(pairs, batch, 1).detach())
    assert 0 < before < np.log(200)
    data.fit(model, np.zeros(TRAIN + TEST))  # no pair is trusted
    pairs = model._begin(data.pairs, data.rows, np.ones(TRAIN), 20)
    for epoch in range(20):
        model._step(model._consistency(pairs, batch, epoch))
    assert float(model._consistency(pairs, batch, 0).detach()) < before - 0.1


def test_the_same_twice(data: Data) -> None:
    clean = np.where(data.clean, 0.9, 0.1)
    one, again, other = (data.fit(RCAR(comparable=False, seed=s), clean).embed_text(data.text[:20]) for s in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_comparable_spaces_start_at_the_encoder() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 16)).astype(np.float32)
    ids = np.arange(300)
    model = RCAR(comparable=True).fit(Pairs(x, x + 0.1, ids, ids), ids, np.ones(300))
    assert model.image.matrix is None
    assert (model.embed_image(x) * model.embed_text(x + 0.1)).sum(1).mean() > 0.9


def test_copies_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 120, 20)).astype(np.float32)
    apart, same = np.arange(120), np.zeros(120, np.int64)
    for clean in (np.full(120, 0.2), None):
        model = RCAR(comparable=False).fit(Pairs(x, y, same, apart), apart, clean)
        assert np.isfinite(model.embed_image(x)).all()
        assert np.isfinite(model.embed_text(y)).all()
