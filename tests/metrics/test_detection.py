"""Detection metrics by hand, by brute force, and against the referee's own script."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairclean.metrics.detection import auroc, average_precision, brier, expected_calibration_error, score_run
from pairclean.pairs import VERDICT_SCHEMA, UserError

SCORED = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


def arrays(scored):
    return np.array([s for s, _ in scored], dtype=float), np.array([p for _, p in scored], dtype=bool)


def test_auroc_by_hand() -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert auroc(score, positive) == 3.5 / 4
    assert auroc(np.ones(4), positive) == 0.5
    assert auroc(positive.astype(float), positive) == 1
    assert math.isnan(auroc(score, np.ones(4, bool)))
    assert math.isnan(auroc(score, np.zeros(4, bool)))


@given(SCORED)
def test_auroc_counts_the_pairs_that_are_in_order(scored) -> None:
    score, positive = arrays(scored)
    higher = [(p > n) + (p == n) / 2 for p in score[positive] for n in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(higher) if higher else math.nan, nan_ok=True)


def test_average_precision_by_hand() -> None:
    score, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(score, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(-score, positive) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert math.isnan(average_precision(score, np.zeros(4, bool)))


def test_calibration_by_hand() -> None:
    probability, outcome = np.array([0.05, 0.95, 0.85, 0.95]), np.array([False, True, False, True])
    assert expected_calibration_error(probability, outcome) == pytest.approx((0.05 + 0.05 * 2 + 0.85) / 4)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, False]), bins=1) == 0.5
    assert expected_calibration_error(np.full(4, 0.25), np.array([True, False, False, False])) == 0
    assert brier(probability, outcome) == pytest.approx((0.05**2 * 3 + 0.85**2) / 4)
    assert math.isnan(brier(np.array([]), np.array([], bool)))
    assert math.isnan(expected_calibration_error(np.array([]), np.array([], bool)))


def run(rows: list[tuple]) -> pa.Table:
    """rows: (pair_id, verdict, clean_probability, rematch_pair_id)."""
    data = [
        {
            "pair_id": key, "shard": "00000", "row": i, "caption_index": 0, "verdict": verdict, "clean_probability": p,
            "is_noisy": None if p is None else verdict in ("noisy", "rematched"), "rematch_pair_id": partner,
        }
        for i, (key, verdict, p, partner) in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(data, VERDICT_SCHEMA)


def planted(caption: dict[str, str], carried: dict[str, str]) -> pa.Table:
    return pa.table(
        {
            "key": list(carried),
            "caption_key": list(carried.values()),
            "caption": [caption[k] for k in carried],
            "carried_caption": [caption[c] for c in carried.values()],
        }
    )


#: Six pairs: a, b, c in a cycle; d and e swapped, which nobody can see as their captions are one text; f itself.
CAPTION = {"a": "A", "b": "B", "c": "C", "d": "same", "e": "same", "f": "F"}
CARRIED = {"a": "b", "b": "c", "c": "a", "d": "e", "e": "d", "f": "f"}
VERDICTS = [
    ("a", "rematched", 0.1, "c"),  # right: c carries A
    ("b", "rematched", 0.2, "b"),  # wrong: b carries C
    ("c", "unreadable", None, None),
    ("d", "noisy", 0.4, None),
    ("e", "clean", 0.9, None),
    ("f", "clean", 0.95, None),
]


def test_a_small_run_by_hand() -> None:
    scores = score_run(run(VERDICTS), planted(CAPTION, CARRIED))
    expected = {
        "pairs": 6, "unreadable": 1, "unjudged": 0, "true_mismatch_rate": 0.5,
        "auroc": 8 / 9,  # c at 0.5 is behind d at 0.4
        "average_precision": (1 + 1 + 3 / 4) / 3,
        "flag_precision": 2 / 3, "flag_recall": 2 / 3, "flag_rate": 0.5, "flag_f1": 2 / 3,
        "brier": (0.1**2 + 0.2**2 + 0.5**2 + 0.6**2 + 0.1**2 + 0.05**2) / 6,
        "ece": (0.1 + 0.2 + 0.5 + 0.6 + 0.15) / 6,
        "rematch_emitted": 2, "rematch_precision": 0.5, "partners_on_offer": 3, "rematch_recall": 1 / 3,
        "rematched_clean_pairs": 0, "correct_before": 0.5, "correct_after": 3 / 4, "pairs_after": 4,
    }  # fmt: skip
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_order_of_the_truth_does_not_matter() -> None:
    truth = planted(CAPTION, CARRIED)
    assert score_run(run(VERDICTS), truth.take([5, 2, 0, 1, 4, 3])) == score_run(run(VERDICTS), truth)


def test_orphans_have_no_partner_on_offer() -> None:
    carried = {"a": "b", "b": "c", "f": "f"}  # c, which carries A, is not in the data
    verdicts = [("a", "noisy", 0.1, None), ("b", "rematched", 0.2, "a"), ("f", "clean", 0.9, None)]
    scores = score_run(run(verdicts), planted(CAPTION, carried))
    assert (scores["partners_on_offer"], scores["rematch_recall"], scores["rematch_precision"]) == (1, 1, 1)
    assert scores["correct_after"] == 1


def test_nothing_planted_nothing_found() -> None:
    scores = score_run(run([("f", "clean", 0.9, None)]), planted(CAPTION, {"f": "f"}))
    assert math.isnan(scores["auroc"])
    assert math.isnan(scores["average_precision"])
    assert (scores["flag_precision"], scores["flag_recall"], scores["flag_f1"], scores["rematch_recall"]) == (
        0,
        0,
        0,
        0,
    )
    assert (scores["correct_before"], scores["correct_after"], scores["pairs_after"]) == (1, 1, 1)


def test_another_runs_truth_is_refused() -> None:
    with pytest.raises(UserError, match="truth of its own input"):
        score_run(run(VERDICTS[:5]), planted(CAPTION, CARRIED))
    with pytest.raises(UserError, match="truth of its own input"):
        score_run(run([*VERDICTS[:5], VERDICTS[0]]), planted(CAPTION, CARRIED))


def random_run(number: int, orphans: bool, rng: np.random.Generator) -> tuple[dict, dict, list]:
    keys = [f"{i:09d}" for i in range(number)]
    caption = {k: f"caption {rng.integers(number // 2)}" for k in keys}
    carried = dict(zip(keys, np.roll(keys, 1).tolist(), strict=True)) if number else {}
    carried = {k: c if rng.random() < 0.5 else k for k, c in carried.items()}
    if orphans:
        carried = {k: c for k, c in carried.items() if rng.random() < 0.8}
    verdicts = []
    for key in carried:
        verdict = str(rng.choice(["clean", "clean", "rematched", "noisy", "unjudged", "unreadable"]))
        judged = verdict not in ("unjudged", "unreadable")
        partner = str(rng.choice(list(carried))) if verdict == "rematched" else None
        same = [k for k, c in carried.items() if caption[c] == caption[key]]
        if partner and same and rng.random() < 0.5:
            partner = same[0]
        verdicts.append((key, verdict, float(rng.integers(0, 21)) / 20 if judged else None, partner))
    return caption, carried, verdicts


@pytest.mark.parametrize(("seed", "orphans"), [(0, False), (1, True)])
def test_agrees_with_the_referee(tmp_path, shared, seed: int, orphans: bool) -> None:
    caption, carried, rows = random_run(120, orphans, np.random.default_rng(seed))
    truth, verdicts = planted(caption, carried), run(rows)
    for folder in ("shards", "run/verdicts"):
        (tmp_path / folder).mkdir(parents=True)
    pq.write_table(
        pa.table({"key": list(caption), "caption": list(caption.values())}), tmp_path / "shards" / "0.parquet"
    )
    pq.write_table(verdicts, tmp_path / "run" / "verdicts" / "00000.parquet")
    pq.write_table(truth, tmp_path / "truth.parquet")
    tool = shared / "tools" / "score.py"
    command = [sys.executable, tool, tmp_path / "run", tmp_path / "truth.parquet", tmp_path / "shards", "--json"]
    referee = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours = score_run(verdicts, truth)
    referee.pop("distinct_probabilities")
    assert ours == pytest.approx(referee)
    assert ours["rematch_precision"] > 0.2
