"""Candidates against a search of everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairclean.judge.scores import Reference, Scorer
from pairclean.rematch import candidates as module
from pairclean.rematch import cells, products
from pairclean.rematch.candidates import Edges, Gallery, best


def unit(n: int, k: int = 12, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def found_by(gallery: Gallery) -> Edges:
    """All blocks of edges together."""
    parts = zip(*((block.image, block.caption, block.value) for block in gallery.edges()), strict=True)
    return Edges(*map(np.concatenate, parts))


def edges(image: np.ndarray, text: np.ndarray, t: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges found, and the matrix of scores up to what the reference sample leaves out."""
    n = np.arange(len(image))
    scorer = Scorer(Reference(image, text, n, n), t)
    hubs = scorer.hubness(image, text)
    found = found_by(Gallery(image, text, *hubs, t))
    np.testing.assert_allclose(found.value, (image @ text.T)[found.image, found.caption], atol=1e-3)
    return found.image, found.caption, image @ text.T / t - hubs[0][:, None] / 2 - hubs[1] / 2


def hubs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Captions of which some are near to everything."""
    image, text = unit(n) + 0.5 * unit(1, seed=9), unit(n, seed=1)
    text[: n // 10] += unit(1, seed=9)
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text))  # type: ignore[return-value]


@pytest.mark.parametrize("k", [1, 5, 32])
def test_they_are_the_best_by_score_both_ways(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", k)
    image, text = hubs(120)
    left, right, score = edges(image, text)
    best_captions = {(i, int(j)) for i in range(120) for j in np.argsort(-score[i])[:k]}
    best_images = {(int(i), j) for j in range(120) for i in np.argsort(-score[:, j])[:k]}
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    assert found == best_captions | best_images
    assert len(found) == len(left)  # each once
    if k == 5:  # and not by similarity, which prefers hubs
        similarity = image @ text.T
        assert found != {(i, int(j)) for i in range(120) for j in np.argsort(-similarity[i])[:k]} | {
            (int(i), j) for j in range(120) for i in np.argsort(-similarity[:, j])[:k]
        }


def test_one_search_of_both_directions_finds_what_two_searches_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 7)
    monkeypatch.setattr(module, "TILE", (50, 32))
    image, text = hubs(333)
    gallery = Gallery(image, text[:300], *(np.random.default_rng(k).random(n) for k, n in enumerate((333, 300))), 0.05)
    found = found_by(gallery)
    queries = gallery.captions_for(image), gallery.images_for(text[:300])
    two = Edges.union(*(np.concatenate(parts) for parts in zip(*queries, strict=True)))
    assert np.array_equal(found.image, two.image)
    assert np.array_equal(found.caption, two.caption)
    np.testing.assert_allclose(found.value, two.value, atol=1e-6)


def test_small_pools() -> None:
    for m in (1, 2, 20):
        assert len(edges(unit(m), unit(m, seed=1))[0]) == m * m
    nothing = unit(1)[:0]
    found = found_by(Gallery(nothing, nothing, np.zeros(0), np.zeros(0), 0.05))
    assert len(found.image) == len(found.caption) == len(found.value) == 0


def test_the_best_of_each_group() -> None:
    rng = np.random.default_rng(0)
    group, score = rng.integers(0, 5, 400), rng.standard_normal(400)
    kept = best(group, score)
    for k in range(5):
        assert (
            np.sort(score[kept][group[kept] == k]).tolist() == np.sort(score[group == k])[-module.CANDIDATES :].tolist()
        )


@pytest.mark.parametrize("n", [0, 500])
def test_the_union_of_edges_has_each_once(n: int, device: str) -> None:
    rng = np.random.default_rng(0)
    image, caption = rng.integers(0, 30, (2, n)).astype(np.int32)
    found = Edges.union(image, caption, np.arange(n, dtype=np.float32), device=device)
    first: dict[tuple[int, int], int] = {}
    for k, edge in enumerate(zip(image.tolist(), caption.tolist(), strict=True)):
        first.setdefault(edge, k)
    assert list(zip(found.image.tolist(), found.caption.tolist(), strict=True)) == sorted(first)
    assert found.value.tolist() == [first[edge] for edge in sorted(first)]


@pytest.mark.parametrize("group", [4, 128])
def test_the_search_for_a_gpu_finds_what_faiss_does(group: int, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Also where the best are looked for in groups of columns, and where the columns are no multiple of these."""
    monkeypatch.setattr(module, "BLOCK", 4000)
    monkeypatch.setattr(module, "GROUP", group)
    base, query = unit(150), unit(40, seed=1)
    product, found = module._DeviceIndex(base, device).search(query, 7)
    expected = np.argsort(-(query @ base.T), axis=1)[:, :7]
    assert np.array_equal(found, expected)
    np.testing.assert_allclose(product, np.take_along_axis(query @ base.T, expected, 1), rtol=1e-5)


