"""Scores of every pair by a model that never trained on it, and scores of decoys by the same models.

Pairs are streamed. What is kept in memory is a few numbers per pair, and the vectors of the reference sample, of one
chunk of pairs, and of the pairs that decoys are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..align.zero_shot import ZeroShot
from ..arrays import INNER_PRODUCT, Comparison, Pairs, chunks, unique_values
from .embedded import PART, Vectors, both_sides, embedded
from .evidence import Scored
from .kinds import PairKinds, draw_within
from .scores import (
    DECOY_PAIRS,
    TEMPERATURES,
    Model,
    Reference,
    Scorer,
    draw_decoys,
    hubness_at,
    on_all_cores,
    pair_codes,
    pair_similarity,
    reference_rows,
    spread,
)
from .siblings import Siblings
from .standing import Standing

#: Re-pairings within kinds per pair, at each scale.
WITHIN = 10
CHOOSING = 20_000  # the most pairs by which a temperature is chosen
#: Decoys of one kind whose standing among others is measured, at most; their density needs no more.
STANDING = 100_000
#: The weight of the other captions of an image, from which on they count in `ScoredKinds.siblings`.
SPOKEN_FOR = 0.5


@dataclass(frozen=True)
class ScoredKinds:
    """What the kinds of pairs and of decoys add to their scores.

    image, text: (n,) int64 kinds of the pairs.  standing: (n,) float64, NaN where it is not known.
    spread: (n,) float64, how widely the similarities of each pair's caption with images spread.
    decoys: (m,) random re-pairings.  within: re-pairings within kinds of captions, from the coarsest kinds to the
    finest.  The standing is known of at most STANDING of each.
    copies: (n,) int64, how many of the pairs have this image and this caption.
    clusters: of images and of captions; kinds from these numbers on are single, repeated identities.
    siblings: the share of the pairs whose standing rests on other captions of their image too.
    """

    image: np.ndarray
    text: np.ndarray
    standing: np.ndarray
    spread: np.ndarray
    decoys: Scored
    within: tuple[Scored, ...]
    copies: np.ndarray
    clusters: tuple[int, int]
    siblings: float = 0.0


@dataclass(frozen=True)
class Phrased:
    """What the phrases of captions add to the scores of n pairs (see `phrased`).

    weakest: (n,) float64, the score of each pair's weakest phrase, NaN where it is not known.
    decoys, within: of re-pairings at random and within kinds, (m, 2) float64 each: their scores, and those of their
    weakest phrases.  partial: (m, 2), the same of captions of which a phrase was exchanged.
    source: (m,) int64, the pair that each of `partial` was made from.
    """

    weakest: np.ndarray
    decoys: np.ndarray
    within: np.ndarray
    partial: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Scores of n pairs and of m decoys.

    score: (n,) float64, similarity: (n,) float32, of the pairs.  decoys: (m,) float64.
    scorers: what gives other pairs such scores, one per model; empty for the plain cosine.
    kinds: None if the data are taken to be of one kind.  learned: whether the space was learned from such pairs.
    phrased: None if captions were not read by phrases.
    """

    score: np.ndarray
    similarity: np.ndarray
    decoys: np.ndarray
    scorers: Sequence[Any]
    kinds: ScoredKinds | None = None
    learned: bool = False
    phrased: Phrased | None = None

    @property
    def scored(self) -> Scored:
        """The pairs, with their kinds."""
        kinds = self.kinds
        if kinds is None:
            return Scored.plain(self.score)
        weakest = np.full(len(self.score), np.nan) if self.phrased is None else self.phrased.weakest
        return Scored(self.score, kinds.image, kinds.text, kinds.standing, weakest, kinds.spread)

    @property
    def scored_decoys(self) -> Scored:
        return Scored.plain(self.decoys) if self.kinds is None else self.kinds.decoys

    def without_standing(self) -> Scores:
        """The same, as if nothing were known of how pairs stand among others of these data."""
        if self.kinds is None:
            return self
        return replace(self, kinds=replace(self.kinds, standing=np.full(len(self.score), np.nan)))

    def rank(self) -> np.ndarray:
        """(n,) the share of decoys below each pair's score, ties counted half; uniform for mismatched pairs."""
        if not len(self.decoys):
            return np.full(len(self.score), 0.5)
        ordered = np.sort(self.decoys)
        below = np.searchsorted(ordered, self.score, "left") + np.searchsorted(ordered, self.score, "right")
        return below / (2 * len(ordered))

    @property
    def separation(self) -> float:
        """AUROC of the observed pairs against decoys: how well the score separates, without a label."""
        return float(self.rank().mean())


