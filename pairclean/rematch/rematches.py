"""Which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..align import Alignment, ZeroShot
from ..arrays import INNER_PRODUCT, Pairs, unique_values
from ..judge import (
    ENCODER_SCORES,
    GIVEN,
    NOISE_KINDS,
    Faults,
    Judgement,
    Learned,
    PairScorers,
    Reference,
    Scorer,
    draw_sure,
    pair_codes,
    reference_rows,
    threshold_for,
)
from ..judge.scores import Model
from ..pairs import ReasonCode
from ..scratch import MEMORY, Scratch
from .calibration import SURE, calibrate_rematching, fit_temperature
from .candidates import Finder
from .pool import CandidatePool, Pool, RematchOptions
from .products import HalfScorer

#: Matched pairs by which the temperature of a `PairScorer` is fitted: it compares each with each.
FITTED = 1000

NO_PARTNER = "no caption of the data fits better"
TAKEN = "the caption that fits best stays with its own picture"
UNSURE = "no rematch is sure enough"
UNCALIBRATED = "too few rematches could be tried to learn how far they can be trusted"
REASONS = [NO_PARTNER, TAKEN, UNSURE, UNCALIBRATED]
REASON_CODES = {
    NO_PARTNER: ReasonCode.NO_PARTNER,
    TAKEN: ReasonCode.NO_PARTNER,
    UNSURE: ReasonCode.NOT_SURE_ENOUGH,
    UNCALIBRATED: ReasonCode.NOT_SURE_ENOUGH,
}


@dataclass(frozen=True)
class Rematches:
    """What was found for N pairs.

    clean_probability: (N,) float64 of the pairs as they came: the judge's, lowered where a pair that was not flagged is
    rematched, and where captions were given back.
    partner: (N,) int64, the row of the new caption, -1 for none.
    probability: (N,) float32 that the new caption is right, NaN for none.
    reason: (N,) int8, an index into REASONS: why a noisy pair has no partner.
    flag_below: the threshold of the clean probability below which pairs are flagged.
    offered: (k,) float32, the probabilities of all proposals that may be emitted, descending.
    trials: (t, 3) float32: for each proposal of the calibration its probability, whether it was right, and its weight.
    emitted: how many pairs have a partner.  expected_precision: the mean probability that these are right.
    calibrated_on: how many pairs were broken for calibration.  orphans: the estimated share without a partner.
    mended: how many partners are captions that had moved, given back.
    """

    clean_probability: np.ndarray
    partner: np.ndarray
    probability: np.ndarray
    reason: np.ndarray
    offered: np.ndarray
    trials: np.ndarray
    flag_below: float
    emitted: int = 0
    expected_precision: float | None = None
    calibrated_on: int = 0
    orphans: float | None = None
    mended: int = 0


def rematch(
    pairs: Pairs,
    learned: Learned,
    judgement: Judgement,
    faults: Faults,
    *,
    flag_below: float | None = None,
    keep_fraction: float | None = None,
    keep_precision: float | None = None,
    cost_ratio: float | None = None,
    min_precision: float = 0.9,
    capacity: int = 1,
    pool: Literal["noisy", "all"] = "noisy",
    scorers: PairScorers | None = None,
    seed: int = 0,
    device: str = "cpu",
    scratch: Scratch = MEMORY,
) -> Rematches:
    """Find captions for the noisy pairs among N.

    pairs: the encoder's vectors of the pairs as they came.  faults: captions among them that were given back.
    learned, judgement: of the pairs with these captions.  scorers: those that judged them. They rank the captions that
    vectors find for an image.  scratch: where large arrays are put.  The other arguments are options of `Config`.
    Raises UserError if `keep_precision` is more than any threshold reaches.
    """
    clean, home = _judged(judgement, faults, min_precision)
    threshold = threshold_for(
        clean,
        flag_below=flag_below,
        keep_fraction=keep_fraction,
        keep_precision=keep_precision,
        cost_ratio=cost_ratio,
    )
    found = Rematches(
        clean_probability=clean,
        partner=np.full(len(clean), -1),
        probability=np.full(len(clean), np.nan, np.float32),
        reason=np.zeros(len(clean), np.int8),
        offered=np.zeros(0, np.float32),
        trials=np.zeros((0, 3), np.float32),
        flag_below=threshold,
    )
    flagged = (found.clean_probability < found.flag_below) & ~home  # NaN, not judged, is never below
    if judgement.unjudged is None and flagged.any():
        found = _planned(
            found,
            flagged,
            home,
            faults.mended(pairs),
            learned,
            judgement,
            fixed=keep_fraction is not None,
            min_precision=min_precision,
            capacity=capacity,
            pool=pool,
            scorers=scorers,
            seed=seed,
            device=device,
            scratch=scratch,
        )
    return _as_they_came(found, home, faults, pairs.caption_id)


def _judged(judgement: Judgement, faults: Faults, min_precision: float) -> tuple[np.ndarray, np.ndarray]:
    """Clean probabilities before a plan is made, and the captions that were given back for good, (N,) bool.

    The place says more than the score of one pair, so that the captions of all ranges are given back together, also
    those that no score could tell apart; only where they are not sure enough as a whole, the surest of them are.
    Without a repair, pairs whose caption moved are mismatched, whatever their score.
    """
    clean, home = np.array(judgement.clean_probability), np.zeros(len(faults.place), bool)
    if faults.repaired:
        by_place = np.flatnonzero(~np.isnan(faults.probability))
        clean[by_place] = faults.probability[by_place].astype(np.float32)
        home[by_place] = emit(clean[by_place], min_precision)
    return clean, home


def _as_they_came(found: Rematches, home: np.ndarray, faults: Faults, caption_id: np.ndarray) -> Rematches:
    """What was found about pairs with captions given back, told of the pairs as they came.

    home: (N,) bool, captions that were given back for good.  caption_id: (N,) int64 of the pairs as they came.
    """
    if not faults.repaired:
        return found
    clean, rows = found.clean_probability, np.arange(len(home))
    planned = found.partner >= 0
    kept = home | (clean >= found.flag_below)
    new = np.where(planned, faults.caption[found.partner], np.where(kept, faults.caption, -1))
    chance = np.where(planned, found.probability, clean)
    own = caption_id[np.where(new < 0, rows, new)] == caption_id  # also where the text in its place was the same
    strays = faults.strays(caption_id) & ~np.isnan(clean)
    clean = np.where(strays, np.fmin(clean, np.float32(faults.doubt)), clean)
    clean = np.where(own & (new >= 0), np.maximum(chance, clean), clean)
    new[own | ~(clean < found.flag_below)] = -1
    given = (new >= 0) & ~planned
    emitted = new >= 0
    probability = np.where(emitted, chance, np.nan).astype(np.float32)
    return replace(
        found,
        clean_probability=clean,
        partner=new,
        probability=probability,
        offered=-np.sort(-np.concatenate([found.offered, probability[given]])),
        emitted=int(emitted.sum()),
        expected_precision=float(probability[emitted].mean(dtype=float)) if emitted.any() else None,
        mended=int(given.sum()),
    )


def _planned(
    found: Rematches,
    flagged: np.ndarray,
    home: np.ndarray,
    pairs: Pairs,
    learned: Learned,
    judgement: Judgement,
    *,
    fixed: bool,
    min_precision: float,
    capacity: int,
    pool: Literal["noisy", "all"],
    scorers: PairScorers | None,
    seed: int,
    device: str,
    scratch: Scratch,
) -> Rematches:
    """The rematches of a plan between the images and the captions of all noisy pairs.

    flagged: (N,) bool, pairs that need a caption.  home: (N,) bool, pairs that are settled.
    fixed: whether no pair may be flagged besides these.
    """
    clean, threshold = found.clean_probability, found.flag_below
    every = np.flatnonzero(~np.isnan(clean))
    taking_part = every if pool == "all" else np.flatnonzero(clean < max(SURE, threshold))
    taking_part = taking_part[~home[taking_part]]
    # A text that says nothing of any image is no better caption for one, however many copies of it are offered, and
    # an image that shows nothing has none.
    mute = np.isin(judgement.noise_kind, [NOISE_KINDS.index("generic"), NOISE_KINDS.index("placeholder")]) & flagged
    taking_part = taking_part[~mute[taking_part]]
    near = learned.near(pairs)
    model, held_out = _rematcher(learned, judgement)
    trained = held_out is not None and scorers is None
    if scorers is not None and held_out is not None:
        unseen = learned.folds(pairs.image_id) == 0  # by the model that finds candidates
        held_out = draw_sure(np.where(unseen, clean, 0.0), np.random.default_rng(seed))
    options = RematchOptions(
        capacity=capacity,
        reuse=pool == "all",
        prior=None if trained else np.log(clean[every].sum() / (1 - clean[every]).sum()),
        carried=unique_values(pair_codes(near.image_id[every], near.caption_id[every])),
    )
    if held_out is None:
        held_out = draw_sure(clean, np.random.default_rng(seed))
    held_out = held_out[~np.isnan(clean[held_out])]  # what was learned from need not be judged
    sample = reference_rows(every, np.random.default_rng(seed))
    matched = near.take(held_out).through(model)
    searcher = device if device.startswith("cuda") else "cpu"
    scorer = _fitted(model, near.take(sample), matched, device)
    space: Model = model
    ranked, finder = near, None
    if scorers is not None:
        finder = Finder(near, model, scorer, searcher)
        space, ranked = scorers.space, scorers.pairs(near)
        some = np.random.default_rng(seed).permutation(held_out)[:FITTED]
        matched = ranked.take(held_out)
        scorer = _fitted(space, ranked.take(sample), ranked.take(some), space.device)

    def embedded(rows: np.ndarray) -> Pool:
        if scorers is not None:
            return Pool(ranked.take(rows).through(space), clean[rows])
        return Pool(ranked.halved_through(space, rows, scratch), clean[rows])

    sure = Pool(matched, clean[held_out])
    unsure, again = np.setdiff1d(taking_part, held_out), np.intersect1d(taking_part, held_out)
    suspects = CandidatePool(embedded(unsure), scorer, options, finder=finder, device=searcher, scratch=scratch)
    calibration = calibrate_rematching(suspects, sure, judgement.decoy_clean_probability, seed=seed)
    if calibration is None:
        return replace(found, reason=np.where(flagged, REASONS.index(UNCALIBRATED), found.reason).astype(np.int8))
    proposals = suspects.with_pairs(embedded(again)).propose(calibration.options)
    rows = np.concatenate([again, unsure])
    has = proposals.partner >= 0
    chance = np.where(has, calibration(proposals.mass), 0.0)
    # If a rematch is right with probability p, its pair is matched with at most 1 - p, and so is the pair whose caption
    # it takes. That flags pairs that the judge did not flag, unless the user asked for a share to keep.
    likely = (chance > 1 - threshold) & (not fixed)
    # With a greater capacity the caption may belong to both images, and nothing follows for its own pair.
    alone = capacity == 1 and not options.reuse
    chosen, offered = settle(proposals.partner, chance, flagged[rows], likely, min_precision, options.reuse, alone)
    reason = found.reason
    reason[rows[has]] = REASONS.index(TAKEN)
    reason[rows[offered]] = REASONS.index(UNSURE)
    found.partner[rows[chosen]] = rows[proposals.partner[chosen]]
    found.probability[rows[chosen]] = chance[chosen]
    keeps = ~(flagged[rows] | chosen)
    overturned = chosen & ~flagged[rows]
    robbed = chosen & keeps[proposals.partner] & alone
    for pairs_of, by in ((rows[overturned], overturned), (rows[proposals.partner[robbed]], robbed)):
        clean[pairs_of] = (clean[pairs_of] * (1 - chance[by])).astype(np.float32)
    emitted = found.partner >= 0
    return replace(
        found,
        reason=reason,
        offered=-np.sort(-chance[offered]).astype(np.float32),
        trials=np.stack([calibration.probability, calibration.right, calibration.weight], axis=1).astype(np.float32),
        emitted=int(emitted.sum()),
        expected_precision=float(found.probability[emitted].mean(dtype=float)) if emitted.any() else None,
        calibrated_on=calibration.broken,
        orphans=calibration.orphans,
    )


def _fitted(space: Model, reference: Pairs, matched: Pairs, device: str) -> Scorer:
    """A scorer of a space.  reference: pairs as the space takes them.  matched: pairs in it, for the temperature."""
    compare = space.comparison
    # Without a pair to fit it by, any temperature will do: nothing is calibrated then, and nothing is rematched.
    temperature = fit_temperature(matched.image[:], matched.text[:], compare) if len(matched) else 1.0
    # Half precision is off by about .02, where another draw of the reference would change hubness by .4.
    kind = HalfScorer if compare is INNER_PRODUCT and device == "cpu" else Scorer
    return kind(Reference.of(reference.through(space)), temperature, device, compare)


def _rematcher(learned: Learned, judgement: Judgement) -> tuple[Alignment, np.ndarray | None]:
    """The model by which captions are found, and ranked unless there are scorers.

    Then pairs to calibrate it with that it never trained on; None if it trained on none.
    """
    if judgement.score == GIVEN and not learned.aligned:
        return learned.first[0], None
    if judgement.score in ENCODER_SCORES or not learned.aligned:
        return ZeroShot(), None
    return learned.aligned[0], learned.held_out


def emit(probability: np.ndarray, min_precision: float) -> np.ndarray:
    """(n,) bool: the largest set of the likeliest proposals whose mean probability is at least min_precision."""
    order = np.argsort(-probability, kind="stable")
    mean = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(mean >= min_precision)
    chosen = np.zeros(len(order), bool)
    if len(enough):
        chosen[order[: enough[-1] + 1]] = True
    return chosen


def settle(
    partner: np.ndarray,
    chance: np.ndarray,
    flagged: np.ndarray,
    likely: np.ndarray,
    min_precision: float,
    reuse: bool,
    alone: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Which proposals are emitted, and which would be if they were sure enough: two (m,) bool.

    partner: (m,) row of the proposed caption, -1 for none; chance: (m,) probability that it is right; flagged: (m,);
    likely: (m,) proposals that are right so probably that they flag a pair. Proposals are for pairs that are flagged,
    or flagged by them. Unless `reuse`, a caption is given away only if its own pair is flagged, loses its image too, or
    is flagged by that, which it can be if a caption belongs to one image alone.
    """
    offered = (flagged | likely) & (partner >= 0)
    while True:
        chosen = np.zeros(len(partner), bool)
        chosen[offered] = emit(chance[offered], min_precision)
        held = offered & ~(reuse | (likely & alone) | (flagged | chosen)[partner])
        if not held.any():
            return chosen, offered
        offered &= ~held
