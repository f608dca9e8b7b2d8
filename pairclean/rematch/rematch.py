"""Rematching over the whole data set: propose partners, and measure on the data itself how often they are right.

What one-to-one means. Every pair of the pool is one place for its caption, and a place is given to one image (with
`capacity` k to at most k). A text that several pairs carry has as many places as copies. No image is given a text that
it, or a copy of it, carries already. A caption stands at the place of its own pair as long as that pair stays together;
with `again` every caption can be given although its own pair keeps it.
"""

from __future__ import annotations

from bisect import bisect_left
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from ..judge.scores import Scorer, among, pair_codes, pair_similarity
from .candidates import Edges, Gallery, best
from .plan import Graph, round_plan, transport

#: Pairs at least this likely to be clean stay out of the pool: their captions are taken.
SURE = 0.99
#: Share of the displaced images that are taken to have no partner in the data, until it is estimated to be less; the
#: least that is said of it.
ORPHANS, FEWEST_ORPHANS = 0.3, 0.01
#: Edges that cannot carry more mass than this are left out of the plan.
LEAST_MASS = 1e-4
#: Up to this many pairs a pool is searched anew when some join it; in a larger one only the new ones are searched for.
SEARCHED_ANEW = 20_000
MOST_HELD_OUT = 4000  # pairs to calibrate with
#: Pairs broken in all, over at least FEWEST_TRIALS and at most MOST_TRIALS trials.
BROKEN, FEWEST_TRIALS, MOST_TRIALS = 2000, 2, 40
#: Pairs drawn for a trial, a share of the suspects: few, since every broken pair makes the pool noisier than it is.
PORTION = 0.25
#: Pairs that can be broken, and proposals seen in all trials; fewer calibrate nothing.
FEWEST_SURE, FEWEST_SEEN = 40, 100


@dataclass(frozen=True)
class Pool:
    """The pairs that take part.  image, text: (m, k) float32 unit rows in the rematcher's space; image_id, caption_id:
    (m,) int64; clean: (m,) probability of staying."""

    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray
    clean: np.ndarray

    def take(self, rows: np.ndarray) -> Pool:
        return Pool(*(x[rows] for x in vars(self).values()))

    @staticmethod
    def joined(*pools: Pool) -> Pool:
        return Pool(*(np.concatenate(parts) for parts in zip(*(vars(p).values() for p in pools), strict=True)))


@dataclass(frozen=True)
class Terms:
    """How captions are given.

    carried: the `pair_codes` of all pairs of the data: what an image, or a copy of it, carries already is no rematch.
    capacity: images that one caption can be given to.  again: also such captions as their own pairs keep.
    prior: log odds of a pair to be clean before anything is known of it; given where the rematcher trained on none of
    the pairs, so that its own scores say something of whether they stay together.
    orphans: the share of the displaced images, and of the captions, that have no partner here.
    """

    capacity: int = 1
    again: bool = False
    prior: float | None = None
    orphans: float = ORPHANS
    carried: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Proposals:
    """For each pair of the pool: partner, (m,) int64 pool row of the proposed caption, -1 for none; mass: (m,) the
    plan's mass on that caption's text, all its copies together; away: (m,) its mass on all other captions."""

    partner: np.ndarray
    mass: np.ndarray
    away: np.ndarray


def propose(pool: Pool, scorer: Scorer, terms: Terms = Terms()) -> Proposals:
    """One transport over the pool, rounded one-to-one; pairs that the plan leaves together have no proposal."""
    return Searched(pool, scorer, terms).propose(terms)


