"""Text in whatever encoding it was written: marks are believed, UTF-8 is tried, and the rest is decided together."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

#: The encodings that programs write where they do not write UTF-8, of two that fit alike the first one. Without such a
#: list, rare code pages win by chance.
_USUAL = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
]
# UTF-32 first: its mark begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ENOUGH = 1 << 18  # bytes of evidence


def decode(data: bytes, fallback: str | None = None) -> str | None:
    """The text: by its byte order mark, as UTF-8, as UTF-16 without a mark, or in `fallback`; None where none fits."""
    encoding = _marked(data)
    if encoding is not None:
        return _decoded(data, encoding)
    text = _decoded(data, "utf-8")
    if text is not None and "\0" not in text:
        return text
    encoding = _utf16(data)
    if encoding is not None:
        return _decoded(data, encoding)
    return text if text is not None else None if fallback is None else _decoded(data, fallback)


def encode(text: str, like: bytes | None, fallback: str | None = None) -> bytes:
    """The text in the encoding that `decode` finds for `like`, in `fallback` where that does not say; where this cannot
    hold the text, in UTF-8.
    """
    encoding = None if like is None else _marked(like) or _utf16(like)
    try:
        return text.encode(encoding or fallback or "utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def needs_guess(data: bytes) -> bool:
    """Whether the encoding is told by nothing but what the text looks like."""
    return decode(data) is None and _marked(data) is None


def guess(texts: Iterable[bytes]) -> str | None:
    """The one encoding of these texts, of which none is UTF-8; None where it is not recognised."""
    evidence: list[bytes] = []
    size = 0
    for text in texts:
        evidence.append(text)
        size += len(text)
        if size > _ENOUGH:
            break
    if not evidence:
        return None
    from charset_normalizer import from_bytes

    matches = from_bytes(b"\n".join(evidence), cp_isolation=_USUAL)
    found = min(matches, key=lambda m: (m.chaos, -m.coherence, _USUAL.index(m.encoding)), default=None)
    return None if found is None else found.encoding


def _marked(data: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a mark, as far as its text is mostly of Latin letters: every other byte is then zero."""
    if len(data) < 4 or len(data) % 2:
        return None
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if data[start::2].count(0) > len(data) // 4 and data[1 - start :: 2].count(0) == 0:
            return encoding
    return None
