"""Rematching over the whole data set: propose partners, and measure on the data itself how often they are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..judge.scores import Scorer, carries, pair_similarity
from .candidates import candidate_edges
from .plan import Graph, round_plan, transport

#: Pairs at least this likely to be clean stay out of the pool: their captions are taken.
SURE = 0.98
#: Weight of having no partner in the data. It only sets the scale of the plan's mass, which is calibrated: how many
#: suspects have none is estimated.
ORPHANS = 0.3
#: Share of the likely clean pairs that are held out of the rematcher's training and broken, and the most of them.
HELD_OUT, MOST_HELD_OUT = 0.2, 4000
#: Pairs broken in all, over at least FEWEST_TRIALS and at most MOST_TRIALS trials.
BROKEN, FEWEST_TRIALS, MOST_TRIALS = 2000, 5, 40
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
        return Pool(self.image[rows], self.text[rows], self.image_id[rows], self.caption_id[rows], self.clean[rows])


@dataclass(frozen=True)
class Proposals:
    """For each pair of the pool: partner, (m,) int64 pool row of the proposed caption, -1 for none; mass: (m,) the
    plan's mass on that caption's text, all its copies together."""

    partner: np.ndarray
    mass: np.ndarray


def propose(pool: Pool, scorer: Scorer, *, gpu: bool = False) -> Proposals:
    """One transport over the pool, rounded one-to-one; pairs that the plan leaves together have no proposal."""
    m = len(pool.clean)
    image_level, text_level = scorer.levels(pool.image, pool.text)
    image, caption = candidate_edges(pool.image, pool.text, scorer, image_level, text_level, gpu=gpu)
    moved = ~carries(
        pool.image_id, pool.caption_id, image, caption
    )  # copies of what an image carries already are no rematch
    image, caption = image[moved], caption[moved]
    score = scorer.combine(
        pair_similarity(pool.image, pool.text, image, caption),
        image_level[image],
        text_level[caption],
        pool.image_id[image],
        pool.caption_id[caption],
    )
    own = np.arange(m)
    odds = np.log(np.clip(pool.clean, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(pool.clean, 1e-9, 1 - 1e-9))
    suspects = max(1.0, float((1 - pool.clean).sum()))
    graph = Graph(
        np.concatenate([own, image]),
        np.concatenate([own, caption]),
        np.concatenate([odds, score + np.log((1 - ORPHANS) / suspects)]),
        m,
    )
    plan = transport(graph, ORPHANS)
    partner = round_plan(graph, plan)
    # Copies of one caption share its mass between them: what counts is the text.
    _, text = np.unique(pool.caption_id, return_inverse=True)
    texts = int(text.max(initial=0)) + 1
    edge, edge_of = np.unique(graph.image * texts + text[graph.caption], return_inverse=True)
    by_text = np.bincount(edge_of, plan)
    moved_away = (partner >= 0) & (partner != own)
    at = np.searchsorted(edge, own * texts + text[np.where(moved_away, partner, own)])
    return Proposals(np.where(moved_away, partner, -1), np.where(moved_away, by_text[at], 0.0))


@dataclass(frozen=True)
class Calibration:
    """P(a proposal is right) = sigmoid(intercept + slope * logit(mass)), and how it was learned.

    orphans: share of the suspects that seem to have no partner in the data.  broken: pairs broken for calibration.
    """

    intercept: float
    slope: float
    orphans: float
    broken: int

    def __call__(self, mass: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(self.intercept + self.slope * _logit(mass))))


def fit_temperature(image: np.ndarray, text: np.ndarray) -> float:
    """The temperature at which the two softmaxes over (n, k) matched pairs are likeliest: scores become log odds."""
    similarity = image @ text.T
    own = np.diag(similarity)

    def fit(temperature: float) -> float:
        logits = similarity / np.float32(temperature)
        return float(2 * own.mean() / temperature - sum(_logsumexp(logits, axis).mean() for axis in (0, 1)))

    return max((float(t) for t in np.geomspace(0.005, 0.3, 42)), key=fit)


def draw_sure(clean: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of pairs to break, ascending, each likely clean pair taken with probability `share` times its own.

    clean: (N,) probability of being clean, NaN where not judged.  Matched pairs are drawn as they come, hard ones among
    them, and not the surest only.
    """
    likely = np.flatnonzero(clean >= 0.5)
    drawn = likely[rng.random(len(likely)) < share * clean[likely]]
    if len(drawn) > MOST_HELD_OUT:
        drawn = np.sort(rng.choice(drawn, MOST_HELD_OUT, replace=False))
    return drawn


