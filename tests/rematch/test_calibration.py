"""What rematching says about its own precision, against moved captions."""

from __future__ import annotations

import numpy as np
import pytest
from world import DECOY_CLEAN, World, unit

from pairclean.arrays import Pairs
from pairclean.rematch import (
    CandidatePool,
    Pool,
    RematchCalibration,
    RematchOptions,
    calibrate_rematching,
    fit_temperature,
    propose,
)
from pairclean.rematch import calibration as module
from pairclean.rematch.calibration import fit_curve


def test_nearly_all_come_home() -> None:
    world = World(noise=0.5)
    proposals = propose(world.suspects, world.scorer)
    assert (proposals.partner == world.home).mean() > 0.97
    assert (proposals.mass > 0.5).mean() > 0.9
    count, precision, expected = world.emitted()
    assert count > 280
    assert precision > 0.97
    assert expected >= 0.9


@pytest.mark.parametrize("noise", [0.6, 0.8])
def test_the_precision_is_as_it_says(noise: float) -> None:
    results = [World(noise=noise, seed=seed).emitted() for seed in range(3)]
    counts, precisions, expected = map(np.array, zip(*results, strict=True))
    assert (counts > 20).all()
    assert (precisions > 0.84).all()
    assert np.mean(precisions * counts) / np.mean(counts) > 0.87
    assert np.abs(np.average(precisions - expected, weights=counts)) < 0.08


def test_orphans_stay_alone() -> None:
    results = [World(noise=0.4, orphans=0.5, seed=seed).emitted() for seed in range(3)]
    counts, precisions, _ = map(np.array, zip(*results, strict=True))
    assert (counts > 50).all()  # of 150 that can come home
    assert np.average(precisions, weights=counts) >= 0.85


def test_where_nobody_can_come_home_next_to_nothing_is_emitted() -> None:
    assert sum(World(noise=0.4, orphans=1.0, seed=seed).emitted()[0] for seed in range(3)) < 20


def test_a_higher_precision_emits_fewer() -> None:
    world = World(noise=0.8)
    counts = [world.emitted(p)[0] for p in (0.7, 0.85, 0.95)]
    assert counts[0] > counts[1] > counts[2]


def test_too_few_to_break_calibrate_nothing() -> None:
    world = World(suspects=100, sure=module.FEWEST_SURE - 1)
    assert calibrate_rematching(CandidatePool(world.suspects, world.scorer), world.sure, DECOY_CLEAN) is None
    enough = World(suspects=100, sure=module.FEWEST_SURE + 10)
    found = calibrate_rematching(CandidatePool(enough.suspects, enough.scorer), enough.sure, DECOY_CLEAN)
    assert found is not None
    assert found.broken >= 300


def test_where_all_are_right_it_is_calibrated_too() -> None:
    world = World(noise=0.3)
    found = calibrate_rematching(CandidatePool(world.suspects, world.scorer), world.sure, DECOY_CLEAN)
    assert found is not None
    assert found(propose(world.suspects, world.scorer).mass).min() > 0.9


def test_matched_pairs_that_were_flagged_are_not_taken_for_orphans() -> None:
    """A fifth of the flagged pairs are matched, and score low."""
    shares = []
    for seed in range(3):
        world, hard = World(noise=0.6, seed=seed), World(suspects=1, sure=75, noise=1.2, seed=100 + seed).sure
        rng = np.random.default_rng(seed)
        pairs = Pairs(hard.pairs.image[:], hard.pairs.text[:], hard.pairs.image_id + 5000, hard.pairs.caption_id + 5000)
        flagged = Pool.joined(world.suspects, Pool(pairs, rng.uniform(0.2, 0.49, len(hard))))
        found = calibrate_rematching(CandidatePool(flagged, world.scorer), world.sure, DECOY_CLEAN)
        assert found is not None
        shares.append(found.orphans)
    assert np.mean(shares) < 0.1


def test_the_share_without_partners_is_estimated() -> None:
    shares = []
    for orphans in (0.0, 0.5, 1.0):
        world = World(noise=0.6, orphans=orphans)
        found = calibrate_rematching(CandidatePool(world.suspects, world.scorer), world.sure, DECOY_CLEAN)
        assert found is not None
        shares.append(found.orphans)
    assert shares == pytest.approx([0, 0.5, 1], abs=0.25)


def test_captions_without_images_help_to_estimate_the_share_without_partners() -> None:
    """Many images here look as if they had no partner; their masses alone are off by .11 on average."""
    shares = []
    for seed in range(5):
        world = World(noise=0.8, orphans=0.5, seed=seed)
        found = calibrate_rematching(CandidatePool(world.suspects, world.scorer), world.sure, DECOY_CLEAN)
        assert found is not None
        shares.append(found.orphans)
    assert np.abs(np.array(shares) - 0.5).mean() < 0.08


