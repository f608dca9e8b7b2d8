"""Writing systems: captions in a script that the encoder cannot read score like mismatches, and are none."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

import numpy as np

#: Letters of a caption that are looked at.
LETTERS = 200
#: The alphabets of one language count as one script.
_JOINED = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK"}


def script_of(caption: str | None) -> str:
    """The writing system of most letters of a caption, by its Unicode name (LATIN, CJK); "" if it has no letters."""
    letters = [c for c in (caption or "")[: 4 * LETTERS] if c.isalpha()][:LETTERS]
    names = Counter(unicodedata.name(c, "").split(" ")[0].split("-")[0] for c in letters)
    if not names:
        return ""
    name = names.most_common(1)[0][0]
    return _JOINED.get(name, name)


def script_codes(captions: Iterable[str | None]) -> np.ndarray:
    """(n,) int64, equal for captions of one script; captions without letters have that of most captions, 0."""
    scripts = [script_of(caption) for caption in captions]
    order = [name for name, _ in Counter(name for name in scripts if name).most_common()]
    codes = {name: code for code, name in enumerate(order)}
    return np.array([codes.get(name, 0) for name in scripts], np.int64)
