"""Pairs that a scorer compares are scored as pairs of vectors are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.special import logsumexp

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs, PairScorer, unit
from pairclean.judge import CrossFit, PairKinds, PairScorers, Partition, compared, judge, learn
from pairclean.pairs import UserError

N, D = 260, 16
T = 0.07


@dataclass
class Table:
    """Looks the similarity of every image and every caption up, and counts how often it is asked for each."""

    similarity: np.ndarray
    asked: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.asked = np.zeros(self.similarity.shape, int)

    def score(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        np.add.at(self.asked, (image_rows, text_rows), 1)
        return self.similarity[image_rows, text_rows]


def world(seed: int = 0, moved: int = 80) -> Pairs:
    """Unit vectors of two views; the first captions are those of the next image."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((N, D))
    text = image + 0.7 * rng.standard_normal((N, D))
    text[:moved] = np.roll(text[:moved], 1, axis=0)
    image, text = (unit(x).astype(np.float32) for x in (image, text))
    return Pairs(image, text, np.arange(N) + 1000, np.arange(N) + 5000)


def kinds_of(pairs: Pairs) -> PairKinds:
    rows = np.arange(len(pairs))
    return PairKinds.of(Partition.fit(pairs, rows), pairs, rows)


def given(*scorers: PairScorer, fold: np.ndarray | None = None) -> PairScorers:
    """Of all N pairs as they came."""
    return PairScorers.of(scorers, np.zeros(N, int) if fold is None else fold, np.arange(N), np.arange(N))


def test_a_scorer_of_inner_products_gives_the_scores_of_the_vectors() -> None:
    """All of it: pairs, decoys of every kind, and their standing among others."""
    pairs, rows = world(), np.arange(3, N)
    kinds = kinds_of(pairs)
    kinds = PairKinds(*(x[..., 3:] for x in list(vars(kinds).values())[:6]), kinds.clusters)
    by_vector = CrossFit.single(ZeroShot(), rows).scores(pairs, kinds, temperatures=[T], seed=1)
    scorers = given(Table(pairs.image @ pairs.text.T))
    unit = scorers.spaces[0].unit
    found = scorers.cross_fit(rows).scores(scorers.pairs(pairs), kinds, temperatures=[T / unit], seed=1)
    np.testing.assert_allclose(found.score, by_vector.score, atol=1e-4)
    np.testing.assert_allclose(found.similarity * unit, by_vector.similarity, atol=1e-6)
    assert found.kinds is not None
    assert by_vector.kinds is not None
    both = zip(
        (found.scored_decoys, *found.kinds.within), (by_vector.scored_decoys, *by_vector.kinds.within), strict=True
    )
    for one, other in both:
        np.testing.assert_allclose(one.score, other.score, atol=1e-4)
        assert len(one.score) > 500
        np.testing.assert_allclose(one.standing, other.standing, atol=0.05)  # a tie may be decided by rounding
        assert np.mean(np.abs(one.standing - other.standing) > 1e-6) < 0.01
    np.testing.assert_allclose(found.kinds.standing, by_vector.kinds.standing, atol=0.05)


