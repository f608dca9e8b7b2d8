"""Systematic faults in sentences."""

from __future__ import annotations

import json

import pytest

from pairclean.judge import Finding
from pairclean.report import describe, describe_repeated, describe_slice, describe_unread, ordered


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        (
            Finding("shifted", 1412, 11000, 1, 33.14, 1e-9),
            "In shard a, rows 1,412 to 10,999 carry the caption of the pair before (z = 33.1); "
            "--repair gives them back.",
        ),
        (
            Finding("shifted", 5, 300, -7, 9.0, 1e-9),
            "In shard a, rows 5 to 299 carry the caption of the pair 7 rows after (z = 9.0); --repair gives them back.",
        ),
        (
            Finding("reversed", 0, 100, 99, 9.0, 1e-9),
            "In shard a, rows 0 to 99 carry each other's captions in reverse order (z = 9.0); "
            "--repair gives them back.",
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
    to_mend = finding.kind != "repeated"
    assert found["command"] == ("pairclean rematch RUN --repair" if to_mend else "pairclean audit RUN --by shard")


def test_over_several_shards_and_mended() -> None:
    found = describe(Finding("shifted", 0, 100, 1, 9.0, 1e-9), ("a", 3), ("c", 9), 98)
    assert found["sentence"] == (
        "From row 3 of shard a to row 9 of shard c, all pairs carry the caption of the pair before (z = 9.0); "
        "98 of their images got their own caption back."
    )
    assert (found["pairs"], found["mended"], found["last_shard"]) == (100, 98, "c")


def test_a_slice_says_how_bad_it_is_and_how_good_the_rest() -> None:
    numbers = {"pairs": 3100, "rate": 0.614, "low": 0.55, "high": 0.66, "rest": 0.042, "p_value": 1e-9}
    found = describe_slice({"where": {"kind": "wallpaper, desktop, hd", "shard": "a b"}, **numbers}, 7, "my run")
    assert found["sentence"] == (
        "Of the 3,100 pairs with kind “wallpaper, desktop, hd” and shard “a b”, about 61% (55% to 66%) are mismatched; "
        "of the rest 4.2%."
    )
    assert found["command"] == "pairclean audit 'my run' --by kind --by shard"
    assert (found["kind"], found["mended"], found["rate"]) == ("uneven", 7, 0.614)


def test_repeated_captions_and_pictures_and_captions_that_are_not_read() -> None:
    text = describe_repeated("generic_caption", 120, 3, "Click\n to  enlarge", "k1", "RUN")
    assert text["sentence"] == "120 pictures have the caption “Click to enlarge”, which says nothing of them."
    assert text["command"] == "pairclean show RUN k1"
    picture = describe_repeated("placeholder_image", 1200, 0, "a red shoe", "k 2", "RUN")
    assert picture["sentence"].startswith("1,200 captions have one and the same picture")
    assert picture["command"] == "pairclean show RUN 'k 2'"
    assert "caption" not in picture
    unread = describe_unread(80, "s3://shards")
    assert unread["sentence"].startswith("80 captions are in a language that the encoder does not seem to read")
    assert unread["command"].startswith("pairclean clean s3://shards RUN2 --model ")


def test_the_caption_in_a_sentence_is_short() -> None:
    found = describe_repeated("generic_caption", 9, 0, "word " * 1000, "k", "RUN")
    assert len(found["sentence"]) < 200
    assert "…”" in found["sentence"]


def test_findings_of_the_most_pairs_come_first_with_their_share() -> None:
    found = ordered([describe_unread(20), describe_unread(80), describe_unread(20) | {"kind": "last"}], 200)
    assert [(one["pairs"], one["share"]) for one in found] == [(80, 0.4), (20, 0.1), (20, 0.1)]
    assert found[-1]["kind"] == "last"
