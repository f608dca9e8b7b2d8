"""Rematching over the whole data set: propose partners, and measure on the data itself how often they are right.

What one-to-one means. Every pair of the pool is one place for its caption, and a place is given to one image (with
`capacity` k to at most k). A text that several pairs carry has as many places as copies. No image is given a text that
it, or a copy of it, carries already. A caption stands at the place of its own pair as long as that pair stays together;
with `again` every caption can be given although its own pair keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..judge.scores import Scorer, carries, pair_codes, pair_similarity
from .candidates import Edges, Gallery, best
from .plan import Graph, round_plan, transport

#: Pairs at least this likely to be clean stay out of the pool: their captions are taken.
SURE = 0.99
#: Share of the displaced images that are taken to have no partner in the data, until it is estimated to be less; the
#: least that is said of it.
ORPHANS, FEWEST_ORPHANS = 0.3, 0.01
#: Edges that cannot carry more mass than this are left out of the plan.
LEAST_MASS = 1e-4
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
    orphans: the share of the displaced images, and of the captions, that have no partner here. gpu: search on one.
    """

    capacity: int = 1
    again: bool = False
    prior: float | None = None
    orphans: float = ORPHANS
    carried: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    gpu: bool = False


@dataclass(frozen=True)
class Proposals:
    """For each pair of the pool: partner, (m,) int64 pool row of the proposed caption, -1 for none; mass: (m,) the
    plan's mass on that caption's text, all its copies together; away: (m,) its mass on all other captions."""

    partner: np.ndarray
    mass: np.ndarray
    away: np.ndarray


def propose(pool: Pool, scorer: Scorer, terms: Terms = Terms()) -> Proposals:
    """One transport over the pool, rounded one-to-one; pairs that the plan leaves together have no proposal."""
    return _Searched(pool, scorer, terms).propose()


class _Searched:
    """A pool with its levels and its candidates, to which other pairs can be added without searching it again."""

    def __init__(self, pool: Pool, scorer: Scorer, terms: Terms):
        self.pool, self.scorer, self.terms = pool, scorer, terms
        self.levels = scorer.levels(pool.image, pool.text)
        self.gallery = Gallery(pool.image, pool.text, *self.levels, scorer.temperature, gpu=terms.gpu)
        self.edges = self.gallery.edges()

    def propose(self) -> Proposals:
        return _settle(self.pool, self.scorer, self.levels, self.edges, self.terms)

    def propose_with(self, added: Pool, scorer: Scorer, broken: np.ndarray) -> Proposals:
        """The added pairs come first.  scorer: for their levels; broken: (b,) codes of pairs that are none any more.

        Only they are searched for: a pair of the pool can still go to an added caption that has it among its best.
        """
        own, n = scorer.levels(added.image, added.text), len(added.clean)
        image_level, text_level = (np.concatenate(pair) for pair in zip(own, self.levels, strict=True))
        here = Gallery(added.image, added.text, *own, scorer.temperature)
        among, there = here.captions_for(added.image), self.gallery.captions_for(added.image)
        out = tuple(map(np.concatenate, zip(among, (there[0], there[1] + n, there[2]), strict=True)))
        among, there = here.images_for(added.text), self.gallery.images_for(added.text)
        back = tuple(map(np.concatenate, zip(among, (there[0] + n, there[1], there[2]), strict=True)))
        half = scorer.temperature / 2
        out_best = best(out[0], out[2] - half * text_level[out[1]])
        back_best = best(back[1], back[2] - half * image_level[back[0]])
        parts = ((x[out_best] for x in out), (x[back_best] for x in back))
        whole = (self.edges.image + n, self.edges.caption + n, self.edges.similarity)
        edges = Edges.union(*map(np.concatenate, zip(*parts, whole, strict=True)))
        terms = replace(self.terms, carried=np.setdiff1d(self.terms.carried, broken))
        return _settle(Pool.joined(added, self.pool), self.scorer, (image_level, text_level), edges, terms)


