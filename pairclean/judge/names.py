"""Names of kinds: the words by which their captions differ from those of the other kinds.

The words of a kind are ordered by class-based TF-IDF (Grootendorst 2022, BERTopic),

    w(t, c) = f(t, c) log(1 + A / f(t)),

where f(t, c) is the share of the captions of kind c that contain the word, f(t) its sum over the kinds, and A the mean
over the kinds of the number of different words per caption. Shares instead of counts make large and small kinds, and
long and short captions, count alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..pairs import normalise_caption

#: Words of a name, and characters of a text that is a name.
WORDS, LONGEST = 3, 60
#: Share of a kind's captions that contain a word of its name, at least.
COMMON = 0.1
#: Characters of a caption that are looked at.
READ = 1_000
#: Letters of writing systems without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese): pairs of letters are words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+(?:['’-][^\W_{UNSPACED}]+)*")


def kind_names(captions: Sequence[Sequence[str]]) -> list[str]:
    """A name for every kind, all different: "watches, dial, steel".

    captions: a sample of the captions of each kind.  A kind whose captions are one text has this text, in quotation
    marks, as its name; one without words is called "kind 7", by its number from 1.

    >>> kind_names([["red shoes", "blue shoes", "shoes for boys"], ["a red bag", "a blue bag"], ["Click here"] * 9])
    ['shoes, boys, for', 'bag, blue, red', '“Click here”']
    """
    counts = [Counter(word for text in kind for word in set(words_of(text))) for kind in captions]
    share = [
        {word: n / max(1, len(kind)) for word, n in count.items()} for kind, count in zip(captions, counts, strict=True)
    ]
    everywhere: Counter[str] = Counter()
    for kind in share:
        everywhere.update(kind)
    average = sum(everywhere.values()) / max(1, len(captions))
    names: list[str] = []
    for number, (kind, texts) in enumerate(zip(share, captions, strict=True), 1):
        weight = {word: f * float(np.log1p(average / everywhere[word])) for word, f in kind.items() if f >= COMMON}
        ranked = _without_parts(sorted(weight, key=lambda word: (-weight[word], word)))
        found = _name(texts, ranked) or f"kind {number}"
        names.append(found if found not in names else _longer(found, ranked, names))
    return names


def words_of(caption: str) -> list[str]:
    """The words of a caption in lower case, without numbers and single letters.

    Where words have no spaces between them, they are all pairs of adjacent letters.

    >>> words_of("Men's 3 Red T-shirts")
    ["men's", 'red', 't-shirts']
    >>> words_of("红色连衣裙")
    ['红色', '色连', '连衣', '衣裙']
    """
    found = []
    for word in _WORD.findall(caption[:READ].lower()):
        if re.match(f"[{UNSPACED}]", word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif len(word) > 1 and not word.isdigit():
            found.append(word)
    return found


def _name(texts: Sequence[str], ranked: list[str]) -> str:
    if len({normalise_caption(text) for text in texts}) == 1:
        text = " ".join(texts[0][:READ].split())
        return f"“{text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + '…'}”"
    return ", ".join(ranked[:WORDS])


def _without_parts(ranked: list[str]) -> list[str]:
    """The words without those that repeat a better one (shirt, shirts), or share a letter pair with it (红色, 色连)."""
    kept: list[str] = []
    for word in ranked:
        if len(kept) > 2 * WORDS:
            break
        if not any(_alike(word, other) for other in kept):
            kept.append(word)
    return kept


def _alike(word: str, other: str) -> bool:
    short, long = sorted((word, other), key=len)
    if re.match(f"[{UNSPACED}]", word):
        return bool(set(word) & set(other))
    return long.startswith(short) and len(short) >= 3


def _longer(name: str, ranked: list[str], taken: list[str]) -> str:
    """The name with more words, or a number, so that no other kind has it."""
    for count in range(WORDS + 1, len(ranked) + 1):
        if (longer := ", ".join(ranked[:count])) not in taken and not name.startswith("“"):
            return longer
    return next(numbered for i in range(2, len(taken) + 3) if (numbered := f"{name} ({i})") not in taken)
