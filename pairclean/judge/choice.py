"""Which score the pairs are judged by, and the models that give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..align.zero_shot import ZeroShot
from ..arrays import Pairs
from .compared import PairScorers
from .crossfit import CrossFit, Scores, cosine_scores, separates_better
from .kinds import PairKinds
from .lemon import NeighbourIndex, lemon_scores
from .particulars import keeps_particulars, near_ranks
from .phrased import PhraseReader, Words, read_sample
from .rounds import Learned
from .scores import Scorer

T = TypeVar("T")

#: Scores in the encoder's own space. The others, "first" and "aligned", are in the space of a round of learning.
ENCODER_SCORES = ("clip", "negclip", "lemon")
#: The score by scorers that the user gave.
GIVEN = "scorer"

NOT_LEARNED = (
    "Learning from the judged pairs did not set them further apart from random re-pairings, or less apart "
    "from captions like their own, so they are judged by what it started from."
)
FOREIGN = (
    "The encoder's own similarities do not tell matches from mismatches here, so that the alignment was learned from "
    "nothing."
)
PARTLY = (
    "Some captions are partly wrong. What was learned in the second round took them for right ones, so the pairs are "
    "judged by the first."
)


@dataclass(frozen=True)
class Choice:
    """The score that is used, and the models that give it.

    unbiased: scores of models that used no judgement of these pairs, which are those of `first`.
    aligned_similarity: (n,) of the pairs.
    """

    score: str
    cross_fit: CrossFit
    scores: Scores
    first: CrossFit
    unbiased: Scores
    aligned_similarity: np.ndarray
    notes: list[str]

    def by_first(self) -> Choice:
        """The same, judged by what used no judgement of these pairs."""
        name = "first" if self.first.learned else "negclip"
        return replace(self, score=name, cross_fit=self.first, scores=self.unbiased, notes=[*self.notes, PARTLY])


def with_phrases(
    cross_fit: CrossFit, scores: Scores, learned: Learned, kinds: PairKinds, pairs: Pairs, words: Words, seed: int
) -> Scores:
    """The same scores, with a sample of the captions read by phrases; as they are if they are not a `Scorer`'s."""
    if scores.kinds is None:
        return scores
    reader = PhraseReader(cross_fit, of_kind(Scorer, scores.scorers), learned.near(pairs), words)
    return replace(scores, phrased=read_sample(reader, kinds.groups[len(kinds.groups) // 2], seed=seed))


def choose(
    pairs: Pairs,
    rows: np.ndarray,
    learned: Learned,
    kinds: PairKinds,
    wanted: str,
    comparable: bool,
    seed: int,
    device: str,
) -> Choice:
    """The score that is wanted; "auto" takes the second round's, if it separates better and keeps particulars."""
    near = learned.near(pairs)
    first = learned.cross_fit(learned.first, pairs, rows)
    scores = first.scores(near, kinds, seed=seed)
    foreign = comparable and first.learned and learned.method != "canonical"
    name, notes = "first" if first.learned else "negclip", [FOREIGN] if foreign else []
    choice = Choice(name, first, scores, first, scores, scores.similarity, notes)
    if learned.aligned:
        second = learned.cross_fit(learned.aligned, pairs, rows)
        better = second.scores(near, kinds, seed=seed)
        choice = replace(choice, aligned_similarity=better.similarity)
        if wanted == "aligned" or (
            wanted == "auto"
            and separates_better(better, scores)
            and keeps_particulars(
                near_ranks(second, near, better, seed=seed), near_ranks(first, near, scores, seed=seed)
            )
        ):
            choice = replace(choice, score="aligned", cross_fit=second, scores=better)
        elif wanted == "auto":
            choice = replace(choice, notes=[*notes, NOT_LEARNED])
    if wanted in ENCODER_SCORES and wanted != choice.score:
        encoder = CrossFit.single(ZeroShot(device=device), rows)
        scores = encoder_scores(wanted, encoder, near, kinds, seed)
        choice = replace(choice, score=wanted, cross_fit=encoder, scores=scores, first=encoder, unbiased=scores)
    return choice


def by_scorers(scorers: PairScorers, near: Pairs, rows: np.ndarray, kinds: PairKinds, seed: int) -> Choice:
    """By scorers that used no judgement of the pairs that they score."""
    cross_fit = scorers.cross_fit(rows)
    scores = cross_fit.scores(scorers.pairs(near), kinds, seed=seed)
    return Choice(GIVEN, cross_fit, scores, cross_fit, scores, scores.similarity * scorers.units(rows), [])


def encoder_scores(
    name: str,
    encoder: CrossFit,
    pairs: Pairs,
    kinds: PairKinds,
    seed: int,
    earlier: Sequence[Scorer | NeighbourIndex] | None = None,
) -> Scores:
    """By the encoder's similarity: of the pair alone, without its hubness, or with its neighbours'.

    earlier: the scorers of an earlier judgement by the same score.
    """
    if name == "clip":
        return cosine_scores(pairs, encoder.rows, seed=seed)
    if name == "lemon":
        index = None if earlier is None else of_kind(NeighbourIndex, earlier)[0]
        return lemon_scores(pairs, encoder.rows, index=index, seed=seed)
    return encoder.scores(pairs, kinds, seed=seed, scorers=None if earlier is None else of_kind(Scorer, earlier))


def of_kind(kind: type[T], scorers: Sequence[object]) -> list[T]:
    return [scorer for scorer in scorers if isinstance(scorer, kind)]
