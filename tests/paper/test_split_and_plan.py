from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.align.transport import partial_plan
from pairclean.paper.plan import released_plan
from pairclean.paper.split import k_means_start, scaled, split

Vectors = dict[str, np.ndarray]
MIXTURES = ["bmm0", "bmm1", "bmm2"]


@pytest.mark.parametrize("case", MIXTURES)
def test_the_split_is_the_published_one(vectors: Vectors, case: str) -> None:
    found = split(vectors[f"{case}/losses"], vectors[f"{case}/kmeans_start_label"])
    np.testing.assert_allclose(found.posterior_clean, vectors[f"{case}/posterior_clean"], rtol=0, atol=1e-8)
    order = np.argsort(vectors[f"{case}/second_fit/alpha_beta"] @ [1, -1])  # by component, as the mixture has them
    fitted = np.stack([found.mixture.alpha, found.mixture.beta], 1)
    np.testing.assert_allclose(fitted, vectors[f"{case}/second_fit/alpha_beta"][order], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.mixture.weight, vectors[f"{case}/second_fit/weights"][order], rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", MIXTURES)
def test_the_start_is_k_means(vectors: Vectors, case: str) -> None:
    loss = vectors[f"{case}/losses"]
    for seed in range(3):
        start = k_means_start(loss, seed)
        assert set(start) == {0, 1}
        unit = scaled(loss)
        centre = [unit[start == k].mean() for k in (0, 1)]
        nearer = (abs(unit - centre[0]) > abs(unit - centre[1])).astype(int)
        assert (nearer == start).mean() > 0.9  # one more iteration would move few
    np.testing.assert_array_equal(k_means_start(loss, 2), k_means_start(loss, 2))


def test_only_the_extremes_are_moved_from_the_ends() -> None:
    loss = np.array([0.0, 0.0, 1e-4, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(scaled(loss), [0.001, 0.001, 1e-4, 0.5, 0.999], rtol=1e-6)


@pytest.mark.parametrize("loop", ["loop_sgr", "loop_saf"])
def test_the_plan_stops_where_the_published_one_does(vectors: Vectors, loop: str) -> None:
    for epoch in (0, 1):
        for cost, wanted in zip(*(vectors[f"{loop}/epoch{epoch}/{name}"] for name in ("cost", "plans")), strict=True):
            found = released_plan(torch.tensor(cost), 0.1, 0.05, masked=True)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5 * wanted.max())
            assert 0.102 < float(found.sum()) < 0.104


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
@pytest.mark.parametrize("reg", ["0.01", "0.07"])
@pytest.mark.parametrize("kind", ["masked", "unmasked"])
def test_plans_of_other_sizes_come_near_the_published_ones(shared: Path, case: str, reg: str, kind: str) -> None:
    """Those were made in float32, in which the stop rule may take an iteration more or less."""
    with np.load(shared / "reference" / "l2rm_vectors.npz") as file:
        cost, wanted = file[f"{case}/cost_init"], file[f"{case}/plan_reg{reg}_{kind}_released"]
    found = released_plan(torch.tensor(cost).clamp(min=1e-10), 0.1, float(reg), masked=kind == "masked")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * wanted.max())
    assert float(found.sum()) == pytest.approx(wanted.sum(), abs=4e-4)


def test_the_plan_may_have_more_images_than_captions() -> None:
    cost = torch.rand(12, 8, generator=torch.Generator().manual_seed(0))
    found = released_plan(cost, 0.1, 0.5, masked=True)
    assert found.shape == (12, 8)
    assert float(found.diagonal().sum()) == 0
    forbidden = torch.zeros(12, 8, dtype=torch.bool).fill_diagonal_(True)
    converged = partial_plan(cost, 0.1, reg=0.5, forbidden=forbidden)
    torch.testing.assert_close(found / found.sum(), converged / 0.1, rtol=0.05, atol=1e-3)
