"""Folds: copies together, boilerplate apart, and nobody moves when shards are added."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from pairclean.judge.folds import BOILERPLATE, FOLDS, Folds, assign_folds, fold_of


def ids(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, n)


def test_copies_of_an_image_and_shared_rare_captions_stay_together() -> None:
    rng = np.random.default_rng(1)
    image, caption = ids(3000), ids(3000, 1)
    copy, of, copied, its = rng.permutation(3000)[:800].reshape(4, 200)
    image[copy], caption[copied] = image[of], caption[its]
    fold = assign_folds(image, caption, FOLDS)
    assert np.array_equal(fold[copy], fold[of])
    assert np.array_equal(fold[copied], fold[its])
    assert (fold_of(image, FOLDS)[copied] != fold[copied]).any()  # which their images alone would not have done


def test_ties_reach_through_several_pairs() -> None:
    """a-b share a caption, b-c an image, c-d a caption."""
    for seed in range(20):
        image, caption = ids(200, seed), ids(200, seed + 100)
        caption[1], image[2], caption[3] = caption[0], image[1], caption[2]
        assert len(set(assign_folds(image, caption, FOLDS)[:4])) == 1


@pytest.mark.parametrize(("copies", "tied"), [(BOILERPLATE, True), (BOILERPLATE + 1, False), (800, False)])
def test_boilerplate_ties_nothing_together(copies: int, tied: bool) -> None:
    image, caption = ids(4000), ids(4000, 1)
    caption[:copies] = 7
    fold = assign_folds(image, caption, FOLDS)
    assert (len(set(fold[:copies])) == 1) == tied
    if not tied:
        assert np.array_equal(fold, fold_of(image, FOLDS))


def test_a_pair_alone_is_where_its_image_falls() -> None:
    image = ids(1000)
    assert np.array_equal(assign_folds(image, ids(1000, 1), FOLDS), fold_of(image, FOLDS))
    assert np.array_equal(assign_folds(image, ids(1000, 2), 1), np.zeros(1000))


def test_a_group_is_where_its_smallest_image_falls() -> None:
    image, caption = ids(500), ids(500, 1)
    caption[:6] = caption[0]
    assert set(assign_folds(image, caption, FOLDS)[:6]) == set(fold_of(image[:6].min(keepdims=True), FOLDS))


def test_adding_pairs_moves_nobody_that_they_do_not_tie() -> None:
    image, caption = ids(2000), ids(2000, 1)
    caption[100:105] = caption[0]
    before = assign_folds(image[:1200], caption[:1200], FOLDS)
    after = assign_folds(image, caption, FOLDS)[:1200]
    assert np.array_equal(before, after)
    order = np.random.default_rng(0).permutation(2000)
    assert np.array_equal(assign_folds(image[order], caption[order], FOLDS), assign_folds(image, caption, FOLDS)[order])
    # A new pair that ties two together moves those two at most.
    image, caption = np.r_[image, image[5], image[5]], np.r_[caption, caption[6], ids(1, 9)]
    tied = assign_folds(image, caption, FOLDS)
    assert tied[5] == tied[6] == tied[2000] == tied[2001]
    others = np.setdiff1d(np.arange(1200), [5, 6])
    assert np.array_equal(tied[others], after[others])


@pytest.mark.parametrize("kind", ["hashes", "small numbers", "multiples"])
def test_folds_are_balanced(kind: str) -> None:
    n = 20_000
    image = {"hashes": ids(n), "small numbers": np.arange(n), "multiples": np.arange(n) * FOLDS * 1024}[kind]
    counts = np.bincount(assign_folds(image, np.arange(n), FOLDS), minlength=FOLDS)
    assert counts.sum() == n
    assert ((counts - n / FOLDS) ** 2 / (n / FOLDS)).sum() < chi2.ppf(1 - 1e-6, FOLDS - 1)


def test_a_chain_through_the_whole_data_is_cut_at_its_images() -> None:
    """Each pair shares its caption with the next: one group of all, which would be one fold."""
    n = 2000
    image = np.repeat(ids(n // 2), 2)
    caption = np.roll(np.repeat(ids(n // 2, 1), 2), 1)
    fold = assign_folds(image, caption, FOLDS)
    assert np.array_equal(fold, fold_of(image, FOLDS))
    assert np.bincount(fold, minlength=FOLDS).min() > 0.15 * n
    # A chain of less than half a fold is kept whole.
    caption[2 * 90 :] = ids(n - 180, 3)
    caption[0] = ids(1, 4)[0]
    whole = assign_folds(image, caption, FOLDS)
    assert len(set(whole[:180])) == 1
    assert len(set(whole[180:])) == FOLDS


def test_the_hash_is_splitmix64s() -> None:
    """Worked out in Python's integers."""

    def finalise(x: int) -> int:
        mask = 2**64 - 1
        x &= mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    image = np.array([0, 1, -1, 2**63 - 1, -(2**63), 123456789012345678])
    for folds in (2, 5, 7):
        assert fold_of(image, folds).tolist() == [finalise(int(i)) % folds for i in image]
    assert image[2] == -1  # left as it was


def test_folds_are_known_for_any_image_afterwards() -> None:
    """Tied images are where they were assigned, all others where their own identity says."""
    rng = np.random.default_rng(0)
    image_id = rng.integers(-(2**62), 2**62, 400)
    caption_id = np.r_[np.repeat(np.arange(100), 2), np.arange(1000, 1200)]
    fold = assign_folds(image_id, caption_id, FOLDS)
    folds = Folds.of(image_id, fold)
    assert 30 < len(folds.image_id) < 100  # of each pair of images that shares a caption one is elsewhere, or none
    assert np.array_equal(folds(image_id), fold)
    assert np.array_equal(folds(image_id[::-1]), fold[::-1])
    other = rng.integers(-(2**62), 2**62, 50)
    assert np.array_equal(folds(other), fold_of(other, FOLDS))
    assert np.array_equal(Folds.of(other, fold_of(other, FOLDS))(other), fold_of(other, FOLDS))
