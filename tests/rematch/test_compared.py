"""Candidates that vectors find and a scorer ranks."""

from __future__ import annotations

import numpy as np
import pytest
from world import DECOY_CLEAN, World, unit

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import PairScorers, Reference, Scorer, pair_codes
from pairclean.rematch import CandidatePool, Pool, Proposals, calibrate_rematching, fit_temperature
from pairclean.rematch import pool as module
from pairclean.rematch.candidates import CANDIDATES, ComparedGallery, Finder

SUSPECTS = 200


class Table:
    def __init__(self, similarity: np.ndarray) -> None:
        self.similarity = similarity

    def score(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        return self.similarity[image_rows, text_rows]


def compared(similarity: np.ndarray, pairs: Pairs, temperature: float) -> tuple[Pairs, Scorer]:
    """The pairs as rows, and a scorer that looks their similarities up; all of them are the reference.

    temperature: of the similarities as they are in the table.
    """
    rows = np.arange(len(pairs))
    scorers = PairScorers.of([Table(similarity)], np.zeros(len(pairs), int), rows, rows)
    of = scorers.pairs(pairs)
    return of, Scorer(Reference.of(of), temperature / scorers.spaces[0].unit, comparison=scorers.space.comparison)


def proposals(searched: CandidatePool, added: Pool, scorer: Scorer) -> Proposals:
    broken = pair_codes(added.pairs.image_id, added.pairs.caption_id)
    return searched.propose_with(added, scorer, broken, searched.options)


@pytest.mark.parametrize("searched_anew", [0, 20_000])
def test_a_scorer_of_inner_products_proposes_what_the_vectors_do(
    searched_anew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEARCHED_ANEW", searched_anew)
    world = World(SUSPECTS, 100)
    every = Pool.joined(world.suspects, world.sure)
    vectors, scorer = every.pairs, Scorer(Reference.of(every.pairs), world.scorer.temperature)
    rows, of_rows = compared(vectors.image[:] @ vectors.text[:].T, vectors, scorer.temperature)
    finder = Finder(vectors, ZeroShot(), scorer)
    few, many = np.arange(SUSPECTS, len(every)), np.arange(SUSPECTS)
    found = []
    for pairs, by, how in ((vectors, scorer, None), (rows, of_rows, finder)):
        of = Pool(pairs, every.clean)
        joined = CandidatePool(of.take(many), by, finder=how).with_pairs(of.take(few[:50]))
        found += [joined.propose(joined.options), proposals(joined, of.take(few[50:]), by)]
    for one, other in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(one.partner, other.partner)
        np.testing.assert_allclose(one.mass, other.mass, atol=1e-4)
        assert (one.partner >= 0).sum() > 100


def test_vectors_find_and_the_scorer_ranks() -> None:
    """The similarities of the candidates are the scorer's; which captions they are is decided by vectors alone."""
    world = World(SUSPECTS, 30)
    vectors = world.suspects.pairs
    similarity = np.random.default_rng(0).random((SUSPECTS, SUSPECTS), np.float32)
    rows, scorer = compared(similarity, vectors, 0.1)
    similarity = similarity / np.float32(0.1 / scorer.temperature)
    nothing = np.zeros((1, 24), np.float32)
    plain = Scorer(Reference(nothing, nothing, np.array([-1]), np.array([-1])), 1.0)  # without hubness
    gallery = ComparedGallery(rows.image[:], rows.text[:], Finder(vectors, ZeroShot(), plain), scorer.comparison)
    (edges,) = gallery.edges()
    np.testing.assert_allclose(edges.value, similarity[edges.image, edges.caption], rtol=1e-6)
    cosine = vectors.image[:] @ vectors.text[:].T
    image, caption, found = gallery.captions_for(rows.image[:20])
    np.testing.assert_allclose(found, similarity[image, caption], rtol=1e-6)
    for i in range(20):
        assert set(caption[image == i]) == set(np.argsort(-cosine[i])[:CANDIDATES])
    image, caption, found = gallery.images_for(rows.text[:20])
    np.testing.assert_allclose(found, similarity[image, caption], rtol=1e-6)
    for c in range(20):
        assert set(image[caption == c]) == set(np.argsort(-cosine[:, c])[:CANDIDATES])


def test_a_scorer_that_knows_more_than_the_vectors_finds_more() -> None:
    """Vectors of much noise find the candidates; a scorer of little noise ranks them, and knows how sure it is."""
    world, rng = World(noise=0.5), np.random.default_rng(0)
    every = Pool.joined(world.suspects, world.sure)
    sharp = every.pairs
    image, text = (unit(x[:] + 0.18 * rng.standard_normal((len(sharp), 24))) for x in (sharp.image, sharp.text))
    vectors = Pairs(image, text, sharp.image_id, sharp.caption_id)
    suspects, sure = np.arange(300), np.arange(300, 600)
    by_vector = Scorer(Reference.of(vectors), fit_temperature(image[sure], text[sure]))
    rows, by_scorer = compared(sharp.image[:] @ sharp.text[:].T, vectors, world.scorer.temperature)
    right = []
    for pairs, scorer, finder in (
        (vectors, by_vector, None),
        (rows, by_scorer, Finder(vectors, ZeroShot(), by_vector)),
    ):
        pool = Pool(pairs, every.clean)
        searched = CandidatePool(pool.take(suspects), scorer, finder=finder)
        found = calibrate_rematching(searched, pool.take(sure), DECOY_CLEAN)
        assert found is not None
        proposed = searched.propose(found.options)
        chance = np.where(proposed.partner >= 0, found(proposed.mass), 0)
        chosen = chance > 0.8
        is_right = proposed.partner[chosen] == world.home[chosen]
        assert is_right.mean() > chance[chosen].mean() - 0.05
        right.append(is_right.sum())
    assert right[1] > 1.3 * right[0]
