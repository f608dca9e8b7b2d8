from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from pairclean.review.rates import Strata, allocate, difference, labels_needed, rate, share_within
from pairclean.review.strata import OTHERS, draw_strata

HUGE = 10**9


def strata(size: list[int], labelled: list[int], mismatched: list[float]) -> Strata:
    return Strata(np.array(size), np.array(labelled), np.array(mismatched, float))


def one(size: int, labelled: int, mismatched: int) -> Strata:
    return strata([size], [labelled], [mismatched])


def test_the_rate_weights_strata_by_their_size() -> None:
    found = rate(strata([900, 100], [10, 10], [1, 8]))
    assert found is not None
    assert found.estimate == pytest.approx(0.9 * 0.1 + 0.1 * 0.8)
    assert found.labels == 20


def test_the_interval_inverts_the_divergence_of_one_stratum() -> None:
    found = rate(one(HUGE, 50, 5))
    assert found is not None
    for p in (found.low, found.high):
        observed, expected = np.array([5, 45]), 50 * np.array([p, 1 - p])
        more = observed > expected
        power = 1.8 * observed * ((observed / expected) ** (2 / 3) - 1)  # Cressie and Read 1984
        terms = np.where(more, 2 * observed * np.log(observed / expected), power)
        corrections = np.where(more, 2.0, 1.2) * (observed - expected)
        assert (terms - corrections).sum() == pytest.approx(1.959964**2, rel=1e-4)
    assert found.low < 0.1 < found.high


@pytest.mark.parametrize("n", [20, 50, 200])
def test_one_stratum_holds_rare_rates_as_often_as_common_ones(n: int) -> None:
    """Exactly, by the binomial distribution."""
    counts = np.arange(n + 1)
    found = [rate(one(HUGE, n, y)) for y in counts]
    low, high = (np.array([getattr(each, end) for each in found]) for end in ("low", "high"))
    for p in np.geomspace(0.01 / n, 0.5, 200):
        held = binom.pmf(counts, n, p)[(low <= p) & (p <= high)].sum()
        assert held > 0.92, p


def test_no_mismatch_among_fifty_is_no_proof_of_none() -> None:
    found = rate(one(HUGE, 50, 0))
    assert found is not None
    assert found.low == found.estimate == 0
    assert found.high == pytest.approx(0.06077, abs=1e-4)
    turned = rate(one(HUGE, 50, 50))
    assert turned is not None
    assert turned.low == pytest.approx(1 - found.high, abs=1e-6)


def test_strata_without_a_mismatch_keep_the_interval_open() -> None:
    found = rate(strata([HUGE] * 4, [10] * 4, [10, 0, 0, 0]))
    assert found is not None
    assert found.estimate == 0.25
    assert found.high > 0.3
    assert found.low < 0.24


def test_a_complete_census_is_certain_and_the_rest_of_one_pair_is_not() -> None:
    census, nearly = rate(strata([5, 5], [5, 5], [1, 0])), rate(strata([5, 5], [5, 4], [1, 0]))
    assert census is not None
    assert nearly is not None
    assert (census.low, census.estimate, census.high) == (0.1, 0.1, 0.1)
    assert (nearly.low, nearly.high) == (0.1, 0.2)


def test_a_stratum_without_labels_goes_by_the_nearest_one() -> None:
    assert rate(strata([100, 100, 100], [10, 0, 10], [5, 0, 0])) == rate(strata([200, 100], [10, 10], [5, 0]))
    assert rate(strata([100], [0], [0])) is None


