from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pairclean.align.losses import (
    info_nce,
    same_identity,
    symmetric_kl,
    targets_from_plan,
    triplet_loss,
    triplet_per_pair,
    warm_up_loss,
)

CASES = ["case0", "case1", "case2"]
LN3 = math.log(3)
#: Three pairs; the margin .2 is violated by row 0 (.1), row 1 (.3), and twice in column 1 (.4, .1).
THREE = torch.tensor([[0.8, 0.7, 0.1], [0.2, 0.5, 0.6], [0.3, 0.4, 0.9]])
COPIES_01 = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])


@pytest.fixture(scope="module")
def vectors(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "l2rm_vectors.npz") as file:
        return dict(file)


def value_and_gradient(loss: Callable[[Tensor], Tensor], similarity: np.ndarray) -> tuple[float, np.ndarray]:
    leaf = torch.tensor(similarity, requires_grad=True)
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient.numpy()


def check(vectors: dict[str, np.ndarray], case: str, name: str, loss: Callable[[Tensor], Tensor], suffix: str) -> None:
    value, gradient = value_and_gradient(loss, vectors[f"{case}/S"])
    expected = vectors[f"{case}/{name}_grad"]
    assert value == pytest.approx(float(vectors[f"{case}/{name}{suffix}"]), rel=1e-4)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_the_warm_up_loss_is_the_published_one(vectors, case):
    check(vectors, case, "warmup", warm_up_loss, "_loss")


