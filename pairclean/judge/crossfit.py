"""Scores of every pair by a model that never trained on it, and of decoys by the same models.

Pairs are streamed: what is held of each is a few numbers, and vectors of the reference sample, of a chunk of pairs and
of the pairs that decoys are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..align.alignment import Alignment
from ..align.zero_shot import ZeroShot
from ..arrays import Rows, chunks, unit
from .scores import (
    DECOY_PAIRS,
    TEMPERATURES,
    Reference,
    Scorer,
    draw_decoys,
    hubness,
    hubness_at,
    pair_similarity,
    reference_rows,
)

NEAR = 20  # captions most like a pair's own
CHUNK = 16384  # pairs embedded at once
CHOOSING = 20_000  # pairs that a temperature is chosen by, at most


@dataclass(frozen=True)
class Scores:
    """score, similarity: (n,) of the pairs, float64 and float32; decoys: (m,) scores; scorers: what scores other pairs
    alike, one a model."""

    score: np.ndarray
    similarity: np.ndarray
    decoys: np.ndarray
    scorers: list[Any]

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
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
) -> Scores:
    """Score the pairs `rows` (n,), pair i by models[fold[i]], at the one of `temperatures` that separates best.

    image: (N, d), text: (N, e), image_id and caption_id: (N,); fold: (n,) int64. A single model, one that never trained
    on any pair, scores them all. Of more than CHOOSING pairs a sample of so many chooses the temperature.
    """
    if len(rows) > CHOOSING and len(temperatures) > 1:
        some = np.sort(np.random.default_rng(seed).choice(len(rows), CHOOSING, replace=False))
        pairs = (image, text, image_id, caption_id, rows[some], fold[some])
        best = cross_scores(models, *pairs, temperatures=temperatures, seed=seed)
        temperatures = [best.scorers[0].temperature]
    sample = reference_rows(rows, np.random.default_rng(seed))
    references = [Reference.embed(model, image, text, image_id, caption_id, sample) for model in models]
    folds = _stream(models, references, temperatures, image, text, rows, fold, image_id, caption_id, seed)
    found = (
        _score(folds, [Scorer(r, t) for r in references], i, image_id[rows], caption_id[rows])
        for i, t in enumerate(temperatures)
    )
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
    references, temperatures = [s.reference for s in scorers], [scorers[0].temperature]
    folds = _stream(models, references, temperatures, image, text, rows, fold, image_id, caption_id, seed)
    return _score(folds, scorers, 0, image_id[rows], caption_id[rows])


def cosine_scores(
    image: Rows, text: Rows, image_id: np.ndarray, caption_id: np.ndarray, rows: np.ndarray, *, seed: int = 0
) -> Scores:
    """Arguments as for `cross_scores`; the score is the plain cosine of the encoder's own embeddings."""
    own = np.concatenate([(x * y).sum(1) for _, x, y in embedded(ZeroShot(), image, text, rows)])
    decoys = Decoys.draw(ZeroShot(), image, text, image_id[rows], caption_id[rows], rows, np.random.default_rng(seed))
    return Scores(own.astype(np.float64), own, decoys.similarity.astype(np.float64), [])


