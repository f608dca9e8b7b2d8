"""Rates of groups: against data of which the truth is known, and where there is next to nothing to know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pairclean.metrics.group_rates import (
    SMALL,
    _beta_interval,
    audit,
    compare,
    difference,
    domain_of,
    tally,
    units_of,
)

WHOLE = {"estimate": 0.4, "low": 0.38, "high": 0.42}


def judged(group: np.ndarray, rates: np.ndarray, rng: np.random.Generator, *, apart: float = 4.0) -> pd.DataFrame:
    """Pairs with a normal score (matched ones `apart` higher) and the probability that the prior of the whole gives."""
    noisy = rng.random(len(group)) < rates[group]
    score = rng.normal(size=len(group)) + np.where(noisy, 0.0, apart)
    prior = noisy.mean()
    log_odds = apart * score - apart**2 / 2 + np.log(1 - prior) - np.log(prior)
    return pd.DataFrame({"group": group, "noisy": noisy, "p": 1 / (1 + np.exp(-log_odds))})


def table_of(pairs: pd.DataFrame, *, parts: int = 1) -> pd.DataFrame:
    noisy = pairs["noisy"].mean()
    error = 1.96 * np.sqrt(noisy * (1 - noisy) / len(pairs))
    tallies = [
        tally(pairs.loc[rows, ["group"]], pairs.loc[rows, "p"].to_numpy(), np.zeros(len(rows), bool))
        for rows in np.array_split(np.arange(len(pairs)), parts)
    ]
    whole = {"estimate": noisy, "low": noisy - error, "high": noisy + error}
    return audit(tallies, ["group"], prior=noisy, whole=whole)


def with_truth(pairs: pd.DataFrame) -> pd.DataFrame:
    return table_of(pairs).merge(pairs.groupby("group")["noisy"].mean().rename("truth"), on="group")


@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
def test_intervals_hold_the_truth_in_as_many_groups_as_they_say(apart: float) -> None:
    rng = np.random.default_rng(0)
    rates = np.linspace(0, 0.8, 60)
    tables = [with_truth(judged(np.repeat(np.arange(60), 100), rates, rng, apart=apart)) for _ in range(3)]
    table = pd.concat(tables)
    inside = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
    assert inside.mean() >= 0.9
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()
    assert table[["low", "high"]].min().min() >= 0
    assert table[["low", "high"]].max().max() <= 1


def test_the_rate_of_a_group_is_not_drawn_toward_the_whole_as_the_mean_probability_is() -> None:
    rng = np.random.default_rng(1)
    pairs = judged(np.repeat([0, 1], 4000), np.array([0.05, 0.75]), rng, apart=1.5)
    table = with_truth(pairs).set_index("group")
    naive = 1 - pairs.groupby("group")["p"].mean()
    for group in (0, 1):
        assert abs(table["rate"][group] - table["truth"][group]) < 0.03
        assert abs(naive[group] - table["truth"][group]) > 0.08


def test_small_groups_are_drawn_toward_the_whole_and_marked() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(42), [*[400] * 40, 5, SMALL])
    pairs = judged(groups, np.full(42, 0.4), rng, apart=0.7)
    table = with_truth(pairs).set_index("group")
    assert table["small"].to_dict() == {group: group == 40 for group in range(42)}
    assert abs(table["rate"][40] - 0.4) < 0.1  # five pairs alone could say anything between 0 and 1
    assert table["high"][40] - table["low"][40] > 0.3


def test_no_pair_is_said_to_be_mismatched_where_all_are_surely_clean() -> None:
    pairs = pd.DataFrame({"group": [0] * 500 + [1] * 500, "p": [0.9999] * 500 + [0.0001] * 500})
    parts = [tally(pairs[["group"]], pairs["p"].to_numpy(), np.zeros(1000, bool))]
    table = audit(parts, ["group"], prior=0.5, whole={"estimate": 0.5, "low": 0.47, "high": 0.53}).set_index("group")
    assert table["low"][0] == 0.0
    assert table["rate"][0] < 0.002
    assert table["high"][1] == 1.0
    assert table["rate"][1] > 0.998


def test_a_table_does_not_depend_on_how_the_pairs_were_cut_into_parts() -> None:
    pairs = judged(np.arange(900) % 7, np.linspace(0.1, 0.7, 7), np.random.default_rng(3))
    pd.testing.assert_frame_equal(table_of(pairs), table_of(pairs, parts=5))


def test_the_most_mismatched_pairs_come_first_and_the_counts_are_of_all_pairs() -> None:
    groups = pd.DataFrame({"a": ["x"] * 4 + ["y"] * 3 + [None], "b": [1, 1, 2, 2, 1, 1, 1, 1]})
    p = np.array([0.99, 0.01, np.nan, np.nan, 0.01, 0.01, 0.99, np.nan])
    unreadable = np.array([False, False, True, False, False, False, False, True])
    table = audit([tally(groups, p, unreadable)], ["a", "b"], prior=0.4, whole=WHOLE)
    assert table[["a", "b", "pairs", "judged", "unjudged", "unreadable"]].values.tolist()[:2] == [
        ["y", 1, 3, 3, 0, 0],
        ["x", 1, 2, 2, 0, 0],
    ]
    rest = {(row["b"], row["unjudged"], row["unreadable"]) for _, row in table.iloc[2:].iterrows()}
    assert rest == {(2, 1, 1), (1, 0, 1)}
    assert table["a"].isna().sum() == 1
    assert table["rate"].isna().tolist() == [False, False, True, True]
    assert table["mismatched"][0] == pytest.approx(table["rate"][0] * 3)


def test_nothing_judged_is_no_rate() -> None:
    nothing = tally(pd.DataFrame({"a": ["x", "y"]}), np.full(2, np.nan), np.zeros(2, bool))
    table = audit([nothing], ["a"], prior=None, whole={"estimate": None})
    assert table["rate"].isna().all()
    assert table["unjudged"].tolist() == [1, 1]


def test_large_groups_are_as_narrow_as_their_pairs_say() -> None:
    rng = np.random.default_rng(4)
    pairs = judged(np.repeat([0, 1], 200_000), np.array([0.3, 0.5]), rng, apart=3.0)
    table = with_truth(pairs).set_index("group")
    for group in (0, 1):
        assert table["low"][group] <= table["truth"][group] <= table["high"][group]
        assert table["high"][group] - table["low"][group] < 0.006


def with_copies(p: list[float], copies: list[int], *, others: int, parts: int = 1) -> pd.DataFrame:
    """The audit of a group with these pairs, each copied so often, beside another one of single pairs."""
    clean = np.array([*np.repeat(p, copies), *([0.99, 0.02] * others)])
    unit = units_of(np.append(np.repeat(np.arange(len(p)), copies), np.arange(2 * others) + 10_000))
    group = pd.DataFrame({"g": np.where(np.arange(len(clean)) < sum(copies), "copied", "single")})
    rows = np.array_split(np.arange(len(clean)), parts)
    tallies = [tally(group.iloc[some], clean[some], np.zeros(len(some), bool), unit[some]) for some in rows]
    return audit(tallies, ["g"], prior=0.4, whole=WHOLE).set_index("g")


def test_a_pair_that_is_repeated_fifty_times_is_known_no_better_than_once() -> None:
    once, often = (with_copies([0.1], [count], others=200).loc["copied"] for count in (1, 50))
    assert often["pairs"] == often["judged"] == 50
    assert often[["rate", "low", "high"]].tolist() == pytest.approx(once[["rate", "low", "high"]].tolist())
    assert often["high"] - often["low"] > 0.5
    assert often["small"]
    assert often["mismatched"] == pytest.approx(50 * once["rate"])
    single = with_copies([0.1] * 50, [1] * 50, others=200).loc["copied"]
    assert single["high"] - single["low"] < 0.25
    assert not single["small"]


def test_the_interval_of_copies_holds_the_share_of_pairs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    rates, inside, narrow = np.linspace(0.1, 0.7, 60), [], []
    for _ in range(4):
        pairs = judged(np.repeat(np.arange(60), 60), rates, rng, apart=3.0)
        pairs["unit"] = np.arange(len(pairs))
        copies = np.where(np.arange(len(pairs)) % 6 == 0, 10, 1)  # two thirds of the pairs are copies of ten pairs
        pairs = pairs.loc[np.repeat(np.arange(len(pairs)), copies)].reset_index(drop=True)
        truth = pairs.groupby("group")["noisy"].mean().rename("truth")
        noisy = float(pairs["noisy"].mean())
        whole = {"estimate": noisy, "low": noisy - 0.02, "high": noisy + 0.02}
        for unit, found in ((units_of(pairs["unit"].to_numpy()), inside), (None, narrow)):
            part = tally(pairs[["group"]], pairs["p"].to_numpy(), np.zeros(len(pairs), bool), unit)
            table = audit([part], ["group"], prior=noisy, whole=whole).merge(truth, on="group")
            found += ((table["low"] <= table["truth"]) & (table["truth"] <= table["high"])).tolist()
    assert np.mean(inside) >= 0.92
    assert np.mean(inside) > np.mean(narrow) + 0.05


def test_copies_in_different_parts_of_the_data_are_still_copies() -> None:
    p, copies = [0.1, 0.97, 0.3], [30, 4, 1]
    whole, cut = (with_copies(p, copies, others=50, parts=parts) for parts in (1, 7))
    pd.testing.assert_frame_equal(whole, cut)


def test_copies_in_different_groups_are_evidence_in_each() -> None:
    groups, clean = pd.DataFrame({"g": ["a"] * 60 + ["b"] * 60}), np.array(([0.98] * 5 + [0.05]) * 20)
    tables = [
        audit([tally(groups, clean, np.zeros(120, bool), unit)], ["g"], prior=0.4, whole=WHOLE)
        for unit in (None, units_of(np.arange(120) % 60))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_differences() -> None:
    change, low, high = difference(0.5, 0.4, 0.6, 0.3, 0.3, 0.3)
    assert (change, low, high) == pytest.approx((0.2, 0.1, 0.3))
    change, low, high = difference(0.5, 0.4, 0.6, 0.5, 0.4, 0.6)
    assert (change, low, high) == pytest.approx((0.0, -(0.02**0.5), 0.02**0.5))


def test_comparing_keeps_groups_that_only_one_has() -> None:
    def of(groups: list[str], p: list[float]) -> pd.DataFrame:
        return audit(
            [tally(pd.DataFrame({"g": groups}), np.array(p), np.zeros(len(p), bool))], ["g"], prior=0.4, whole=WHOLE
        )

    both = compare(of(["a"] * 60 + ["b"], [0.01] * 61), of(["a"] * 60 + ["c"], [0.99] * 61), ["g"]).set_index("g")
    assert both["pairs"].to_dict() == {"a": 60, "b": 1, "c": 0}
    assert both["pairs_against"].to_dict() == {"a": 60, "b": 0, "c": 1}
    assert both["difference"]["a"] == pytest.approx(both["rate"]["a"] - both["rate_against"]["a"])
    assert both["difference_low"]["a"] > 0.8
    assert both["difference"][["b", "c"]].isna().all()


@pytest.mark.parametrize("name", ["pairs", "bin", "rate", "low", "judged", "mismatched", "small", "difference"])
def test_a_column_may_be_called_as_the_table_calls_its_own(name: str) -> None:
    groups = pd.DataFrame({name: ["x"] * 3 + ["y"] * 2, "pairs (source)": [1, 1, 2, 2, 2]})
    parts = [tally(groups, np.array([0.01] * 3 + [0.99] * 2), np.zeros(5, bool))]
    table = audit(parts, [name, "pairs (source)"], prior=0.4, whole=WHOLE)
    first = name if name == "bin" else f"{name} (source)"
    assert list(table.columns[:2]) == [first, "pairs (source) (source)" if name == "pairs" else "pairs (source)"]
    assert {tuple(row[:3]) for row in table.values.tolist()} == {("x", 1, 2), ("x", 2, 1), ("y", 2, 2)}
    both = compare(table, table, [name, "pairs (source)"])
    assert both["pairs_against"].tolist() == both["pairs"].tolist()
    assert set(both[first]) == {"x", "y"}


def test_groups_of_two_runs_are_the_same_whatever_their_columns_type() -> None:
    def of(values: list[object]) -> pd.DataFrame:
        groups = pd.DataFrame({"g": pd.Series(values, dtype=object)})
        return audit(
            [tally(groups, np.full(len(values), 0.5), np.zeros(len(values), bool))], ["g"], prior=0.4, whole=WHOLE
        )

    numbers = of([1, 1, None, 3])
    assert {repr(value) for value in numbers["g"]} == {"1", "3", "None"}
    both = compare(numbers, of([1, None, 2]), ["g"])
    assert {repr(g): (n, m) for g, n, m in zip(both["g"], both["pairs"], both["pairs_against"], strict=True)} == {
        "1": (2, 1), "None": (1, 1), "3": (1, 0), "2": (0, 1),
    }  # fmt: skip
    for other in (["1", "x", None], [1.0, 7.5, None]):
        both = compare(numbers, of(list(other)), ["g"])
        texts = {None if g is None else str(g): (n, m) for g, n, m in both[["g", "pairs", "pairs_against"]].values}
        assert texts == {"1": (2, 1), None: (1, 1), "3": (1, 0), str(other[1]): (0, 1)}


def test_an_interval_is_there_where_all_pairs_are_certain() -> None:
    low, high = _beta_interval(np.array([0.0, 1.0]), np.zeros(2))
    assert low.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert high.tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.Shop.example/a/b.jpg?x=1", "shop.example"),
        ("http://cdn.shop.example:8080/a", "cdn.shop.example"),
        ("//cdn.example/a", "cdn.example"),
        ("shop.example/a.jpg", "shop.example"),
        ("https://user:secret@shop.example/", "shop.example"),
        ("http://[::1", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_domains(url: object, domain: str | None) -> None:
    assert domain_of(url) == domain