@pytest.mark.parametrize("case", CASES)
def test_the_triplet_losses_are_the_published_ones(vectors, case):
    check(vectors, case, "triplet_max_violation", triplet_loss, "")
    check(vectors, case, "triplet_warmup", lambda s: triplet_loss(s, hardest=False), "")
    per_pair = triplet_per_pair(torch.tensor(vectors[f"{case}/S"]), 0.2)
    np.testing.assert_allclose(per_pair, vectors[f"{case}/triplet_per_pair"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reg", ["0.01", "0.07"])
def test_the_rematching_loss_is_the_published_one(vectors, case, reg):
    plan = torch.tensor(vectors[f"{case}/plan_reg{reg}_masked_released"])
    row_target, column_target, rows, columns = targets_from_plan(plan)
    assert rows.all()
    assert columns.all()
    check(vectors, case, f"symkl_reg{reg}", lambda s: symmetric_kl(s, row_target, column_target), "")


def test_warm_up_loss_by_hand():
    similarity = 0.05 * torch.tensor([[LN3, 0], [0, LN3]])  # softmaxes of 3/4 and 1/4
    expected = -math.log(0.75) - 0.25 * math.log(1e-7)
    assert float(warm_up_loss(similarity)) == pytest.approx(expected, rel=1e-5)
    assert float(warm_up_loss(2 * similarity, temperature=0.1)) == pytest.approx(expected, rel=1e-5)
    assert float(warm_up_loss(similarity, target=torch.eye(2))) == pytest.approx(expected, rel=1e-5)


def test_warm_up_loss_does_not_punish_mass_on_a_copy():
    similarity = 0.05 * torch.tensor([[LN3, 0], [0, LN3]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert float(warm_up_loss(similarity, target=everything)) == pytest.approx(expected, rel=1e-5)


def test_triplet_by_hand():
    assert float(triplet_loss(THREE)) == pytest.approx(0.8)
    assert triplet_per_pair(THREE, 0.2).tolist() == pytest.approx([0.1 / 3, 0.8 / 3, 0])
    assert float(triplet_loss(THREE, hardest=False)) == pytest.approx(0.3)
    assert float(triplet_loss(THREE, margin=0.0)) == pytest.approx(0.1 + 0.2)


def test_a_copy_is_no_negative():
    assert float(triplet_loss(THREE, same=COPIES_01)) == pytest.approx(0.3 + 0.1)
    assert triplet_per_pair(THREE, 0.2, same=COPIES_01).tolist() == pytest.approx([0, 0.4 / 3, 0])


def test_targets_are_the_plan_normalised_by_rows_and_by_columns():
    row_target, column_target, rows, columns = targets_from_plan(torch.tensor([[0.2, 0.1], [0.0, 0.1], [0.0, 0.0]]))
    np.testing.assert_allclose(row_target, [[2 / 3, 1 / 3], [0, 1], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(column_target, [[1, 0.5], [0, 0.5], [0, 0]], atol=1e-6)
    assert (row_target > 0).all()
    assert (column_target > 0).all()
    assert rows.tolist() == [True] * 3
    assert columns.tolist() == [True] * 2


def test_rows_and_columns_without_mass_can_be_told():
    plan = torch.tensor([[0.2, 0.1, 0.0], [1e-6, 0.0, 0.0]])
    _, _, rows, columns = targets_from_plan(plan, mass_threshold=0.01)
    assert rows.tolist() == [True, False]
    assert columns.tolist() == [True, True, False]


def test_symmetric_kl_by_hand():
    similarity = torch.zeros(2, 2)
    row_target, column_target = torch.tensor([[0.8, 0.2], [0.5, 0.5]]), torch.full((2, 2), 0.5)
    divergence = 0.3 * math.log(4)  # of (.8, .2) and (.5, .5), both directions

    def loss(**masks: Tensor) -> float:
        return float(symmetric_kl(similarity, row_target, column_target, **masks))

    assert loss() == pytest.approx(divergence / 4)
    assert loss(row_mask=torch.tensor([True, False])) == pytest.approx(divergence / 2)
    assert loss(row_mask=torch.tensor([False, True])) == pytest.approx(0)
    assert loss(row_mask=torch.zeros(2, dtype=torch.bool)) == 0


def test_symmetric_kl_takes_batches_that_are_not_square_and_is_zero_at_its_target():
    similarity = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) / 10
    rows, columns = torch.softmax(similarity / 0.05, 1), torch.softmax(similarity / 0.05, 0)
    assert float(symmetric_kl(similarity, rows, columns)) == pytest.approx(0, abs=1e-6)


def test_info_nce_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, LN3]])
    losses = [math.log(2), math.log(4 / 3)]
    assert float(info_nce(logits)) == pytest.approx(sum(losses) / 2)
    weighted = (losses[0] + 3 * losses[1]) / 4
    assert float(info_nce(logits, weight=torch.tensor([1.0, 3.0]))) == pytest.approx(weighted)
    assert float(info_nce(logits, weight=torch.tensor([0.1, 0.3]))) == pytest.approx(weighted)
    assert float(info_nce(logits, weight=torch.zeros(2))) == 0


def test_info_nce_is_the_mean_of_both_directions():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    assert float(info_nce(logits)) == pytest.approx(float(expected), rel=1e-6)


def test_info_nce_leaves_copies_out_of_the_denominators():
    logits = torch.zeros(3, 3, requires_grad=True)
    loss = info_nce(logits, same=COPIES_01)
    assert loss.item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 1] == gradient[1, 0] == 0


def test_losses_stay_finite_where_softmaxes_saturate():
    similarity = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    plan = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    row_target, column_target, _, _ = targets_from_plan(plan)
    for value, gradient in (
        value_and_gradient(lambda s: warm_up_loss(s, temperature=0.001), similarity.numpy()),
        value_and_gradient(lambda s: symmetric_kl(s, row_target, column_target, 0.001), similarity.numpy()),
        value_and_gradient(lambda s: info_nce(s / 0.001), similarity.numpy()),
    ):
        assert 1000 < value < 1e5
        assert np.isfinite(gradient).all()


def test_same_identity_goes_by_image_or_caption():
    same = same_identity(torch.tensor([1, 1, 2, 3]), torch.tensor([7, 8, 9, 8]))
    assert same.tolist() == [
        [True, True, False, False],
        [True, True, False, True],
        [False, False, True, False],
        [False, True, False, True],
    ]
