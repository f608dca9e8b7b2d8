"""Intervals that draw images again: what they are centred on, how wide they are, and what counts as one draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairclean.metrics.bootstrap import bootstrap_means, interval


def test_as_wide_as_the_binomial_says() -> None:
    value = (np.arange(1000) < 300).astype(float)
    means = bootstrap_means({"share": (value, np.arange(1000))}, draws=2000)["share"]
    assert means.shape == (2000,)
    assert means.mean() == pytest.approx(0.3, abs=0.002)
    assert means.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 1000), rel=0.07)
    low, high = interval(means)
    assert (low, high) == pytest.approx((0.3 - 0.0284, 0.3 + 0.0284), abs=0.004)


def test_questions_about_one_image_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    of_image = rng.random(200) < 0.5
    image = np.repeat(np.arange(200), 5)
    together = bootstrap_means({"x": (of_image[image].astype(float), image)})["x"]
    apart = bootstrap_means({"x": (of_image[image].astype(float), np.arange(1000))})["x"]
    assert together.std() / apart.std() == pytest.approx(5**0.5, rel=0.15)


def test_figures_share_their_draws() -> None:
    value = np.random.default_rng(1).random(100)
    means = bootstrap_means({"a": (value, np.arange(100)), "b": (1 - value, np.arange(100))})
    assert means["a"] + means["b"] == pytest.approx(np.ones(1000))


def test_what_was_not_asked_does_not_count() -> None:
    value, image = np.array([1.0, np.nan, 1.0, np.nan]), np.arange(4)
    means = bootstrap_means({"x": (value, image)}, draws=200)["x"]
    assert set(means[~np.isnan(means)]) == {1.0}  # nan where none of the asked was drawn
    assert interval(means) == [1.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 7)), min_size=1, max_size=30), st.integers(0, 99))
def test_inside_the_values_and_the_same_again(rows: list[tuple[float, int]], seed: int) -> None:
    value, image = np.array([v for v, _ in rows]), np.array([i for _, i in rows])
    means = bootstrap_means({"x": (value, image)}, draws=50, seed=seed)["x"]
    there = means[~np.isnan(means)]
    assert np.all((there >= value.min() - 1e-9) & (there <= value.max() + 1e-9))
    again = bootstrap_means({"x": (value, image)}, draws=50, seed=seed)["x"]
    np.testing.assert_array_equal(means, again)