def calibrate_rematching(
    suspects: Pool,
    sure: Pool,
    scorer: Scorer,
    decoy_clean: np.ndarray,
    *,
    flag_below: float,
    seed: int = 0,
    gpu: bool = False,
) -> Calibration | None:
    """Break matched pairs, put them among the suspects, and see which come home.

    suspects: the pool as it will be rematched.  sure: pairs that the rematcher never trained on, drawn in proportion to
    their probability of being clean, so that they are as hard as matched pairs are.  decoy_clean: (d,) clean
    probabilities of random re-pairings, what a broken pair looks like to the judge.
    Half of the broken find their captions in the pool. A quarter do not, and carry the captions of the last quarter,
    whose images are left out: these show what is proposed where there is no partner. How many such orphans the suspects
    hold is the mixture of the two groups' plan masses that explains the suspects'. All of it several times, anew.
    None where too few pairs can be broken.
    """
    if len(sure.clean) < FEWEST_SURE:
        return None
    rng = np.random.default_rng(seed)
    size = min(len(sure.clean) // 2, max(len(suspects.clean) // 2, FEWEST_SURE // 2))
    count = int(np.clip(BROKEN // size, FEWEST_TRIALS, MOST_TRIALS))
    trials = [_break(suspects, sure, size, scorer, decoy_clean, flag_below, rng, gpu) for _ in range(count)]
    trial = _Trial(*(np.concatenate(parts) for parts in zip(*(vars(t).values() for t in trials), strict=True)))
    proposed = trial.mass > 0
    if proposed.sum() < FEWEST_SEEN or not trial.right[proposed].any():
        return None
    orphans = _orphan_share(trial.mass[trial.home], trial.mass[~trial.home], trial.suspects)
    # There are twice as many at home as orphans among the broken.
    weight = np.where(trial.home, (1 - orphans) / 2, orphans)
    intercept, slope = _logistic(_logit(trial.mass[proposed]), trial.right[proposed], weight[proposed])
    return Calibration(intercept, slope, orphans, count * (size // 4) * 3)


@dataclass(frozen=True)
class _Trial:
    """mass, right, home: (b,) of the broken pairs that are flagged; suspects: (s,) masses of the flagged suspects."""

    mass: np.ndarray
    right: np.ndarray
    home: np.ndarray
    suspects: np.ndarray


def _break(
    suspects: Pool,
    sure: Pool,
    size: int,
    scorer: Scorer,
    decoy_clean: np.ndarray,
    flag_below: float,
    rng: np.random.Generator,
    gpu: bool,
) -> _Trial:
    order = rng.permutation(len(sure.clean))
    quarter = size // 4
    whole = order[4 * quarter :]
    whole = whole[sure.clean[whole] < SURE]  # not broken this time: in the pool as any pair like them
    home, orphan, gone = order[: 2 * quarter], order[2 * quarter : 3 * quarter], order[3 * quarter : 4 * quarter]
    images, captions = np.concatenate([home, orphan]), np.concatenate([np.roll(home, 1), gone])
    # Nobody's partner that is not in the data can be in the reference, where it would make its image look like a hub.
    scorer = scorer.without(sure.image_id[gone], sure.caption_id[orphan])
    broken = Pool(
        sure.image[images],
        sure.text[captions],
        sure.image_id[images],
        sure.caption_id[captions],
        rng.choice(np.asarray(decoy_clean), len(images)),
    )
    pools = (broken, sure.take(whole), suspects)
    joined = Pool(*(np.concatenate(parts) for parts in zip(*map(_fields, pools), strict=True)))
    proposals = propose(joined, scorer, gpu=gpu)
    flagged = joined.clean < flag_below
    ours = np.arange(len(joined.clean)) < len(images)
    right = joined.caption_id[proposals.partner[ours]] == sure.caption_id[images]
    right &= proposals.partner[ours] >= 0
    seen = flagged[ours]
    return _Trial(
        proposals.mass[ours][seen],
        right[seen],
        (np.arange(len(images)) < len(home))[seen],
        proposals.mass[~ours & flagged],
    )


def emit(probability: np.ndarray, min_precision: float) -> np.ndarray:
    """(n,) bool: the largest set of proposals whose mean probability is at least min_precision, surest first."""
    order = np.argsort(-probability, kind="stable")
    mean = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(mean >= min_precision)
    chosen = np.zeros(len(order), bool)
    if len(enough):
        chosen[order[: enough[-1] + 1]] = True
    return chosen


def _orphan_share(home: np.ndarray, orphan: np.ndarray, suspects: np.ndarray) -> float:
    """Maximum-likelihood share of orphans among the suspects, from histograms of plan mass."""
    edges = np.unique(np.quantile(np.concatenate([home, orphan]), np.linspace(0, 1, 13)[1:-1]))
    h, o, s = (np.bincount(np.digitize(x, edges), minlength=len(edges) + 1) + 0.5 for x in (home, orphan, suspects))
    h, o = h / h.sum(), o / o.sum()
    share = ORPHANS
    for _ in range(200):
        posterior = share * o / (share * o + (1 - share) * h)
        share = float((posterior * s).sum() / s.sum())
    return min(max(share, 0.01), 0.99)


def _logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([y, ~y])  # a little of both outcomes everywhere keeps the slope finite
    weights = np.concatenate([weight * 0.995, weight * 0.005])
    fit = LogisticRegression(C=100.0).fit(np.concatenate([x, x])[:, None], both, sample_weight=weights)
    return float(fit.intercept_[0]), max(float(fit.coef_[0, 0]), 1e-3)


def _fields(pool: Pool) -> tuple[np.ndarray, ...]:
    return pool.image, pool.text, pool.image_id, pool.caption_id, pool.clean


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis)
    return top + np.log(np.exp(x - np.expand_dims(top, axis)).sum(axis))
