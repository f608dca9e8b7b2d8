"""Systematic faults in sentences."""

from __future__ import annotations

import json

import pytest

from pairclean.judge import Finding
from pairclean.report import describe


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        (
            Finding("shifted", 1412, 11000, 1, 33.14, 1e-9),
            "In shard a, rows 1,412 to 10,999 carry the caption of the pair before (z = 33.1); "
            "`pairclean rematch RUN --repair` gives them back.",
        ),
        (
            Finding("shifted", 5, 300, -7, 9.0, 1e-9),
            "In shard a, rows 5 to 299 carry the caption of the pair 7 rows after (z = 9.0); "
            "`pairclean rematch RUN --repair` gives them back.",
        ),
        (
            Finding("reversed", 0, 100, 99, 9.0, 1e-9),
            "In shard a, rows 0 to 99 carry each other's captions in reverse order (z = 9.0); "
            "`pairclean rematch RUN --repair` gives them back.",
        ),
        (
            Finding("repeated", 0, 100, 0, 9.0, 1e-9),
            "In shard a, rows 0 to 99 carry one and the same caption, which does not fit them (z = 9.0); "
            "their own captions are lost.",
        ),
    ],
)
def test_a_finding_says_where_and_what(finding: Finding, sentence: str) -> None:
    found = describe(finding, ("a", finding.start), ("a", finding.stop - 1), 0)
    assert found["sentence"] == sentence
    assert json.loads(json.dumps(found)) == found


def test_over_several_shards_and_mended() -> None:
    found = describe(Finding("shifted", 0, 100, 1, 9.0, 1e-9), ("a", 3), ("c", 9), 98)
    assert found["sentence"] == (
        "From row 3 of shard a to row 9 of shard c, all pairs carry the caption of the pair before (z = 9.0); "
        "98 of their images got their own caption back."
    )
    assert (found["pairs"], found["mended"], found["last_shard"]) == (100, 98, "c")
