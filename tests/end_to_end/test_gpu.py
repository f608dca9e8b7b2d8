"""A GPU says what a CPU says.  Everything here is skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean import clean_vectors
from pairclean.align.transport import partial_plan
from pairclean.execution import Execution
from pairclean.judge.scores import hubness_at
from pairclean.rematch import candidates
from pairclean.rematch.candidates import Gallery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

N, D, MOVED = 3000, 64, 900


def vectors(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two views of scenes in clusters, the captions of the first MOVED moved by one row."""
    rng = np.random.default_rng(seed)
    scene = rng.standard_normal((40, D))[rng.integers(0, 40, n)] + rng.standard_normal((n, D))
    image, text = (x + 0.8 * rng.standard_normal((n, D)) for x in (scene, scene))
    text[:MOVED] = np.roll(text[:MOVED], 1, axis=0)
    return image.astype(np.float32), text.astype(np.float32)


@pytest.mark.parametrize("method", ["zero-shot", "canonical", "l2rm"])
def test_verdicts_are_those_of_a_cpu(method: str) -> None:
    image, text = vectors(N)
    on_gpu, on_cpu = (
        clean_vectors(image, text, method=method, comparable=True, execution=Execution(device=device))
        for device in ("cuda", "cpu")
    )
    assert on_gpu.mismatch_rate["estimate"] == pytest.approx(on_cpu.mismatch_rate["estimate"], abs=0.01)
    found, expected = (x.verdicts.to_pandas() for x in (on_gpu, on_cpu))
    p, q = (x["clean_probability"].to_numpy(float) for x in (found, expected))
    assert np.abs(p - q).mean() < (1e-3 if method == "zero-shot" else 0.02)
    assert (found["is_noisy"] == expected["is_noisy"]).mean() > 0.99
    assert on_cpu.rematches.emitted > 300
    same = on_gpu.rematches.partner == on_cpu.rematches.partner
    assert same[on_cpu.rematches.partner >= 0].mean() > 0.95


def test_candidates_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the maxima of groups of columns, in several blocks."""
    monkeypatch.setattr(candidates, "BLOCK", 2**24)
    monkeypatch.setattr(candidates, "ROOM", 2**60)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors(30_000))
    penalties = np.random.default_rng(1).uniform(0, 2, (2, len(image)))
    found, expected = (next(Gallery(image, text, *penalties, 0.05, device=d).edges()) for d in ("cuda", "cpu"))
    code, known = (e.image.astype(np.int64) << 32 | e.caption for e in (found, expected))
    assert np.isin(known, code).mean() > 0.999
    np.testing.assert_allclose(found.value, np.einsum("ij,ij->i", image[found.image], text[found.caption]), atol=1e-5)


def test_hubness_is_that_of_a_cpu() -> None:
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors(N))
    there, here = (hubness_at(image, text[:500], (0.01, 0.1), device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(there, here, atol=1e-4)


def test_a_plan_is_that_of_a_cpu() -> None:
    cost = torch.rand(300, 200, generator=torch.Generator().manual_seed(0))
    forbidden = torch.rand(cost.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    there = partial_plan(cost.cuda(), 0.3, reg=0.1, forbidden=forbidden.cuda()).cpu()
    torch.testing.assert_close(there, partial_plan(cost, 0.3, reg=0.1, forbidden=forbidden), atol=1e-6, rtol=1e-3)
