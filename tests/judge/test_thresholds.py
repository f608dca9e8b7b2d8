"""Where to cut, and what it keeps and costs."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge import Rate, keeping, threshold_for, threshold_table
from pairclean.pairs import UserError

NAN = float("nan")


def test_without_a_rule_the_threshold_is_one_half() -> None:
    p = np.array([0.1, 0.9])
    assert threshold_for(p) == 0.5
    assert threshold_for(p, flag_below=0.0) == 0.0
    assert threshold_for(np.linspace(0, 1, 11), keep_fraction=0.3) == keeping(np.linspace(0, 1, 11), 0.3) == 0.8


def test_as_many_as_possible_are_kept_at_a_precision() -> None:
    p = np.random.default_rng(0).beta(0.5, 0.5, 2000).astype(np.float32).astype(float)
    p[:50] = NAN
    found = threshold_for(p, keep_precision=0.9)
    judged = np.sort(p[50:])
    assert judged[judged >= found].mean() >= 0.9
    assert judged[judged >= judged[np.searchsorted(judged, found) - 1]].mean() < 0.9


def test_equal_probabilities_are_kept_or_flagged_together() -> None:
    assert threshold_for(np.array([0.5, 0.5, 0.5, 1.0, 1.0]), keep_precision=0.9) == 1.0
    assert threshold_for(np.full(9, 0.7), keep_precision=0.7) == 0.7


def test_a_precision_out_of_reach_is_an_error_and_nothing_judged_is_not() -> None:
    with pytest.raises(UserError, match=r"only 80.* are expected to be matched, not 90.*lower --keep-precision"):
        threshold_for(np.array([0.2, 0.8]), keep_precision=0.9)
    assert threshold_for(np.full(3, NAN), keep_precision=0.9) == 0.0


@pytest.mark.parametrize("ratio", [0.2, 1, 30])
def test_no_other_threshold_costs_less(ratio: float) -> None:
    p = np.random.default_rng(1).random(500)

    def cost(threshold: float) -> float:
        kept = p >= threshold
        return float(ratio * (1 - p[kept]).sum() + p[~kept].sum())

    assert cost(threshold_for(p, cost_ratio=ratio)) == pytest.approx(min(cost(t) for t in (*p, 2.0)))


def test_the_table_counts_what_is_expected() -> None:
    p = np.array([0.04, 0.3, 0.7, 0.96, NAN])
    rows = {row["threshold"]: row for row in threshold_table(p, Rate(0.5, 0.4, 0.6), flag_below=0.65)}
    row = rows[0.65]
    assert row["kept"] == 2
    assert row["wrong_left"]["estimate"] == pytest.approx(0.34)
    assert row["right_lost"]["estimate"] == pytest.approx(0.34)
    for one in (one for row in rows.values() for one in (row["wrong_left"], row["right_lost"])):
        assert one["low"] <= one["estimate"] <= one["high"]
    wrong = [row["wrong_left"]["estimate"] for row in rows.values()]
    assert wrong == sorted(wrong, reverse=True)
    assert threshold_table(p, None) == threshold_table(np.full(3, NAN), Rate(0.5, 0.4, 0.6)) == []


def test_the_intervals_hold_where_the_probabilities_do() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(300):
        z = rng.normal(0, 1.5, 400)
        share = 0.3 + 0.03 * rng.standard_normal()  # what is estimated to be .3, with a standard error of .03
        noisy = rng.random(400) < share
        odds = np.exp(2 * np.where(noisy, z - 1.5, z + 1.5) * 1.5 / 1.5**2)  # of two normal densities
        p = 0.7 * odds / (0.7 * odds + 0.3)
        row = threshold_table(p, Rate(0.3, 0.3 - 0.0588, 0.3 + 0.0588))[5]
        kept = p >= 0.5
        held.append(row["wrong_left"]["low"] <= noisy[kept].sum() <= row["wrong_left"]["high"])
        held.append(row["right_lost"]["low"] <= (~noisy[~kept]).sum() <= row["right_lost"]["high"])
    assert np.mean(held) >= 0.95
