"""Standing among others of a kind, and the model of evidence and standing together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from pairclean.arrays import unit
from pairclean.judge import bivariate, embedded, standing
from pairclean.judge.bivariate import Bivariate, histogram, isotonic, smoothed
from pairclean.judge.embedded import Vectors
from pairclean.judge.standing import FEWEST_PEERS, PEERS, Peers, Standing, draw_peers


def test_peers_are_of_every_kind_and_no_text_twice() -> None:
    kind = np.repeat([4, 7, 9], [500, 30, 3])
    ids = np.r_[np.arange(500), np.repeat(np.arange(500, 510), 3), np.arange(600, 603)]
    drawn = draw_peers(kind, ids, np.random.default_rng(0))
    assert np.bincount(kind[drawn])[[4, 7, 9]].tolist() == [PEERS, 10, 3]
    assert len(np.unique(ids[drawn])) == len(drawn)
    assert (np.diff(kind[drawn]) >= 0).all()


def test_standing_is_the_probit_of_the_share_of_others_below() -> None:
    """Checked against counting one by one, the own caption left out and ties counted half."""
    rng = np.random.default_rng(1)
    vectors = rng.integers(-2, 3, (20, 3)).astype(np.float32)
    hub = rng.integers(0, 2, 20).astype(float)
    peers = Peers(vectors, hub, np.arange(20), np.array([3, 5]), np.array([0, 12, 20]))
    other = rng.integers(-2, 3, (40, 3)).astype(np.float32)
    own = rng.integers(0, 20, 40)
    kind = np.where(own < 12, 3, 5)
    score = (other * vectors[own]).sum(1) / 0.5 - hub[own]
    found = peers.probit(other, score, kind, own, 0.5)
    for i in range(40):
        group = [j for j in (range(12) if kind[i] == 3 else range(12, 20)) if j != own[i]]
        others = np.array([other[i] @ vectors[j] / 0.5 - hub[j] for j in group])
        below = (others < score[i]).sum() + 0.5 * (others == score[i]).sum()
        expected = ndtri((below + 0.5) / (len(group) + 1)) if len(group) >= FEWEST_PEERS else np.nan
        assert found[i] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(peers.probit(other[:1], score[:1], np.array([4]), own[:1], 0.5)).all()


@pytest.mark.parametrize("held", [0, 1000])
def test_standing_in_chunks_is_that_of_all_at_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    monkeypatch.setattr(embedded, "HELD", held)
    image, text = (unit(rng.standard_normal((90, 6))).astype(np.float32) for _ in range(2))
    ids, kind = np.arange(90), (rng.integers(0, 3, 90), rng.integers(0, 4, 90))
    hub = rng.standard_normal(90), rng.standard_normal(90)
    vectors = Vectors(unit, image, ids), Vectors(unit, text, ids)
    near = Standing.of(vectors, (ids, ids), kind, hub, 0.1, rng)
    left, right = rng.integers(0, 90, 300), rng.integers(0, 90, 300)
    similarity = (image[left] * text[right]).sum(1)
    whole = near(image[left], text[right], similarity, left, right)
    monkeypatch.setattr(standing, "CHUNK", 32)
    np.testing.assert_allclose(near.measured(*vectors, similarity, left, right), whole, atol=1e-6)
    assert near.measured(*vectors, similarity[:0], left[:0], right[:0]).shape == (0,)


def drawn(
    random: float, within: float, n: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Evidence and standing of n pairs, which of them are matched, and the masses of both kinds of re-pairings."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[random, within, 1 - random - within])
    z = np.array([0.0, 1.3, 2.8])[kind] + np.array([1.0, 0.9, 0.6])[kind] * rng.standard_normal(n)
    v = np.where(kind == 2, 1.6 + 0.9 * (z - 2.8) + 0.5 * rng.standard_normal(n), 0.8 * rng.standard_normal(n))
    sampled = [
        smoothed(histogram(mean + sd * rng.standard_normal(50_000), 0.8 * rng.standard_normal(50_000)))
        for mean, sd in ((0.0, 1.0), (1.3, 0.9))
    ]
    return z, v, kind == 2, sampled


@pytest.mark.parametrize(("random", "within"), [(0.2, 0.2), (0.0, 0.3), (0.5, 0.1)])
def test_both_shares_are_found(random: float, within: float) -> None:
    z, v, matched, masses = drawn(random, within, 5000)
    counts = histogram(z, v)
    found = bivariate.with_errors(counts, bivariate.fit(counts, *masses))
    assert found.random == pytest.approx(random, abs=0.03)
    assert found.within == pytest.approx(within, abs=0.03)
    assert abs(found.mismatched - (~matched).mean()) < found.errors[0]
    assert 0.005 < found.errors[0] < 0.04
    p = found.clean_probability(z, v)
    assert p.mean() == pytest.approx(matched.mean(), abs=0.02)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (p >= low) & (p <= high)
        assert matched[inside].mean() == pytest.approx(p[inside].mean(), abs=0.1)


def test_a_known_share_is_kept() -> None:
    z, v, _, masses = drawn(0.2, 0.2, 3000)
    assert bivariate.fit(histogram(z, v), *masses, mismatched=0.3).mismatched == pytest.approx(0.3)


def test_probabilities_rise_in_both() -> None:
    z, v, _, masses = drawn(0.2, 0.2, 3000)
    found: Bivariate = bivariate.fit(histogram(z, v), *masses)
    grid = found.clean_grid()
    assert (np.diff(grid, axis=0) >= 0).all()
    assert (np.diff(grid, axis=1) >= 0).all()


def test_the_isotonic_fit_is_the_nearest() -> None:
    """Against the projection that a solver of quadratic programmes finds."""
    from scipy.optimize import LinearConstraint, minimize

    rng = np.random.default_rng(2)
    values, weight = rng.random((4, 3)), rng.uniform(0.2, 1.0, (4, 3))
    rises = []
    for i, j in np.ndindex(4, 3):
        for other in ((i + 1, j), (i, j + 1)):
            if other[0] < 4 and other[1] < 3:
                row = np.zeros((4, 3))
                row[i, j], row[other] = -1, 1
                rises.append(row.ravel())
    best = minimize(
        lambda x: float((weight.ravel() * (x - values.ravel()) ** 2).sum()),
        np.sort(values.ravel()),
        constraints=LinearConstraint(np.array(rises), 0, np.inf),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert isotonic(values, weight) == pytest.approx(best.x.reshape(4, 3), abs=2e-3)
