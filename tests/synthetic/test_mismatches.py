"""Drawing planted mismatches: who moves, how many, and what mixed captions are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairclean.pairs import UserError, normalise_caption
from pairclean.synthetic.mismatches import group_labels, mix, plant, plant_mixture


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0, 1), st.integers(0, 1000))
def test_a_cycle_inside_each_group(labels: list[str], rate: float, seed: int) -> None:
    groups = np.array(labels, dtype=str)
    carried = plant(groups, rate, np.random.default_rng(seed))
    assert carried.dtype == np.int64
    assert sorted(carried) == list(range(len(groups)))  # every caption is still there once
    assert (groups[carried] == groups).all()
    for label in set(labels):
        members = np.flatnonzero(groups == label)
        due = round(rate * len(members))
        moved = members[carried[members] != members]
        assert len(moved) == (due if due > 1 else 0)
        if len(moved):
            loop = [moved[0]]
            while (following := carried[loop[-1]]) != loop[0]:
                loop.append(following)
            assert len(loop) == len(moved)  # one cycle


def test_the_same_generator_state_plants_the_same() -> None:
    groups = np.zeros(100, dtype=int)
    first, again, other = (plant(groups, 0.3, np.random.default_rng(s)) for s in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()
    assert (first != np.arange(100)).sum() == 30


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        plant(np.zeros(3), rate, np.random.default_rng(0))


@given(st.lists(st.integers(0, 5), max_size=40), st.floats(0, 1), st.integers(0, 1000))
def test_no_caption_moves_to_its_own_image(owners: list[int], rate: float, seed: int) -> None:
    owner = np.array(owners, int)
    carried = plant(np.zeros(len(owner)), rate, np.random.default_rng(seed), owners=owner)
    moved = carried != np.arange(len(owner))
    assert sorted(carried) == list(range(len(owner)))
    assert (owner[carried][moved] != owner[moved]).all()
    assert moved.sum() <= round(rate * len(owner))


def test_owners_cost_no_moves_where_there_are_many() -> None:
    owner = np.repeat(np.arange(200), 5)
    carried = plant(np.zeros(1000), 0.4, np.random.default_rng(0), owners=owner)
    assert (carried != np.arange(1000)).sum() == 400
    assert (owner[carried] != owner).sum() == 400
    distinct = plant(np.zeros(1000), 0.4, np.random.default_rng(0), owners=np.arange(1000))
    assert (distinct == plant(np.zeros(1000), 0.4, np.random.default_rng(0))).all()  # owners change nothing there


def test_half_of_the_clauses_are_the_others() -> None:
    rng = np.random.default_rng(0)
    mixed = {mix("a cat, a dog and a bird; a fish", "red, blue, green", rng) for _ in range(50)}
    assert mixed == {
        *(("red, blue and a bird; a fish", "red, blue"), ("blue, green and a bird; a fish", "blue, green")),
        *(("a cat, red and blue; a fish", "red and blue"), ("a cat, blue and green; a fish", "blue and green")),
        *(("a cat, a dog and red; blue", "red; blue"), ("a cat, a dog and blue; green", "blue; green")),
    }


def test_one_clause_is_cut_into_words() -> None:
    rng = np.random.default_rng(0)
    mixed = [mix("one two three", "four five", rng) for _ in range(60)]
    assert {found[0] for found in mixed if found} == {
        *("four two three", "five two three", "one four three", "one five three", "one two four", "one two five"),
    }


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 100))
def test_mixed_captions_are_other_captions(caption: str, other: str, seed: int) -> None:
    mixed = mix(caption, other, np.random.default_rng(seed))
    assert mixed is None or normalise_caption(mixed[0]) != normalise_caption(caption)
    assert mixed is None or mixed[1] in mixed[0]


@pytest.mark.parametrize(("caption", "other"), [("word", "two words"), ("", "x y"), ("a a", "a"), ("a b", " ")])
def test_what_cannot_be_split_is_left_alone(caption: str, other: str) -> None:
    assert mix(caption, other, np.random.default_rng(0)) is None


def test_equal_values_have_one_label() -> None:
    assert group_labels(["x", None, ["a"], "x", ["a"], 1, "1"]).tolist() == [0, -1, 1, 0, 1, 2, 3]


def test_a_mixture_has_its_shares_and_keeps_the_rest() -> None:
    groups = np.repeat(np.arange(8), 50)
    image, caption, kind = plant_mixture(groups, 0.5, np.random.default_rng(3), owners=np.arange(400))
    count = {name: int((kind == name).sum()) for name in ("", "random", "within_kind", "generic", "placeholder")}
    assert count == {"": 200, "random": 100, "within_kind": 50, "generic": 25, "placeholder": 25}
    changed = (image != np.arange(400)) | (caption != np.arange(400))
    assert (changed == (kind != "")).all()
    near = kind == "within_kind"
    assert (groups[caption[near]] == groups[near]).all()
    assert len(np.unique(caption[kind == "generic"])) == len(np.unique(image[kind == "placeholder"])) == 1
    assert (kind[[caption[kind == "generic"][0], image[kind == "placeholder"][0]]] == "").all()


def test_a_small_mixture_repeats_nothing() -> None:
    image, caption, kind = plant_mixture(np.zeros(40), 0.5, np.random.default_rng(3), owners=np.arange(40))
    assert set(kind) == {"", "random", "within_kind"}
    assert (image == np.arange(40)).all()
    assert (caption != np.arange(40)).sum() == 20


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_mixture_of_hardly_any_pairs(n: int) -> None:
    image, caption, kind = plant_mixture(np.zeros(n), 1.0, np.random.default_rng(0), owners=np.arange(n))
    assert image.tolist() == list(range(n))
    assert sorted(caption.tolist()) == list(range(n))
    assert (kind == np.where(caption == image, "", "random")).all()
