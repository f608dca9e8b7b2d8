"""How often rematches are right, measured on the data: matched pairs are broken, and the plan has to mend them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import minimize

from ..arrays import INNER_PRODUCT, Comparison, Pairs
from ..judge.scores import pair_codes, pair_similarity
from .pool import FEWEST_ORPHANS, ORPHANS, CandidatePool, Pool, RematchOptions, logit

#: Pairs at least this likely to be clean stay out of the pool: their captions are taken.
SURE = 0.99
#: The share of the flagged pairs, the surest ones, among which orphans are counted. On photos with and without orphans
#: (a half and none) all gave .62 and .27, three quarters .51 and .08, and half .46 and .06.
SUREST = 0.75
#: The number of pairs broken in all, over FEWEST_TRIALS to MOST_TRIALS trials.
BROKEN, FEWEST_TRIALS, MOST_TRIALS = 2000, 2, 40
#: Pairs drawn for one trial, as a share of the suspects. It is small because every broken pair makes the pool noisier.
PORTION = 0.25
#: Holds the slopes of the curve back where few proposals were tried: steep curves of few promise too much. It is the
#: precision of a normal prior of each, where a proposal counts once.
RIDGE = 3.0
#: No coefficient of the curve is larger.
LARGEST = 20.0
#: The fewest pairs that can be broken, and the fewest proposals in all trials, for a calibration.
FEWEST_SURE, FEWEST_SEEN = 20, 100


@dataclass(frozen=True)
class RematchCalibration:
    """P(a proposal is right), which rises with the logit x of its mass, and how it was fitted.

    P = sigmoid(curve[0] + curve[1] x + curve[2] max(x, 0)), the last two not negative.
    orphans: the estimated share of the suspects without a partner in the data.  broken: pairs broken for calibration.
    options: of the plans for which it holds.
    probability, right, weight: (t,) of the proposals of the trials: the calibrated probability, whether the proposal
    was right, and how many proposals of the pool it represents.
    """

    curve: np.ndarray
    orphans: float
    broken: int
    options: RematchOptions
    probability: np.ndarray
    right: np.ndarray
    weight: np.ndarray

    def __call__(self, mass: np.ndarray) -> np.ndarray:
        return _sigmoid(_bent(mass) @ self.curve)


def fit_temperature(image: np.ndarray, text: np.ndarray, comparison: Comparison = INNER_PRODUCT) -> float:
    """The temperature of greatest likelihood of the two softmaxes over (n, k) matched pairs: scores become log odds."""
    similarity = comparison.with_texts(image, text)
    own = np.diag(similarity)

    @cache
    def fit(temperature: float) -> float:
        logits = similarity / np.float32(temperature)
        return float(2 * own.mean() / temperature - sum(_logsumexp(logits, axis).mean() for axis in (0, 1)))

    # The likelihood is concave in 1 / temperature: it rises up to the maximum and falls after it.
    tried = [float(t) for t in np.geomspace(0.005, 0.3, 42)]
    return tried[bisect_left(range(len(tried) - 1), True, key=lambda i: fit(tried[i]) >= fit(tried[i + 1]))]


def calibrate_rematching(
    suspects: CandidatePool, sure: Pool, decoy_clean: np.ndarray, *, seed: int = 0
) -> RematchCalibration | None:
    """Break matched pairs, put them among the suspects, and see which are put together again.

    suspects: the pool that will be rematched.  sure: pairs that the rematcher never trained on, drawn in proportion to
    their probability of being clean, so that they are as difficult as matched pairs are.  decoy_clean: (d,) clean
    probabilities of random re-pairings: how a broken pair appears to the judge.

    Half of the broken pairs have their captions in the pool. A quarter do not, and have the captions of the last
    quarter, whose images are left out: these orphans show what is proposed where there is no partner. The share of
    orphans among the suspects is the mixture of the two groups' plan masses that explains the suspects' masses, those
    of images and those of captions: one to one, as many captions lack an image as images lack a caption. Pairs that
    were not broken show how often the plan separates a clean pair. All of that is repeated with new draws.

    A pair was matched before it was broken with its clean probability only. If it was not, the plan may find the
    caption that its image really has, and that would look like a mistake. So what is fitted to the share that is
    returned is P(right) times the clean probability. A pair that was not broken need not be matched either, and mostly
    is not where the plan proposes something: it counts with the mass that the plan does not move.
    None if too few pairs can be broken.
    """
    options = suspects.options
    # A pair that the plan itself separates is not sure, whatever the judge says: its caption may belong elsewhere.
    doubtful = np.flatnonzero(sure.clean < SURE)
    mass = suspects.with_pairs(sure.take(doubtful)).propose(options).mass[: len(doubtful)]
    apart = doubtful[mass > 0.5]
    searched, sure = suspects.with_pairs(sure.take(apart)), sure.take(np.setdiff1d(np.arange(len(sure)), apart))
    if len(sure) < FEWEST_SURE:
        return None
    rng = np.random.default_rng(seed)
    suspected = searched.known().clean
    size = int(np.clip(len(suspected) * PORTION, 8, len(sure) // 2))
    count = int(np.clip(np.ceil(BROKEN / size), FEWEST_TRIALS, MOST_TRIALS))
    surest = float(np.quantile(suspected[suspected < 0.5], SUREST)) if (suspected < 0.5).any() else 0.5
    # The share of orphans is estimated with an assumed one in the plan, and then again with that estimate.
    for times in (max(FEWEST_TRIALS, count // 4), count):
        trial = _Trial.joined([_break(searched, sure, size, decoy_clean, rng, options) for _ in range(times)])
        home, orphan, whole, suspect = (trial.group == k for k in (HOME, ORPHAN, WHOLE, SUSPECT))
        proposed = trial.mass > 0
        if proposed.sum() < FEWEST_SEEN or not trial.right[proposed].any():
            return None
        # Flagged pairs that are matched after all would look like orphans: the least sure ones are left out.
        displaced = trial.clean <= surest
        orphans = _orphan_share(
            [tuple(mass[group & displaced] for group in (home, orphan, suspect)) for mass in (trial.away, trial.given)]
        )
        used, options = options, replace(options, orphans=min(orphans, ORPHANS))
    # Each group represents the estimated number of suspects of its kind.
    pool = np.concatenate([suspected, sure.clean[sure.clean < SURE] if not options.reuse else sure.clean])
    noisy, clean = float((1 - pool).sum()), float(pool.sum())
    weight = np.zeros(len(trial.mass))
    for group, stands_for in (
        (home, (1 - orphans) * noisy),
        (orphan, orphans * noisy),
        (whole, clean),
    ):
        weight[group] = stands_for / max(1, int(group.sum()))
    weight[whole] *= np.maximum(1 - trial.away[whole], 0)
    seen = proposed & (trial.group != SUSPECT)
    mass, right, weight = trial.mass[seen], trial.right[seen], weight[seen]
    matched = np.where(home, trial.matched, 1.0)[seen]
    curve = fit_curve(mass, right, weight, matched)
    chance = _sigmoid(_bent(mass) @ curve)
    return RematchCalibration(curve, orphans, int(count * (size // 4) * 3), used, chance, right, weight)


HOME, ORPHAN, WHOLE, SUSPECT = range(4)


@dataclass(frozen=True)
class _Trial:
    """For every pair that took part: the mass of its proposal, of its image on all other captions and of its caption on
    all other images, whether the proposal is right (not known for suspects), its clean probability, the one before it
    was broken, and its group."""

    mass: np.ndarray
    away: np.ndarray
    given: np.ndarray
    right: np.ndarray
    clean: np.ndarray
    matched: np.ndarray
    group: np.ndarray

    @staticmethod
    def joined(trials: list[_Trial]) -> _Trial:
        return _Trial(*(np.concatenate(parts) for parts in zip(*(vars(t).values() for t in trials), strict=True)))


def _break(
    searched: CandidatePool,
    sure: Pool,
    size: int,
    decoy_clean: np.ndarray,
    rng: np.random.Generator,
    options: RematchOptions,
) -> _Trial:
    order = rng.permutation(len(sure))
    quarter = size // 4
    whole = order[4 * quarter :]
    if not options.reuse:
        whole = whole[sure.clean[whole] < SURE]  # not broken in this trial: in the pool like any such pair
    home, orphan, gone = order[: 2 * quarter], order[2 * quarter : 3 * quarter], order[3 * quarter : 4 * quarter]
    images, captions = np.concatenate([home, orphan]), np.concatenate([np.roll(home, 1), gone])
    # Partners that are not in the data must not be in the reference, where they would make an image look like a hub.
    # A class name that other pairs have too is still there.
    pairs, known = sure.pairs, searched.known().pairs
    rest = np.concatenate([home, order[4 * quarter :]])
    images_left = np.concatenate([pairs.image_id[rest], pairs.image_id[orphan], known.image_id])
    captions_left = np.concatenate([pairs.caption_id[rest], pairs.caption_id[gone], known.caption_id])
    scorer = searched.scorer.without(
        np.setdiff1d(pairs.image_id[gone], images_left), np.setdiff1d(pairs.caption_id[orphan], captions_left)
    )
    broken = Pairs(pairs.image[images], pairs.text[captions], pairs.image_id[images], pairs.caption_id[captions])
    # Their clean probabilities are those of random re-pairings, higher for those that happen to fit better.
    each = np.arange(len(images))
    fit = pair_similarity(broken.image[:], broken.text[:], each, each, scorer.comparison)
    clean = np.empty(len(images))
    clean[np.argsort(fit, kind="stable")] = np.sort(rng.choice(np.asarray(decoy_clean), len(images)))
    added = Pool.joined(Pool(broken, clean), sure.take(whole))
    taken = order[: 4 * quarter]
    found = searched.propose_with(added, scorer, pair_codes(pairs.image_id[taken], pairs.caption_id[taken]), options)
    suspects = searched.known()
    caption_id = np.concatenate([added.pairs.caption_id, suspects.pairs.caption_id])
    own = np.concatenate([pairs.caption_id[images], pairs.caption_id[whole], suspects.pairs.caption_id])
    right = (found.partner >= 0) & (caption_id[found.partner] == own)
    group = np.repeat(np.arange(4), (len(home), len(orphan), len(whole), len(suspects)))
    clean = np.concatenate([added.clean, suspects.clean])
    matched = np.concatenate([sure.clean[images], sure.clean[whole], suspects.clean])
    return _Trial(found.mass, found.away, found.given, right, clean, matched, group)


def _orphan_share(sides: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Maximum-likelihood share of orphans among the suspects, from histograms of plan mass.

    sides: of images and of captions, the masses of pairs that can come home, of orphans, and of the suspects.
    """
    if not len(sides[0][0]) + len(sides[0][1]):
        return ORPHANS
    h, o, s = np.concatenate([_histograms(*masses) for masses in sides], axis=1)
    share = ORPHANS
    for _ in range(200):
        posterior = share * o / (share * o + (1 - share) * h)
        share = float((posterior * s).sum() / s.sum())
    return min(max(share, FEWEST_ORPHANS), 0.99)


