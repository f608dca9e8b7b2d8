"""Writing systems and languages: captions that the encoder cannot read score like mismatches, and are none."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

#: Letters of a caption that are looked at.
LETTERS = 200
#: Distinct captions by which the language of many is told, and the least number of letters.
CAPTIONS, FEWEST_LETTERS = 100, 100
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


def language_of(captions: Sequence[str]) -> str:
    """The language of most of these captions (ISO 639, as `py3langid` has it); "" if they are too short to tell.

    A product title alone tells no language; a hundred of one kind do.
    """
    import py3langid  # reading its model takes seconds

    text = ". ".join(sorted(set(captions))[:CAPTIONS]).lower()
    if sum(c.isalpha() for c in text) < FEWEST_LETTERS:
        return ""
    return str(py3langid.classify(text)[0])
