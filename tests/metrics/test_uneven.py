"""Slices with many mismatches: which are found, which are not, and how they are told apart from chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pairclean.metrics.group_rates import units_of
from pairclean.metrics.uneven import MARGIN, Slice, uneven_slices

N = 6_000


class Made:
    """Pairs with scores of N(2, 1) if matched and N(0, 1) if not, and calibrated probabilities."""

    def __init__(self, rate: np.ndarray, seed: int, *, matched: np.ndarray | float = 2.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.noisy = self.rng.random(N) < rate
        score = self.rng.standard_normal(N) + np.where(self.noisy, 0.0, matched)
        self.prior = float(np.clip(self.noisy.mean(), 1e-6, 1 - 1e-6))
        ratio = np.exp(2 * score - 2)  # of the densities of N(2, 1) and N(0, 1)
        odds = ratio * (1 - self.prior) / self.prior
        self.clean = odds / (1 + odds)
        self.whole = {"estimate": self.prior, "low": max(0.0, self.prior - 0.02), "high": self.prior + 0.02}

    def slices(self, columns: dict[str, np.ndarray], **options: Any) -> list[Slice]:
        return uneven_slices(self.clean, columns, prior=self.prior, whole=self.whole, **options)


def columns(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(values, size=N) for name, values in (("shard", 10), ("domain", 30), ("kind", 24))}


def where(found: list[Slice]) -> list[dict[str, int]]:
    return [one.where for one in found]


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2, 0.5])
def test_even_noise_is_not_called_uneven(rate: float) -> None:
    for seed in range(10):
        made = Made(np.full(N, rate), seed)
        assert made.slices(columns(seed), kinds=["kind"]) == []


def test_the_slice_with_the_mismatches_is_found_alone() -> None:
    given = columns()
    made = Made(np.where(given["domain"] == 3, 0.9, 0.02), 1)
    (found,) = made.slices(given, kinds=["kind"])
    assert found.where == {"domain": 3}
    assert np.array_equal(found.rows, np.flatnonzero(given["domain"] == 3))
    assert found.low < made.noisy[found.rows].mean() < found.high
    assert found.rest == pytest.approx(0.02, abs=0.015)
    assert found.p_value < 1e-6


def test_two_conditions_are_found_together_and_not_their_parts() -> None:
    given = columns()
    bad = (given["shard"] == 1) & (given["kind"] < 6)
    given["season"] = (given["kind"] // 6).astype(np.int64)
    made = Made(np.where(bad, 0.9, 0.02), 2)
    assert where(made.slices(given, kinds=["kind"])) == [{"shard": 1, "season": 0}]


def test_a_slice_that_mostly_holds_another_is_not_listed_beside_it() -> None:
    given = columns()
    given["country"] = given["domain"] // 3
    made = Made(np.where(given["domain"] == 3, 0.9, 0.02), 3)
    assert where(made.slices(given)) == [{"domain": 3}]


def test_several_slices_of_a_larger_one_are_named_instead_of_it() -> None:
    given = {"half": np.arange(N) % 2, "kind": np.random.default_rng(0).integers(12, size=N) * 2 + np.arange(N) % 2}
    made = Made(np.where(np.isin(given["kind"], [3, 5, 7, 9, 11]), 0.8, 0.02), 4)
    assert sorted(one["kind"] for one in where(made.slices(given))) == [3, 5, 7, 9, 11]


def test_kinds_that_are_hard_for_the_encoder_are_no_slices() -> None:
    for seed in range(5):
        given = columns(seed)
        hardness = np.random.default_rng(seed).normal(2.0, 0.25, 24)
        assert Made(np.full(N, 0.3), seed, matched=hardness[given["kind"]]).slices(given, kinds=["kind"]) == []


def test_a_kind_of_low_scores_without_noise_is_no_slice() -> None:
    given = columns()
    made = Made(np.zeros(N), 0, matched=np.where(given["kind"] == 5, 0.6, 2.0))
    made.prior, made.whole = 0.001, {"estimate": 0.001, "low": 0.0, "high": 0.004}
    odds = made.clean / (1 - made.clean) * 1e-6 * 999
    made.clean = odds / (1 + odds)
    assert made.slices(given, kinds=["kind"]) == []


def test_conditions_that_contradict_each_other_select_mismatches_and_are_no_slice() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(3, size=N)
    made = Made(np.full(N, 0.3), 0)
    caption = np.where(made.noisy, rng.integers(3, size=N), picture)
    assert made.noisy[(picture == 0) & (caption == 1)].all()
    assert made.slices({"kind": caption, "product": picture}, kinds=["kind"]) == []


def test_small_differences_and_small_slices_are_not_listed() -> None:
    given = columns()
    slightly = Made(np.where(given["shard"] == 1, 0.2 + MARGIN / 2, 0.2), 5)
    assert slightly.slices(given) == []
    tiny = {"domain": np.where(np.arange(N) < 40, 0, 1)}
    assert Made(np.where(np.arange(N) < 40, 1.0, 0.02), 6).slices(tiny) == []


def test_pairs_without_a_probability_or_a_value_take_no_part() -> None:
    given = columns()
    made = Made(np.where(given["domain"] == 3, 0.9, 0.02), 1)
    made.clean[given["domain"] == 3] = np.nan
    assert made.slices(given) == []
    made = Made(np.where(given["domain"] == 3, 0.9, 0.02), 1)
    given["domain"] = np.where(given["domain"] == 3, -1, given["domain"])
    assert made.slices(given) == []
    made.clean[:] = np.nan
    assert made.slices(given) == []


def test_at_most_as_many_as_asked_for() -> None:
    given = columns()
    made = Made(np.where(given["domain"] < 5, 0.9, 0.02), 1)
    assert len(made.slices(given)) == 5
    assert len(made.slices(given, most=2)) == 2


def test_copies_of_one_mismatched_pair_are_no_slice() -> None:
    made = Made(np.full(N, 0.1), 7)
    identity, domain = np.arange(N), np.random.default_rng(7).integers(1, 30, size=N)
    repeated = np.arange(60)
    made.clean[repeated], identity[repeated], domain[repeated] = 0.02, N, 0
    assert where(made.slices({"domain": domain})) == [{"domain": 0}]
    assert made.slices({"domain": domain}, units=units_of(identity)) == []


def test_a_slice_of_copies_is_found_with_the_interval_of_its_distinct_pairs() -> None:
    domain = np.random.default_rng(8).integers(20, size=N)
    made = Made(np.where(domain == 3, 0.9, 0.02), 8)
    copies = np.where(domain == 3, 3, 1)
    identity = np.repeat(np.arange(N), copies)
    clean, codes, unit = made.clean[identity], {"domain": domain[identity]}, units_of(identity)
    (once,) = made.slices({"domain": domain})
    (found,) = uneven_slices(clean, codes, prior=made.prior, whole=made.whole, units=unit)
    assert found.where == {"domain": 3}
    assert len(found) == 3 * len(once)
    assert (found.rate, found.low, found.high) == pytest.approx((once.rate, once.low, once.high), abs=0.01)
    assert found.p_value == pytest.approx(once.p_value, rel=1e-6)
