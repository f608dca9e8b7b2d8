"""Writing systems and languages: captions that the encoder cannot read score like mismatches, and are none."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from ..arrays import places_of_values
from ..execution import side_by_side
from .decoy_calibration import DecoyCalibration

#: Letters of a caption that are looked at.
LETTERS = 200
#: Distinct captions by which the language of many is told, and the least number of letters.
CAPTIONS, FEWEST_LETTERS = 100, 100
#: Captions of another writing system or language are taken to be unread if more of them than this look mismatched, and
#: more than of the most common one by a margin; groups of fewer pairs are judged as they are.
UNREAD, MARGIN, FEWEST_UNREAD = 0.7, 0.3, 20
#: Captions of a kind by which its language is told.
CAPTIONS_OF_KIND = 200
#: The alphabets of one language count as one script.
_JOINED = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK"}


def script_of(caption: str | None) -> str:
    """The writing system of most letters of a caption, by its Unicode name (LATIN, CJK); "" if it has no letters."""
    start = (caption or "")[: 4 * LETTERS]
    if start.isascii():
        return "LATIN" if any(map(str.isalpha, start)) else ""
    names = Counter(map(_script_of_letter, islice(filter(str.isalpha, start), LETTERS)))
    if not names:
        return ""
    name = names.most_common(1)[0][0]
    return _JOINED.get(name, name)


@functools.cache
def _script_of_letter(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0]


def script_codes(captions: Iterable[str | None]) -> np.ndarray:
    """(n,) int64, equal for captions of one script; captions without letters have that of most captions, 0."""
    number: dict[str, int] = {"": 0}  # in the order in which scripts are met
    found = np.fromiter((number.setdefault(script_of(caption), len(number)) for caption in captions), np.int64)
    count = np.bincount(found, minlength=len(number))[1:]
    code = np.zeros(len(number), np.int64)
    code[1 + np.argsort(-count, kind="stable")] = np.arange(len(count))
    return code[found]


def language_of(captions: Sequence[str]) -> str:
    """The language of most of these captions (ISO 639, as `py3langid` has it); "" if they are too short to tell.

    A product title alone tells no language; a hundred of one kind do.
    """
    import py3langid  # reading its model takes seconds

    text = ". ".join(sorted(set(captions))[:CAPTIONS]).lower()
    if sum(c.isalpha() for c in text) < FEWEST_LETTERS:
        return ""
    return str(py3langid.classify(text)[0])


def unread_scripts(z: np.ndarray, calibration: DecoyCalibration, script: np.ndarray) -> np.ndarray:
    """(n,) bool: pairs whose captions are of a writing system in which matches cannot be told from mismatches.

    z: (n,) float64 evidence of the pairs.  script: (n,) int64 of `script_codes`.
    """
    unread = np.zeros(len(script), bool)
    if not script.any():
        return unread
    usual = calibration.share_among(z[script == 0])
    for code in range(1, int(script.max()) + 1):
        members = script == code
        if members.sum() >= FEWEST_UNREAD:
            share = calibration.share_among(z[members])
            unread |= members & (share > max(UNREAD, usual + MARGIN))
    return unread


def unread_languages(
    z: np.ndarray,
    calibration: DecoyCalibration,
    cluster: np.ndarray,
    captions: Callable[[np.ndarray], Sequence[str]],
) -> np.ndarray:
    """(n,) bool: pairs of kinds of captions in another language than most, in which matches cannot be told.

    z: (n,) float64 evidence of the pairs.  cluster: (n,) int64 kinds of their captions, negative for those that are not
    asked about.  captions: of some of the n pairs, by their positions.
    """
    of_kind = {
        k: members
        for k, members in zip(*places_of_values(cluster), strict=True)
        if k >= 0 and len(members) >= FEWEST_UNREAD
    }
    every = list(of_kind.values())
    found = side_by_side(lambda k, _: calibration.share_among(z[every[k]]), len(every), ["cpu"])
    shares = dict(zip(of_kind, found, strict=True))
    if max(found, default=0.0) <= UNREAD:
        return np.zeros(len(cluster), bool)  # languages need not be told
    rng = np.random.default_rng(0)
    drawn = [np.sort(rng.permutation(members)[:CAPTIONS_OF_KIND]) for members in every]
    texts = iter(captions(np.concatenate(drawn)))  # in one call, which reads every shard once
    language = {k: language_of(list(islice(texts, len(some)))) for k, some in zip(of_kind, drawn, strict=True)}
    pairs_of: Counter[str] = Counter()
    for k, name in language.items():
        pairs_of[name] += len(of_kind[k])
    (usual, _), *_ = pairs_of.most_common()
    ours = np.isin(cluster, [k for k, name in language.items() if name == usual])
    least = max(UNREAD, calibration.share_among(z[ours]) + MARGIN)
    return np.isin(cluster, [k for k, name in language.items() if name not in ("", usual) and shares[k] > least])


def unread_note(unread: np.ndarray) -> str:
    return (
        f"{int(unread.sum()):,} captions are in a language that the encoder does not seem to read: they are not "
        "judged, and not counted in the mismatch rate. A multilingual encoder could judge them."
    )
