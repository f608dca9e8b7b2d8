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

from ..arrays import Pairs
from ..judge.scores import Scorer, among, exclude, pair_codes, pair_similarity
from ..scratch import MEMORY, Scratch
from .candidates import CANDIDATES, ComparedGallery, Edges, Finder, Gallery, best
from .plan import Graph, Links, Part, Plan, round_plan, transport

#: The assumed share of displaced images without a partner in the data, until it is estimated.
ORPHANS = 0.3
#: The least share that is estimated.
FEWEST_ORPHANS = 0.01
#: Edges that cannot carry more mass than this, whatever the share of orphans, are left out of the plan.
LEAST_MASS = 1e-4
#: A pool of up to this many pairs is searched again when pairs join it; in a larger one only the new ones are searched.
SEARCHED_ANEW = 20_000


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

    def score(self, scorer: Scorer, image: np.ndarray, caption: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        hubness = self.image_hubness[image], self.text_hubness[caption]
        ids = self.image_id[image], self.caption_id[caption]
        return scorer.combine(similarity, *hubness, *ids, against=exclude)

    def codes(self) -> np.ndarray:
        return pair_codes(self.image_id, self.caption_id)

    def scored(self, scorer: Scorer, edges: Edges, carried: np.ndarray) -> Edges:
        """Edges of similarities -> of scores, without captions that an image, or a copy of it, has already.

        carried: the `pair_codes` of what images have.
        """
        image, caption = edges.image, edges.caption
        new = ~among(pair_codes(self.image_id[image], self.caption_id[caption]), carried)
        score = self.score(scorer, image, caption, edges.value).astype(np.float32)
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
        scratch: Scratch = MEMORY,
    ):
        """options: `carried` is used for all plans, the others for the first of calibration.

        finder: of the candidates; None finds them by the vectors that are scored.  device: "cpu" or a CUDA device of
        torch, which searches and plans.  scratch: where large arrays are put.
        """
        self.pool, self.scorer, self.options, self.finder, self.device = pool, scorer, options, finder, device
        self.scratch = scratch
        self.sides = _Sides.of(pool, scorer)
        self.gallery = self._gallery(pool.pairs, self.sides, scorer, device=device)
        self.partners = self.sides.partners(options.reuse)
        self.edges = self._edges()
        self.joined = pool.take(np.zeros(0, np.int64))

    def _edges(self) -> Part:
        """The pool's edges with their scores."""
        carried, m = np.append(self.options.carried, self.sides.codes()), len(self.pool)
        carried.sort()
        images, captions = self.gallery.order
        place_of_image, place_of_caption = _inverse(images), _inverse(captions)
        most = 2 * CANDIDATES * m  # what is not written takes room on a disk, but none in memory
        caption, score = (self.scratch.empty((most,), dtype) for dtype in (np.int32, np.float32))
        count, found = np.zeros(m + 1, np.int64), 0
        for edges in self.gallery.edges():
            edges = self.sides.scored(self.scorer, edges, carried)
            edges = edges.take(edges.value > self._least())
            count[1:] += np.bincount(place_of_image[edges.image], minlength=m)
            here = slice(found, found + len(edges.value))
            caption[here], score[here], found = place_of_caption[edges.caption], edges.value, here.stop
        return Part(Links(np.cumsum(count), caption[:found], score[:found], m, self.scratch), images, captions)

    def _least(self) -> float:
        """The score below which an edge has less than LEAST_MASS: no potential is above 1 / orphans."""
        return float(np.log(LEAST_MASS * FEWEST_ORPHANS**2) + np.log(self.partners))

    def with_pairs(self, few: Pool) -> CandidatePool:
        """The pool with these pairs in front of it."""
        if len(self.pool) <= SEARCHED_ANEW:
            every = Pool.joined(few, self.pool)
            return CandidatePool(
                every, self.scorer, self.options, finder=self.finder, device=self.device, scratch=self.scratch
            )
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
            return _settle(self.sides, self._graph(self.sides, options), options, self.device)
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
        carried = np.append(self.options.carried[~among(self.options.carried, broken)], every.codes())
        few = every.scored(self.scorer, few, carried)
        links = Links.of(few.image, few.caption, few.value, len(every.clean), len(every.clean))
        return _settle(every, self._graph(every, options, links), options, self.device)

    def _gallery(self, pairs: Pairs, sides: _Sides, scorer: Scorer, *, device: str = "cpu") -> Gallery:
        if self.finder is not None:
            return ComparedGallery(pairs.image[:], pairs.text[:], self.finder, scorer.comparison)
        return Gallery(
            pairs.image,
            pairs.text,
            sides.image_hubness,
            sides.text_hubness,
            scorer.temperature,
            device=device,
            scratch=self.scratch,
        )

    def _graph(self, sides: _Sides, options: RematchOptions, few: Links | None = None) -> Graph:
        """What the plan is made of: each pair as it is, the pool's edges, and the few that were added.

        The pairs of the pool are the last of those of `sides`.
        """
        m, own = len(sides.clean), np.arange(len(sides.clean))
        stay = logit(sides.clean, 1e-9)
        if options.prior is not None:
            stay = (stay + sides.score(self.scorer, own, own, sides.similarity) + options.prior) / 2
        prior = float(np.log((1 - options.orphans) / sides.partners(options.reuse)))
        captions, added = 2 * m if options.reuse else m, m - len(self.pool)
        places = _places(m, options).astype(np.int32)
        stays = Links(np.arange(m + 1), places, stay.astype(np.float32), captions)
        edges = Part(self.edges.links, self.edges.images + added, self.edges.captions + added, prior)
        parts = [Part.whole(stays), edges] + ([Part.whole(few, prior)] if few is not None else [])
        return Graph(tuple(parts), m, captions, options.capacity)


def _inverse(order: np.ndarray) -> np.ndarray:
    """(m,) int32, the place of each in an order of all."""
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place


def _places(m: int, options: RematchOptions) -> np.ndarray:
    """(m,): a pair that stays together takes its caption's place, unless captions are reused."""
    return np.arange(m) + (m if options.reuse else 0)


def _settle(sides: _Sides, graph: Graph, options: RematchOptions, device: str) -> Proposals:
    m, stays = len(sides.clean), _places(len(sides.clean), options)
    plan = _plan(graph, options.orphans, device)
    partner = round_plan(plan)
    partner[partner == stays] = -1
    # Copies of one caption share its mass: what counts is the text.
    text = np.resize(sides.caption_id, graph.captions)  # twice where captions are reused
    away, mass, given = plan.totals(stays, text, sides.caption_id[partner])
    return Proposals(partner, np.where(partner >= 0, mass, 0.0), away, given[:m])


def _plan(graph: Graph, none: float, device: str) -> Plan:
    if device == "cpu":
        return transport(graph, none)
    from .device_plan import transport_on

    return transport_on(device, graph, none)


def logit(p: np.ndarray, least: float = 1e-6) -> np.ndarray:
    p = np.clip(p, least, 1 - least)
    return np.log(p) - np.log1p(-p)
