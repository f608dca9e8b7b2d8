"""The vocabulary of reasons."""

from __future__ import annotations

import pytest

from pairclean.pairs import unreadable_code


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("no caption", "unreadable_caption"),
        ("empty caption", "unreadable_caption"),
        ("its caption is not UTF-8, and its encoding is not recognised", "unreadable_caption"),
        ("failed_to_download: HTTP 404", "failed_download"),
        ("failed_to_resize", "unreadable_image"),
        ("truncated JPEG", "unreadable_image"),
    ],
)
def test_a_reason_for_being_unreadable_has_a_code(reason: str, code: str) -> None:
    assert unreadable_code(reason).value == code
