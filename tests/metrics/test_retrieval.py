"""Retrieval recall: the chunked metric against a naive one, and properties that any honest recall has."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairclean.metrics.retrieval import average_precisions, coco_folds, measure, rank_matches, retrieval
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


@settings(max_examples=100, deadline=None)
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


# --- ranks, folds, MAP ------------------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    text = np.eye(4, dtype=np.float32)
    image = unit(np.array([[1, 0, 0, 0], [1, 0.9, 0, 0], [0, 0, 1, 0], [0.5, 0.4, 0.3, 0.2]]))
    ranks = rank_matches(image, text)
    assert ranks.image.tolist() == [1, 2, 1, 4]
    assert ranks.caption.tolist() == [1, 1, 1, 1]
    found = measure([ranks.questions()], [ranks])
    assert (found["i2t_median_rank"], found["i2t_mean_rank"]) == (1.5, 2)
    assert (found["t2i_median_rank"], found["t2i_mean_rank"]) == (1, 1)
    assert found["intervals"]["t2i_r1"] == [100, 100]
    assert found["intervals"]["i2t_r1"][0] < found["i2t_r1"] == 50 < found["intervals"]["i2t_r1"][1]
    assert found["rsum"] == 50 + 5 * 100


def test_the_five_folds_are_those_of_coco() -> None:
    image_id = np.repeat(np.random.default_rng(0).permutation(5200) + 10**9, 2)
    folds = coco_folds(image_id)
    assert [len(fold) for fold in folds] == [2000] * 5
    assert np.concatenate(folds).tolist() == list(range(10_000))  # in the order in which they come
    assert coco_folds(image_id[: 2 * 4999]) == []


def test_folds_are_averaged_and_not_pooled() -> None:
    vectors = np.eye(40, dtype=np.float32)
    good, bad = rank_matches(vectors[:30], vectors[:30]), rank_matches(vectors[30:], np.roll(vectors[30:], 1, 0))
    found = measure([good.questions(), bad.questions()], [good, bad])
    assert found["i2t_r1"] == found["t2i_r1"] == 50
    assert found["intervals"]["i2t_r1"] == [50, 50]
    assert found["i2t_mean_rank"] == (1 + bad.image.mean()) / 2


def naive_precision(near: np.ndarray, right: np.ndarray, cut: int | None) -> float:
    """Of one question, over every order of what is tied, in float64."""
    order = np.argsort(-near, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(near[order]) < 0) + 1)
    precision, hits = [], []
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        hit = right[np.concatenate(orders).astype(int)][:cut]
        at = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        precision.append((at * hit).sum())
        hits.append(hit.sum())
    return float(np.mean(precision) / max(np.mean(hits), 1e-300))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_map_agrees_with_the_naive_definition(n: int, seed: int, several: bool) -> None:
    rng = np.random.default_rng(seed)
    image, text = (unit(rng.integers(-1, 2, (n, 3))) for _ in range(2))  # many ties
    labels: list = rng.integers(0, 3, n).tolist()
    if several:
        labels = [rng.choice(70, rng.integers(0, 40), replace=False).tolist() for _ in range(n)]
        labels[0] = [1, 2]
    sets = [set(label) if several else {label} for label in labels]
    right = np.array([[bool(a & b) for b in sets] for a in sets])
    asked = np.array([bool(a) for a in sets])
    found = average_precisions(image, text, labels, chunk=int(rng.integers(1, 20)))
    near = np.round(image.astype(float) @ text.T.astype(float) / 1e-4)
    for way, scores in (("i2t", near), ("t2i", near.T)):
        expected = [naive_precision(scores[i], right[i], None) if asked[i] else np.nan for i in range(n)]
        np.testing.assert_allclose(found[f"{way}_map"][0], expected, atol=1e-5)
        assert np.nanmax(found[f"{way}_map50"][0]) <= 1 + 1e-6


def test_map_at_50_divides_by_the_hits_inside() -> None:
    angle = np.linspace(0, 1, 120)
    text = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)  # ever further from the image
    right = np.zeros(120, bool)
    right[[0, 3, 60]] = True
    labels = [["a"] if hit else [] for hit in right]
    image = np.tile(text[:1], (120, 1))
    found = average_precisions(image, text, labels, image_id=np.zeros(120, int))
    assert found["i2t_map"][0].tolist() == pytest.approx([(1 + 2 / 4 + 3 / 61) / 3])
    assert found["i2t_map50"][0].tolist() == pytest.approx([(1 + 2 / 4) / 2])
    assert np.flatnonzero(~np.isnan(found["t2i_map"][0])).tolist() == [0, 3, 60]  # only these have a class to ask for


def test_map_in_any_order_and_any_chunk() -> None:
    rng = np.random.default_rng(3)
    image, text = (unit(rng.normal(size=(200, 8))) for _ in range(2))
    labels = [None if i % 9 == 0 else f"class {i % 5}" for i in range(200)]
    found = average_precisions(image, text, labels)
    order = rng.permutation(200)
    moved = average_precisions(image[order], text[order], [labels[i] for i in order], chunk=17)
    for name, (values, _) in found.items():
        np.testing.assert_allclose(moved[name][0], values[order], atol=1e-6)
        assert np.nanmin(values) >= 0
        assert np.nanmax(values) <= 1
        assert np.isnan(values).sum() == sum(label is None for label in labels)


def test_map_of_a_constant_embedding_is_that_of_guessing() -> None:
    rng = np.random.default_rng(0)
    constant = np.tile(unit(rng.normal(size=(1, 64))), (2000, 1))
    labels = np.sort(rng.integers(0, 10, 2000))  # in order: an honest tie takes no notice of it
    found = average_precisions(constant, constant, labels.tolist())
    share = float((np.bincount(labels) ** 2).sum() / 2000**2)
    for name, places in {"i2t_map": 2000, "i2t_map50": 50, "t2i_map": 2000, "t2i_map50": 50}.items():
        guessing = share + (1 - share) * (1 / np.arange(1, places + 1)).mean()  # a hit counts itself
        assert found[name][0].mean() == pytest.approx(guessing, abs=0.002), name
    assert average_precisions(np.full_like(constant, np.nan), constant, labels.tolist())["i2t_map"][0].max() == 0


def test_map_of_the_published_features(shared: Path) -> None:
    """Features of the network that was published for the Wikipedia set, and the figures that its own code gives."""
    with np.load(shared / "reference" / "drcl_wikipedia_test_features.npz") as data:
        image, text = (unit(data[name].astype(float)) for name in ("image", "text"))
        found = measure([average_precisions(image, text, data["label"].tolist())])
    figures = (found["i2t_map"], found["t2i_map"], found["i2t_map50"], found["t2i_map50"])
    # The features are stored in half precision: that is what the fifth digit shows.
    assert figures == pytest.approx((0.56188, 0.53757, 0.55987, 0.68475), abs=5e-5)


def test_labels_that_are_none_are_refused() -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="no pair has a label"):
        average_precisions(vectors, vectors, [None, [], float("nan")])
    with pytest.raises(ValueError, match="2 labels for 3"):
        average_precisions(vectors, vectors, [1, 2])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_similarities() -> None:
    """15,000 x 15,000 similarities are 900 MB; a tile of 1,024 x 1,024 is 4 MB."""
    code = (
        "import numpy as np, resource\n"
        "from pairclean.metrics.retrieval import average_precisions, rank_matches\n"
        "rank_matches(*[np.eye(50, dtype=np.float32)] * 2)\n"
        "x = np.random.default_rng(0).normal(size=(15_000, 8)).astype(np.float32)\n"
        "x /= np.linalg.norm(x, axis=1, keepdims=True)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ranks = rank_matches(x, x, chunk=1024)\n"
        "assert ranks.image.max() == 1, ranks.image.max()\n"
        "average_precisions(x[:2000], x[:2000], list(range(1000)) * 2, chunk=1024)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 150  # MB
