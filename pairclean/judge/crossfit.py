"""Scores of every pair by a model that never trained on it, and of decoys by the same models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..align.alignment import Alignment
from ..align.arrays import Rows, chunks, unit
from .scores import TEMPERATURES, Reference, Scorer, draw_decoys, hubness, pair_similarity, reference_rows

DECOYS, MOST_DECOYS = 20, 2_000_000  # a pair, and in all
NEAR = 20  # captions most like a pair's own


@dataclass(frozen=True)
class Scores:
    """score, similarity: (n,) of the pairs, float64 and float32; decoys: (m,) scores; scorers: one a fold."""

    score: np.ndarray
    similarity: np.ndarray
    decoys: np.ndarray
    scorers: list[Scorer]

    def rank(self) -> np.ndarray:
        """(n,) share of decoys below each pair's score, ties counted half; uniform for mismatched pairs."""
        if not len(self.decoys):
            return np.full(len(self.score), 0.5)
        ordered = np.sort(self.decoys)
        below = np.searchsorted(ordered, self.score, "left") + np.searchsorted(ordered, self.score, "right")
        return below / (2 * len(ordered))

    @property
    def separation(self) -> float:
        """AUROC of the observed pairs against decoys: how well the score separates, without a label."""
        return float(self.rank().mean())


def cross_scores(
    models: Sequence[Alignment],
    image: Rows,
    text: Rows,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rows: np.ndarray,
    fold: np.ndarray,
    *,
    seed: int = 0,
) -> Scores:
    """Score the pairs `rows` (n,), pair i by models[fold[i]], at the temperature that separates best.

    image: (N, d), text: (N, e), image_id and caption_id: (N,); fold: (n,) int64. A single model, one that never trained
    on any pair, scores them all.
    """
    folds = _embed_folds(models, image, text, image_id, caption_id, rows, fold)
    sample = reference_rows(rows, np.random.default_rng(seed))
    references = [Reference.embed(model, image, text, image_id, caption_id, sample) for model in models]
    found = (_score(folds, [Scorer(r, t) for r in references], len(rows), seed) for t in TEMPERATURES)
    return max(found, key=lambda scores: scores.separation)


def frozen_scores(
    models: Sequence[Alignment],
    scorers: list[Scorer],
    image: Rows,
    text: Rows,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rows: np.ndarray,
    fold: np.ndarray,
    *,
    seed: int = 0,
) -> Scores:
    """The same, against the references and at the temperature of an earlier run."""
    return _score(_embed_folds(models, image, text, image_id, caption_id, rows, fold), scorers, len(rows), seed)


@dataclass(frozen=True)
class _Fold:
    """The pairs of one fold in its model's space; place: their positions among the pairs to score."""

    place: np.ndarray
    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray


def _embed_folds(
    models: Sequence[Alignment],
    image: Rows,
    text: Rows,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rows: np.ndarray,
    fold: np.ndarray,
) -> list[_Fold]:
    out = []
    for k, model in enumerate(models):
        place = np.flatnonzero(fold % len(models) == k)
        members = rows[place]
        x, y = model.embed_image(image[members]), model.embed_text(text[members])
        out.append(_Fold(place, x, y, image_id[members], caption_id[members]))
    return out


def _score(folds: Sequence[_Fold], scorers: list[Scorer], n: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    each = int(np.clip(MOST_DECOYS // max(1, n), 1, DECOYS))
    score, similarity = np.empty(n), np.empty(n, np.float32)
    decoys = []
    for f, scorer in zip(folds, scorers, strict=True):
        if not len(f.place):
            continue
        every = np.arange(len(f.place))
        levels = scorer.levels(f.image, f.text)
        similarity[f.place] = own = pair_similarity(f.image, f.text, every, every)
        score[f.place] = scorer.combine(own, *levels, f.image_id, f.caption_id)
        left, right = draw_decoys(f.image_id, f.caption_id, each, rng)
        crossed = pair_similarity(f.image, f.text, left, right)
        decoys.append(scorer.combine(crossed, levels[0][left], levels[1][right], f.image_id[left], f.caption_id[right]))
    return Scores(score, similarity, np.concatenate(decoys), scorers)


def separates_better(learned: Scores, plain: Scores) -> bool:
    """Whether the same pairs stand out further from decoys, by more than two standard errors of the difference."""
    gain = learned.rank() - plain.rank()
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)))


def near_ranks(
    models: Sequence[Alignment],
    scores: Scores,
    image: Rows,
    text: Rows,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    rows: np.ndarray,
    fold: np.ndarray,
    *,
    seed: int = 0,
) -> np.ndarray:
    """(n,) share of the captions most like a pair's own that fit its image less than its own does.

    Arguments as for `cross_scores`, which gave `scores`. Which captions are alike is the encoder's to say, so that
    different models are asked about the same ones; they are from the reference sample, and never the same text.
    """
    sample = reference_rows(rows, np.random.default_rng(seed))
    alike = unit(np.asarray(text[sample], np.float32))
    out = np.empty(len(rows))
    for f, scorer in zip(
        _embed_folds(models, image, text, image_id, caption_id, rows, fold), scores.scorers, strict=True
    ):
        r, t = scorer.reference, scorer.temperature
        own = pair_similarity(f.image, f.text, *[np.arange(len(f.place))] * 2) - t / 2 * hubness(f.text, r.image, t)
        level = t / 2 * hubness(r.text, r.image, t)
        for part in chunks(len(f.place), 4096):
            likeness = unit(np.asarray(text[rows[f.place[part]]], np.float32)) @ alike.T
            likeness[f.caption_id[part][:, None] == r.caption_id] = -np.inf
            near = np.argpartition(-likeness, min(NEAR, len(sample)) - 1, axis=1)[:, :NEAR]
            fit = np.einsum("ik,ijk->ij", f.image[part], r.text[near]) - level[near]
            out[f.place[part]] = (fit < own[part][:, None]).mean(1)
    return out


def keeps_particulars(learned: np.ndarray, plain: np.ndarray) -> bool:
    """Whether a model's `near_ranks` are no worse than another's, up to one standard error of the difference.

    A model can tell random re-pairings apart better and yet know less: from pairs that were swapped inside one kind it
    learns the kinds and forgets the particulars. No random decoy shows that; captions like the pair's own do.
    """
    difference = learned - plain
    return bool(difference.mean() > -difference.std() / np.sqrt(len(difference)))