@pytest.mark.parametrize("truth", [(0.0, 0.0, 0.0, 0.02), (0.05, 0.1, 0.2, 0.5), (0.9, 0.95, 1.0, 0.4)])
def test_the_interval_holds_the_true_rate_about_as_often_as_it_says(truth: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    size, labelled = np.full(4, 500), np.full(4, 25)
    wrong = np.round(500 * np.array(truth)).astype(int)
    held = []
    for _ in range(400):
        found = rate(Strata(size, labelled, rng.hypergeometric(wrong, size - wrong, labelled)))
        assert found is not None
        held.append(found.low <= wrong.sum() / 2000 <= found.high)
    assert np.mean(held) >= 0.93


def test_recall_and_what_is_missed_add_up() -> None:
    known = strata([240] * 5, [20] * 5, [20, 18, 4, 1, 0])
    flagged = np.array([True, True, False, False, False])
    found, missed = share_within(known, flagged), share_within(known, ~flagged)
    assert found is not None
    assert missed is not None
    assert found.estimate == pytest.approx(38 / 43)
    assert found.low < found.estimate < found.high
    assert (missed.estimate, missed.low, missed.high) == pytest.approx(
        (5 / 43, 1 - found.high, 1 - found.low), abs=1e-6
    )
    assert share_within(strata([10, 10], [5, 5], [0, 0]), np.array([True, False])) is None


def test_the_difference_estimator_is_that_of_an_independent_package() -> None:
    ppi = pytest.importorskip("ppi_py", reason="needs ppi-python")
    rng = np.random.default_rng(1)
    prediction = rng.random(3000)
    truth = rng.random(3000) < prediction**2
    rows = rng.choice(3000, 200, replace=False)
    for power in (0.0, 0.4, 1.0):
        ours = difference(np.zeros(3000, int), prediction, rows, truth[rows], power=power)
        labelled = truth[rows].astype(float), prediction[rows]
        assert ours is not None
        assert ours.estimate == pytest.approx(
            float(np.squeeze(ppi.ppi_mean_pointestimate(*labelled, prediction, lam=power))), abs=1e-6
        )
        # Theirs samples from an endless population and divides by n: a very large set of predictions leaves the rest.
        low, high = ppi.ppi_mean_ci(*labelled, np.tile(prediction, 4000), alpha=0.05, lam=power)
        scale = np.sqrt(200 / 199 * (1 - 200 / 3000))
        assert ours.half_width == pytest.approx(float(np.squeeze(high - low)) / 2 * scale, abs=1e-6)


def test_predictions_that_say_nothing_get_no_power() -> None:
    rng = np.random.default_rng(2)
    truth, prediction = np.arange(1000) % 2 == 0, np.tile([0.1, 0.9], 500)
    rows = rng.choice(1000, 100, replace=False)
    ours = difference(np.zeros(1000, int), prediction, rows, truth[rows])
    assert ours is not None
    assert ours.estimate == pytest.approx(truth[rows].mean())


def test_labels_go_where_answers_differ_and_no_stratum_goes_without() -> None:
    assert allocate(strata([100, 100], [0, 0], [0, 0]), 10).tolist() == [5, 5]
    more = allocate(strata([100, 100, 3], [20, 20, 0], [0, 10, 0]), 20)
    assert more.sum() == 20
    assert more[1] > more[0]
    assert more[2] >= 2
    assert allocate(strata([5, 100], [4, 0], [0, 0]), 500).tolist() == [1, 100]


def test_fewer_labels_are_needed_for_a_wider_interval() -> None:
    known = strata([5000] * 2, [50, 50], [20, 5])
    now = rate(known)
    assert now is not None
    narrow, wide = (labels_needed(known, now, half) for half in (0.03, 0.05))
    assert narrow > wide > 0
    assert labels_needed(known, now, 0.5) == 0
    grown = rate(strata([5000] * 2, [(100 + narrow) // 2] * 2, [0.2 * (100 + narrow), 0.05 * (100 + narrow)]))
    assert grown is not None
    assert grown.half_width == pytest.approx(0.03, abs=0.003)


def test_strata_are_bins_of_the_clean_probability_and_the_unjudged() -> None:
    clean = np.r_[np.linspace(0, 1, 100), np.full(20, np.nan), 0.5]
    readable = np.arange(121) < 120
    stratum, about = draw_strata(clean, readable, labels=50)
    assert stratum[-1] == -1
    assert np.bincount(stratum[:-1]).tolist() == [20] * 6
    assert about[0] == {"group": None, "low": 0.0, "high": pytest.approx(19 / 99)}
    assert about[-1] == {"group": None, "low": None, "high": None}


def test_without_any_probability_there_is_one_stratum() -> None:
    stratum, about = draw_strata(np.full(30, np.nan), np.ones(30, bool), labels=200)
    assert (stratum == 0).all()
    assert about == [{"group": None, "low": None, "high": None}]


def test_groups_are_divided_by_themselves_and_small_ones_are_put_together() -> None:
    group = np.array(["a"] * 100 + ["b"] * 96 + ["c"] * 2 + ["d"] * 2, object)
    stratum, about = draw_strata(np.tile(np.linspace(0, 1, 10), 20), np.ones(200, bool), labels=60, group=group)
    assert [one["group"] for one in about] == [OTHERS, "a", "a", "a", "b", "b"]
    assert set(stratum[196:]) == {0}
