"""Text for a terminal. Control characters in data or paths are escaped, so that they cannot steer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def safe(text: object) -> str:
    """`text` on one line, with every character that is not printable escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def size(number: float | None) -> str:
    """A number of bytes with a suitable unit."""
    if number is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def shortened(caption: str | None, length: int) -> str:
    """A caption with at most `length` characters."""
    if caption is None:
        return "none"
    return caption if len(caption) <= length else caption[: length - 1] + "…"


def duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def right_of_kept(scores: Mapping[str, Any]) -> str:
    """The share of right captions in the cleaned data, by `evaluate`."""
    return f"{percent(scores['correct_after'])} of the pairs kept" if scores["pairs_after"] else "no pair is kept"


def counted(number: int, noun: str) -> str:
    """1 pair, 2 pairs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
