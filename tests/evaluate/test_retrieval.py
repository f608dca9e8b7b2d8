"""Retrieval recall: the chunked metric against a naive one, and properties that any honest recall has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairclean.evaluate.retrieval import retrieval
from pairclean.pairs import UserError

NAMES = {f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)}


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def naive(image: np.ndarray, text: np.ndarray, image_id: np.ndarray, caption_id: np.ndarray) -> dict[str, float]:
    """The definition, one question after the other, in float64."""
    pairs = set(zip(image_id.tolist(), caption_id.tolist(), strict=True))
    images = {i: image[image_id.tolist().index(i)].astype(float) for i in set(image_id.tolist())}
    texts = {c: text[caption_id.tolist().index(c)].astype(float) for c in set(caption_id.tolist())}

    def rank(question: np.ndarray, items: dict, matching: set) -> float:
        near = {k: float(question @ v) for k, v in items.items()}
        best = max((near[k] for k in matching if not math.isnan(near[k])), default=math.nan)
        others = [s for k, s in near.items() if k not in matching]
        if math.isnan(best):
            return math.inf
        better, tied = (sum(test(s - best) for s in others) for test in (lambda g: g > 2e-6, lambda g: abs(g) <= 2e-6))
        return 1 + better + math.ceil(tied / 2)

    ranks = {
        "i2t": [rank(v, texts, {c for j, c in pairs if j == i}) for i, v in images.items()],
        "t2i": [rank(texts[c], images, {i for i, d in pairs if d == c}) for c in caption_id.tolist()],
    }
    return {f"{way}_r{k}": 100 * float(np.mean([r <= k for r in ranks[way]])) for way in ranks for k in (1, 5, 10)}


@st.composite
def datasets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors on a coarse grid (many exact ties), some images and captions repeated, some not numbers."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image_id, caption_id = (
        rng.integers(0, max(1, int(n * share)), n) for share in draw(st.sampled_from([(2, 2), (0.5, 1)]))
    )
    images, texts = unit(rng.integers(-1, 2, (2 * n, d))), unit(rng.integers(-1, 2, (2 * n, d)))
    if draw(st.booleans()):
        images[rng.integers(2 * n)] = np.nan
        texts[rng.integers(2 * n)] = np.nan
    return images[image_id], texts[caption_id], image_id, caption_id


@settings(max_examples=150, deadline=None)
@given(datasets(), st.sampled_from([1, 3, 7, 4096]))
def test_agrees_with_the_naive_definition(data, chunk: int) -> None:
    image, text, image_id, caption_id = data
    found = retrieval(image, text, image_id=image_id, caption_id=caption_id, chunk=chunk)
    for name, value in naive(*data).items():
        assert found[name] == pytest.approx(value), name
    assert found["queries"] == len(set(image_id.tolist())) + len(image)


@settings(max_examples=60, deadline=None)
@given(datasets(), st.integers(0, 1000))
def test_bounds_and_any_order(data, seed: int) -> None:
    image, text, image_id, caption_id = data
    found = retrieval(image, text, image_id=image_id, caption_id=caption_id)
    assert set(found) == NAMES | {"rsum", "queries"}
    for way in ("i2t", "t2i"):
        assert 0 <= found[f"{way}_r1"] <= found[f"{way}_r5"] <= found[f"{way}_r10"] <= 100
    assert found["rsum"] == pytest.approx(sum(found[name] for name in NAMES))
    order = np.random.default_rng(seed).permutation(len(image))
    shuffled = retrieval(image[order], text[order], image_id=image_id[order], caption_id=caption_id[order])
    assert shuffled == pytest.approx(found)


def test_by_hand() -> None:
    text = np.eye(4, dtype=np.float32)
    image = unit(np.array([[1, 0, 0, 0], [1, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0.1, 1]]))
    found = retrieval(image, text)
    assert (found["i2t_r1"], found["i2t_r5"]) == (75, 100)  # image 1 is nearer to caption 0
    assert (found["t2i_r1"], found["t2i_r5"], found["rsum"]) == (100, 100, 575)
    assert found["queries"] == 8


def test_several_captions_an_image_and_copies_are_hits() -> None:
    vectors = np.eye(12, dtype=np.float32)
    image, text = vectors[[0, 0, 1, 2]], vectors[[5, 0, 1, 1]]
    ids, captions = np.array([7, 7, 8, 9]), np.array([1, 2, 3, 3])
    found = retrieval(image, text, image_id=ids, caption_id=captions)
    assert found["i2t_r1"] == pytest.approx(
        200 / 3
    )  # 7 by its second caption, 8; 9 ties with everything: its rank is 2
    assert found["i2t_r5"] == 100
    assert found["t2i_r1"] == 75  # caption 1 ties with everything: its rank is 2 of 3; both copies of 3 find image 8
    strict = retrieval(image, text)
    assert strict["i2t_r1"] == 25  # image 1 alone: image 2 now ties with the copy of its caption
    assert strict["t2i_r1"] == 25


def test_a_constant_embedding_finds_nothing() -> None:
    rng = np.random.default_rng(0)
    constant = np.tile(unit(rng.normal(size=(1, 64))), (1000, 1))
    varied = unit(rng.normal(size=(1000, 64)))
    for image, text in ((constant, varied), (varied, constant), (constant, constant), (0 * varied, varied)):
        found = retrieval(image, text, chunk=300)
        assert found["rsum"] < 10  # the side that is not constant finds by chance at most
    assert retrieval(constant, constant)["rsum"] == 0


def test_what_is_not_a_number_never_scores() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(5, 8)))
    assert retrieval(np.full_like(vectors, np.nan), vectors)["rsum"] == 0
    assert retrieval(vectors, np.full_like(vectors, np.nan))["rsum"] == 0
    assert retrieval(np.full_like(vectors, np.inf), vectors)["i2t_r1"] == 0
    image = vectors.copy()
    image[2] = np.nan
    found = retrieval(image, vectors)
    assert (found["i2t_r1"], found["t2i_r1"], found["t2i_r10"]) == (80, 80, 80)


def test_perfect_at_scale_whatever_the_chunk() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(1500, 32)))
    noisy = unit(vectors + 0.25 * np.random.default_rng(3).normal(size=vectors.shape))
    assert retrieval(vectors, vectors, chunk=400)["rsum"] == 600
    found = [retrieval(noisy, vectors, chunk=c) for c in (64, 999, 4096)]
    assert found[0] == found[1] == found[2]
    assert 300 < found[0]["rsum"] < 600


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="no pairs"):
        retrieval(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="alike"):
        retrieval(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