def embedded(
    model: Alignment, image: Rows, text: Rows, rows: np.ndarray, *, size: int | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The pairs `rows` in a model's space, some at a time: which of them, their images and their captions."""
    for part in chunks(len(rows), size or CHUNK):
        yield part, model.embed_image(image[rows[part]]), model.embed_text(text[rows[part]])


@dataclass(frozen=True)
class Decoys:
    """Random re-pairings of `rows`.  left, right: (m,) positions in rows of their images and captions; similarity: (m,)
    float32."""

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    @staticmethod
    def draw(
        model: Alignment,
        image: Rows,
        text: Rows,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        rows: np.ndarray,
        rng: np.random.Generator,
        *,
        pairs: int = DECOY_PAIRS,
    ) -> Decoys:
        """image_id, caption_id: (n,) of the rows; pairs: how many of them take part, at most."""
        left, right = draw_decoys(image_id, caption_id, rng, pairs=pairs)
        used = np.unique(np.concatenate([left, right]))
        x, y = model.embed_image(image[rows[used]]), model.embed_text(text[rows[used]])
        similarity = pair_similarity(x, y, np.searchsorted(used, left), np.searchsorted(used, right))
        return Decoys(left, right, similarity)


@dataclass(frozen=True)
class _Fold:
    """What is kept of the pairs of one fold; place: their positions among the pairs to score.

    similarity: (n,) float32; image_level, text_level: (T, n) float64, hubness at each temperature.
    """

    place: np.ndarray
    similarity: np.ndarray
    image_level: np.ndarray
    text_level: np.ndarray
    decoys: Decoys


def _stream(
    models: Sequence[Alignment],
    references: Sequence[Reference],
    temperatures: Sequence[float],
    image: Rows,
    text: Rows,
    rows: np.ndarray,
    fold: np.ndarray,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    seed: int,
) -> list[_Fold]:
    rng = np.random.default_rng(seed)
    out = []
    for k, (model, reference) in enumerate(zip(models, references, strict=True)):
        place = np.flatnonzero(fold % len(models) == k)
        members = rows[place]
        similarity = np.empty(len(place), np.float32)
        image_level, text_level = np.empty((2, len(temperatures), len(place)))
        for part, x, y in embedded(model, image, text, members):
            similarity[part] = np.einsum("ij,ij->i", x, y)
            image_level[:, part] = hubness_at(x, reference.text, temperatures, model.device)
            text_level[:, part] = hubness_at(y, reference.image, temperatures, model.device)
        ids = image_id[members], caption_id[members]
        decoys = Decoys.draw(model, image, text, *ids, members, rng, pairs=max(1, DECOY_PAIRS // len(models)))
        out.append(_Fold(place, similarity, image_level, text_level, decoys))
    return out


def _score(
    folds: Sequence[_Fold], scorers: list[Scorer], level: int, image_id: np.ndarray, caption_id: np.ndarray
) -> Scores:
    """level: the temperature's place among those that the folds have hubness at; ids: (n,) of the pairs to score."""
    score, similarity = np.empty(len(image_id)), np.empty(len(image_id), np.float32)
    decoys = []
    for f, scorer in zip(folds, scorers, strict=True):
        images, captions, x, y = image_id[f.place], caption_id[f.place], f.image_level[level], f.text_level[level]
        similarity[f.place] = f.similarity
        score[f.place] = scorer.combine(f.similarity, x, y, images, captions)
        left, right = f.decoys.left, f.decoys.right
        decoys.append(scorer.combine(f.decoys.similarity, x[left], y[right], images[left], captions[right]))
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
    for k, (model, scorer) in enumerate(zip(models, scores.scorers, strict=True)):
        place = np.flatnonzero(fold % len(models) == k)
        r, t = scorer.reference, scorer.temperature
        level = t / 2 * hubness(r.text, r.image, t, model.device)
        for part, x, y in embedded(model, image, text, rows[place], size=4096):
            at = place[part]
            likeness = unit(np.asarray(text[rows[at]], np.float32)) @ alike.T
            likeness[caption_id[rows[at]][:, None] == r.caption_id] = -np.inf
            near = np.argpartition(-likeness, min(NEAR, len(sample)) - 1, axis=1)[:, :NEAR]
            own = np.einsum("ij,ij->i", x, y) - t / 2 * hubness(y, r.image, t, model.device)
            fit = np.einsum("ik,ijk->ij", x, r.text[near]) - level[near]
            out[at] = (fit < own[:, None]).mean(1)
    return out


def keeps_particulars(learned: np.ndarray, plain: np.ndarray) -> bool:
    """Whether a model's `near_ranks` are no worse than another's, up to one standard error of the difference.

    A model can tell random re-pairings apart better and yet know less: from pairs that were swapped inside one kind it
    learns the kinds and forgets the particulars. No random decoy shows that; captions like the pair's own do.
    """
    difference = learned - plain
    return bool(difference.mean() > -difference.std() / np.sqrt(len(difference)))
