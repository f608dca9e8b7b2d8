"""Writing systems and languages: captions that the encoder cannot read score like mismatches, and are none."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .decoy_calibration import DecoyCalibration
from .evidence import Scored

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


def unread_scripts(scored: Scored, calibration: DecoyCalibration, script: np.ndarray) -> np.ndarray:
    """(n,) bool: pairs whose captions are of a writing system in which matches cannot be told from mismatches.

    script: (n,) int64 of `script_codes`.
    """
    unread = np.zeros(len(script), bool)
    if not script.any():
        return unread
    usual = calibration.share_among(scored.take(script == 0))
    for code in range(1, int(script.max()) + 1):
        members = script == code
        if members.sum() >= FEWEST_UNREAD:
            share = calibration.share_among(scored.take(members))
            unread |= members & (share > max(UNREAD, usual + MARGIN))
    return unread


def unread_languages(
    scored: Scored,
    calibration: DecoyCalibration,
    cluster: np.ndarray,
    captions: Callable[[np.ndarray], Sequence[str]],
) -> np.ndarray:
    """(n,) bool: pairs of kinds of captions in another language than most, in which matches cannot be told.

    cluster: (n,) int64 kinds of the captions, negative for those that are not asked about.  captions: of some of the n
    pairs, by their positions.
    """
    kinds, size = np.unique(cluster[cluster >= 0], return_counts=True)
    kinds = kinds[size >= FEWEST_UNREAD]
    shares = {int(k): calibration.share_among(scored.take(cluster == k)) for k in kinds}
    if max(shares.values(), default=0.0) <= UNREAD:
        return np.zeros(len(cluster), bool)  # languages need not be told
    rng = np.random.default_rng(0)
    language = {}
    for k in shares:
        members = np.flatnonzero(cluster == k)
        some = np.sort(rng.permutation(members)[:CAPTIONS_OF_KIND])
        language[k] = language_of(list(captions(some)))
    pairs_of: Counter[str] = Counter()
    for k, name in language.items():
        pairs_of[name] += int((cluster == k).sum())
    (usual, _), *_ = pairs_of.most_common()
    ours = np.isin(cluster, [k for k, name in language.items() if name == usual])
    least = max(UNREAD, calibration.share_among(scored.take(ours)) + MARGIN)
    return np.isin(cluster, [k for k, name in language.items() if name not in ("", usual) and shares[k] > least])


def unread_note(unread: np.ndarray) -> str:
    return (
        f"{int(unread.sum()):,} captions are in a language that the encoder does not seem to read: they are not "
        "judged, and not counted in the mismatch rate. A multilingual encoder could judge them."
    )