@dataclass(frozen=True)
class _Pairs:
    """All that the plan has to know of the pairs, (m,) each: hubness of both sides, and how much alike they are."""

    image_id: np.ndarray
    caption_id: np.ndarray
    clean: np.ndarray
    image_level: np.ndarray
    text_level: np.ndarray
    similarity: np.ndarray

    def partners(self, again: bool) -> float:
        """Captions that wait for an image."""
        return len(self.clean) if again else max(1.0, float((1 - self.clean).sum()))

    @staticmethod
    def of(pool: Pool, scorer: Scorer) -> _Pairs:
        rows = np.arange(len(pool.clean))
        levels = scorer.levels(pool.image, pool.text)
        similarity = pair_similarity(pool.image, pool.text, rows, rows)
        return _Pairs(pool.image_id, pool.caption_id, pool.clean, *levels, similarity)

    def before(self, others: _Pairs) -> _Pairs:
        both = zip(vars(self).values(), vars(others).values(), strict=True)
        return _Pairs(*(np.concatenate(parts) for parts in both))

    def score(
        self, scorer: Scorer, image: np.ndarray, caption: np.ndarray, similarity: np.ndarray, size: float
    ) -> np.ndarray:
        levels = self.image_level[image], self.text_level[caption]
        return scorer.combine(similarity, *levels, self.image_id[image], self.caption_id[caption], size=size)

    def scored(self, scorer: Scorer, edges: Edges, carried: np.ndarray, size: float) -> Edges:
        """Edges of similarities -> of scores, without captions that an image, or a copy of it, carries already."""
        codes = np.append(carried, pair_codes(self.image_id, self.caption_id))
        new = edges.take(~among(pair_codes(self.image_id[edges.image], self.caption_id[edges.caption]), codes))
        return replace(new, value=self.score(scorer, new.image, new.caption, new.value, size))


class Searched:
    """A pool with its levels and its candidates, to which other pairs can be added without searching it again."""

    def __init__(self, pool: Pool, scorer: Scorer, terms: Terms = Terms(), *, gpu: bool = False):
        """terms: their `carried` count here, and the rest is where calibration starts from.  gpu: search on one."""
        self.pool, self.scorer, self.terms, self.gpu = pool, scorer, terms, gpu
        self.pairs = _Pairs.of(pool, scorer)
        levels = self.pairs.image_level, self.pairs.text_level
        self.gallery = Gallery(pool.image, pool.text, *levels, scorer.temperature, gpu=gpu)
        self.partners = self.pairs.partners(terms.again)
        self.edges = self.pairs.scored(scorer, self.gallery.edges(), terms.carried, self.partners)
        self.joined = pool.take(np.zeros(0, np.int64))

    def with_pairs(self, few: Pool) -> Searched:
        """The pool with these before it."""
        if len(self.pool.clean) <= SEARCHED_ANEW:
            return Searched(Pool.joined(few, self.pool), self.scorer, self.terms, gpu=self.gpu)
        other = copy(self)
        other.joined = Pool.joined(few, self.joined)
        return other

    def known(self) -> Pool:
        """All pairs in their order, without vectors."""
        both = (replace(pool, image=pool.image[:0], text=pool.text[:0]) for pool in (self.joined, self.pool))
        return Pool.joined(*both)

    def propose(self, terms: Terms) -> Proposals:
        """For those that joined, then for those of the pool."""
        if not len(self.joined.clean):
            return self._settle(self.pairs, self.edges, terms)
        nobody = np.zeros(0, np.int64)
        return self.propose_with(self.joined.take(nobody), self.scorer, nobody, terms)

    def propose_with(self, added: Pool, scorer: Scorer, broken: np.ndarray, terms: Terms) -> Proposals:
        """The added pairs come first.  scorer: for their levels; broken: (b,) codes of pairs that are none any more.

        Only they are searched for: a pair of the pool can still go to an added caption that has it among its best.
        """
        added = Pool.joined(added, self.joined)
        new, n = _Pairs.of(added, scorer), len(added.clean)
        every = new.before(self.pairs)
        here = Gallery(added.image, added.text, new.image_level, new.text_level, scorer.temperature)
        inside, there = here.captions_for(added.image), self.gallery.captions_for(added.image)
        out = tuple(map(np.concatenate, zip(inside, (there[0], there[1] + n, there[2]), strict=True)))
        inside, there = here.images_for(added.text), self.gallery.images_for(added.text)
        back = tuple(map(np.concatenate, zip(inside, (there[0] + n, there[1], there[2]), strict=True)))
        half = scorer.temperature / 2
        out_best = best(out[0], out[2] - half * every.text_level[out[1]])
        back_best = best(back[1], back[2] - half * every.image_level[back[0]])
        few = Edges.union(
            *map(np.concatenate, zip((x[out_best] for x in out), (x[back_best] for x in back), strict=True))
        )
        carried = np.setdiff1d(self.terms.carried, broken)
        edges = self.edges.after(every.scored(self.scorer, few, carried, self.partners), n)
        return self._settle(every, edges, terms)

    def _settle(self, pairs: _Pairs, edges: Edges, terms: Terms) -> Proposals:
        own = np.arange(len(pairs.clean))
        stay = _logit(pairs.clean, 1e-9)
        if terms.prior is not None:
            stay = (stay + pairs.score(self.scorer, own, own, pairs.similarity, self.partners) + terms.prior) / 2
        return _settle(pairs, stay, edges, terms)


