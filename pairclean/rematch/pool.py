"""The pairs that take part in rematching, their candidates, and one plan over them.

What one-to-one means. Every pair of the pool is one place for its caption, and a place is given to one image (with
capacity k, to at most k). A text that several pairs have has as many places as copies. No image is given a text that
it, or a copy of it, has already. A caption keeps the place of its own pair as long as that pair stays together; with
`reuse`, every caption can be given away although its own pair keeps it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from ..arrays import Pairs, chunks
from ..judge.scores import Scorer, among, pair_codes, pair_similarity
from .candidates import ComparedGallery, Edges, Finder, Gallery, best
from .plan import Graph, round_plan, transport

#: The assumed share of displaced images without a partner in the data, until it is estimated.
ORPHANS = 0.3
#: Edges that cannot carry more mass than this are left out of the plan.
LEAST_MASS = 1e-4
#: A pool of up to this many pairs is searched again when pairs join it; in a larger one only the new ones are searched.
SEARCHED_ANEW = 20_000
#: Edges that are scored at once.
EDGES = 2**20


@dataclass(frozen=True)
class Pool:
    """The pairs that take part.  pairs: m, in the rematcher's space, in memory; rows of pairs where a `PairScorer`
    compares them.  clean: (m,) probability of staying together."""

    pairs: Pairs
    clean: np.ndarray

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, rows: np.ndarray) -> Pool:
        return Pool(self.pairs.take(rows), self.clean[rows])

    @staticmethod
    def joined(*pools: Pool) -> Pool:
        return Pool(Pairs.joined(*(p.pairs for p in pools)), np.concatenate([p.clean for p in pools]))


@dataclass(frozen=True)
class RematchOptions:
    """How captions are given to images.

    carried: the `pair_codes` of all pairs of the data; a caption that an image, or a copy of it, has is no rematch.
    capacity: the number of images that one caption can be given to.
    reuse: whether captions that their own pairs keep can be given to other images too.
    prior: log odds that a pair is clean before anything is known of it. It is given if the rematcher trained on none of
    the pairs, so that its own scores are evidence of whether they stay together.
    orphans: the share of displaced images, and of displaced captions, that have no partner in the pool.
    """

    capacity: int = 1
    reuse: bool = False
    prior: float | None = None
    orphans: float = ORPHANS
    carried: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Proposals:
    """For each pair of the pool.  partner: (m,) int64, the row of the proposed caption in the pool, -1 for none.
    mass: (m,) the plan's mass on that caption's text, all its copies together.  away: (m,) its mass on all other
    captions.  given: (m,) the mass of its own caption on all other images."""

    partner: np.ndarray
    mass: np.ndarray
    away: np.ndarray
    given: np.ndarray


def propose(pool: Pool, scorer: Scorer, options: RematchOptions = RematchOptions()) -> Proposals:
    """One plan over the pool, rounded one-to-one; pairs that the plan leaves together get no proposal."""
    return CandidatePool(pool, scorer, options).propose(options)


@dataclass(frozen=True)
class _Sides:
    """What the plan needs of the pairs, (m,) each: hubness of both sides, and their similarity."""

    image_id: np.ndarray
    caption_id: np.ndarray
    clean: np.ndarray
    image_hubness: np.ndarray
    text_hubness: np.ndarray
    similarity: np.ndarray

    def partners(self, reuse: bool) -> float:
        """The number of captions that are available."""
        return len(self.clean) if reuse else max(1.0, float((1 - self.clean).sum()))

    @staticmethod
    def of(pool: Pool, scorer: Scorer) -> _Sides:
        pairs, rows = pool.pairs, np.arange(len(pool))
        similarity = pair_similarity(pairs.image, pairs.text, rows, rows, scorer.comparison)
        hubness = scorer.hubness(pairs.image, pairs.text)
        return _Sides(pairs.image_id, pairs.caption_id, pool.clean, *hubness, similarity)

    def before(self, others: _Sides) -> _Sides:
        both = zip(vars(self).values(), vars(others).values(), strict=True)
        return _Sides(*(np.concatenate(parts) for parts in both))

    def score(
        self, scorer: Scorer, image: np.ndarray, caption: np.ndarray, similarity: np.ndarray, size: float
    ) -> np.ndarray:
        hubness = self.image_hubness[image], self.text_hubness[caption]
        return scorer.combine(similarity, *hubness, self.image_id[image], self.caption_id[caption], size=size)

    def scored(self, scorer: Scorer, edges: Edges, carried: np.ndarray, size: float) -> Edges:
        """Edges of similarities -> of scores, without captions that an image, or a copy of it, has already."""
        codes = np.sort(np.append(carried, pair_codes(self.image_id, self.caption_id)))
        new, score = np.empty(len(edges.value), bool), np.empty(len(edges.value), np.float32)
        for part in chunks(len(new), EDGES):
            image, caption = edges.image[part], edges.caption[part]
            new[part] = ~among(pair_codes(self.image_id[image], self.caption_id[caption]), codes)
            score[part] = self.score(scorer, image, caption, edges.value[part], size)
        return replace(edges, value=score).take(new)


class CandidatePool:
    """A pool with its hubness and its candidates, to which other pairs can be added without searching it again."""

    def __init__(
        self,
        pool: Pool,
        scorer: Scorer,
        options: RematchOptions = RematchOptions(),
        *,
        finder: Finder | None = None,
        device: str = "cpu",
    ):
        """options: `carried` is used for all plans, the others for the first of calibration.

        finder: of the candidates; None finds them by the vectors that are scored.  device: "cpu" or a CUDA device of
        torch, which searches and plans.
        """
        self.pool, self.scorer, self.options, self.finder, self.device = pool, scorer, options, finder, device
        self.sides = _Sides.of(pool, scorer)
        self.gallery = self._gallery(pool.pairs, self.sides, scorer, device=device)
        self.partners = self.sides.partners(options.reuse)
        self.edges = self.sides.scored(scorer, self.gallery.edges(), options.carried, self.partners)
        self.joined = pool.take(np.zeros(0, np.int64))

    def with_pairs(self, few: Pool) -> CandidatePool:
        """The pool with these pairs in front of it."""
        if len(self.pool) <= SEARCHED_ANEW:
            every = Pool.joined(few, self.pool)
            return CandidatePool(every, self.scorer, self.options, finder=self.finder, device=self.device)
        other = copy(self)
        other.joined = Pool.joined(few, self.joined)
        return other

    def known(self) -> Pool:
        """All pairs in their order, without their vectors."""
        nothing = np.zeros((0, 0), np.float32)
        pools = (self.joined, self.pool)
        ids = (Pairs(nothing, nothing, pool.pairs.image_id, pool.pairs.caption_id) for pool in pools)
        return Pool(Pairs.joined(*ids), np.concatenate([pool.clean for pool in pools]))

    def propose(self, options: RematchOptions) -> Proposals:
        """For the pairs that joined, then for those of the pool."""
        if not len(self.joined):
            return _settle(self.sides, self._graph(self.sides, self.edges, options), options, self.device)
        nobody = np.zeros(0, np.int64)
        return self.propose_with(self.joined.take(nobody), self.scorer, nobody, options)

    def propose_with(self, added: Pool, scorer: Scorer, broken: np.ndarray, options: RematchOptions) -> Proposals:
        """The added pairs come first.  scorer: for their hubness.  broken: (b,) codes of pairs that no longer exist.

        Only the added pairs are searched for; a pair of the pool can still go to an added caption that has it among its
        best.
        """
        added = Pool.joined(added, self.joined)
        new, n = _Sides.of(added, scorer), len(added)
        every = new.before(self.sides)
        image, text = added.pairs.image, added.pairs.text
        here = self._gallery(added.pairs, new, scorer)
        inside, there = here.captions_for(image), self.gallery.captions_for(image)
        out = tuple(map(np.concatenate, zip(inside, (there[0], there[1] + n, there[2]), strict=True)))
        inside, there = here.images_for(text), self.gallery.images_for(text)
        back = tuple(map(np.concatenate, zip(inside, (there[0] + n, there[1], there[2]), strict=True)))
        half = scorer.temperature / 2
        out_best = best(out[0], out[2] - half * every.text_hubness[out[1]])
        back_best = best(back[1], back[2] - half * every.image_hubness[back[0]])
        few = Edges.union(
            *map(np.concatenate, zip((x[out_best] for x in out), (x[back_best] for x in back), strict=True))
        )
        carried = self.options.carried[~among(self.options.carried, broken)]
        few = every.scored(self.scorer, few, carried, self.partners)
        return _settle(every, self._graph(every, self.edges.after(few, n), options), options, self.device)

    def _gallery(self, pairs: Pairs, sides: _Sides, scorer: Scorer, *, device: str = "cpu") -> Gallery:
        if self.finder is not None:
            return ComparedGallery(pairs.image[:], pairs.text[:], self.finder, scorer.comparison)
        return Gallery(
            pairs.image, pairs.text, sides.image_hubness, sides.text_hubness, scorer.temperature, device=device
        )

    def _graph(self, sides: _Sides, edges: Edges, options: RematchOptions) -> Graph:
        """What the plan is made of: each pair as it is, then the edges."""
        m = len(sides.clean)
        own = np.arange(m, dtype=np.int32)
        stay = logit(sides.clean, 1e-9)
        if options.prior is not None:
            stay = (stay + sides.score(self.scorer, own, own, sides.similarity, self.partners) + options.prior) / 2
        prior = np.log((1 - options.orphans) / sides.partners(options.reuse))
        can = edges.value > np.log(LEAST_MASS * options.orphans**2) - prior  # no potential is above 1 / orphans
        return Graph(
            np.concatenate([own, edges.image[can]]),
            np.concatenate([_places(m, options), edges.caption[can]]),
            np.concatenate([stay.astype(np.float32), edges.value[can] + np.float32(prior)]),
            m,
            2 * m if options.reuse else m,
            options.capacity,
        )


def _places(m: int, options: RematchOptions) -> np.ndarray:
    """(m,) int32: a pair that stays together takes its caption's place, unless captions are reused."""
    return np.arange(m, dtype=np.int32) + np.int32(m if options.reuse else 0)


def _settle(sides: _Sides, graph: Graph, options: RematchOptions, device: str) -> Proposals:
    m = len(sides.clean)
    plan = transport(graph, options.orphans, device)
    partner = round_plan(graph, plan)
    partner[partner == _places(m, options)] = -1
    image, caption = graph.image[m:], graph.caption[m:]
    # Copies of one caption share its mass: what counts is the text.
    text = np.where(partner >= 0, sides.caption_id[partner], 0)
    same = (partner[image] >= 0) & (sides.caption_id[caption] == text[image])
    mass = np.bincount(image[same], plan[m:][same], m)
    away = np.bincount(image, plan[m:], m)
    given = np.bincount(caption, plan[m:], m)[:m]
    return Proposals(partner, mass, away, given)


def logit(p: np.ndarray, least: float = 1e-6) -> np.ndarray:
    p = np.clip(p, least, 1 - least)
    return np.log(p) - np.log1p(-p)
