"""Captions are split into what may be wrong by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairclean.judge.phrases import MOST, PHRASES, exchanged, phrases


def texts(caption: str) -> list[str]:
    return [caption[start:stop] for start, stop in phrases(caption)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red ball, a blue box", ["a red ball", "a blue box"]),
        ("A yellow dog with a ball", ["A yellow dog", "with a ball"]),
        ("Puma Men Black Shoes", ["Puma Men", "Men Black", "Black Shoes"]),
        ("红色连衣裙，棉质", ["红色", "连衣裙", "棉质"]),
        ("红色连衣裙", ["红色", "色连", "连衣", "衣裙"]),
        ("Shoes", []),
        ("", []),
    ],
)
def test_clauses_come_before_words_and_words_before_letters(caption: str, expected: list[str]) -> None:
    assert texts(caption) == expected


def test_letters_keep_their_marks() -> None:
    assert all(part[0] not in "\u0e31\u0e34\u0e35\u0e37\u0e49" for part in texts("เสื้อสีแดง"))
    assert texts("เสื้อสีแดง")


def test_many_clauses_are_taken_one_by_one_and_by_halves() -> None:
    found = texts("a man in a hat, on a bench, by a dog")
    assert found == [
        "a man",
        "in a hat",
        "on a bench",
        "by a dog",
        "a man in a hat",
        "in a hat, on a bench",
        "on a bench, by a dog",
    ]


@given(st.text(max_size=200))
def test_phrases_are_parts_of_the_caption_and_not_most_of_it(caption: str) -> None:
    spans = phrases(caption)
    assert len(spans) <= PHRASES
    letters = len("".join(caption.split()))
    for start, stop in spans:
        assert 0 <= start < stop <= len(caption)
        assert len("".join(caption[start:stop].split())) <= MOST * letters


def test_one_phrase_is_exchanged() -> None:
    rng = np.random.default_rng(0)
    made = {exchanged("a red ball, a blue box", "two cats, a green house", rng) for _ in range(50)}
    assert made == {
        *("two cats, a blue box", "a green house, a blue box", "a red ball, two cats", "a red ball, a green house"),
    }
    assert exchanged("Shoes", "two cats, a green house", rng) is None
    assert exchanged("two cats, a green house", "Shoes", rng) is None
