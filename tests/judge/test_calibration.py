"""When nothing can be judged, and whose mismatch rate counts."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import CrossFit, Scores, all_alike, calibrate, cannot_judge, judge_scores, keeping
from pairclean.judge.evidence import Scored

SAME = "every pair scores the same: the encoder tells nothing apart"
NO_HIGHER = "the pairs score no higher than random re-pairings: the encoder does not tell matches from mismatches here"


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def scored(image: np.ndarray, text: np.ndarray, caption_id: np.ndarray | None = None, seed: int = 0) -> Scores:
    rows = np.arange(len(image))
    ids = rows if caption_id is None else caption_id
    return CrossFit([ZeroShot()], rows, rows % 5).scores(Pairs(image, text, rows, ids), seed=seed)


def test_random_embeddings_are_not_judged() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image, text = unit(rng.standard_normal((300, 16))), unit(rng.standard_normal((300, 16)))
        assert cannot_judge(scored(image, text)) == NO_HIGHER


def test_aligned_embeddings_are() -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((300, 16))
    text = image + rng.standard_normal((300, 16))
    assert cannot_judge(scored(unit(image), unit(text))) is None
    mostly = text.copy()
    mostly[60:] = np.roll(text[60:], 1, 0)  # four in five mismatched
    assert cannot_judge(scored(unit(image), unit(mostly))) is None
    assert cannot_judge(scored(unit(image), unit(np.roll(text, 1, 0)))) == NO_HIGHER
    # Systematically worse than random is no better.
    assert cannot_judge(scored(unit(image), unit(-text))) == NO_HIGHER


def test_embeddings_that_are_all_one_are_not() -> None:
    same = np.tile(unit(np.ones((1, 16))), (200, 1))
    assert cannot_judge(scored(same, same)) == SAME
    zero = np.zeros((200, 16), np.float32)
    assert cannot_judge(scored(zero, zero)) == SAME
    assert cannot_judge(scored(same, same, np.zeros(200, np.int64))) == SAME  # and there is no decoy


def test_scores_that_are_no_numbers_are_not() -> None:
    good = np.linspace(0, 1, 100)
    for score, decoys in ((np.r_[good, np.nan], good - 1), (good, np.r_[good - 1, np.inf]), (good, good[:0])):
        assert cannot_judge(Scores(score, score.astype(np.float32), decoys, [])) == SAME
    mostly = Scores(good, good.astype(np.float32), np.r_[np.zeros(1000), 1.0], [])
    assert all_alike(mostly) == SAME  # all decoys but one


def test_few_values_are_enough() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(1, 4, size=200).astype(float)
    found = Scores(score, score.astype(np.float32), rng.integers(0, 2, size=4000).astype(float), [])
    assert cannot_judge(found) is None
    p = judge_scores(found, found).clean_probability(Scored.plain(np.array([1.0, 2.0, 3.0])))
    assert np.isfinite(p).all()
    assert (np.diff(p) > 0).all()


def test_the_rate_is_that_of_the_unbiased_scores() -> None:
    rng = np.random.default_rng(0)
    score = np.r_[rng.normal(0, 1, 400), rng.normal(4, 1, 600)]
    decoys = rng.normal(0, 1, 20_000)
    unbiased = Scores(score, score.astype(np.float32), decoys, [])
    lower = np.r_[rng.normal(-0.5, 1, 400), rng.normal(5, 1, 600)]  # mismatches underrated
    learned = Scores(lower, lower.astype(np.float32), decoys, [])
    first = judge_scores(unbiased, unbiased, seed=3)
    assert first.rate == calibrate(unbiased, seed=3).rate
    second = judge_scores(learned, unbiased, seed=3)
    assert second.rate == first.rate
    assert second.clean_probability(Scored.plain(lower)).mean() != first.clean_probability(Scored.plain(score)).mean()
    assert second.clean_probability(Scored.plain(np.array([6.0])))[0] > 0.95


@pytest.mark.parametrize("fraction", [0.001, 0.25, 1 / 3, 0.7, 0.999, 1.0])
def test_the_share_that_was_asked_for_is_kept(fraction: float) -> None:
    rng = np.random.default_rng(0)
    p = rng.permutation(np.linspace(0, 1, 1009)).astype(np.float32).astype(np.float64)
    p[rng.choice(1009, 9, replace=False)] = np.nan
    threshold = keeping(p, fraction)
    kept = p >= threshold
    assert kept.sum() == max(1, round(1000 * fraction))
    assert p[kept].min() > np.nanmax(np.where(kept, -1, p))
    # And by the numbers as a reader of the verdicts has them.
    assert np.array_equal(p.astype(np.float32) < np.float32(threshold), p < threshold)


def test_pairs_that_tie_are_kept_together() -> None:
    assert keeping(np.array([0.1, 0.5, 0.5, 0.5, 0.9]), 0.4) == 0.5
    assert keeping(np.full(5, np.nan), 0.4) == 0.0
