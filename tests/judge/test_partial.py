"""Captions that are half right are made from likely matches, and told from complete mismatches where that can be."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import CrossFit, Scores, cosine_scores, kind_cut, mixed_scores

N, D = 1500, 64


def pairs(noise: float, seed: int = 0) -> Pairs:
    """Vectors of which the first tenth of the captions is half another's, the second all another's."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((N, D))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (latent, latent + 0.0))
    image, text = (x + noise * rng.standard_normal((N, D)) / D**0.5 for x in (image, text))
    foreign = np.roll(text, 7, axis=0)
    text[:150] = text[:150] + foreign[:150]
    text[150:300] = foreign[150:300]
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    ids = np.arange(1, N + 1)
    return Pairs(image, text, ids, ids)


ENCODER = CrossFit.single(ZeroShot(), np.arange(N))


def mixed(data: Pairs, found: Scores, clean: np.ndarray) -> np.ndarray:
    return mixed_scores(ENCODER, data, found, clean)


CLEAN = np.where(np.arange(N) < 300, 0.1, 0.9)


def test_mixtures_score_as_captions_that_are_half_right_do() -> None:
    data = pairs(0.4)
    found = ENCODER.scores(data)
    made, true = mixed(data, found, CLEAN), found.score[:150]
    spread = true.std()
    assert abs(np.median(made) - np.median(true)) < 0.3 * spread
    assert np.median(found.score[300:]) - np.median(true) > 2 * spread  # so that this says something
    cut = kind_cut(made, found.decoys)
    assert cut is not None
    assert (found.score[:150] >= cut).mean() > 0.9
    assert (found.score[150:300] < cut).mean() > 0.9


def test_nothing_is_told_where_the_kinds_score_alike() -> None:
    data = pairs(6.0)
    found = ENCODER.scores(data)
    assert kind_cut(mixed(data, found, CLEAN), found.decoys) is None


def test_nothing_is_mixed_where_nothing_is_likely_to_match_or_the_score_is_another() -> None:
    data = pairs(0.4)
    found = ENCODER.scores(data)
    assert len(mixed(data, found, np.full(N, 0.4))) == 0
    assert len(mixed(data, cosine_scores(data, np.arange(N)), CLEAN)) == 0
    assert kind_cut(np.zeros(0), found.decoys) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_the_cut_is_where_most_are_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = kind_cut(rng.normal(4, 1, 4000), rng.normal(0, 1, 4000))
    assert cut == pytest.approx(2.0, abs=0.25)
