"""The score of a pair against the formula written out, and the drawing of decoys."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.align import Alignment
from pairclean.arrays import Pairs
from pairclean.judge import scores as module
from pairclean.judge.scores import (
    DECOYS,
    MOST_OWN,
    SPREAD_REFERENCE,
    Reference,
    Scorer,
    among,
    draw_decoys,
    exclude,
    hubness,
    hubness_at,
    pair_similarity,
    reference_rows,
    spread,
)

T = 0.07


def unit(n: int, k: int = 8, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive(s: float, to_captions: list[float], to_images: list[float], size: int, t: float = T) -> float:
    """s / t - (lse_k s_ik / t + lse_k s_kj / t) / 2 + log R, in plain sums."""
    row = np.log(sum(np.exp(x / t) for x in to_captions))
    column = np.log(sum(np.exp(x / t) for x in to_images))
    return s / t - (row + column) / 2 + np.log(size)


def test_scores_are_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine pairs, four of them the reference; the score of every image with every caption."""
    monkeypatch.setattr(module, "SPAN", 10)
    image, text = unit(9).astype(np.float64), unit(9, seed=1).astype(np.float64)
    sample = np.array([1, 3, 4, 8])
    ids, caption_ids = np.arange(9) + 50, np.arange(9) + 70
    scorer = Scorer(
        Reference(image[sample].astype(np.float32), text[sample].astype(np.float32), ids[sample], caption_ids[sample]),
        T,
    )
    hubs = scorer.hubness(image.astype(np.float32), text.astype(np.float32))
    left, right = np.divmod(np.arange(81), 9)
    similarity = image @ text.T
    found = scorer.combine(similarity[left, right], hubs[0][left], hubs[1][right], ids[left], caption_ids[right])
    for i, j, score in zip(left, right, found, strict=True):
        captions = [similarity[i, k] for k in sample] + ([] if j in sample else [similarity[i, j]])
        images = [similarity[k, j] for k in sample] + ([] if i in sample else [similarity[i, j]])
        assert score == pytest.approx(naive(similarity[i, j], captions, images, len(sample)), abs=1e-4)


def test_copies_count_as_being_in_the_reference() -> None:
    """By identity, not by row: a second pair with a caption of the reference adds nothing for it."""
    image, text = unit(3), unit(3, seed=1)
    scorer = Scorer(Reference(image[:2], text[:2], np.array([1, 2]), np.array([11, 12])), T)
    similarity = np.float64(image[2] @ text[1])
    hubs = scorer.hubness(image[2:], text[1:2])
    found = scorer.combine(np.array([similarity]), *hubs, np.array([9]), np.array([12]))[0]
    captions = [float(image[2] @ t) for t in text[:2]]
    images = [float(i @ text[1]) for i in image[:2]]
    assert found == pytest.approx(naive(similarity, captions, [*images, similarity], 2), abs=1e-4)
    other = scorer.combine(np.array([similarity]), *hubs, np.array([9]), np.array([13]))[0]
    assert other < found


def test_hubs_score_lower() -> None:
    """A caption that is near to every image scores lower than one that is as near to this image alone."""
    image = unit(50, 16)
    mean = image.mean(0)
    hub = 0.3 * image[0] + 3 * mean / np.linalg.norm(mean)
    hub = (hub / np.linalg.norm(hub)).astype(np.float32)
    away = unit(1, 16, seed=5)[0]
    away -= (away @ image[0]) * image[0]
    away /= np.linalg.norm(away)
    near = float(hub @ image[0])
    alone = (near * image[0] + np.sqrt(1 - near**2) * away).astype(np.float32)
    text = np.stack([hub, alone])
    scorer = Scorer(Reference(image, unit(50, 16, seed=2), np.arange(50), np.arange(50)), T)
    hubs = scorer.hubness(image[:1], text)
    both = scorer.combine(text @ image[0], hubs[0].repeat(2), hubs[1], np.zeros(2, np.int64), np.array([100, 101]))
    assert both[0] < both[1] - 0.5


def test_hubness_is_a_log_mean_in_any_range(monkeypatch: pytest.MonkeyPatch) -> None:
    x, other = unit(30), unit(20, seed=1)
    expected = np.log(np.exp((x.astype(np.float64) @ other.T) / 0.05).mean(1))
    np.testing.assert_allclose(hubness(x, other, 0.05), expected, atol=1e-5)
    assert np.isfinite(hubness(x, other, 1e-4)).all()  # exp(10,000)
    chunks = module.chunks
    monkeypatch.setattr(module, "chunks", lambda n, size: chunks(n, 7))
    np.testing.assert_allclose(hubness(x, other, 0.05), expected, atol=1e-5)