def _settle(pool: Pool, scorer: Scorer, levels: tuple[np.ndarray, np.ndarray], edges: Edges, terms: Terms) -> Proposals:
    m = len(pool.clean)
    # Copies of what an image carries already are no rematch.
    carried = carries(pool.image_id, pool.caption_id, edges.image, edges.caption)
    carried |= np.isin(pair_codes(pool.image_id[edges.image], pool.caption_id[edges.caption]), terms.carried)
    moved = np.flatnonzero(~carried)
    image, caption = edges.image[moved], edges.caption[moved]
    own = np.arange(m)
    score = _score(pool, scorer, levels, image, caption, edges.similarity[moved])
    partners = m if terms.again else max(1.0, float((1 - pool.clean).sum()))
    weight = score + np.log((1 - terms.orphans) / partners)
    can = weight > np.log(LEAST_MASS * terms.orphans**2)  # no potential is above 1 / orphans
    image, caption, weight = image[can], caption[can], weight[can]
    stay = _logit(pool.clean, 1e-9)
    if terms.prior is not None:
        itself = pair_similarity(pool.image, pool.text, own, own)
        stay = (stay + _score(pool, scorer, levels, own, own, itself) + terms.prior) / 2
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
    _, text = np.unique(pool.caption_id, return_inverse=True)
    texts = int(text.max(initial=0)) + 1
    edge, edge_of = np.unique(image * texts + text[caption], return_inverse=True)
    by_text = np.append(np.bincount(edge_of, plan[m:], len(edge)), 0.0)
    has = partner >= 0
    at = np.searchsorted(edge, own * texts + text[np.where(has, partner, 0)])
    away = np.bincount(image, plan[m:], m)
    return Proposals(partner, np.where(has, by_text[np.where(has, at, -1)], 0.0), away)


def _score(
    pool: Pool,
    scorer: Scorer,
    levels: tuple[np.ndarray, np.ndarray],
    image: np.ndarray,
    caption: np.ndarray,
    similarity: np.ndarray,
) -> np.ndarray:
    return scorer.combine(
        similarity, levels[0][image], levels[1][caption], pool.image_id[image], pool.caption_id[caption]
    )


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

    def fit(temperature: float) -> float:
        logits = similarity / np.float32(temperature)
        return float(2 * own.mean() / temperature - sum(_logsumexp(logits, axis).mean() for axis in (0, 1)))

    return max((float(t) for t in np.geomspace(0.005, 0.3, 42)), key=fit)


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
    suspects: Pool,
    sure: Pool,
    scorer: Scorer,
    decoy_clean: np.ndarray,
    terms: Terms = Terms(),
    *,
    seed: int = 0,
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
    # A pair that the plan itself takes apart is not sure, whatever the judge says: its own caption may be elsewhere.
    doubtful = np.flatnonzero(sure.clean < SURE)
    mass = propose(Pool.joined(sure.take(doubtful), suspects), scorer, terms).mass[: len(doubtful)]
    apart = doubtful[mass > 0.5]
    suspects, sure = Pool.joined(suspects, sure.take(apart)), sure.take(np.setdiff1d(np.arange(len(sure.clean)), apart))
    if len(sure.clean) < FEWEST_SURE:
        return None
    rng = np.random.default_rng(seed)
    size = int(np.clip(len(suspects.clean) * PORTION, 8, len(sure.clean) // 2))
    count = int(np.clip(np.ceil(BROKEN / size), FEWEST_TRIALS, MOST_TRIALS))
    searched = _Searched(suspects, scorer, terms)
    # How many have no partner is first estimated with a guess of it in the plan, then again with the estimate.
    for times in (max(FEWEST_TRIALS, count // 4), count):
        trial = _Trial.joined([_break(searched, sure, size, decoy_clean, rng) for _ in range(times)])
        home, orphan, whole, suspect = (trial.group == k for k in (HOME, ORPHAN, WHOLE, SUSPECT))
        proposed = trial.mass > 0
        if proposed.sum() < FEWEST_SEEN or not trial.right[proposed].any():
            return None
        flagged = trial.clean < 0.5
        orphans = _orphan_share(*(trial.away[group & flagged] for group in (home, orphan, suspect)))
        used, searched.terms = searched.terms, replace(terms, orphans=min(orphans, ORPHANS))
    # Each group stands for as many of the suspects as there seem to be of its kind.
    pool = np.concatenate([suspects.clean, sure.clean[sure.clean < SURE] if not terms.again else sure.clean])
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


def _break(searched: _Searched, sure: Pool, size: int, decoy_clean: np.ndarray, rng: np.random.Generator) -> _Trial:
    order = rng.permutation(len(sure.clean))
    quarter = size // 4
    whole = order[4 * quarter :]
    if not searched.terms.again:
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
    found = searched.propose_with(added, scorer, pair_codes(sure.image_id[taken], sure.caption_id[taken]))
    everyone = Pool.joined(added, searched.pool)
    own = np.concatenate([sure.caption_id[images], sure.caption_id[whole], searched.pool.caption_id])
    right = (found.partner >= 0) & (everyone.caption_id[found.partner] == own)
    sizes = (len(home), len(orphan), len(whole), len(searched.pool.clean))
    return _Trial(found.mass, found.away, right, everyone.clean, np.repeat(np.arange(4), sizes))


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
