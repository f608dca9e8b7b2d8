from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.align.cost import LEARNING_RATE, ContextCost, LinearCost, cost_step, plant_matches, supervision


@pytest.fixture(scope="module")
def vectors(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "l2rm_vectors.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_ten_steps_are_the_published_ones(vectors, case):
    similarity = torch.tensor(vectors[f"{case}/S"])
    target = torch.tensor(vectors[f"{case}/supervision"])
    cost = LinearCost(len(similarity))
    np.testing.assert_allclose(cost(similarity).detach(), vectors[f"{case}/cost_init"], rtol=1e-4, atol=1e-6)
    optimiser = torch.optim.Adam(cost.parameters(), lr=LEARNING_RATE)
    losses = [float(cost_step(cost, optimiser, similarity, target)) for _ in range(10)]
    np.testing.assert_allclose(losses, vectors[f"{case}/cost_losses_10_steps"], rtol=1e-6)
    after = vectors[f"{case}/cost_after_10_steps"]
    np.testing.assert_allclose(cost(similarity).detach(), after, rtol=1e-4, atol=1e-6)


def test_the_cost_starts_at_one_minus_the_similarity_and_is_never_negative():
    similarity = torch.tensor([[0.2, 0.9, -0.5], [0.0, 1.0, 1.5]])
    expected = [[0.8, 0.1, 1.5], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(LinearCost(3)(similarity).detach(), expected, atol=1e-6)


def test_a_step_lowers_the_cost_of_what_was_planted_and_leaves_the_similarity_alone():
    similarity = torch.tensor([[0.2, 0.4], [0.3, 0.1]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    cost = LinearCost(2)
    optimiser = torch.optim.SGD(cost.parameters(), lr=0.1)
    assert float(cost_step(cost, optimiser, similarity, target)) == pytest.approx(0.6)
    # d/dW_1 = S_0 = (.2, .4), d/db_1 = 1: the cost falls by .1 (.2² + .4² + 1)
    assert float(cost_step(cost, optimiser, similarity, target)) == pytest.approx(0.6 - 0.12)
    assert similarity.grad is None


def test_supervision_is_one_where_a_slot_meets_its_caption():
    target = supervision(torch.tensor([2, 0]), torch.tensor([1, 3]), rows=3, columns=4)
    assert target.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert target.dtype == torch.float32


def test_planted_matches_are_where_the_supervision_says():
    queue, image = torch.zeros(25, 2), torch.arange(1.0, 81.0).reshape(40, 2)
    counts = set()
    for seed in range(30):
        planted, target = plant_matches(queue, image, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(planted, target @ image)  # the queue itself is zero
        assert float(target.sum(0).max()) == float(target.sum(1).max()) == 1
        counts.add(int(target.sum()))
    assert counts == {1, 2, 3, 4}  # up to a tenth of the batch
    assert float(queue.abs().sum()) == 0


def test_planting_takes_small_batches_and_repeats_with_its_seed():
    queue, image = torch.zeros(1, 3), torch.ones(4, 3)
    planted, target = plant_matches(queue, image, generator=torch.Generator().manual_seed(5))
    assert planted.tolist() == [[1.0, 1.0, 1.0]]
    assert float(target.sum()) == 1
    again = plant_matches(queue, image, generator=torch.Generator().manual_seed(5))[1]
    assert torch.equal(target, again)


# --- the cost that learning uses --------------------------------------------------------------------------------------


def hubs(seed: int, pairs: int = 96, dim: int = 24) -> torch.Tensor:
    """(pairs, pairs) logits of noisy views of one latent space, with captions that are near to every image."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(pairs, dim, generator=generator)
    image, text = (latent + 0.9 * torch.randn(pairs, dim, generator=generator) for _ in range(2))
    image, text = (torch.nn.functional.normalize(x, dim=1) for x in (image, text))
    return 20 * (image @ text.T) + 6 * torch.rand(pairs, generator=generator)


@cache
def learned(steps: int = 120) -> ContextCost:
    cost = ContextCost()
    for step in range(steps):
        cost.learn(hubs(step), torch.eye(96))
    return cost


def test_the_cost_is_that_of_its_formula_with_all_hidden_units_at_once():
    logits, cost = hubs(1), ContextCost(seed=1)
    with torch.no_grad():
        cost.slope.copy_(torch.tensor([0.9, 0.3, -0.2]))
        cost.out.copy_(torch.linspace(-1, 1, len(cost.out)))
        mean = torch.tensor(logits.shape).log()
        excess = logits - logits.logsumexp(1, keepdim=True) + mean[1], logits - logits.logsumexp(0) + mean[0]
        seen = torch.stack([logits, *excess], dim=-1)  # (Q, B, 3)
        expected = -(seen @ cost.slope + torch.relu(seen @ cost.weight.T + cost.bias) @ cost.out)
    np.testing.assert_allclose(cost(logits).detach(), expected, rtol=1e-4, atol=1e-4)


def test_the_context_cost_starts_at_minus_the_logits():
    logits = hubs(0)
    np.testing.assert_allclose(ContextCost()(logits).detach(), -logits, atol=1e-5)


def test_the_context_cost_is_equivariant_and_takes_any_size():
    cost, logits = learned(20), hubs(7)[:50]
    rows, columns = torch.randperm(50), torch.randperm(96)
    with torch.no_grad():
        np.testing.assert_allclose(cost(logits[rows][:, columns]), cost(logits)[rows][:, columns], atol=1e-4)


def test_the_context_cost_moves_and_does_not_collapse():
    cost, logits, target = deepcopy(learned()), hubs(1000), torch.eye(96)
    with torch.no_grad():
        found = cost(logits)
    correlation = float(torch.corrcoef(torch.stack([found.flatten(), -logits.flatten()]))[0, 1])
    assert 0.2 < correlation < 0.97
    flat = 2 * np.log(2)  # the loss of a cost that is zero everywhere
    assert float(cost.learn(logits, target)) < flat / 2
    assert float(found.std()) > 1


def test_the_learned_context_takes_hubs_away():
    cost, logits = learned(), hubs(1000)
    own = torch.arange(96)
    with torch.no_grad():
        right = (cost(logits).argmin(1) == own).float().mean()
    assert right > (logits.argmax(1) == own).float().mean() + 0.05


def test_learning_the_cost_leaves_the_similarities_alone():
    logits = hubs(0).requires_grad_()
    ContextCost().learn(logits, torch.eye(96))
    assert logits.grad is None
