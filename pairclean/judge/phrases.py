"""Which parts of a caption may be wrong by themselves: clauses, words, or letters where words are not set apart.

A caption is split into clauses, at punctuation and before conjunctions and prepositions; one without clauses, such as a
product's title, into words; in writing systems without spaces into letters. Its phrases are runs of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .names import UNSPACED

#: A phrase has at most this share of the caption's letters: of more than that, no reader would be helped.
MOST = 0.6
#: Phrases of a caption, and characters of it that are looked at, at most.
PHRASES, READ = 8, 500
_FUNCTION_WORDS = (
    "and|but|or|while|as|with|without|in|on|at|by|near|from|into|onto|under|over|above|below|behind|beside|between|"
    "through|across|along|around|against|beneath|inside|outside|toward|towards|next to|in front of"
)
_CLAUSE_END = re.compile(
    rf"\s*[,;:.!?|•·、，；：。！？()\n]+\s+|[、，；：。！？]|\s+[-–—]\s+|\s+(?=(?:{_FUNCTION_WORDS})\s)", re.IGNORECASE
)
#: A letter of a writing system without spaces, with the marks that belong to it; or a word.
_WORD = re.compile(rf"[{UNSPACED}][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*|[^\s{UNSPACED}]+")

Span = tuple[int, int]


def phrases(caption: str) -> list[Span]:
    """The phrases of a caption: where each one starts and stops, in characters.  At most PHRASES of them.

    >>> [caption[a:b] for caption in ["a red ball, a blue box"] for a, b in phrases(caption)]
    ['a red ball', 'a blue box']
    >>> [caption[a:b] for caption in ["Puma Men Black Shoes"] for a, b in phrases(caption)]
    ['Puma Men', 'Men Black', 'Black Shoes']
    >>> [caption[a:b] for caption in ["红色连衣裙"] for a, b in phrases(caption)]
    ['红色', '色连', '连衣', '衣裙']
    >>> phrases("Shoes")
    []
    """
    read = caption[:READ]
    clauses = _clauses(read)
    if len(clauses) > 1:
        halves = _runs(clauses, len(clauses) // 2)
        found = halves if len(clauses) < 4 else [*_runs(clauses, 1), *halves]
    else:
        words = _words(read, 0, len(read))
        found = _runs(words, len(words) // 2)
    letters = _letters(read)
    short = [(a, b) for a, b in found if _letters(read[a:b]) <= MOST * letters]
    if len(short) > PHRASES:
        short = [short[i] for i in np.linspace(0, len(short) - 1, PHRASES).astype(int)]
    return short


def _clauses(caption: str) -> list[Span]:
    """The clauses; one that is most of the caption counts as two halves, if there are others."""
    ends = [match.span() for match in _CLAUSE_END.finditer(caption)]
    starts, stops = [0, *(b for _, b in ends)], [*(a for a, _ in ends), len(caption)]
    found = []
    for start, stop in zip(starts, stops, strict=True):
        words = _words(caption, start, stop)
        half = len(words) // 2
        large = half and len(ends) and _letters(caption[start:stop]) > MOST * _letters(caption)
        parts = [words[:half], words[half:]] if large else [words]
        found += [(part[0][0], part[-1][1]) for part in parts if part]
    return found


def _words(caption: str, start: int, stop: int) -> list[Span]:
    return [match.span() for match in _WORD.finditer(caption, start, stop)]


def _runs(units: Sequence[Span], length: int) -> list[Span]:
    """All runs of so many consecutive units."""
    return [(units[i][0], units[i + length - 1][1]) for i in range(len(units) - length + 1)] if length else []


def _letters(text: str) -> int:
    return sum(not c.isspace() for c in text)


def exchanged(caption: str, other: str, rng: np.random.Generator) -> str | None:
    """A caption with one of its phrases replaced by one of another's; None if either has no phrases.

    >>> exchanged("a red ball, a blue box", "two cats, a green house", np.random.default_rng(0))
    'a red ball, a green house'
    """
    mine, theirs = phrases(caption), phrases(other)
    if not mine or not theirs:
        return None
    (a, b), (c, d) = mine[rng.integers(len(mine))], theirs[rng.integers(len(theirs))]
    return caption[:a] + other[c:d] + caption[b:]
