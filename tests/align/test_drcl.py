"""DRCL: the published code's values, and what it learns from labels of generated views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.align import DRCL, Alignment, drcl
from pairclean.align.drcl import (
    ALPHA,
    BETA,
    PUBLISHED,
    SMALL,
    Side,
    generalised_cross_entropy,
    orthogonal,
    reversible_loss,
    true_probability,
)
from pairclean.arrays import Pairs

CASES = ["drcl0", "drcl1", "drcl2"]


class Case:
    """One case of the reference vectors, as tensors by name."""

    def __init__(self, file: np.lib.npyio.NpzFile, name: str):
        found = {key.split("/")[1]: torch.from_numpy(file[key]) for key in file.files if key.startswith(f"{name}/")}
        self.prior, self.features, self.label, self.found = found["W"], found["features"], found["labels"], found
        self.places = torch.linalg.pinv(self.prior)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    with np.load(shared / "reference" / "drcl_bmm_vectors.npz") as file:
        return Case(file, request.param)


def test_recasting_is_the_published_one(case: Case) -> None:
    np.testing.assert_allclose(case.label @ case.places, case.found["recast"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("q", [0.01, 0.5, 1.0])
def test_the_classification_loss_is_the_published_one(case: Case, q: float) -> None:
    found = generalised_cross_entropy(case.features @ case.prior, case.label, q)
    assert float(found) == pytest.approx(float(case.found[f"gce_q{q}"]), rel=1e-4)


@pytest.mark.parametrize("epoch", [1, 30, 150])
def test_the_loss_and_its_gradient_are_the_published_ones(case: Case, epoch: int) -> None:
    features = case.features.clone().requires_grad_()
    q = DRCL(np.eye(2), None, size=PUBLISHED)._q(epoch - 1)
    loss = reversible_loss(features, case.label, case.prior, case.places, q)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case.found[f"loss_epoch{epoch}"]), rel=1e-4)
    gradient = case.found[f"loss_epoch{epoch}_grad"]
    np.testing.assert_allclose(features.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_what_is_not_classification_is_the_published_discrimination(case: Case) -> None:
    without = reversible_loss(case.features, case.label, case.prior, case.places, 0.01)
    without = without - generalised_cross_entropy(case.features @ case.prior, case.label, 0.01)
    assert float(without) == pytest.approx(float(case.found["discrimination"]), rel=1e-4)


def test_q_rises_from_the_first_epoch_on_and_is_never_zero() -> None:
    published = DRCL(np.eye(2), None, size=PUBLISHED)
    assert [round(published._q(epoch), 6) for epoch in (0, 49, 99, 150)] == [0.01, 0.5, 1, 1]
    assert DRCL(np.eye(2), None)._q(SMALL.epochs - 1) == 1
    assert PUBLISHED.widths == (4096, 4096, 2048)


def test_a_weight_of_zero_is_as_good_as_absence() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator), dim=1)
    label, prior = torch.eye(3)[torch.arange(8) % 3], orthogonal(5, 3, 0)
    places, weight = torch.linalg.pinv(prior), torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0])
    weighted = reversible_loss(features, label, prior, places, 0.5, weight)
    torch.testing.assert_close(weighted, reversible_loss(features[:5], label[:5], prior, places, 0.5))
    torch.testing.assert_close(
        reversible_loss(features, label, prior, places, 0.5, torch.ones(8)),
        reversible_loss(features, label, prior, places, 0.5),
    )
    assert ALPHA == BETA == 0.1


def test_the_prior_starts_orthogonal() -> None:
    for width, classes in ((10, 4), (4, 4)):
        w = orthogonal(width, classes, 3)
        assert w.shape == (width, classes)
        torch.testing.assert_close(w.T @ w, torch.eye(classes), atol=1e-5, rtol=0)
    assert orthogonal(3, 7, 0).shape == (3, 7)
    assert not torch.equal(orthogonal(6, 3, 0), orthogonal(6, 3, 1))


def test_the_best_prior_is_kept_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later epochs go on learning, and do not reach it; the published code kept a reference."""
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((90, 12)).astype(np.float32), np.eye(3, dtype=bool)[np.arange(90) % 3]
    falling = iter(np.linspace(1, 0, 20))
    original = drcl.true_probability

    def worse_each_time(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return original(logits, y) if logits.requires_grad else torch.tensor([next(falling)])

    monkeypatch.setattr(drcl, "true_probability", worse_each_time)
    found = []
    for epochs in (1, 4):
        method = DRCL(label, None, size=replace(SMALL, prior_epochs=epochs))
        side = Side(x, method.label[0], np.arange(90), None, method.size, "cpu")
        found.append(method._prior(side, 0)[1])
    assert torch.equal(*found)


class Data:
    """image, text: (900, d) views of 6 classes in 8 latent dimensions, foreign to each other; pair i carries the
    caption of `carried[i]`, 80% of them moved.  own: (900,) class of the image; theirs: of the caption it carries."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n = 900
        self.own = rng.integers(0, 6, n)
        latent = 2 * rng.standard_normal((6, 8))[self.own] + rng.standard_normal((n, 8))
        self.image, text = (np.tanh(latent @ rng.standard_normal((8, d)) / 3).astype(np.float16) for d in (40, 30))
        moved = rng.permutation(n)[:720]
        carried = np.arange(n)
        carried[moved] = np.roll(moved, 1)
        self.text, self.theirs = text[carried], self.own[carried]
        self.rows, self.test = np.arange(600), np.arange(600, n)
        self.ids = np.arange(n), carried

    def fit(self, method: DRCL, clean: np.ndarray | None = None) -> DRCL:
        return method.fit(Pairs(self.image, self.text, *self.ids), self.rows, clean)

    def auroc(self, model: Alignment) -> float:
        """Of unseen pairs whose caption is of its image's class above the others."""
        similarity = (model.embed_image(self.image[self.test]) * model.embed_text(self.text[self.test])).sum(1)
        alike = (self.own == self.theirs)[self.test]
        return float((similarity[alike][:, None] > similarity[~alike]).mean())


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(6, dtype=bool)[classes]


@pytest.fixture(scope="module")
def both(data: Data) -> DRCL:
    return data.fit(DRCL(hot(data.own), hot(data.theirs)))


def test_labels_of_both_sides_need_no_pair_to_be_right(data: Data, both: DRCL) -> None:
    assert data.auroc(both) > 0.9
    distrusted = data.fit(DRCL(hot(data.own), hot(data.theirs)), np.zeros(900))
    assert np.array_equal(distrusted.embed_text(data.text), both.embed_text(data.text))
    wrong = data.fit(DRCL(hot(data.own), None))  # four in five captions learn another's class
    assert data.auroc(wrong) < data.auroc(both) - 0.02


def test_a_judge_weighs_the_side_that_has_its_classes_from_the_other(data: Data) -> None:
    knows = np.where(data.own == data.theirs, 0.99, 0.01)
    for labels in ((hot(data.own), None), (None, hot(data.theirs))):
        assert data.auroc(data.fit(DRCL(*labels), knows)) > 0.9


def test_each_modality_learns_alone(data: Data, both: DRCL) -> None:
    """Pairs could be shuffled as they like: only the labels matter."""
    other = Data()
    other.text[other.rows], other.theirs[other.rows] = other.text[other.rows[::-1]], other.theirs[other.rows[::-1]]
    again = other.fit(DRCL(hot(other.own), hot(other.theirs)))
    assert data.auroc(again) > data.auroc(both) - 0.05


def test_one_or_several_classes_a_pair_and_none(data: Data) -> None:
    several = hot(data.own) | hot((data.own + 1) % 6)
    several[:100] = False
    side = Side(data.image, DRCL(several, None).label[0], data.rows, None, SMALL, "cpu")
    assert len(side.rows) == 500
    z, label, weight = next(side.batches(0))
    torch.testing.assert_close(label.norm(dim=1), torch.ones(len(label)))
    assert ((label > 0).sum(1) == 2).all()
    assert z.shape == (len(label), 40)
    assert weight.unique().tolist() == [1]
    assert data.auroc(data.fit(DRCL(several, None), (data.own == data.theirs).astype(float))) > 0.75


def test_the_likelihood_of_several_classes_is_their_sum() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    p = logits.softmax(1)[0]
    assert float(true_probability(logits, torch.tensor([[1.0, 0, 1]]))) == pytest.approx(float(p[0] + p[2]))


def test_nothing_labelled_and_no_rows_are_no_crash(data: Data) -> None:
    none = np.zeros((900, 6), bool)
    for model in (data.fit(DRCL(none, hot(data.theirs))), data.fit(DRCL(none, none))):
        assert np.isfinite(model.embed_image(data.image)).all()


def test_it_is_saved_and_loaded_as_any_alignment(data: Data, both: DRCL, tmp_path: Path) -> None:
    both.save(tmp_path / "model.safetensors")
    loaded = Alignment.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.embed_image(data.image[:50]), both.embed_image(data.image[:50]))
    assert np.array_equal(loaded.embed_text(data.text[:50]), both.embed_text(data.text[:50]))
    assert loaded.embed_text(data.text[:0]).shape == (0, 64)
    again = Data().fit(DRCL(hot(data.own), hot(data.theirs)))
    assert np.array_equal(again.embed_image(data.image[:50]), both.embed_image(data.image[:50]))
    other = data.fit(DRCL(hot(data.own), hot(data.theirs), seed=1))
    assert not np.array_equal(other.embed_image(data.image[:50]), both.embed_image(data.image[:50]))