def _settle(pairs: _Pairs, stay: np.ndarray, edges: Edges, terms: Terms) -> Proposals:
    """stay: (m,) log odds of each pair to stay together; edges: of scores."""
    m = len(pairs.clean)
    own = np.arange(m, dtype=np.int32)
    partners = pairs.partners(terms.again)
    weight = edges.value + np.log((1 - terms.orphans) / partners)
    can = weight > np.log(LEAST_MASS * terms.orphans**2)  # no potential is above 1 / orphans
    image, caption, weight = edges.image[can], edges.caption[can], weight[can]
    place = own + m if terms.again else own  # a pair that stays leaves its caption's place to others, or takes it
    graph = Graph(
        np.concatenate([own, image]),
        np.concatenate([place, caption]),
        np.concatenate([stay, weight]),
        m,
        2 * m if terms.again else m,
        terms.capacity,
    )
    plan = transport(graph, terms.orphans)
    partner = round_plan(graph, plan)
    partner[partner == place] = -1
    # Copies of one caption share its mass between them: what counts is the text.
    text = np.where(partner >= 0, pairs.caption_id[partner], 0)
    same = (partner[image] >= 0) & (pairs.caption_id[caption] == text[image])
    mass = np.bincount(image[same], plan[m:][same], m)
    away = np.bincount(image, plan[m:], m)
    return Proposals(partner, mass, away)


@dataclass(frozen=True)
class Calibration:
    """P(a proposal is right) = sigmoid(intercept + slope * logit(mass)), and how it was learned.

    orphans: share of the suspects that seem to have no partner in the data.  broken: pairs broken for calibration.
    terms: those of the plan that it holds for.
    probability, right, weight: (t,) of the proposals that were made in the trials: what this calibration says, whether
    they were right, and how many proposals of the pool each stands for.
    """

    intercept: float
    slope: float
    orphans: float
    broken: int
    terms: Terms
    probability: np.ndarray
    right: np.ndarray
    weight: np.ndarray

    def __call__(self, mass: np.ndarray) -> np.ndarray:
        return _sigmoid(self.intercept + self.slope * _logit(mass))


def fit_temperature(image: np.ndarray, text: np.ndarray) -> float:
    """The temperature at which the two softmaxes over (n, k) matched pairs are likeliest: scores become log odds."""
    similarity = image @ text.T
    own = np.diag(similarity)

    @cache
    def fit(temperature: float) -> float:
        logits = similarity / np.float32(temperature)
        return float(2 * own.mean() / temperature - sum(_logsumexp(logits, axis).mean() for axis in (0, 1)))

    # The likelihood is concave in 1 / temperature: it rises up to the best and falls beyond.
    tried = [float(t) for t in np.geomspace(0.005, 0.3, 42)]
    return tried[bisect_left(range(len(tried) - 1), True, key=lambda i: fit(tried[i]) >= fit(tried[i + 1]))]


