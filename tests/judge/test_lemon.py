"""LEMoN's score against its formula written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pairclean.arrays import Pairs
from pairclean.judge import lemon
from pairclean.judge.lemon import NeighbourIndex, lemon_scores
from pairclean.judge.scores import Reference, draw_decoys

K = 4


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """Aligned vectors, a third of the captions moved."""
    monkeypatch.setattr(lemon, "NEIGHBOURS", K)
    rng = np.random.default_rng(0)
    n = 60
    latent = rng.standard_normal((n, 12))
    image, text = (latent + 0.5 * rng.standard_normal((n, 12)) for _ in range(2))
    carried = np.r_[np.roll(np.arange(20), 1), 20:n]
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return Pairs(image.astype(np.float32), text[carried].astype(np.float32), np.arange(n) + 7, carried + 900)


def naive(image: np.ndarray, text: np.ndarray, i: int, j: int) -> float:
    """Image i with caption j; the pairs i and j are no neighbours of it."""
    x, y = image.astype(np.float64), text.astype(np.float64)

    def side(own: np.ndarray, other: np.ndarray, at: int, with_: int) -> float:
        distance = 1 - own @ own[at]
        order = [n for n in np.argsort(distance) if n != at][:K]  # the pair that the other side comes from has a place
        terms = [
            (1 - other[n] @ other[with_]) * np.exp(-0.1 * distance[n] - 5 * (1 - x[n] @ y[n]))
            for n in order
            if n != with_ or at == with_
        ]
        return float(np.mean(terms))

    return -float(1 - x[i] @ y[j] + 5 * side(x, y, i, j) + 5 * side(y, x, j, i))


def test_scores_and_decoys_are_the_formula(pairs: Pairs) -> None:
    image, text, image_id, caption_id = vars(pairs).values()
    found = lemon_scores(pairs, np.arange(60), seed=3)
    np.testing.assert_allclose(found.score, [naive(image, text, i, i) for i in range(60)], atol=1e-5)
    np.testing.assert_allclose(found.similarity, (image * text).sum(1), atol=1e-6)
    rng = np.random.default_rng(3)
    rng.choice(60, 60, replace=False)
    left, right = draw_decoys(image_id, caption_id, rng)
    expected = [naive(image, text, i, j) for i, j in zip(left, right, strict=True)]
    np.testing.assert_allclose(found.decoys, expected, atol=1e-5)
    assert found.score[20:].mean() > found.score[:20].mean()
    assert found.score[:20].mean() == pytest.approx(found.decoys.mean(), abs=np.std(found.decoys))


def test_a_copy_of_the_pair_is_no_neighbour_of_it(pairs: Pairs) -> None:
    """A second and a third copy of a mismatched pair would vouch for it."""
    once = lemon_scores(pairs, np.arange(60))
    thrice = Pairs.joined(pairs, pairs.take(np.array([0, 0])))
    again = lemon_scores(thrice, np.arange(62))
    assert again.score[0] == pytest.approx(once.score[0], abs=1e-5)
    assert again.score[[60, 61]] == pytest.approx([once.score[0]] * 2, abs=1e-5)


def test_another_run_s_index_judges_alike(pairs: Pairs, tmp_path: Path) -> None:
    found = lemon_scores(pairs, np.arange(60))
    found.scorers[0].save(tmp_path / "index.safetensors")
    few = np.array([3, 50])
    again = lemon_scores(pairs, few, index=NeighbourIndex.load(tmp_path / "index.safetensors"))
    np.testing.assert_allclose(again.score, found.score[few], atol=1e-6)
    assert again.scorers[0].reference.image.shape == (60, 12)


def test_few_pairs_are_no_error(pairs: Pairs) -> None:
    for n in (1, 2, 3):
        found = lemon_scores(pairs, np.arange(n))
        assert np.isfinite(found.score).all()
        assert np.isfinite(found.decoys).all()


def test_beyond_the_reference_it_is_a_sample(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lemon, "REFERENCE", 30)
    found = lemon_scores(pairs, np.arange(60))
    assert len(found.scorers[0].reference.image) == 30
    assert isinstance(found.scorers[0].reference, Reference)
    assert found.separation > 0.7
