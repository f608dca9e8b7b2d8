"""Who is proposed to whom, in generated embeddings whose captions were moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from world import World, unit

from pairclean import scratch
from pairclean.align import ZeroShot
from pairclean.arrays import HalfPrecision, Pairs
from pairclean.judge import Reference, Scorer, pair_codes
from pairclean.rematch import CandidatePool, Pool, RematchOptions, candidates, propose
from pairclean.rematch import pool as module


def test_proposals_are_one_to_one_and_no_copies() -> None:
    world = World(noise=1.2)
    pairs = world.suspects.pairs
    ids = np.r_[pairs.caption_id[:1], pairs.caption_id[:1], pairs.caption_id[2:]]
    pool = Pool(pairs.with_ids(pairs.image_id, ids), world.suspects.clean)
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
    assert propose(Pool(Pairs(image, text, image_id, np.arange(40)), clean), scorer).partner[0] != 1
    # Were they two pictures, it would be the first choice, if its own picture did not hold it.
    open_pool = Pool(Pairs(image, text, np.arange(40), np.arange(40)), np.r_[0.01, 0.01, np.full(38, 0.9)])
    assert {int(j) for j in propose(open_pool, scorer).partner[:2]} & {1, 0}


def test_pairs_that_are_surely_clean_stay() -> None:
    world = World(noise=0.5)
    pool = Pool.joined(world.suspects, world.sure)
    found = propose(pool, world.scorer)
    assert (found.partner[300:] == -1).all()
    assert (found.mass[300:] == 0).all()
    assert (found.partner[:300] == world.home).mean() > 0.95
    as_they_are = Pool(pool.pairs, np.ones(600))
    assert (propose(as_they_are, world.scorer).partner == -1).all()


def test_copies_of_a_caption_count_as_one_text() -> None:
    """Two images want one text, of which there are two copies: each gets one, at the mass of both together."""
    world = World(suspects=60, noise=0.3)
    p = world.suspects
    apart = propose(p, world.scorer)
    a, b = 10, 20  # the true captions of these are put together into one text
    home_a, home_b = world.home[a], world.home[b]
    image, text, image_id, caption_id = (x.copy() for x in vars(p.pairs).values())
    text[home_b], caption_id[home_b], image[b] = text[home_a], caption_id[home_a], image[a]
    found = propose(Pool(Pairs(image, text, image_id, caption_id), p.clean), world.scorer)
    assert {int(found.partner[a]), int(found.partner[b])} == {int(home_a), int(home_b)}
    assert apart.mass[a] > 0.8
    assert found.mass[a] > 0.8
    assert found.mass[b] > 0.8


def test_no_suspects_and_no_partners() -> None:
    world = World()
    empty = world.suspects.take(np.zeros(0, np.int64))
    found = propose(empty, world.scorer)
    assert len(found.partner) == len(found.mass) == 0
    assert propose(world.suspects.take(np.array([3])), world.scorer).partner.tolist() == [-1]


def test_what_an_image_carries_anywhere_in_the_data_is_no_rematch() -> None:
    """The image's other pair is sure to be clean, so that it is not in the pool; its text stands at a suspect there."""
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal((60, 16)).astype(np.float32))
    carried = np.roll(np.arange(60), 1)  # the caption of its neighbour
    pool = Pool(Pairs(x, x[carried], np.arange(60), carried), np.full(60, 0.05))
    scorer = Scorer(Reference(x, x, np.arange(60), np.arange(60)), 0.05)
    assert propose(pool, scorer).partner[7] == 8  # whose caption is its own
    there = RematchOptions(carried=pair_codes(np.array([7]), np.array([7])))
    found = propose(pool, scorer, there).partner
    assert found[7] != 8
    assert (found == np.roll(np.arange(60), -1)).sum() >= 50


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_a_caption_is_given_to_as_many_images_as_asked_for(capacity: int) -> None:
    """Images 0 to 3 are of one thing; caption 4 says it, the others say nothing of anything."""
    rng = np.random.default_rng(0)
    image, text = unit(rng.standard_normal((30, 24))), unit(rng.standard_normal((30, 24)))
    image[:4] = text[4]
    n = np.arange(30)
    scorer = Scorer(Reference(image, text, n, n), 0.05)
    pool = Pool(Pairs(image, text, n, n), np.full(30, 0.01))
    partner = propose(pool, scorer, RematchOptions(capacity=capacity)).partner
    assert (partner == 4).sum() == capacity


def test_a_caption_can_be_given_again_although_its_own_pair_keeps_it() -> None:
    """Image 0 and image 1 are alike; pair 1 is surely clean, and its caption says what image 0 shows, too."""
    rng = np.random.default_rng(0)
    image = unit(rng.standard_normal((30, 24)))
    text = image.copy()
    image[0], text[0] = image[1], -image[1]
    n = np.arange(30)
    scorer = Scorer(Reference(image, text, n, n), 0.05)
    pool = Pool(Pairs(image, text, n, n), np.r_[0.01, np.full(29, 0.9999)])
    kept, again = propose(pool, scorer), propose(pool, scorer, RematchOptions(reuse=True))
    assert kept.mass[0] < 0.1
    assert again.partner[0] == 1
    assert again.mass[0] > 0.5
    assert (again.partner[1:] == -1).all()


def test_a_large_pool_that_some_join_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(noise=0.6)
    few, many = world.suspects.take(np.arange(20)), world.suspects.take(np.arange(20, 300))
    anew = CandidatePool(many, world.scorer).with_pairs(few).propose(RematchOptions())
    monkeypatch.setattr(module, "SEARCHED_ANEW", 100)
    searched = CandidatePool(many, world.scorer)
    monkeypatch.setattr(module.CandidatePool, "__init__", None)  # nothing is made anew
    joined = searched.with_pairs(few)
    found = joined.propose(RematchOptions())
    monkeypatch.undo()
    assert len(searched.known()) == 280
    assert np.array_equal(joined.known().pairs.caption_id, world.suspects.pairs.caption_id)
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
    there = np.isin(world.suspects.pairs.image_id, r.image_id[few])  # with their partner in the reference, or not
    assert np.median(found.mass[there]) > 0.9 * np.median(found.mass[~there])


def test_a_pool_in_files_has_the_proposals_of_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SMALL", 1)
    monkeypatch.setattr(candidates, "EXACT", 10)
    monkeypatch.setattr(module, "SEARCHED_ANEW", 10)
    world = World(noise=0.6)
    found = []
    for where in (scratch.MEMORY, scratch.Scratch(tmp_path)):
        held = world.suspects.pairs.halved_through(ZeroShot(), np.arange(300), where)
        assert isinstance(held.image, HalfPrecision)
        assert isinstance(held.image.held.base, np.memmap) == (where.folder is not None)
        pool = CandidatePool(Pool(held, world.suspects.clean), world.scorer, scratch=where)
        found.append(pool.with_pairs(world.sure.take(np.arange(50))).propose(RematchOptions()))
    assert (found[0].partner >= 0).sum() > 150
    for name, value in vars(found[0]).items():
        assert np.array_equal(value, vars(found[1])[name]), name
