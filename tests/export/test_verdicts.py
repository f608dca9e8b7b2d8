"""Every pair has one verdict, and each column says what belongs to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pairclean.export.verdicts import Findings, verdict_table
from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA, ReasonCode
from pairclean.rematch.rematches import NO_PARTNER, UNSURE


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
        why_not=objects(*[NO_PARTNER] * 5),
        noise_kind=objects("partial", "complete", None, "complete", "complete"),
        mismatched_text=objects("red", "blue", "green", None, "grey"),
        fault=objects(None, "captions moved", None, None, None),
        unjudged=objects(*["too few"] * 5),
        unjudged_code=ReasonCode.TOO_FEW_PAIRS,
        image_group=np.array([7, 8, 7, 0, -9]),
        caption_group=np.arange(5),
        kept_instead=objects("p2", None, None, None, None),
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
    instead = "its picture is that of p2, which is kept instead"
    assert table["reason"].to_pylist() == [instead, "captions moved", NO_PARTNER, "bad", "too few"]
    assert table["image_group"].to_pylist() == [7, 8, 7, None, -9]
    assert table["caption_group"].to_pylist() == [0, 1, 2, None, 4]
    codes = ["duplicate", "shifted", "no_partner", "unreadable_image", "too_few_pairs"]
    assert table["reason_code"].to_pylist() == codes
    assert table["noise_kind"].to_pylist() == [None] * 5
    assert table["mismatched_text"].to_pylist() == ["red", None, "green", None, None]  # not of a shift, nor unjudged


def test_a_shard_without_pairs() -> None:
    none, floats = objects(), np.zeros(0, np.float32)
    code = ReasonCode.ENCODER_CANNOT_TELL
    groups = np.zeros(0, np.int64)
    found = Findings(
        np.zeros(0), floats, floats, none, none, floats, none, none, none, none, none, code, groups, groups, none, 0.5
    )
    assert verdict_table(pair_table([]), found) == VERDICT_SCHEMA.empty_table()


def test_reason_codes_say_what_is_wrong_with_a_pair() -> None:
    """A repeated caption or picture wins over a rematch, and a systematic fault over all else."""
    kinds = ["generic", "generic", "placeholder", "partial", "partial", "complete", "within_kind", None]
    rematched = np.array([False, True, False, False, True, True, False, False])
    table = pair_table([None] * 8)
    found = Findings(
        clean_probability=np.array([0.1] * 7 + [NAN]),
        similarity=np.full(8, NAN, np.float32),
        aligned_similarity=np.full(8, NAN, np.float32),
        partner_id=np.where(rematched, "p0", None),
        partner_caption=np.where(rematched, "y", None),
        rematch_probability=np.full(8, 0.9, np.float32),
        why_not=objects(*[UNSURE] * 8),
        noise_kind=objects(*kinds),
        mismatched_text=objects(*[None] * 8),
        fault=objects(*[None] * 7, "captions moved"),
        unjudged=objects(*["the encoder cannot tell"] * 8),
        unjudged_code=ReasonCode.ENCODER_CANNOT_TELL,
        image_group=np.arange(8),
        caption_group=np.arange(8),
        kept_instead=objects(*[None] * 8),
        flag_below=0.5,
    )
    verdicts = verdict_table(table, found)
    assert verdicts["reason_code"].to_pylist() == [
        "generic_caption",
        "generic_caption",
        "placeholder_image",
        "partly_wrong",
        "belongs_elsewhere",
        "belongs_elsewhere",
        "not_sure_enough",
        "shifted",
    ]
    assert verdicts["reason"].to_pylist()[-1] == "captions moved"
    found = replace(found, fault=objects(*[None] * 8))
    assert verdict_table(table, found)["reason_code"].to_pylist()[-1] == "encoder_cannot_tell"
