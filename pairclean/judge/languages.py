"""Writing systems and languages: captions that the encoder cannot read score like mismatches, and are none."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..arrays import places_of_values
from ..execution import side_by_side
from .decoy_calibration import DecoyCalibration

#: Letters of a caption that are looked at.
LETTERS = 200
#: Distinct captions by which the language of many is told, and the least number of letters.
CAPTIONS, FEWEST_LETTERS = 100, 100
#: Captions of a writing system or language are taken to be unread if more of them than this look mismatched, and more
#: than of another one by a margin; groups of fewer pairs are judged as they are.
UNREAD, MARGIN, FEWEST_UNREAD = 0.7, 0.3, 20
#: What most encoders were trained on. Where most captions are of it, they are taken to be read.
LATIN_CODE, ENGLISH = 0, "en"
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
    """(n,) int64, equal for captions of one script: LATIN_CODE, then others by how common they are.

    Captions without letters have the code of most captions.
    """
    number: dict[str, int] = {"": 0}  # in the order in which scripts are met
    found = np.fromiter((number.setdefault(script_of(caption), len(number)) for caption in captions), np.int64)
    count = np.bincount(found, minlength=len(number))
    others = [at for name, at in number.items() if name not in ("", "LATIN")]
    code = np.full(len(number), LATIN_CODE)
    code[sorted(others, key=lambda at: -count[at])] = np.arange(1, len(others) + 1)
    count[0] = 0
    code[0] = code[count.argmax()]
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


def unread_captions(
    z: np.ndarray,
    calibration: DecoyCalibration,
    kind: np.ndarray,
    *,
    scripts: np.ndarray | None,
    captions: Callable[[np.ndarray], Sequence[str]] | None,
) -> tuple[np.ndarray, str]:
    """(n,) bool: pairs whose captions the encoder does not seem to read; and the language of most, "" if not known.

    z: (n,) float64 evidence of the pairs.  kind: (n,) int64 of their captions.  scripts: (n,) int64 of `script_codes`,
    captions: of some of the n pairs, by their positions; None for what is not known.
    """
    unread, language = np.zeros(len(z), bool), ""
    if scripts is not None:
        unread |= unread_scripts(z, calibration, scripts)
    if captions is not None:
        by_kind, language = unread_languages(z, calibration, np.where(unread, -1, kind), captions)
        unread |= by_kind
    return unread, language


def unread_scripts(z: np.ndarray, calibration: DecoyCalibration, script: np.ndarray) -> np.ndarray:
    """(n,) bool: pairs whose captions are of a writing system in which matches cannot be told from mismatches.

    z: (n,) float64 evidence of the pairs.  script: (n,) int64 of `script_codes`.
    """
    codes, count = np.unique(script, return_counts=True)
    known = codes[count >= FEWEST_UNREAD].tolist()
    if len(known) < 2:
        return np.zeros(len(script), bool)
    share = {code: calibration.share_among(z[script == code]) for code in known}
    usual = int(codes[count.argmax()])
    unread = [
        code for code in known if share[code] > _least(share, code) and not (code == usual and code == LATIN_CODE)
    ]
    return np.isin(script, unread)


def unread_languages(
    z: np.ndarray,
    calibration: DecoyCalibration,
    cluster: np.ndarray,
    captions: Callable[[np.ndarray], Sequence[str]],
) -> tuple[np.ndarray, str]:
    """(n,) bool: pairs of kinds of captions in a language in which matches cannot be told from mismatches; and the
    language of most, "" where languages need not be told.

    z: (n,) float64 evidence of the pairs.  cluster: (n,) int64 kinds of their captions, negative for those that are not
    asked about.  captions: of some of the n pairs, by their positions.

    Kinds in another language than most are compared with the language that is read best. If most captions are not in
    English and look mismatched, and no other language shows that the encoder could do better, they count as unread too:
    nothing tells an encoder that does not know their language from wrong captions, and encoders that know only English
    are common.
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
        return np.zeros(len(cluster), bool), ""
    rng = np.random.default_rng(0)
    drawn = [np.sort(rng.permutation(members)[:CAPTIONS_OF_KIND]) for members in every]
    texts = iter(captions(np.concatenate(drawn)))  # in one call, which reads every shard once
    language = {k: language_of(list(islice(texts, len(some)))) for k, some in zip(of_kind, drawn, strict=True)}
    kinds_in: dict[str, list[int]] = {}
    for k, name in language.items():
        kinds_in.setdefault(name, []).append(k)
    pairs_in = {name: np.isin(cluster, kinds) for name, kinds in kinds_in.items()}
    usual = max(pairs_in, key=lambda name: int(pairs_in[name].sum()))
    share = {name: calibration.share_among(z[pairs]) for name, pairs in pairs_in.items() if name}
    unread = [k for k, name in language.items() if name not in ("", usual) and shares[k] > _least(share, name)]
    if usual not in ("", ENGLISH) and share[usual] > _least(share, usual):
        unread += kinds_in[usual] + kinds_in.get("", [])
    return np.isin(cluster, unread), usual


def _least(share: Mapping[Any, float], name: Any) -> float:
    """The share of mismatched pairs from which on one of several groups is taken to be unread.  share: of each."""
    others = [of_other for other, of_other in share.items() if other != name]
    return max(UNREAD, min(others) + MARGIN) if others else UNREAD


def unread_note(unread: np.ndarray) -> str:
    return (
        f"{int(unread.sum()):,} captions are in a language that the encoder does not seem to read: they are not "
        "judged, and not counted in the mismatch rate. A multilingual encoder could judge them."
    )


def all_unread(share: float, language: str) -> str:
    """Why nothing is judged.  share: of the pairs that look mismatched.  language: of most, "" if it is not known."""
    of = f" ({language})" if language else ""
    return (
        f"{share:.0%} of the pairs look mismatched, and their captions are not in English{of}: either the encoder does "
        "not read their language, or nearly all are with the wrong images. A multilingual encoder would tell"
    )


def too_few_read(count: int, fewest: int) -> str:
    """Why nothing is judged where the encoder reads so few captions."""
    return f"the encoder seems to read the language of only {count} captions: at least {fewest} are needed to judge"


def language_notes(language: str) -> list[str]:
    """What a reader should know of the language of most captions, if it is told and is not English."""
    if language in ("", ENGLISH):
        return []
    return [
        f"Most captions are in another language than English ({language}). An encoder that hardly reads it takes right "
        "captions for mismatched ones; a multilingual encoder would tell."
    ]
