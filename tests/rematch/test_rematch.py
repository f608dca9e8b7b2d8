"""Rematching generated embeddings whose captions were moved, and what it says about its own precision."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge.scores import Reference, Scorer, pair_codes
from pairclean.rematch import (
    Calibration,
    Pool,
    Searched,
    Terms,
    calibrate_rematching,
    draw_sure,
    emit,
    fit_temperature,
    propose,
    settle,
)
from pairclean.rematch import rematch as module

DECOY_CLEAN = np.linspace(0.001, 0.2, 100)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Aligned embeddings; the suspects' captions are moved in a cycle, the sure ones are in place.

    orphans: share of the suspects whose caption has been replaced by one of a picture that is not there.
    """

    def __init__(self, suspects: int = 300, sure: int = 300, noise: float = 0.8, orphans: float = 0.0, seed: int = 0):
        rng = np.random.default_rng(seed)
        n, k = 2 * suspects + sure, 24
        latent = rng.standard_normal((n, k))
        image, text = (unit(latent + noise * rng.standard_normal((n, k))) for _ in range(2))
        carried = np.roll(np.arange(suspects), 1)  # suspect i has the caption of suspect i - 1
        gone = rng.permutation(suspects)[: round(orphans * suspects)]
        carried[gone] = suspects + gone  # captions of nobody here
        self.home = np.full(suspects, -1)  # who carries one's own caption
        for i, c in enumerate(carried):
            if c < suspects:
                self.home[c] = i
        rows = np.arange(suspects)
        self.suspects = Pool(image[rows], text[carried], rows, carried + 10_000, rng.choice(DECOY_CLEAN, suspects))
        rows = np.arange(2 * suspects, n)
        self.sure = Pool(image[rows], text[rows], rows, rows + 10_000, np.full(sure, 0.99))
        everything = Pool(
            *(np.concatenate(p) for p in zip(vars(self.suspects).values(), vars(self.sure).values(), strict=True))
        )
        reference = Reference(everything.image, everything.text, everything.image_id, everything.caption_id)
        self.scorer = Scorer(reference, fit_temperature(self.sure.image, self.sure.text))

    def emitted(self, precision: float = 0.9, seed: int = 0) -> tuple[int, float, float]:
        """How many rematches, how many of them right, and the expected precision."""
        found = calibrate_rematching(Searched(self.suspects, self.scorer), self.sure, DECOY_CLEAN, seed=seed)
        assert found is not None
        proposals = propose(self.suspects, self.scorer, found.terms)
        chance = np.where(proposals.partner >= 0, found(proposals.mass), 0)
        chosen = emit(chance, precision)
        right = proposals.partner[chosen] == self.home[chosen]
        if not chosen.any():
            return 0, 1.0, 1.0
        return int(chosen.sum()), float(right.mean()), float(chance[chosen].mean())


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


def test_proposals_are_one_to_one_and_no_copies() -> None:
    world = World(noise=1.2)
    ids = np.r_[world.suspects.caption_id[:1], world.suspects.caption_id[:1], world.suspects.caption_id[2:]]
    pool = Pool(world.suspects.image, world.suspects.text, world.suspects.image_id, ids, world.suspects.clean)
    partner = propose(pool, world.scorer).partner
    used = partner[partner >= 0]
    assert len(used) > 100
    assert len(set(used.tolist())) == len(used)
    assert (partner != np.arange(len(partner))).all()
    moved = np.flatnonzero(partner >= 0)
    assert (ids[partner[moved]] != ids[moved]).all()


def test_a_copy_of_an_image_does_not_get_what_the_other_copy_carries() -> None:
    """Images 0 and 1 are one picture; its true caption is on 1, and the only other caption for 0 is wrong."""
    rng = np.random.default_rng(0)
    image = unit(rng.standard_normal((40, 24)))
    image[1] = image[0]
    text = image.copy()
    text[0] = -image[0]
    image_id = np.r_[0, 0, np.arange(2, 40)]
    scorer = Scorer(Reference(image, text, image_id, np.arange(40)), 0.05)
    clean = np.r_[0.01, np.full(39, 0.9)]
    assert propose(Pool(image, text, image_id, np.arange(40), clean), scorer).partner[0] != 1
    # Were they two pictures, it would be the first choice, if its own picture did not hold it.
    open_pool = Pool(image, text, np.arange(40), np.arange(40), np.r_[0.01, 0.01, np.full(38, 0.9)])
    assert {int(j) for j in propose(open_pool, scorer).partner[:2]} & {1, 0}


def test_pairs_that_are_surely_clean_stay() -> None:
    world = World(noise=0.5)
    pool = Pool(
        *(np.concatenate(p) for p in zip(vars(world.suspects).values(), vars(world.sure).values(), strict=True))
    )
    found = propose(pool, world.scorer)
    assert (found.partner[300:] == -1).all()
    assert (found.mass[300:] == 0).all()
    assert (found.partner[:300] == world.home).mean() > 0.95
    as_they_are = Pool(pool.image, pool.text, pool.image_id, pool.caption_id, np.ones(600))
    assert (propose(as_they_are, world.scorer).partner == -1).all()


