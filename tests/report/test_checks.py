"""What a run says of its own probabilities, against data of which the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pairclean.report import check_calibration, rematch_curve


def scored(n: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True clean probabilities of n pairs with normal scores, and those of decoys, which score as mismatches do."""
    rng = np.random.default_rng(seed)
    noisy = rng.random(n) < rate

    def probability(score: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(2 * score - 2 + np.log(1 - rate) - np.log(rate))))

    return probability(rng.normal(size=n) + 2 * ~noisy), probability(rng.normal(size=n))


def test_right_probabilities_lie_on_the_diagonal() -> None:
    p, decoys = scored(40_000, 0.3)
    found = check_calibration(np.append(p, np.nan), decoys, 0.3)
    assert found is not None
    assert sum(found["pairs"]) == 40_000
    assert found["gap"] < 0.02
    assert (
        sum(low <= said <= high for said, low, high in zip(found["said"], found["low"], found["high"], strict=True))
        >= 8
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_probabilities_that_are_too_sure_lie_off_it() -> None:
    p, decoys = scored(40_000, 0.3)

    def sharper(x: np.ndarray) -> np.ndarray:
        return x**3 / (x**3 + (1 - x) ** 3)

    found = check_calibration(sharper(p), sharper(decoys), 0.3)
    assert found is not None
    assert found["gap"] > 0.03
    assert found["found"][1] > found["said"][1] + 0.1  # said to be mismatched, and often are not
    assert found["found"][8] < found["said"][8] - 0.1


def test_bins_with_few_pairs_say_nothing() -> None:
    found = check_calibration(np.array([0.05] * 19 + [0.95] * 20), np.full(100, 0.05), 0.5)
    assert found is not None
    assert found["said"] == [None] * 9 + [pytest.approx(0.95)]
    assert found["found"][9] == 1.0
    assert check_calibration(np.array([0.5] * 19), np.full(100, 0.5), 0.5) is None
    assert check_calibration(np.full(30, np.nan), np.full(100, 0.5), 0.5) is None
    assert check_calibration(np.full(30, 0.5), np.zeros(0), 0.5) is None


def test_the_curve_holds_what_was_taken() -> None:
    offered = np.array([0.9, 0.8, 0.7, 0.2])
    curve = rematch_curve(offered, np.zeros((0, 3)), 3)
    assert curve is not None
    assert curve["taken"] == [1, 2, 3, 4]
    assert curve["expected"] == pytest.approx([0.9, 0.85, 0.8, 0.65])
    assert curve["measured"] == [None] * 4
    many = rematch_curve(np.linspace(1, 0, 5000), np.zeros((0, 3)), 1234)
    assert many is not None
    assert 1234 in many["taken"]
    assert many["taken"][-1] == 5000
    assert len(many["taken"]) <= 121


def test_what_was_measured_is_weighted() -> None:
    trials = np.array([[0.9, 1, 1.0]] * 30 + [[0.5, 0, 2.0]] * 15)
    curve = rematch_curve(np.array([0.8, 0.4]), trials, 0)
    assert curve is not None
    assert curve["measured"] == pytest.approx([1.0, 0.5])


def test_no_proposals_no_curve() -> None:
    assert rematch_curve(np.zeros(0), np.zeros((0, 3)), 0) is None
