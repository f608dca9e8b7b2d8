from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.paper import evaluation
from pairclean.paper.data import RegionCaptions
from pairclean.paper.evaluation import Recalls, mean, ranks, recalls, similarities
from pairclean.paper.networks import Architecture, RetrievalModel

Vectors = dict[str, np.ndarray]


@pytest.mark.parametrize("case", ["recall0", "recall1"])
@pytest.mark.parametrize("model", ["sgr", "saf", "mean"])
def test_recalls_are_the_published_ones(vectors: Vectors, case: str, model: str) -> None:
    per_image = int(vectors[f"{case}/captions_per_image"])
    both = [vectors[f"{case}/sims_{name}"].astype(np.float64) for name in ("sgr", "saf")]
    similarity = sum(both) / 2 if model == "mean" else both[model == "saf"]
    i2t, t2i = ranks(similarity, per_image)
    np.testing.assert_array_equal(i2t, vectors[f"{case}/{model}/i2t_ranks"] + 1)
    np.testing.assert_array_equal(t2i, vectors[f"{case}/{model}/t2i_ranks"] + 1)
    found = recalls(similarity, per_image)
    np.testing.assert_allclose(found.i2t, vectors[f"{case}/{model}/i2t_r1_r5_r10_medr_meanr"][:3], rtol=1e-12)
    np.testing.assert_allclose(found.t2i, vectors[f"{case}/{model}/t2i_r1_r5_r10_medr_meanr"][:3], rtol=1e-12)
    assert found.rsum == pytest.approx(float(vectors[f"{case}/{model}/rsum"]), rel=1e-12)


def test_the_sum_is_that_of_all_six_recalls() -> None:
    found = mean([Recalls((50.0, 80.0, 90.0), (40.0, 70.0, 80.0)), Recalls((60.0, 90.0, 100.0), (50.0, 80.0, 90.0))])
    assert found == Recalls((55.0, 85.0, 95.0), (45.0, 75.0, 85.0))
    assert found.rsum == 440.0  # the published print would say 6 * 78.3


def test_of_ties_half_come_first() -> None:
    i2t, t2i = ranks(np.full((4, 8), 0.5), 2)
    assert i2t.tolist() == [4] * 4  # six captions of others are tied with the best of one's own
    assert t2i.tolist() == [3] * 8  # three images are


def test_similarities_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    of = Architecture(words=30, image_dim=6, word_dim=5, joint_dim=8, similarity_dim=4, regions=3)
    data = RegionCaptions(
        rng.random((11, 3, 6), np.float32),
        [rng.integers(4, 30, rng.integers(1, 7)) for _ in range(22)],
        np.arange(22) // 2,
    )
    model = RetrievalModel(of).train()
    whole = similarities(model, data)
    assert model.training
    monkeypatch.setattr(evaluation, "IMAGES", 4)
    monkeypatch.setattr(evaluation, "CAPTIONS", 5)
    np.testing.assert_allclose(similarities(model, data), whole, atol=1e-6)
    assert np.abs(similarities(model, data, half=True) - whole).max() < 0.02
