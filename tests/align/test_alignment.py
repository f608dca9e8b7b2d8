"""Heads and what a fitted method leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.align import Alignment, ZeroShot
from pairclean.align.alignment import Head
from pairclean.align.canonical import LinearMap

D, K = 10, 6


def start(seed: int = 0) -> tuple[LinearMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((D, K)).astype(np.float32)
    return LinearMap(rng.standard_normal(D).astype(np.float32), matrix), rng.uniform(0.1, 1, K).astype(np.float32)


def vectors(n: int = 7, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def shaken(head: Head) -> Head:
    """With a residual that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in head.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return head


def model(kind: str) -> Alignment:
    out = Alignment()
    if kind == "canonical":
        out.image, out.text = Head(D, *start(0)), Head(D, *start(1))
    elif kind == "residual":
        out.image, out.text = shaken(Head(D, *start(0), seed=0)), shaken(Head(D, *start(1), seed=1))
    elif kind == "comparable":
        out.image, out.text = shaken(Head(D, seed=0)), shaken(Head(D, seed=1))
    return out


def test_a_fresh_residual_is_the_start_exactly() -> None:
    x = torch.from_numpy(vectors())
    linear, scale = start()
    fresh, plain = Head(D, linear, scale, seed=3), Head(D, linear, scale)
    assert torch.equal(fresh(x), plain(x))
    expected = (x.numpy() - linear.mean) @ linear.matrix * scale
    np.testing.assert_allclose(
        plain(x).numpy(), expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(Head(D, seed=3)(x), Head(D)(x))
    np.testing.assert_allclose(Head(D)(x).numpy(), x / x.norm(dim=1, keepdim=True), atol=1e-6)


def test_coordinates_of_unit_vectors_have_about_unit_variance() -> None:
    x = torch.nn.functional.normalize(torch.from_numpy(vectors(5000)), dim=1)
    assert Head(D).start(x).var().item() == pytest.approx(1, abs=0.05)


def test_the_residual_can_learn_from_its_start() -> None:
    x = torch.from_numpy(vectors())
    head = Head(D, seed=0)
    head(x).sum().backward()
    assert head.residual is not None
    assert head.residual[-1].weight.grad is not None
    assert head.residual[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["zero-shot", "canonical", "residual", "comparable"])
def test_what_is_saved_and_loaded_embeds_alike(kind: str, tmp_path: Path) -> None:
    out = ZeroShot() if kind == "zero-shot" else model(kind)
    out.save(tmp_path / "model.safetensors")
    again = Alignment.load(tmp_path / "model.safetensors")
    x, y = vectors(seed=1), vectors(seed=2)
    assert np.array_equal(again.embed_image(x), out.embed_image(x))
    assert np.array_equal(again.embed_text(y), out.embed_text(y))
    assert (again.image is None) == (kind == "zero-shot")
    if kind != "zero-shot":
        assert not np.allclose(out.embed_image(x), out.embed_text(x))  # two heads, not one
    if kind == "residual":
        assert not np.allclose(out.embed_image(x), model("canonical").embed_image(x))


@pytest.mark.parametrize("kind", ["zero-shot", "canonical", "residual", "comparable"])
def test_rows_are_of_unit_length_and_zero_vectors_finite(kind: str) -> None:
    out = model(kind)
    x = np.concatenate([vectors(), np.zeros((1, D), np.float32)])
    for found in (out.embed_image(x), out.embed_text(x.astype(np.float16))):
        assert found.dtype == np.float32
        assert found.shape == (8, K if kind in ("canonical", "residual") else D)
        np.testing.assert_allclose(np.linalg.norm(found[:-1], axis=1), 1, atol=1e-5)
        assert np.isfinite(found).all()
    assert out.embed_image(x[:0]).shape == (0, K if kind in ("canonical", "residual") else D)


def test_where_the_start_is_the_origin_nothing_is_divided_by_zero() -> None:
    linear, scale = start()
    head = Head(D, linear, scale, seed=0)
    found = head(torch.from_numpy(linear.mean[None]))
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_a_head_is_drawn_from_its_seed_and_from_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = Head(D, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other, another = Head(D, seed=4), Head(D, seed=5)
    assert one.residual is not None
    assert other.residual is not None
    assert another.residual is not None
    assert torch.equal(one.residual[0].weight, other.residual[0].weight)
    assert not torch.equal(one.residual[0].weight, another.residual[0].weight)
    assert one.residual[0].weight.abs().max() <= D**-0.5


def test_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from pairclean.align import alignment

    x = vectors(100)
    out = model("residual")
    whole = out.embed_image(x)
    chunks = alignment.chunks
    monkeypatch.setattr(alignment, "chunks", lambda n, size: chunks(n, 7))
    np.testing.assert_allclose(out.embed_image(x), whole, atol=1e-6)