@dataclass(frozen=True)
class CrossFit:
    """Models that were fitted on folds of the pairs, and which of them scores which pair.

    rows: (n,) int64, the pairs to score.
    fold: (n,) int64; pair rows[i] is scored by models[fold[i] % len(models)], which never trained on it.
    """

    models: Sequence[Model]
    rows: np.ndarray
    fold: np.ndarray

    @staticmethod
    def single(model: Model, rows: np.ndarray) -> CrossFit:
        """One model, which trained on none of the pairs, scores all of them."""
        return CrossFit([model], rows, np.zeros(len(rows), np.int64))

    def take(self, which: np.ndarray) -> CrossFit:
        """For some of the pairs.  which: (m,) positions in `rows`."""
        return CrossFit(self.models, self.rows[which], self.fold[which])

    @property
    def learned(self) -> bool:
        """Whether any of the models differs from the encoder."""
        return any(model.learned for model in self.models)

    def members(self) -> Iterator[tuple[Model, np.ndarray]]:
        """Each model, with the positions in `rows` of the pairs that it scores."""
        for k, model in enumerate(self.models):
            yield model, np.flatnonzero(self.fold % len(self.models) == k)

    def scores(
        self,
        pairs: Pairs,
        kinds: PairKinds | None = None,
        *,
        temperatures: Sequence[float] = TEMPERATURES,
        seed: int = 0,
        scorers: Sequence[Scorer] | None = None,
    ) -> Scores:
        """Score the pairs at the one of `temperatures` that separates them best from decoys.

        pairs: (N) in the encoder's own vectors.  kinds: of the pairs to score; None takes them to be of one kind.
        If there are more than CHOOSING pairs to score, the temperature is chosen by a sample of them.
        scorers: those of an earlier run, one per model; their references and temperature are then used as they are.
        """
        if scorers is not None:
            temperatures = [scorers[0].temperature]
            references = [scorer.reference for scorer in scorers]
        else:
            if len(self.rows) > CHOOSING and len(temperatures) > 1:
                some = np.sort(np.random.default_rng(seed).choice(len(self.rows), CHOOSING, replace=False))
                best = self.take(some).scores(pairs, temperatures=temperatures, seed=seed)
                temperatures = [best.scorers[0].temperature]
            sample = pairs.take(reference_rows(self.rows, np.random.default_rng(seed)))
            references = [Reference.of(sample.through(model)) for model in self.models]
        folds = self._stream(pairs, kinds, references, temperatures, seed)
        image_id, caption_id = pairs.image_id[self.rows], pairs.caption_id[self.rows]
        scored = [
            _score(folds, scorers or [Scorer(r, t) for r in references], i, image_id, caption_id, kinds)
            for i, t in enumerate(temperatures)
        ]
        index = max(range(len(scored)), key=lambda i: scored[i].separation)
        if kinds is None:
            return scored[index]
        found = self._with_standing(scored[index], pairs, kinds, folds, index, float(temperatures[index]), seed)
        return replace(found, learned=self.learned)

    def _with_standing(
        self,
        scores: Scores,
        pairs: Pairs,
        kinds: PairKinds,
        folds: Sequence[_Fold],
        index: int,
        temperature: float,
        seed: int,
    ) -> Scores:
        """index: of the temperature in the folds' hubness."""
        rng = np.random.default_rng(seed)
        standing, spoken_for = np.full(len(self.rows), np.nan), 0
        decoys: list[np.ndarray] = []
        within: list[list[np.ndarray]] = [[] for _ in kinds.groups]
        for (model, place), f in zip(self.members(), folds, strict=True):
            members = self.rows[place]
            kind = kinds.peer_image[place], kinds.peer_text[place]
            hubs = f.image_hubness[index] / 2, f.text_hubness[index] / 2
            images, captions = both_sides(model, pairs, members)
            ids = pairs.image_id[members], pairs.caption_id[members]
            near = Standing.of((images, captions), ids, kind, hubs, temperature, rng, model.comparison)
            every = np.arange(len(place))
            standing[place] = near.measured(images, captions, f.similarity, every, every)
            limit = STANDING // len(self.models)
            drawn = [f.decoys, *f.within]
            of_drawn = []
            for each in drawn:
                some = np.sort(rng.permutation(len(each.left))[:limit])
                found = np.full(len(each.left), np.nan)
                found[some] = near.measured(images, captions, each.similarity[some], each.left[some], each.right[some])
                of_drawn.append(found)
            has_vectors = model.comparison is INNER_PRODUCT
            siblings = Siblings.of(captions, *ids, standing[place]) if f.within and has_vectors else None
            if siblings is not None:
                positions = [(each.left, each.right) for each in drawn]
                standing[place], of_drawn, weight = siblings.joined(
                    standing[place], positions, of_drawn, 1 + len(f.within) // 2
                )
                spoken_for += int((weight >= SPOKEN_FOR).sum())
            for target, found in zip((decoys, *within), of_drawn, strict=True):
                target.append(found)
        assert scores.kinds is not None
        about = replace(
            scores.kinds,
            standing=standing,
            siblings=spoken_for / max(1, len(standing)),
            decoys=replace(scores.kinds.decoys, standing=np.concatenate(decoys)),
            within=tuple(
                replace(drawn, standing=np.concatenate(parts))
                for drawn, parts in zip(scores.kinds.within, within, strict=True)
            ),
        )
        return replace(scores, kinds=about)

    def _stream(
        self,
        pairs: Pairs,
        kinds: PairKinds | None,
        references: Sequence[Reference],
        temperatures: Sequence[float],
        seed: int,
    ) -> list[_Fold]:
        rng = np.random.default_rng(seed)
        out = []
        for (model, place), reference in zip(self.members(), references, strict=True):
            members = self.rows[place]
            images, captions = both_sides(model, pairs, members)
            measured = _measured(model, reference, images, captions, len(place), temperatures)
            by, limit = model.comparison, max(1, DECOY_PAIRS // len(self.models))
            ids = pairs.image_id[members], pairs.caption_id[members]
            decoys = Decoys.draw(images, captions, *ids, rng, comparison=by, limit=limit)
            groups = np.zeros((0, len(place))) if kinds is None else kinds.groups[:, place]
            within = [Decoys.draw_within(images, captions, of, *ids, rng, comparison=by, limit=limit) for of in groups]
            out.append(_Fold(place, *measured, decoys, within))
        return out


def _measured(
    model: Model, reference: Reference, images: Vectors, captions: Vectors, n: int, temperatures: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Similarity, image_hubness, text_hubness and spread of n pairs, as in `_Fold`."""
    similarity, caption_spread = np.empty(n, np.float32), np.empty(n)
    image_hubness, text_hubness = np.empty((2, len(temperatures), n))
    by, device = model.comparison, model.device
    parts = list(chunks(n, PART))

    def measure(k: int, _: str) -> None:
        part = parts[k]
        x, y = images[part], captions[part]
        similarity[part] = by.of_pairs(x, y)
        image_hubness[:, part] = hubness_at(x, reference.text, temperatures, device, by.with_texts)
        text_hubness[:, part] = hubness_at(y, reference.image, temperatures, device, by.with_images)
        caption_spread[part] = spread(y, reference.image, by.with_images)

    on_all_cores(measure, len(parts), by)
    return similarity, image_hubness, text_hubness, caption_spread


def cosine_scores(pairs: Pairs, rows: np.ndarray, *, seed: int = 0) -> Scores:
    """Scores of the pairs `rows` (n,): the plain cosine of the encoder's own vectors."""
    own = np.concatenate([(x * y).sum(1) for _, x, y in embedded(ZeroShot(), pairs, rows)])
    ids = pairs.image_id[rows], pairs.caption_id[rows]
    decoys = Decoys.draw(*both_sides(ZeroShot(), pairs, rows), *ids, np.random.default_rng(seed))
    return Scores(own.astype(np.float64), own, decoys.similarity.astype(np.float64), [])


@dataclass(frozen=True)
class Decoys:
    """Random re-pairings of `rows`.  left, right: (m,) positions in `rows` of their images and captions;
    similarity: (m,) float32."""

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    @staticmethod
    def draw(
        images: Vectors,
        captions: Vectors,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        rng: np.random.Generator,
        *,
        comparison: Comparison = INNER_PRODUCT,
        limit: int = DECOY_PAIRS,
    ) -> Decoys:
        """images, captions: of n pairs; image_id, caption_id: (n,).  limit: the most pairs that are re-paired."""
        return Decoys._of(images, captions, *draw_decoys(image_id, caption_id, rng, limit=limit), comparison)

    @staticmethod
    def draw_within(
        images: Vectors,
        captions: Vectors,
        groups: np.ndarray,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        rng: np.random.Generator,
        *,
        comparison: Comparison = INNER_PRODUCT,
        limit: int,
    ) -> Decoys:
        """Re-pairings within groups.  groups: (n,) int64, negative for pairs that take no part."""
        drawn = draw_within(groups, image_id, caption_id, rng, draws=WITHIN, limit=limit)
        return Decoys._of(images, captions, *drawn, comparison)

    @staticmethod
    def _of(images: Vectors, captions: Vectors, left: np.ndarray, right: np.ndarray, comparison: Comparison) -> Decoys:
        used = unique_values(np.concatenate([left, right]))
        at = np.searchsorted(used, left), np.searchsorted(used, right)
        return Decoys(left, right, pair_similarity(images[used], captions[used], *at, comparison))


@dataclass(frozen=True)
class _Fold:
    """What is kept of the pairs of one fold.  place: their positions among the pairs to score.

    similarity: (n,) float32.  image_hubness, text_hubness: (T, n) float64, at each temperature.
    spread: (n,) float64, of each caption's similarities with images.
    """

    place: np.ndarray
    similarity: np.ndarray
    image_hubness: np.ndarray
    text_hubness: np.ndarray
    spread: np.ndarray
    decoys: Decoys
    within: Sequence[Decoys]


def _score(
    folds: Sequence[_Fold],
    scorers: Sequence[Scorer],
    index: int,
    image_id: np.ndarray,
    caption_id: np.ndarray,
    kinds: PairKinds | None,
) -> Scores:
    """index: of the temperature in the folds' hubness.  image_id, caption_id: (n,) of the pairs to score."""
    score, similarity = np.empty(len(image_id)), np.empty(len(image_id), np.float32)
    caption_spread = np.empty(len(image_id))
    of = kinds or PairKinds.single(len(image_id))
    decoys: list[Scored] = []
    within: list[list[Scored]] = [[] for _ in of.groups]
    for f, scorer in zip(folds, scorers, strict=True):
        images, captions, x, y = image_id[f.place], caption_id[f.place], f.image_hubness[index], f.text_hubness[index]
        similarity[f.place], caption_spread[f.place] = f.similarity, f.spread
        score[f.place] = scorer.combine(f.similarity, x, y, images, captions)
        for target, drawn in ((decoys, f.decoys), *zip(within, f.within, strict=True)):
            left, right = f.place[drawn.left], f.place[drawn.right]
            hubs = x[drawn.left], y[drawn.right]
            found = scorer.combine(drawn.similarity, *hubs, image_id[left], caption_id[right])
            of_drawn = Scored.of_kinds(found, of.image[left], of.text[right])
            target.append(replace(of_drawn, spread=f.spread[drawn.right]))
    random = Scored.joined(decoys)
    if kinds is None:
        return Scores(score, similarity, random.score, scorers)
    _, inverse, count = np.unique(pair_codes(image_id, caption_id), return_inverse=True, return_counts=True)
    scales = tuple(Scored.joined(parts) for parts in within)
    unknown = np.full(len(score), np.nan)
    about = ScoredKinds(
        kinds.image, kinds.text, unknown, caption_spread, random, scales, count[inverse], kinds.clusters
    )
    return Scores(score, similarity, random.score, scorers, about)


def separates_better(learned: Scores, plain: Scores) -> bool:
    """Whether `learned` separates the same pairs better from decoys, by more than two standard errors."""
    gain = learned.rank() - plain.rank()
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)))