def test_copies_of_a_caption_count_as_one_text() -> None:
    """Two images want one text, of which there are two copies: each gets one, at the mass of both together."""
    world = World(suspects=60, noise=0.3)
    p = world.suspects
    apart = propose(p, world.scorer)
    a, b = 10, 20  # the true captions of these are put together into one text
    home_a, home_b = world.home[a], world.home[b]
    text, caption_id, image = p.text.copy(), p.caption_id.copy(), p.image.copy()
    text[home_b], caption_id[home_b], image[b] = text[home_a], caption_id[home_a], image[a]
    found = propose(Pool(image, text, p.image_id, caption_id, p.clean), world.scorer)
    assert {int(found.partner[a]), int(found.partner[b])} == {int(home_a), int(home_b)}
    assert apart.mass[a] > 0.8
    assert found.mass[a] > 0.8
    assert found.mass[b] > 0.8


def test_emit_takes_the_largest_set_at_the_precision() -> None:
    rng = np.random.default_rng(0)
    for precision in (0.0, 0.6, 0.9, 1.0):
        p = rng.uniform(0.2, 1, 200)
        chosen = emit(p, precision)
        k = int(chosen.sum())
        ordered = np.sort(p)[::-1]
        best = max([m for m in range(1, 201) if ordered[:m].mean() >= precision], default=0)
        assert k == best
        assert set(p[chosen]) == set(ordered[:k])
    assert emit(np.array([0.95, 0.7, 0.95]), 0.9).tolist() == [True, False, True]
    assert emit(np.array([0.8, 0.7]), 0.9).tolist() == [False, False]
    assert emit(np.zeros(0), 0.9).tolist() == []


def test_too_few_to_break_calibrate_nothing() -> None:
    world = World(suspects=100, sure=module.FEWEST_SURE - 1)
    assert calibrate_rematching(Searched(world.suspects, world.scorer), world.sure, DECOY_CLEAN) is None
    enough = World(suspects=100, sure=module.FEWEST_SURE + 10)
    found = calibrate_rematching(Searched(enough.suspects, enough.scorer), enough.sure, DECOY_CLEAN)
    assert found is not None
    assert found.broken >= 500


def test_where_all_are_right_it_is_calibrated_too() -> None:
    world = World(noise=0.3)
    found = calibrate_rematching(Searched(world.suspects, world.scorer), world.sure, DECOY_CLEAN)
    assert found is not None
    assert found(propose(world.suspects, world.scorer).mass).min() > 0.9


def test_no_suspects_and_no_partners() -> None:
    world = World()
    empty = world.suspects.take(np.zeros(0, np.int64))
    found = propose(empty, world.scorer)
    assert len(found.partner) == len(found.mass) == 0
    assert propose(world.suspects.take(np.array([3])), world.scorer).partner.tolist() == [-1]


def test_the_share_without_partners_is_estimated() -> None:
    shares = []
    for orphans in (0.0, 0.5, 1.0):
        world = World(noise=0.6, orphans=orphans)
        found = calibrate_rematching(Searched(world.suspects, world.scorer), world.sure, DECOY_CLEAN)
        assert found is not None
        shares.append(found.orphans)
    assert shares == pytest.approx([0, 0.5, 1], abs=0.25)


def test_a_calibration_is_a_rising_logistic_of_the_mass() -> None:
    found = Calibration(0.5, 2.0, 0.1, 100, Terms(), *[np.zeros(0)] * 3)
    mass = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(found(mass), 1 / (1 + np.exp(-(0.5 + 2 * np.log(mass / (1 - mass))))))
    assert np.isfinite(found(np.array([0.0, 1.0]))).all()


def test_the_temperature_of_matched_pairs_is_found() -> None:
    """Captions drawn from the softmax over a gallery at a known temperature."""
    rng = np.random.default_rng(0)
    for planted in (0.05, 0.15):
        image = unit(rng.standard_normal((800, 12)))
        gallery = unit(rng.standard_normal((20_000, 12)))
        logits = image @ gallery.T / planted
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        assert fit_temperature(image, gallery[drawn]) == pytest.approx(planted, rel=0.25)


def test_likely_clean_pairs_are_drawn_by_their_probability() -> None:
    clean = np.concatenate([np.full(20_000, 0.6), np.full(20_000, 1.0), np.full(20_000, 0.4), np.full(100, np.nan)])
    drawn = draw_sure(clean, np.random.default_rng(0))
    assert len(drawn) == module.MOST_HELD_OUT
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(drawn // 20_000, minlength=4)
    assert counts.tolist() == pytest.approx([1500, 2500, 0, 0], abs=130)
    assert counts[2] == counts[3] == 0
    few = draw_sure(np.array([0.6, 1.0] * 1000 + [0.4, np.nan]), np.random.default_rng(0))
    assert np.bincount(few % 2).tolist() == pytest.approx([600, 1000], abs=50)


def test_what_an_image_carries_anywhere_in_the_data_is_no_rematch() -> None:
    """The image's other pair is sure to be clean, so that it is not in the pool; its text stands at a suspect there."""
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal((60, 16)).astype(np.float32))
    carried = np.roll(np.arange(60), 1)  # the caption of its neighbour
    pool = Pool(x, x[carried], np.arange(60), carried, np.full(60, 0.05))
    scorer = Scorer(Reference(x, x, np.arange(60), np.arange(60)), 0.05)
    assert propose(pool, scorer).partner[7] == 8  # whose caption is its own
    there = Terms(carried=pair_codes(np.array([7]), np.array([7])))
    found = propose(pool, scorer, there).partner
    assert found[7] != 8
    assert (found == np.roll(np.arange(60), -1)).sum() >= 50


