from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairclean.pairs import VERDICT_SCHEMA
from pairclean.report import summarise


def verdict_table(*records: dict[str, Any]) -> pa.Table:
    nothing = dict.fromkeys(VERDICT_SCHEMA.names)
    place = {"shard": "00000", "caption_index": 0}
    rows = [nothing | place | {"pair_id": f"p{i}", "row": i} | record for i, record in enumerate(records)]
    return pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)


CLEAN = {"verdict": "clean", "is_noisy": False, "clean_probability": 0.96}
NOISY = {
    "verdict": "noisy",
    "is_noisy": True,
    "clean_probability": 0.01,
    "reason": "no candidate",
    "reason_code": "no_partner",
}
REMATCHED = {"verdict": "rematched", "is_noisy": True, "clean_probability": 0.26, "rematch_probability": 0.75}


def unreadable(reason: str | None) -> dict[str, Any]:
    return {"verdict": "unreadable", "reason": reason}


def test_counts_over_several_tables() -> None:
    tables = [
        verdict_table(CLEAN, CLEAN, NOISY),
        verdict_table(),
        verdict_table(REMATCHED, unreadable("truncated"), {"verdict": "unjudged", "reason": "too few pairs"}),
    ]
    report = summarise(iter(tables), {"rematch": {"emitted": 99, "expected_precision": 0.8}})
    assert report["pairs"] == 6
    assert report["verdicts"] == {"clean": 2, "rematched": 1, "noisy": 1, "unjudged": 1, "unreadable": 1}
    assert list(report["verdicts"]) == ["clean", "rematched", "noisy", "unjudged", "unreadable"]
    assert report["unreadable"] == 1
    assert report["flagged"] == 2
    assert report["rematch"] == {"emitted": 1, "expected_precision": 0.8}  # counted, whatever the facts say
    assert report["unreadable_reasons"] == {"truncated": 1}
    assert report["noisy_reasons"] == {"no candidate": 1}
    assert report["unjudged_reasons"] == {"too few pairs": 1}
    assert report["reason_codes"] == {"no_partner": 1}


def test_rows_of_several_captions_are_counted() -> None:
    """In row 0 the second caption is the likelier one, in row 1 the first; row 2 has one that is judged."""
    less = CLEAN | {"clean_probability": 0.7}
    captions = [(0, 0, less), (0, 1, CLEAN), (1, 0, less), (1, 1, NOISY), (2, 0, unreadable("x")), (2, 1, CLEAN)]
    table = verdict_table(*(found | {"row": row, "caption_index": index} for row, index, found in captions))
    report = summarise([table, verdict_table(CLEAN), verdict_table()], {})
    assert report["several_captions"] == {"rows": 2, "first_not_best": 1, "besides_best": 1}


def test_expected_precision_is_the_mean_probability_where_the_run_names_none() -> None:
    report = summarise([verdict_table(REMATCHED, REMATCHED | {"rematch_probability": 0.25})], {})
    assert report["rematch"] == {"emitted": 2, "expected_precision": 0.5}
    assert summarise([verdict_table(NOISY)], {})["rematch"] == {"emitted": 0, "expected_precision": None}


def test_the_histogram_holds_every_judged_pair_in_its_bin() -> None:
    top = CLEAN | {"clean_probability": 1.0}
    histogram = summarise([verdict_table(CLEAN, top, NOISY, REMATCHED, unreadable("x"))], {})[
        "clean_probability_histogram"
    ]
    assert len(histogram["edges"]) == 41
    assert histogram["edges"][0] == 0.0
    assert histogram["edges"][-1] == 1.0
    assert {i: n for i, n in enumerate(histogram["kept"]) if n} == {38: 1, 39: 1}
    assert {i: n for i, n in enumerate(histogram["flagged"]) if n} == {0: 1, 10: 1}


def test_at_most_twenty_reasons_the_rest_under_other() -> None:
    records = [unreadable(f"reason {i:02d}") for i in range(30) for _ in range(30 - i)]
    report = summarise([verdict_table(*records)], {})
    reasons = report["unreadable_reasons"]
    assert len(reasons) == 20
    assert next(iter(reasons)) == "reason 00"
    assert reasons["reason 00"] == 30
    assert list(reasons)[-1] == "other"
    assert reasons["other"] == sum(30 - i for i in range(19, 30))
    assert sum(reasons.values()) == report["unreadable"] == len(records)


def test_exactly_twenty_reasons_need_no_other() -> None:
    reasons = summarise([verdict_table(*(unreadable(f"{i}") for i in range(20)))], {})["unreadable_reasons"]
    assert len(reasons) == 20
    assert "other" not in reasons


def test_reasons_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairclean.report.summary._REASONS_COUNTED", 5)
    tables = (verdict_table(unreadable(f"path/{i}"), unreadable("common")) for i in range(50))
    reasons = summarise(tables, {})["unreadable_reasons"]
    assert reasons == {"common": 50, "path/0": 1, "path/1": 1, "path/2": 1, "path/3": 1, "other": 46}


def test_a_missing_reason_is_counted_too() -> None:
    assert summarise([verdict_table(unreadable(None))], {})["unreadable_reasons"] == {"no reason given": 1}


def test_an_unknown_verdict_is_a_bug() -> None:
    with pytest.raises(ValueError, match="dirty"):
        summarise([verdict_table({"verdict": "dirty"})], {})


def test_facts_pass_through_as_json_with_full_precision() -> None:
    facts = {
        "device": "cpu (float32)",
        "seconds": {"embed": np.float64(0.1) + 0.2},
        "mismatch_rate": {"estimate": np.float32(0.5), "low": float("nan"), "high": None, "level": 0.95},
        "retrieval": {"pairs": np.int64(3), "zero_shot": None, "aligned": {"rsum": 1 / 3}},
        "score_histogram": {"edges": np.array([0.0, 1.0]), "observed": np.array([3]), "decoys": [np.inf]},
        "notes": ("one",),
    }
    report = summarise([], facts)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["seconds"]["embed"] == 0.1 + 0.2
    assert report["mismatch_rate"] == {"estimate": 0.5, "low": None, "high": None, "level": 0.95}
    assert report["retrieval"]["aligned"]["rsum"] == 1 / 3
    assert report["score_histogram"] == {"edges": [0.0, 1.0], "observed": [3], "decoys": [None]}
    assert report["notes"] == ["one"]


def test_what_the_contract_names_is_there_even_without_facts() -> None:
    report = summarise([], {})
    for name in ("pairs", "unreadable", "verdicts", "flag_below", "mismatch_rate", "rematch", "retrieval", "seconds"):
        assert name in report
    assert "device" in report
    assert report["mismatch_rate"] == {"estimate": None, "low": None, "high": None, "level": None}
