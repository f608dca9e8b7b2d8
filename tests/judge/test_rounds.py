"""Learning in folds: on how many devices it is done changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from pairclean.align import Alignment
from pairclean.arrays import Pairs, unit
from pairclean.judge import FOLDS, Learned, learn

N, CLASSES = 300, 6


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """A fifth of the captions belongs to another image; images and captions have different vectors."""
    rng = np.random.default_rng(0)
    shown = rng.standard_normal((CLASSES, 12))[np.arange(N) % CLASSES] + rng.standard_normal((N, 12))
    image, text = (
        unit((shown @ rng.standard_normal((12, d)) + 0.3 * rng.standard_normal((N, d))).astype(np.float32))
        for d in (24, 20)
    )
    carried = np.arange(N)
    carried[: N // 5] = np.roll(carried[: N // 5], 1)
    return Pairs(image, text[carried], np.arange(N) + 10, carried + 10_000)


def learned(pairs: Pairs, method: str, *devices: str) -> Learned:
    classes = csr_matrix(np.eye(CLASSES, dtype=np.float32)[np.arange(N) % CLASSES])
    labels = (classes, None) if method == "drcl" else (None, None)
    return learn(pairs, np.arange(N), method=method, comparable=False, labels=labels, devices=devices)


def weights(models: list[Alignment]) -> list[torch.Tensor]:
    return [value for model in models for head in (model.image, model.text) for value in head.state_dict().values()]


@pytest.mark.parametrize("method", ["l2rm", "rcar", pytest.param("drcl", marks=pytest.mark.slow)])
def test_the_models_do_not_depend_on_how_many_devices_fit_them(pairs: Pairs, method: str) -> None:
    one, three = learned(pairs, method, "cpu:0"), learned(pairs, method, "cpu:0", "cpu:1", "cpu:2")
    for before, after in ((one.first, three.first), (one.aligned, three.aligned)):
        assert len(before) == len(after) == FOLDS
        assert all(torch.equal(a, b) for a, b in zip(weights(before), weights(after), strict=True))
    assert {model.device for model in one.aligned} == {"cpu:0"}
    assert {model.device for model in three.aligned} <= {"cpu:0", "cpu:1", "cpu:2"}
    np.testing.assert_array_equal(one.held_out, three.held_out)


@pytest.mark.slow
def test_a_cpu_fits_the_same_models_with_a_core_for_each(pairs: Pairs) -> None:
    cores, device = learned(pairs, "l2rm", "cpu"), learned(pairs, "l2rm", "cpu:0")
    for a, b in zip(weights(cores.aligned), weights(device.aligned), strict=True):
        assert torch.linalg.norm(a - b) <= 1e-4 * torch.linalg.norm(a)
