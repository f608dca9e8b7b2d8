"""Images and captions that say nothing of their partners."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pairclean.judge.binormal import RANDOM, Binormal
from pairclean.judge.evidence import Scored
from pairclean.judge.identities import Identities

MU = 2.0


def drawn(images: int, captions: int, mismatched: float, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kinds and evidence of pairs, `captions` for each image: random mismatches are standard normal, matched pairs
    N(MU + d, 1), d ~ N(0, spread) for every image."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(images), captions)
    easy = spread * rng.standard_normal(images)
    wrong = rng.random(len(kind)) < mismatched
    return kind, rng.standard_normal(len(kind)) + np.where(wrong, 0, MU + easy[kind])


def scored(image: np.ndarray, text: np.ndarray) -> Scored:
    return Scored.of_kinds(np.zeros(len(image)), image, text)


MODEL = Binormal(0.2, 0.0, MU, 1.0, RANDOM, 0.0)


def test_placeholders_and_slogans_are_found_and_the_others_stay_ordinary() -> None:
    kind, z = drawn(60, 20, 0.2, 0.0, 0)
    text = kind + 1  # kind 0 is a cluster
    z[kind < 3] = np.random.default_rng(1).standard_normal(60)  # three slogans
    image = np.zeros(len(z), np.int64)
    image[-40:] = 1  # one placeholder, in the place of two images
    z[-40:] = np.random.default_rng(2).standard_normal(40)
    text[-40:] = 0
    found = Identities.fit(scored(image, text), (1, 1), MODEL, z, np.ones(len(z)))
    assert np.flatnonzero(~np.isnan(found.text)).tolist() == [0, 1, 2]
    assert np.flatnonzero(~np.isnan(found.image)).tolist() == [0]
    of = scored(image, text)
    assert np.array_equal(found.generic(of), kind < 3)
    assert np.array_equal(found.placeholder(of), np.arange(len(z)) >= len(z) - 40)
    found = found.with_rates(of, MODEL, z, np.ones(len(z)))
    rate = found.rate(of)
    assert np.isnan(rate[~found.generic(of) & ~found.placeholder(of)]).all()
    assert (rate[found.generic(of) | found.placeholder(of)] > 0.8).all()
    again = Identities.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert np.array_equal(again.rate(of), rate, equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_images_that_are_difficult_are_not_meaningless(seed: int) -> None:
    """Evidence that is low for all captions of an image comes from the image."""
    kind, z = drawn(400, 15, 0.1, 0.5, seed)
    none = np.zeros(len(z), np.int64)
    found = Identities.fit(scored(kind + 1, none), (1, 1), MODEL, z, np.ones(len(z)))
    assert (~np.isnan(found.image)).mean() <= 0.015


def test_copies_of_a_pair_are_no_more_evidence_than_one() -> None:
    z = np.full(
        30, -0.3
    )  # unlikely if matched; thirty different captions of one image would say that it is a placeholder
    one = scored(np.ones(30, np.int64), np.zeros(30, np.int64))
    assert not np.isnan(Identities.fit(one, (1, 1), MODEL, z, np.ones(30)).image).any()
    assert np.isnan(Identities.fit(one, (1, 1), MODEL, z, np.full(30, 1 / 30)).image).all()


def test_without_repeated_identities_nothing_is_meaningless() -> None:
    nothing = scored(np.zeros(5, np.int64), np.zeros(5, np.int64))
    for found in (Identities.none(), Identities.fit(nothing, (1, 1), MODEL, np.ones(5), np.ones(5))):
        assert (found.group(nothing) == -1).all()
        assert np.isnan(found.with_rates(nothing, MODEL, np.ones(5), np.ones(5)).rate(nothing)).all()