def _histograms(home: np.ndarray, orphan: np.ndarray, suspects: np.ndarray) -> np.ndarray:
    """(3, b) of the same bins: shares of the two groups, which add up to 1 each, and counts of the suspects."""
    edges = np.unique(np.quantile(np.concatenate([home, orphan]), np.linspace(0, 1, 13)[1:-1]))
    h, o, s = (np.bincount(np.digitize(x, edges), minlength=len(edges) + 1) + 0.5 for x in (home, orphan, suspects))
    return np.stack([h / h.sum(), o / o.sum(), s])


def fit_curve(mass: np.ndarray, right: np.ndarray, weight: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """The curve of a `RematchCalibration` for (t,) proposals: as many are right as it says, and where it says so.

    matched: how likely it is that the pair was matched before; otherwise its proposal cannot be seen to be right.
    The likelihood would blame most mistakes of the surest proposals on pairs that had been mismatched, and promise more
    than the trials show. So the weighted sums of `right` and of matched * P are made equal, but for the prior: where
    all were matched, that is the likelihood.
    """
    x, weight = _bent(mass), weight / weight.mean()

    def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ curve
        pull = RIDGE * np.array([0.0, curve[1], curve[2]])
        value = weight @ (matched * np.logaddexp(0, odds) - right * odds)
        return float(pull @ curve / 2 + value), pull + x.T @ (weight * (matched * _sigmoid(odds) - right))

    # More may be right than were likely to be matched, and then nothing else would hold the intercept back.
    rising = [(-LARGEST, LARGEST), (1e-3, LARGEST), (0.0, LARGEST)]
    curve: np.ndarray = minimize(loss, [0.0, 1.0, 0.0], jac=True, method="L-BFGS-B", bounds=rising).x
    return curve


def _bent(mass: np.ndarray) -> np.ndarray:
    """(t,) masses -> (t, 3) what a curve is a weighted sum of."""
    x = logit(mass)
    return np.stack([np.ones_like(x), x, np.maximum(x, 0)], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis)
    return top + np.log(np.exp(x - np.expand_dims(top, axis)).sum(axis))
