"""Names of kinds, from captions in several languages, from titles, and from texts that repeat."""

from __future__ import annotations

import pytest

from pairclean.judge.names import LONGEST, kind_names, words_of


def test_words_that_all_kinds_share_are_no_names() -> None:
    watches = [f"Titan Men Steel Dial Watch T{i}" for i in range(40)]
    shoes = [f"Puma Men Running Shoes S{i}" for i in range(40)]
    bags = [f"Baggit Men Canvas Backpack {i}" for i in range(40)]
    first, second, third = kind_names([watches, shoes, bags])
    assert set(first.split(", ")) <= {"titan", "steel", "dial", "watch"}
    assert set(second.split(", ")) <= {"puma", "running", "shoes"}
    assert set(third.split(", ")) <= {"baggit", "canvas", "backpack"}


@pytest.mark.parametrize(
    ("captions", "word"),
    [
        (["Красное платье с цветами", "Длинное платье", "Платье без рукавов"], "платье"),
        (["红色连衣裙", "长款连衣裙", "蓝色连衣裙"], "衣裙"),
        (["فستان أحمر", "فستان طويل", "فستان أزرق"], "فستان"),
        (["รองเท้าสีแดง", "รองเท้ายาว", "รองเท้าเด็ก"], "รอ"),
    ],
)
def test_names_in_any_writing_system(captions: list[str], word: str) -> None:
    name, _ = kind_names([captions, ["a dog runs", "a dog sleeps", "the dog"]])
    assert word in name.split(", ")


def test_a_repeated_text_is_its_own_name() -> None:
    long = "Free delivery on all orders over 50 pounds, this week only, in all of our shops"
    first, second = kind_names([["Click  to enlarge", "click to enlarge"], [long] * 9])
    assert first == "“Click to enlarge”"
    assert second.startswith("“Free delivery on all")
    assert len(second) == LONGEST + 2


def test_all_names_differ() -> None:
    same = ["red shoes", "blue shoes"]
    names = kind_names([same, same, same, ["Click"], ["Click"], [], ["123"], ["1 2", "3"]])
    assert len(set(names)) == len(names)
    assert names[5:] == ["kind 6", "“123”", "kind 8"]


def test_a_name_does_not_repeat_a_word_in_another_form() -> None:
    name, _ = kind_names([["shirt shirts cotton", "shirts shirt"], ["dog", "dogs"]])
    assert name in ("shirt, cotton", "shirts, cotton")


def test_words_of_hostile_captions() -> None:
    assert words_of("") == []
    assert words_of("\x00\ud800 <b>&amp;</b>") == ["amp"]
    assert len(words_of("word " * 100_000)) <= 250
