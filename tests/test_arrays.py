"""Pairs as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import Alignment
from pairclean.arrays import Pairs, places_of_values, single, single_unit, unique_values, unit


def some(n: int = 6) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), np.arange(n), np.arange(n) + 10)


def test_some_of_the_pairs_keep_what_belongs_together() -> None:
    pairs, rows = some(), np.array([4, 1])
    taken = pairs.take(rows)
    assert len(taken) == 2
    assert np.array_equal(taken.image, pairs.image[rows])
    assert np.array_equal(taken.text, pairs.text[rows])
    assert (taken.image_id.tolist(), taken.caption_id.tolist()) == ([4, 1], [14, 11])


def test_in_a_space_they_are_unit_vectors_with_the_same_identities() -> None:
    pairs = some()
    found = pairs.through(Alignment())
    for vectors, own in ((found.image[:], pairs.image[:]), (found.text[:], pairs.text[:])):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(vectors, own / np.linalg.norm(own, axis=1, keepdims=True), rtol=1e-5)
    assert found.image_id is pairs.image_id


def test_parts_are_joined_in_order() -> None:
    pairs = some()
    joined = Pairs.joined(pairs.take(np.array([5])), pairs.take(np.array([0, 2])))
    assert joined.image_id.tolist() == [5, 0, 2]
    assert np.array_equal(joined.text, pairs.text[np.array([5, 0, 2])])


@pytest.mark.parametrize("values", [[3, 1, 3, -(2**63), 2**63 - 1, 1], [7], []])
def test_unique_values_are_those_of_numpy(values: list[int]) -> None:
    found = unique_values(np.array(values, np.int64))
    assert np.array_equal(found, np.unique(np.array(values, np.int64)))
    assert found.dtype == np.int64


def test_vectors_in_half_precision_are_read_in_single_precision() -> None:
    """And are those of the space, rounded; their inner products hardly change."""
    rng = np.random.default_rng(0)
    pairs = Pairs(*rng.standard_normal((2, 400, 64)), np.arange(400), np.arange(400) + 1000)
    rows = rng.permutation(400)[:300]
    found, exact = pairs.halved_through(Alignment(), rows), pairs.take(rows).through(Alignment())
    assert found.image_id.tolist() == rows.tolist()
    assert found.caption_id.tolist() == (rows + 1000).tolist()
    for held, expected in ((found.image, exact.image), (found.text, exact.text)):
        assert held.shape == (300, 64)
        for index in (slice(None), slice(5, 9), np.array([7, 7, 0])):
            assert held[index].dtype == np.float32
            np.testing.assert_allclose(held[index], expected[index], atol=5e-4)
            assert not np.array_equal(held[index], expected[index])
    assert np.abs(found.image[:] @ found.text[:].T - exact.image[:] @ exact.text[:].T).max() < 3e-4
    joined = Pairs.joined(found, exact)
    assert np.array_equal(joined.image[:300], found.image[:])
    assert np.array_equal(joined.image[300:], exact.image[:])
    assert pairs.halved_through(Alignment(), rows[:0]).image[:].shape == (0, 64)


def test_half_precision_is_converted_without_loss() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = every[np.isfinite(every)].reshape(-1, 2)
    assert np.array_equal(single(numbers), numbers.astype(np.float32))
    assert np.array_equal(single(numbers[::2]), numbers[::2].astype(np.float32))
    numbers.flags.writeable = False  # as vectors in files are
    assert np.array_equal(single(numbers), numbers.astype(np.float32))
    assert single(numbers.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_unit_length_leave_what_they_are_made_of_as_it_was(dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal((7, 5)).astype(dtype)
    x[3] = 0
    before = x.copy()
    found = single_unit(x)
    assert found.dtype == np.float32
    assert np.array_equal(found, unit(single(x)))
    assert np.array_equal(x, before)
    assert not np.may_share_memory(found, x)


@pytest.mark.parametrize("values", [[], [4], [3, -1, 3, 0, -1, 3]])
def test_groups_are_where_each_value_stands(values: list[int]) -> None:
    x = np.array(values, np.int64)
    distinct, places = places_of_values(x)
    assert distinct.tolist() == sorted(set(values))
    assert [of.tolist() for of in places] == [[i for i, v in enumerate(values) if v == k] for k in distinct.tolist()]