def test_a_caption_is_given_away_only_if_its_own_pair_lets_it_go() -> None:
    partner = np.array([1, 2, 3, 0, -1])
    chance = np.array([0.95, 0.94, 0.93, 0.2, 0.0])
    flagged = np.array([True, False, True, False, False])
    everybody = np.ones(5, bool)
    # 2 wants the caption of 3, which stays; then 1 has nobody to leave for, but 2 is flagged and lets its caption go.
    chosen, offered = settle(partner, chance, flagged, everybody, 0.9, False)
    assert chosen.tolist() == [True, True, False, False, False]
    assert offered.tolist() == [True, True, False, True, False]
    # Where captions can be given again, nobody has to let go.
    assert settle(partner, chance, flagged, everybody, 0.9, True)[0].tolist() == [True, True, True, False, False]
    # Of those that may not be emitted none is, and what hangs on them neither.
    chosen, offered = settle(partner, chance, flagged, flagged, 0.9, False)
    assert not chosen.any()
    assert not offered.any()


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_a_caption_is_given_to_as_many_images_as_asked_for(capacity: int) -> None:
    """Images 0 to 3 are of one thing; caption 4 says it, the others say nothing of anything."""
    rng = np.random.default_rng(0)
    image, text = unit(rng.standard_normal((30, 24))), unit(rng.standard_normal((30, 24)))
    image[:4] = text[4]
    n = np.arange(30)
    scorer = Scorer(Reference(image, text, n, n), 0.05)
    partner = propose(Pool(image, text, n, n, np.full(30, 0.01)), scorer, Terms(capacity=capacity)).partner
    assert (partner == 4).sum() == capacity


def test_a_caption_can_be_given_again_although_its_own_pair_keeps_it() -> None:
    """Image 0 and image 1 are alike; pair 1 is surely clean, and its caption says what image 0 shows, too."""
    rng = np.random.default_rng(0)
    image = unit(rng.standard_normal((30, 24)))
    text = image.copy()
    image[0], text[0] = image[1], -image[1]
    n = np.arange(30)
    scorer = Scorer(Reference(image, text, n, n), 0.05)
    pool = Pool(image, text, n, n, np.r_[0.01, np.full(29, 0.9999)])
    kept, again = propose(pool, scorer), propose(pool, scorer, Terms(again=True))
    assert kept.mass[0] < 0.1
    assert again.partner[0] == 1
    assert again.mass[0] > 0.5
    assert (again.partner[1:] == -1).all()


def test_a_large_pool_that_some_join_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(noise=0.6)
    few, many = world.suspects.take(np.arange(20)), world.suspects.take(np.arange(20, 300))
    anew = Searched(many, world.scorer).with_pairs(few).propose(Terms())
    monkeypatch.setattr(module, "SEARCHED_ANEW", 100)
    searched = Searched(many, world.scorer)
    monkeypatch.setattr(module.Searched, "__init__", None)  # nothing is made anew
    joined = searched.with_pairs(few)
    found = joined.propose(Terms())
    monkeypatch.undo()
    assert len(searched.known().clean) == 280
    assert np.array_equal(joined.known().caption_id, world.suspects.caption_id)
    assert (found.partner == anew.partner).mean() > 0.98
    np.testing.assert_allclose(found.mass, anew.mass, atol=0.05)
    together = propose(world.suspects, world.scorer)
    assert np.array_equal(anew.partner, together.partner)
    assert found.partner[:20].tolist() == together.partner[:20].tolist()


def test_partners_are_as_sure_in_a_pool_much_larger_than_the_reference() -> None:
    """A small reference tells a partner apart from few; among many its evidence counts no less for that."""
    world = World(suspects=1500, sure=100, noise=0.3)
    r, few = world.scorer.reference, np.random.default_rng(0).choice(1600, 200, replace=False)
    full = propose(world.suspects, Scorer(r, 0.05))
    found = propose(world.suspects, Scorer(Reference(*(x[few] for x in vars(r).values())), 0.05))
    assert (full.partner == world.home).mean() > 0.99
    assert (found.partner == world.home).mean() > 0.99
    assert np.median(found.mass) > 0.5 * np.median(full.mass)
    there = np.isin(world.suspects.image_id, r.image_id[few])  # with their partner in the reference, or not
    assert np.median(found.mass[there]) > 0.9 * np.median(found.mass[~there])