def test_cells_find_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    image = unit(3000)
    text = image + 0.3 * unit(3000, seed=1)
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    exact = set(zip(*(e.tolist() for e in edges(image, text)[:2]), strict=True))
    monkeypatch.setattr(module, "EXACT", 1000)
    monkeypatch.setattr(cells, "COMPARED", 444)
    found = set(zip(*(e.tolist() for e in edges(image, text)[:2]), strict=True))
    assert found != exact
    assert len(found & exact) > 0.8 * len(exact)
    own = {(i, i) for i in range(3000)}
    assert len(own & found) > 0.95 * len(own & exact)
    assert max(max(i, j) for i, j in found) < 3000
    assert min(min(i, j) for i, j in found) >= 0


def test_cells_find_the_partner_across_a_gap_between_the_modalities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clusters, hubness, and images far from all captions, as encoders of both have it."""
    rng = np.random.default_rng(0)
    n, k = 6000, 64
    scene = np.repeat(rng.standard_normal((60, k)), n // 60, axis=0) + rng.standard_normal((n, k))
    sides = []
    for axis in (0, 1):
        x = scene + 0.4 * rng.standard_normal((n, k))
        x[:, axis] += 10
        sides.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    image, text = sides
    hubness = rng.uniform(0, 2, n)
    exact = found_by(Gallery(image, text, hubness, hubness, 0.05))
    monkeypatch.setattr(module, "EXACT", 1000)
    monkeypatch.setattr(cells, "COMPARED", 312)
    monkeypatch.setattr(cells, "BLOCK", 999)
    monkeypatch.setattr(cells, "CHUNK", 777)
    found = found_by(Gallery(image, text, hubness, hubness, 0.05))
    code, expected = found.image * n + found.caption, exact.image * n + exact.caption
    assert np.isin(expected, code).mean() > 0.8
    own = np.arange(n) * (n + 1)
    assert np.isin(own, code).sum() > 0.99 * np.isin(own, expected).sum()
    similarity = np.einsum("ij,ij->i", image[found.image], text[found.caption])
    np.testing.assert_allclose(found.value, similarity, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_of_all_cells_finds_what_an_exact_search_does(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the gallery itself and for others; with single precision exactly, with half precision but for near ties."""
    monkeypatch.setattr(cells, "half_precision", lambda: dtype)
    monkeypatch.setattr(products, "half_precision", lambda: dtype)
    monkeypatch.setattr(module, "CANDIDATES", 7)
    image, text = hubs(700)
    hubness = [np.random.default_rng(k).uniform(0, 2, n) for k, n in enumerate((700, 650))]
    others, other_texts = unit(90, seed=3), unit(80, seed=4)
    exact = Gallery(image, text[:650], *hubness, 0.05)
    expected = found_by(exact), exact.captions_for(others), exact.images_for(other_texts)
    monkeypatch.setattr(module, "EXACT", 100)
    monkeypatch.setattr(cells, "COMPARED", 10_000)
    monkeypatch.setattr(cells, "BLOCK", 300)
    monkeypatch.setattr(module, "CHUNK", 250)
    gallery = Gallery(image, text[:650], *hubness, 0.05)
    found = found_by(gallery), gallery.captions_for(others), gallery.images_for(other_texts)
    codes = [
        [each.image.astype(np.int64) * 1000 + each.caption for each in (found[0], expected[0])],
        *([query * 1000 + row for query, row, _ in each] for each in zip(found[1:], expected[1:], strict=True)),
    ]
    for ours, theirs in codes:
        assert len(ours) == len(np.unique(ours))
        same = np.isin(theirs, ours).mean()
        assert same == 1 if dtype == torch.float32 else same > 0.98
        assert abs(len(ours) - len(theirs)) <= 0.02 * len(theirs)
    for (query, row, value), side, text_side in (
        (found[1], others, text[:650]),
        (found[2], image, other_texts),
    ):
        np.testing.assert_allclose(value, np.einsum("ij,ij->i", side[query], text_side[row]), atol=1e-6)


@pytest.mark.parametrize("block", [7, 1000])
def test_who_found_an_image(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that nobody found, and captions that found fewer."""
    monkeypatch.setattr(module, "SORTED", block)
    images = np.random.default_rng(0).integers(-1, 30, (90, 5)).astype(np.int32)
    images[images == 11] = -1
    nothing = np.zeros((0, 3), np.float32)
    ends, by = Gallery(nothing, nothing, np.zeros(0), np.zeros(0), 0.05)._found_by(images, 31)
    for image in range(31):
        assert by[ends[image] : ends[image + 1]].tolist() == np.nonzero(images == image)[0].tolist()
    assert ends[-1] == (images >= 0).sum()


def test_more_candidates_than_captions_in_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there are fewer."""
    monkeypatch.setattr(module, "EXACT", 1)
    for m in (2, 20):
        assert len(edges(unit(m), unit(m, seed=1))[0]) == m * m