@pytest.mark.parametrize("remembered", [0, 10**6])
def test_scores_are_those_of_the_full_matrices(remembered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scorers of two folds, whose similarities no vectors give."""
    monkeypatch.setattr(compared, "REMEMBERED", remembered)
    rng = np.random.default_rng(2)
    tables = [Table(rng.random((N, N), np.float32)) for _ in range(2)]
    fold = rng.integers(0, 2, N)
    scorers = given(*tables, fold=fold)
    pairs = scorers.pairs(world())
    found = scorers.cross_fit(np.arange(N)).scores(pairs, temperatures=[T])
    naive = np.empty(N)
    for k, (table, space) in enumerate(zip(tables, scorers.spaces, strict=True)):
        s = table.similarity.astype(np.float64) / space.unit / T
        row, column = (logsumexp(s, axis=axis) - np.log(N) for axis in (1, 0))
        mine = fold == k
        naive[mine] = (np.diag(s) - (row + column) / 2)[mine]
    np.testing.assert_allclose(found.score, naive, atol=1e-4)
    own = np.where(fold == 0, *(np.diag(table.similarity) for table in tables))
    np.testing.assert_allclose(found.similarity * scorers.units(np.arange(N)), own, rtol=1e-6)
    most = max(int(table.asked.max()) for table in tables)
    assert most == 1 if remembered else most > 1


def test_captions_that_were_given_back_are_scored_as_what_they_are_now() -> None:
    table = Table(np.random.default_rng(0).random((N, N), np.float32))
    caption = np.roll(np.arange(N), 3)
    scorers = PairScorers.of([table], np.zeros(N, int), caption, np.arange(N))
    rows = np.array([[5], [9]])
    space = scorers.spaces[0]
    scaled = table.similarity / np.float32(space.unit)
    np.testing.assert_array_equal(space.of_pairs(rows, rows), scaled[[5, 9], caption[[5, 9]]])
    assert space.of_pairs(rows[:0], rows[:0]).shape == (0,)
    np.testing.assert_array_equal(space.with_texts(rows, rows[:1]), scaled[[5, 9]][:, caption[[5]]])
    np.testing.assert_array_equal(space.with_images(rows, rows[:1]), scaled[[5]][:, caption[[5, 9]]].T)


def test_a_scorer_may_have_any_unit() -> None:
    pairs, rows = world(), np.arange(N)
    learned = learn(pairs, rows, method="zero-shot", comparable=True)
    similarity = (pairs.image @ pairs.text.T).astype(np.float64)
    by = [given(Table(x)) for x in (similarity, 400 * similarity - 7)]
    one, other = (judge(pairs, rows, learned, scorers=scorers, comparable=True) for scorers in by)
    assert one.score == other.score == "scorer"
    np.testing.assert_allclose(one.clean_probability, other.clean_probability, atol=2e-3)
    assert one.rate is not None
    assert one.rate.low <= 80 / N <= one.rate.high
    assert one.retrieval is None
    np.testing.assert_allclose(one.aligned_similarity, np.diag(similarity), atol=1e-6)


def test_a_scorer_that_tells_nothing_leaves_the_pairs_unjudged() -> None:
    pairs, rows = world(), np.arange(N)
    learned = learn(pairs, rows, method="zero-shot", comparable=True)
    scorers = given(Table(np.ones((N, N))))
    found = judge(pairs, rows, learned, scorers=scorers, comparable=True)
    assert found.unjudged == "every pair scores the same: the encoder tells nothing apart"


class Wrong:
    def __init__(self, found: np.ndarray) -> None:
        self.found = found

    def score(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        return self.found


@pytest.mark.parametrize(
    "found",
    [np.zeros((2, 2)), np.full(compared.SAMPLE, np.nan), np.full(compared.SAMPLE, "a")],
    ids=["matrix", "nan", "text"],
)
def test_what_is_no_score_is_refused(found: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared, "REMEMBERED", 0)
    with pytest.raises(UserError, match=r"score\(\) should return a finite number for each pair"):
        given(Wrong(found))


def test_no_other_score_is_asked_for_beside_a_scorer() -> None:
    pairs, rows = world(), np.arange(N)
    learned = learn(pairs, rows, method="zero-shot", comparable=True)
    scorers = given(Table(pairs.image @ pairs.text.T))
    with pytest.raises(UserError, match="not by the score clip: leave score out"):
        judge(pairs, rows, learned, score="clip", scorers=scorers, comparable=True)


def test_an_image_is_compared_by_the_scorer_of_its_own_fold() -> None:
    """In one unit, whatever those of the scorers are."""
    rng = np.random.default_rng(0)
    tables = [Table(rng.standard_normal((N, N)) * unit) for unit in (1.0, 30.0)]
    fold = rng.integers(0, 2, N)
    scorers = given(*tables, fold=fold)
    rows = np.arange(N)[:, None]
    found = scorers.space.comparison.with_texts(rows, rows)
    for k in range(2):
        expected = tables[k].similarity[fold == k] / scorers.spaces[k].unit
        np.testing.assert_allclose(found[fold == k], expected, rtol=1e-5)
        assert found[fold == k].std() == pytest.approx(compared.SPREAD, rel=0.05)