def test_likely_clean_pairs_that_are_mismatched_do_not_count_as_matched_ones_that_were_moved() -> None:
    """A fifth of the pairs with a clean probability of .8 are mismatched, and the plan finds partners for them."""
    count, few, found, right = 60, 12, [], []
    for seed in range(3):
        world = World(noise=0.7, seed=seed)
        pairs, clean = world.sure.pairs, world.sure.clean.copy()
        clean[:count] = 0.8
        moved = np.arange(len(clean))
        moved[:few] = np.roll(moved[:few], 1)
        sure = Pool(Pairs(pairs.image[:], pairs.text[moved], pairs.image_id, pairs.caption_id[moved]), clean)
        calibration = calibrate_rematching(CandidatePool(world.suspects, world.scorer), sure, DECOY_CLEAN)
        assert calibration is not None
        proposals = propose(world.suspects, world.scorer, calibration.options)
        likely = (proposals.mass > 0.8) & (proposals.mass < 0.98)
        right.append((proposals.partner == world.home)[likely].mean())
        found.append(calibration(proposals.mass[likely]).mean())
    assert np.mean(right) > 0.99
    assert np.mean(found) > 0.99  # .983 where a mistake of the trials counts as one whatever the pair was before


def test_a_calibration_rises_with_the_mass_and_bends_at_one_half() -> None:
    found = RematchCalibration(np.array([0.5, 1.0, 2.0]), 0.1, 100, RematchOptions(), *[np.zeros(0)] * 3)
    chance = found(np.array([0.2, 0.5, 0.8]))
    np.testing.assert_allclose(np.log(chance / (1 - chance)), 0.5 + np.array([-1, 0, 3]) * np.log(4))
    assert np.isfinite(found(np.array([0.0, 1.0]))).all()


def _proposals(n: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Masses, and how likely it is that the proposals are right: 1, 2 and 1 are the coefficients."""
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.02, 0.98, n)
    x = np.log(mass / (1 - mass))
    return mass, 1 / (1 + np.exp(-(1 + 2 * x + np.maximum(x, 0)))), rng


def test_the_curve_of_proposals_is_found() -> None:
    mass, chance, rng = _proposals()
    right = rng.random(len(mass)) < chance
    np.testing.assert_allclose(fit_curve(mass, right, np.ones(len(mass)), np.ones(len(mass))), [1, 2, 1], atol=0.3)


def test_proposals_for_pairs_that_were_never_matched_do_not_count_as_mistakes() -> None:
    """A tenth of the broken pairs were mismatched before, and nothing that is proposed for them is seen to be right."""
    mass, chance, rng = _proposals()
    clean = rng.uniform(0.8, 1, len(mass))
    right = (rng.random(len(mass)) < chance) & (rng.random(len(mass)) < clean)
    sure = mass > 0.8
    assert chance[sure].mean() > 0.99

    def said(matched: np.ndarray) -> float:
        found = RematchCalibration(
            fit_curve(mass, right, np.ones(len(mass)), matched), 0.1, 100, RematchOptions(), *[np.zeros(0)] * 3
        )
        return float(found(mass[sure]).mean())

    assert said(clean) == pytest.approx(chance[sure].mean(), abs=0.01)
    assert said(np.ones(len(mass))) < 0.97


def test_the_curve_says_no_more_than_is_seen_where_doubtful_pairs_are_harder() -> None:
    mass, chance, rng = _proposals()
    clean = rng.uniform(0.5, 1, len(mass))
    chance = np.where(clean < 0.75, 0.8 * chance, chance)
    right = (rng.random(len(mass)) < chance) & (rng.random(len(mass)) < clean)
    curve = fit_curve(mass, right, np.ones(len(mass)), clean)
    found = RematchCalibration(curve, 0.1, 100, RematchOptions(), *[np.zeros(0)] * 3)
    half = mass > 0.5
    assert found(mass[half]).mean() == pytest.approx(np.average(chance[half], weights=clean[half]), abs=0.02)


def test_more_right_than_were_likely_matched_make_no_endless_curve() -> None:
    mass = np.linspace(0.3, 0.9, 100)
    curve = fit_curve(mass, np.ones(100, bool), np.ones(100), np.full(100, 0.9))
    assert np.isfinite(curve).all()
    found = RematchCalibration(curve, 0.1, 100, RematchOptions(), *[np.zeros(0)] * 3)
    assert found(mass).min() > 0.99


def test_a_few_proposals_that_are_all_right_make_no_endless_slope() -> None:
    mass = np.linspace(0.3, 0.9, 100)
    curve = fit_curve(mass, np.ones(100, bool), np.ones(100), np.ones(100))
    assert (np.abs(curve) < 50).all()
    assert (curve[1:] >= 0).all()


def test_the_temperature_of_matched_pairs_is_found() -> None:
    """Captions drawn from the softmax over a gallery at a known temperature."""
    rng = np.random.default_rng(0)
    for planted in (0.05, 0.15):
        image = unit(rng.standard_normal((800, 12)))
        gallery = unit(rng.standard_normal((20_000, 12)))
        logits = image @ gallery.T / planted
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        assert fit_temperature(image, gallery[drawn]) == pytest.approx(planted, rel=0.25)
