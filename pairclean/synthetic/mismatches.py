"""Planted mismatches: captions moved or mixed between pairs at a known rate.

What was planted is the truth that `metrics.detection` compares a run with; it never reaches a method.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairclean.pairs import UserError, normalise_caption

Ints = NDArray[np.int64]

_TRIES = 20
#: Where captions are split into clauses; the separators are kept.
_CUT = re.compile(r"(\s*[,;]\s*|\s+(?:and|with)\s+)", re.IGNORECASE)
_SPACE = re.compile(r"(\s+)")


def plant(
    groups: NDArray[np.generic], rate: float, rng: np.random.Generator, *, owners: NDArray[np.generic] | None = None
) -> Ints:
    """Draw which caption each pair carries: captions move in a cycle through randomly chosen members of each group.

    groups: (n,) labels; captions move only between pairs with one label.  rate: share of each group to move, in [0, 1].
    owners: (n,) identities of the images, for images that several pairs share: no caption moves to its own image.
    Returns (n,) int64, the index of the caption that each pair carries. In each group round(rate * members) captions
    move, and none of them to its own pair; a caption that has no other pair to move to stays.
    Raises UserError if rate is outside [0, 1].

    >>> carried = plant(np.zeros(10), 0.4, np.random.default_rng(0))
    >>> int((carried != np.arange(10)).sum())
    4
    """
    if not 0 <= rate <= 1:
        raise UserError(f"the rate of planted mismatches is a share between 0 and 1, not {rate}: choose one of these")
    carried = np.arange(len(groups), dtype=np.int64)
    _, label, members = np.unique(groups, return_inverse=True, return_counts=True)
    for group in np.split(np.argsort(label, kind="stable"), np.cumsum(members)[:-1]):
        moved = rng.permutation(group)[: round(rate * len(group))]
        if owners is not None:
            moved = _apart(moved, owners, rng)
        carried[moved] = np.roll(moved, 1)
    return carried


def _apart(cycle: Ints, owners: NDArray[np.generic], rng: np.random.Generator) -> Ints:
    """Reorder the cycle so that no neighbours have the same owner; members are dropped if that is impossible."""

    def clashes() -> Ints:
        return np.flatnonzero(owners[cycle] == owners[np.roll(cycle, 1)])

    for _ in range(_TRIES):
        for one, other in zip(found := clashes(), rng.integers(max(1, len(cycle)), size=len(found)), strict=True):
            cycle[[one, other]] = cycle[[other, one]]
    while len(found := clashes()):
        cycle = np.delete(cycle, found)
    return cycle


#: A caption on fewer pictures, or a picture with fewer captions, is no boilerplate and no placeholder.
_FEWEST_REPEATS = 12


def plant_mixture(
    groups: NDArray[np.generic], rate: float, rng: np.random.Generator, *, owners: NDArray[np.generic]
) -> tuple[Ints, Ints, NDArray[np.object_]]:
    """Draw which image and which caption each pair carries, with mismatches of all kinds that the judge tells apart.

    groups: (n,) kinds of the captions.  rate: share of the pairs to change, in [0, 1].  owners: (n,) identities of the
    images.  Half of the changed pairs get the caption of any other one of them, a quarter that of another one of their
    kind, an eighth one and the same caption, and an eighth one and the same image; if that is fewer than 12 pairs, the
    last two are left out, and more captions move at random.
    Returns the images and the captions, (n,) int64 indices of pairs, and (n,) the kind of each mismatch ("" for none).
    """
    n = len(groups)
    order = rng.permutation(n)
    count = round(rate * n)
    repeats = round(count / 8)
    repeats = repeats if repeats >= _FEWEST_REPEATS and count + 2 <= n else 0
    within = round(count / 4)
    ends = np.cumsum([0, repeats, repeats, within, count - within - 2 * repeats])
    generic, placeholder, near, random = (order[a:b] for a, b in pairwise(ends.tolist()))
    image, caption = np.arange(n, dtype=np.int64), np.arange(n, dtype=np.int64)
    kind = np.full(n, "", object)
    for name, members, label in (("within_kind", near, groups[near]), ("random", random, np.zeros(len(random)))):
        caption[members] = members[plant(label, 1.0, rng, owners=owners[members])]
        kind[members[caption[members] != members]] = name
    if repeats:  # pairs that keep their own lend the caption and the image that are repeated
        caption[generic], image[placeholder] = order[-1], order[-2]
        kind[generic], kind[placeholder] = "generic", "placeholder"
    return image, caption, kind


def mix(caption: str, other: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """`caption` with half of its clauses taken from `other`; if it has only one clause, half of its words.

    Clauses end at commas, semicolons, "and" and "with". The replaced clauses are consecutive, and so are those that
    replace them.  Returns the new caption, and the part of it that is another's; None for a caption that cannot be
    split, or if every attempt results in the same text.

    >>> mix("a red ball, a blue box", "two cats, a green house", np.random.default_rng(0))
    ('a red ball, a green house', 'a green house')
    """
    own = normalise_caption(caption)
    caption = caption.strip(" ,;\t\n")
    cut = _CUT if _CUT.search(caption) else _SPACE
    pieces, theirs = cut.split(caption), [piece for piece in cut.split(other.strip())[::2] if piece]
    count = (len(pieces) + 1) // 2  # every second piece is a separator
    if count < 2 or not theirs:
        return None
    for _ in range(_TRIES):
        half = count // 2
        place, start = rng.integers(count - half + 1), rng.integers(max(1, len(theirs) - half + 1))
        mixed = list(pieces)
        for i in range(half):
            mixed[2 * (place + i)] = theirs[(start + i) % len(theirs)]
        text = "".join(mixed)
        if normalise_caption(text) not in (own, normalise_caption(caption)):
            return text, "".join(mixed[2 * place : 2 * (place + half) - 1])
    return None


def group_labels(values: Sequence[Any]) -> Ints:
    """(n,) int64, the same number for equal values (which may be lists); -1 for None.

    >>> group_labels(["a", ["b", "c"], None, "a"]).tolist()
    [0, 1, -1, 0]
    """
    seen: dict[str, int] = {}
    return np.array([-1 if v is None else seen.setdefault(repr(v), len(seen)) for v in values], np.int64)