def test_what_users_compare_by_is_called_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", (8, 6))
    x, other, callers = unit(100), unit(30, seed=1), set[int]()

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        callers.add(threading.get_ident())
        return np.asarray(a @ b.T)

    np.testing.assert_allclose(hubness_at(x, other, (T,), compare=compare), hubness_at(x, other, (T,)), atol=1e-6)
    assert callers == {threading.get_ident()}


def test_a_spread_is_the_deviation_of_similarities_with_an_even_sample() -> None:
    x, other = unit(1500, seed=1), unit(3 * SPREAD_REFERENCE, seed=2)
    np.testing.assert_allclose(spread(x, other), (x @ other[::3].T).std(1), atol=1e-6)
    np.testing.assert_allclose(spread(x, other[:7]), (x @ other[:7].T).std(1), atol=1e-6)
    assert spread(x[:0], other).shape == (0,)


def test_hubness_at_every_temperature_is_that_of_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the reference comes in parts, the nearest in the first or in the last."""
    monkeypatch.setattr(module, "TILE", (8, 6))
    other = np.concatenate([unit(5), unit(20, seed=1), unit(3, seed=2)])
    x = np.concatenate([other[:2], other[-2:], unit(15, seed=3)])
    product = x.astype(np.float64) @ other.T
    found = hubness_at(x, other, module.TEMPERATURES)
    for at, temperature in zip(found, module.TEMPERATURES, strict=True):
        np.testing.assert_allclose(at, np.log(np.exp(product / temperature).mean(1)), atol=5e-5)


def test_scorers_are_saved_and_loaded(tmp_path: Path) -> None:
    scorer = Scorer(Reference(unit(5), unit(5, seed=1)[::-1], np.arange(5) - 2**62, np.arange(5)), 0.03)
    scorer.save(tmp_path / "scorer.safetensors")
    again = Scorer.load(tmp_path / "scorer.safetensors")
    assert again.temperature == 0.03
    for name in ("image", "text", "image_id", "caption_id"):
        found, expected = getattr(again.reference, name), getattr(scorer.reference, name)
        assert np.array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_a_reference_is_a_sample_in_the_models_space() -> None:
    image, text = 3 * unit(40), 2 * unit(40, seed=1)
    rows = np.array([30, 2, 17])
    pairs = Pairs(image, text, np.arange(40) + 5, np.arange(40) + 9)
    found = Reference.of(pairs.take(rows).through(Alignment()))
    np.testing.assert_allclose(found.image, unit(40)[rows], atol=1e-6)
    np.testing.assert_allclose(found.text, unit(40, seed=1)[rows], atol=1e-6)
    assert found.image_id.tolist() == [35, 7, 22]
    assert found.caption_id.tolist() == [39, 11, 26]


def test_reference_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(100, 400, 3)
    assert np.array_equal(reference_rows(rows, np.random.default_rng(0)), rows)
    monkeypatch.setattr(module, "REFERENCE", 20)
    sample = reference_rows(rows, np.random.default_rng(0))
    assert len(set(sample)) == 20
    assert (np.diff(sample) > 0).all()
    assert set(sample) <= set(rows)


def test_similarities_of_pairs() -> None:
    image, text = unit(30), unit(30, seed=1)
    left, right = np.random.default_rng(0).integers(30, size=(2, 100))
    np.testing.assert_allclose(pair_similarity(image, text, left, right), (image @ text.T)[left, right], atol=1e-6)


def test_decoys_are_every_other_caption_alike() -> None:
    n, each = 20, 2000
    ids, rng = np.arange(n), np.random.default_rng(0)
    drawn = [draw_decoys(ids, ids + 100, rng) for _ in range(each // DECOYS)]
    left, right = (np.concatenate(side) for side in zip(*drawn, strict=True))
    assert len(left) == n * each
    counts = np.bincount(left * n + right, minlength=n * n).reshape(n, n)
    assert (np.diag(counts) == 0).all()
    off = counts[~np.eye(n, dtype=bool)]
    assert abs(off - each / (n - 1)).max() < 6 * np.sqrt(each / (n - 1))


def test_a_decoy_never_joins_an_image_with_a_caption_that_a_copy_of_it_carries() -> None:
    rng = np.random.default_rng(0)
    image_id, caption_id = rng.integers(30, size=200), rng.integers(25, size=200)
    left, right = draw_decoys(image_id, caption_id, rng)
    carried = set(zip(image_id.tolist(), caption_id.tolist(), strict=True))
    drawn = set(zip(image_id[left].tolist(), caption_id[right].tolist(), strict=True))
    assert len(left) > 2000
    assert not drawn & carried
    assert (image_id[left] != image_id[right]).all()


def test_of_many_pairs_some_give_all_decoys() -> None:
    ids = np.arange(5000)
    left, right = draw_decoys(ids, ids, np.random.default_rng(0), limit=100)
    assert len(left) == 100 * DECOYS
    assert set(left) == set(right)
    assert len(set(left)) == 100
    assert max(left) > 4000  # from all over the data
    # A copy of the image outside of the hundred still says what it carries.
    image_id, caption_id = np.arange(5000) // 2, np.tile([0, 1], 2500)
    assert len(draw_decoys(image_id, caption_id, np.random.default_rng(0), limit=100)[0]) == 0


def test_where_there_is_no_decoy_none_is_drawn() -> None:
    apart, same = np.arange(10), np.zeros(10, np.int64)
    for image_id, caption_id in ((same, apart), (apart, same), (apart[:1], apart[:1]), (apart[:0], apart[:0])):
        left, right = draw_decoys(image_id, caption_id, np.random.default_rng(0))
        assert len(left) == len(right) == 0


def test_among_is_numpys_isin() -> None:
    rng = np.random.default_rng(0)
    for known in (rng.integers(-50, 50, 30), np.zeros(0, np.int64), np.array([3])):
        values = rng.integers(-60, 60, 400)
        assert np.array_equal(among(values, known), np.isin(values, known))


def test_a_pair_against_the_others_alone_has_no_highest_score() -> None:
    """Against a reference with itself in it, it is told apart among as many as that has."""
    r = np.eye(8, dtype=np.float32)
    stranger = np.array([99])
    one = np.ones(1, np.float32)
    for t in (0.1, 0.01):
        scorer = Scorer(Reference(r, r, np.arange(8), np.arange(8)), t)
        hubs = scorer.hubness(r[:1] * 0, r[:1] * 0)  # a pair like nothing in the reference
        assert scorer.combine(one, *hubs, stranger, stranger)[0] == pytest.approx(np.log(8), abs=1e-3)
        assert scorer.combine(one, *hubs, stranger, stranger, against=exclude)[0] == pytest.approx(1 / t)


def test_against_the_others_a_partner_is_taken_out_of_the_reference() -> None:
    """Nine pairs, four of them the reference: log mean exp over those that are not the partner's."""
    image, text = unit(9), unit(9, seed=1)
    sample, ids = np.array([1, 3, 4, 8]), np.arange(9)
    scorer = Scorer(Reference(image[sample], text[sample], ids[sample], ids[sample] + 20), 0.5)
    hubs = scorer.hubness(image, text)
    left, right = np.divmod(np.arange(81), 9)
    similarity = image.astype(np.float64) @ text.T
    found = scorer.combine(similarity[left, right], hubs[0][left], hubs[1][right], left, right + 20, against=exclude)
    for i, j, score in zip(left, right, found, strict=True):
        # The partner's share is taken out of a mean over four: the sum is over the others, the mean is not.
        captions = [similarity[i, k] for k in sample if k != j]
        images = [similarity[k, j] for k in sample if k != i]
        assert score == pytest.approx(naive(similarity[i, j], captions, images, len(sample), 0.5), abs=1e-4)


