"""Every pair has one verdict, and each column says what belongs to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pairclean.export import Findings, verdict_table
from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA


def pair_table(reasons: list[str | None]) -> pa.Table:
    n = len(reasons)
    columns = {"pair_id": [f"p{i}" for i in range(n)], "shard": ["s"] * n, "row": range(n), "caption_index": [0] * n}
    ids = {"image_id": [0] * n, "caption_id": [0] * n}
    return pa.table({**columns, "caption": ["x"] * n, **ids, "reason": reasons}, schema=PAIR_SCHEMA)


def objects(*values: Any) -> np.ndarray:
    return np.array(values, object)


NAN = float("nan")


def test_the_five_verdicts() -> None:
    pairs = pair_table([None, None, None, "bad", None])
    found = Findings(
        clean_probability=np.array([0.5, 0.1, 0.2, NAN, NAN]),  # the first at the threshold, which is not below it
        similarity=np.full(5, NAN, np.float32),
        aligned_similarity=np.arange(5, dtype=np.float32),
        partner_id=objects(None, "p2", None, None, None),
        partner_caption=objects(None, "y", None, None, None),
        rematch_probability=np.array([NAN, 0.75, NAN, NAN, NAN], np.float32),
        why_not=objects(*["none fits"] * 5),
        noise_kind=objects("partial", "complete", None, "complete", "complete"),
        unjudged=objects(*["too few"] * 5),
        flag_below=0.5,
    )
    table = verdict_table(pairs, found)
    assert table.schema == VERDICT_SCHEMA
    assert table["pair_id"].to_pylist() == ["p0", "p1", "p2", "p3", "p4"]
    assert table["verdict"].to_pylist() == ["clean", "rematched", "noisy", "unreadable", "unjudged"]
    assert table["is_noisy"].to_pylist() == [False, True, True, None, None]
    assert table["clean_probability"].to_pylist() == [0.5, *np.float32([0.1, 0.2]).tolist(), None, None]
    assert table["similarity"].to_pylist() == [None] * 5
    assert table["aligned_similarity"].to_pylist() == [0, 1, 2, None, 4]
    assert table["rematch_pair_id"].to_pylist() == [None, "p2", None, None, None]
    assert table["rematch_caption"].to_pylist() == [None, "y", None, None, None]
    assert table["rematch_probability"].to_pylist() == [None, 0.75, None, None, None]
    assert table["reason"].to_pylist() == [None, None, "none fits", "bad", "too few"]
    assert table["noise_kind"].to_pylist() == [None, "complete", None, None, None]


def test_a_shard_without_pairs() -> None:
    none, floats = objects(), np.zeros(0, np.float32)
    found = Findings(np.zeros(0), floats, floats, none, none, floats, none, none, none, 0.5)
    assert verdict_table(pair_table([]), found) == VERDICT_SCHEMA.empty_table()