def draw_sure(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of pairs to break, ascending, each likely clean pair taken with its own probability.

    clean: (N,) probability of being clean, NaN where not judged.  Matched pairs are drawn as they come, hard ones among
    them, and not the surest only.
    """
    likely = np.flatnonzero(clean >= 0.5)
    drawn = likely[rng.random(len(likely)) < clean[likely]]
    if len(drawn) > MOST_HELD_OUT:
        drawn = np.sort(rng.choice(drawn, MOST_HELD_OUT, replace=False))
    return drawn


def calibrate_rematching(
    suspects: Searched, sure: Pool, decoy_clean: np.ndarray, *, seed: int = 0
) -> Calibration | None:
    """Break matched pairs, put them among the suspects, and see which come home.

    suspects: the pool as it will be rematched.  sure: pairs that the rematcher never trained on, drawn in proportion to
    their probability of being clean, so that they are as hard as matched pairs are.  decoy_clean: (d,) clean
    probabilities of random re-pairings, what a broken pair looks like to the judge.
    Half of the broken find their captions in the pool. A quarter do not, and carry the captions of the last quarter,
    whose images are left out: these show what is proposed where there is no partner. How many such orphans the suspects
    hold is the mixture of the two groups' plan masses that explains the suspects'. Pairs that were not broken show how
    often the plan takes a clean pair apart. All of it several times, anew.
    None where too few pairs can be broken.
    """
    terms = suspects.terms
    # A pair that the plan itself takes apart is not sure, whatever the judge says: its own caption may be elsewhere.
    doubtful = np.flatnonzero(sure.clean < SURE)
    mass = suspects.with_pairs(sure.take(doubtful)).propose(terms).mass[: len(doubtful)]
    apart = doubtful[mass > 0.5]
    searched, sure = suspects.with_pairs(sure.take(apart)), sure.take(np.setdiff1d(np.arange(len(sure.clean)), apart))
    if len(sure.clean) < FEWEST_SURE:
        return None
    rng = np.random.default_rng(seed)
    suspected = searched.known().clean
    size = int(np.clip(len(suspected) * PORTION, 8, len(sure.clean) // 2))
    count = int(np.clip(np.ceil(BROKEN / size), FEWEST_TRIALS, MOST_TRIALS))
    # How many have no partner is first estimated with a guess of it in the plan, then again with the estimate.
    for times in (max(FEWEST_TRIALS, count // 4), count):
        trial = _Trial.joined([_break(searched, sure, size, decoy_clean, rng, terms) for _ in range(times)])
        home, orphan, whole, suspect = (trial.group == k for k in (HOME, ORPHAN, WHOLE, SUSPECT))
        proposed = trial.mass > 0
        if proposed.sum() < FEWEST_SEEN or not trial.right[proposed].any():
            return None
        flagged = trial.clean < 0.5
        orphans = _orphan_share(*(trial.away[group & flagged] for group in (home, orphan, suspect)))
        used, terms = terms, replace(terms, orphans=min(orphans, ORPHANS))
    # Each group stands for as many of the suspects as there seem to be of its kind.
    pool = np.concatenate([suspected, sure.clean[sure.clean < SURE] if not terms.again else sure.clean])
    noisy, clean = float((1 - pool).sum()), float(pool.sum())
    weight = np.zeros(len(trial.mass))
    for group, stands_for in (
        (home, (1 - orphans) * noisy),
        (orphan, orphans * noisy),
        (whole, clean),
    ):
        weight[group] = stands_for / max(1, int(group.sum()))
    seen = proposed & (trial.group != SUSPECT)
    mass, right, weight = trial.mass[seen], trial.right[seen], weight[seen]
    intercept, slope = _logistic(_logit(mass), right, weight / weight.mean())
    chance = _sigmoid(intercept + slope * _logit(mass))
    return Calibration(intercept, slope, orphans, int(count * (size // 4) * 3), used, chance, right, weight)


HOME, ORPHAN, WHOLE, SUSPECT = range(4)


@dataclass(frozen=True)
class _Trial:
    """Of every pair that took part: mass of its proposal and of all other captions, whether the proposal is right
    (of the suspects nobody knows), clean probability, and group."""

    mass: np.ndarray
    away: np.ndarray
    right: np.ndarray
    clean: np.ndarray
    group: np.ndarray

    @staticmethod
    def joined(trials: list[_Trial]) -> _Trial:
        return _Trial(*(np.concatenate(parts) for parts in zip(*(vars(t).values() for t in trials), strict=True)))


def _break(
    searched: Searched, sure: Pool, size: int, decoy_clean: np.ndarray, rng: np.random.Generator, terms: Terms
) -> _Trial:
    order = rng.permutation(len(sure.clean))
    quarter = size // 4
    whole = order[4 * quarter :]
    if not terms.again:
        whole = whole[sure.clean[whole] < SURE]  # not broken this time: in the pool as any pair like them
    home, orphan, gone = order[: 2 * quarter], order[2 * quarter : 3 * quarter], order[3 * quarter : 4 * quarter]
    images, captions = np.concatenate([home, orphan]), np.concatenate([np.roll(home, 1), gone])
    # Nobody's partner that is not in the data can be in the reference, where it would make its image look like a hub.
    scorer = searched.scorer.without(sure.image_id[gone], sure.caption_id[orphan])
    broken = Pool(
        sure.image[images], sure.text[captions], sure.image_id[images], sure.caption_id[captions], np.zeros(len(images))
    )
    # What the judge would say of them: as of random re-pairings, the more the better they happen to fit.
    fit = pair_similarity(broken.image, broken.text, *[np.arange(len(images))] * 2)
    clean = np.empty(len(images))
    clean[np.argsort(fit, kind="stable")] = np.sort(rng.choice(np.asarray(decoy_clean), len(images)))
    added = Pool.joined(replace(broken, clean=clean), sure.take(whole))
    taken = order[: 4 * quarter]
    found = searched.propose_with(added, scorer, pair_codes(sure.image_id[taken], sure.caption_id[taken]), terms)
    suspects = searched.known()
    caption_id = np.concatenate([added.caption_id, suspects.caption_id])
    own = np.concatenate([sure.caption_id[images], sure.caption_id[whole], suspects.caption_id])
    right = (found.partner >= 0) & (caption_id[found.partner] == own)
    group = np.repeat(np.arange(4), (len(home), len(orphan), len(whole), len(suspects.clean)))
    return _Trial(found.mass, found.away, right, np.concatenate([added.clean, suspects.clean]), group)


def emit(probability: np.ndarray, min_precision: float) -> np.ndarray:
    """(n,) bool: the largest set of proposals whose mean probability is at least min_precision, surest first."""
    order = np.argsort(-probability, kind="stable")
    mean = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(mean >= min_precision)
    chosen = np.zeros(len(order), bool)
    if len(enough):
        chosen[order[: enough[-1] + 1]] = True
    return chosen


def settle(
    partner: np.ndarray, chance: np.ndarray, flagged: np.ndarray, wanted: np.ndarray, min_precision: float, again: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which proposals are emitted, and which could have been had they been sure enough: two (m,) bool.

    partner: (m,) row of the proposed caption, -1 for none; chance: (m,) probability that it is right; flagged: (m,);
    wanted: (m,) the proposals that may be emitted. Unless `again`, a caption is given away only if its own pair is
    flagged or loses its picture too.
    """
    offered = wanted & (partner >= 0)
    while True:
        chosen = np.zeros(len(partner), bool)
        chosen[offered] = emit(chance[offered], min_precision)
        held = offered & ~(again | (flagged | chosen)[partner])
        if not held.any():
            return chosen, offered
        offered &= ~held


def _orphan_share(home: np.ndarray, orphan: np.ndarray, suspects: np.ndarray) -> float:
    """Maximum-likelihood share of orphans among the suspects, from histograms of plan mass."""
    if not len(home) + len(orphan):
        return ORPHANS
    edges = np.unique(np.quantile(np.concatenate([home, orphan]), np.linspace(0, 1, 13)[1:-1]))
    h, o, s = (np.bincount(np.digitize(x, edges), minlength=len(edges) + 1) + 0.5 for x in (home, orphan, suspects))
    h, o = h / h.sum(), o / o.sum()
    share = ORPHANS
    for _ in range(200):
        posterior = share * o / (share * o + (1 - share) * h)
        share = float((posterior * s).sum() / s.sum())
    return min(max(share, FEWEST_ORPHANS), 0.99)


def _logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([y, ~y])  # a little of both outcomes everywhere keeps the slope finite
    weights = np.concatenate([weight * 0.995, weight * 0.005])
    fit = LogisticRegression(C=100.0).fit(np.concatenate([x, x])[:, None], both, sample_weight=weights)
    return float(fit.intercept_[0]), max(float(fit.coef_[0, 0]), 1e-3)


def _logit(p: np.ndarray, least: float = 1e-6) -> np.ndarray:
    p = np.clip(p, least, 1 - least)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis)
    return top + np.log(np.exp(x - np.expand_dims(top, axis)).sum(axis))