def test_a_partner_that_makes_up_all_of_a_hubness_leaves_a_part_of_it() -> None:
    r = np.eye(8, dtype=np.float32)
    scorer = Scorer(Reference(r, r, np.arange(8), np.arange(8)), 0.01)
    hubs = scorer.hubness(r[:1], r[:1])
    found = scorer.combine(np.ones(1), *hubs, np.zeros(1, int), np.zeros(1, int), against=exclude)
    assert found[0] == pytest.approx(np.log(8) - np.log(1 - MOST_OWN), abs=1e-3)


def test_hubness_on_another_device_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, other = unit(9000, 24), unit(300, 24, seed=5)
    here = hubness_at(x, other, (0.01, 0.1))
    asked = []

    def to(self: torch.Tensor, device: str) -> torch.Tensor:
        asked.append(device)
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    np.testing.assert_allclose(hubness_at(x, other, (0.01, 0.1), "cuda:1"), here, atol=2e-4)
    assert set(asked) == {"cuda:1"}
    reference = Reference(x[:300], other, np.arange(300), np.arange(300))
    assert Scorer(reference, 0.1, "cuda:2").without(np.arange(5), np.arange(5)).hubness(x[:9], x[:9])[0].shape == (9,)
    assert asked[-1] == "cuda:2"
