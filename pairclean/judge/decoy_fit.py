"""Fits a calibration to the scores of pairs and of decoys (`decoy_calibration`), and says how sure the rate is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..arrays import places_of_values
from . import binormal, bivariate
from .apart import fit_apart, kinds_apart
from .binormal import Binormal
from .bivariate import Bivariate
from .crossfit import Scores
from .decoy_calibration import DecoyCalibration, by_evidence
from .decoys import Rate
from .evidence import EvidenceScale, Scored
from .identities import Identities
from .partly import ByPhrase
from .strata import Sample, Strata, cuts_of
from .strata import fit as fit_strata
from .strata import fit_needed as fit_strata_needed

#: An interval of more than this says that the encoder tells too little; with mismatches within kinds, a range of more.
WIDE, WIDE_WITHIN = 0.25, 0.3
#: Evidence for mismatches within kinds: the gain in log likelihood, in all and per pair. Without such mismatches it was
#: at most .001 per pair, and .003 on photos with five captions each; with 5% of them .006. In all it has to be reached
#: also by the evidence that most decoys cover: among few similar photos, crowded evidence gained up to 8.6 without any
#: such mismatch, and at most 4.8 of that was below z = 2.5. And the gain per pair from which the range includes them.
GAIN, GAIN_PER_PAIR, MAYBE_PER_PAIR = 5.0, 0.004, 0.0015
#: In a space that was learned from the same pairs, some matched pairs are known much better than others where the noise
#: is uneven: without mismatches within kinds the gain was up to .011 per pair, with 40% of them .025.
LEARNED_PER_PAIR = 0.015
#: With more mismatched pairs than this, most of them within kinds, nothing shows what a matched pair looks like.
MOST_WITHIN = 0.9
#: Less than this share of pairs with a known standing says nothing about mismatches within kinds.
MOST_KNOWN = 0.5
#: Matched pairs below the normal tail: without planted mismatches, up to so many were taken for mismatched.
TAIL = 0.002

WITHIN_RANGE = (
    "some mismatched captions resemble the right ones, and how many is known up to the size of the kinds that captions "
    "are compared within: the range is from coarse kinds to fine ones"
)
PARTLY_RANGE = (
    "some captions are partly wrong. To show what this looks like, phrases of captions were exchanged, and how many of "
    "these captions were right before is not known exactly"
)
MAYBE_WITHIN = (
    "some mismatched captions may resemble the right ones; the evidence is too weak to count them in the estimate, and "
    "the range includes them"
)
WEAK = (
    "the encoder cannot tell: its similarities distinguish matched pairs from random re-pairings too little to say how "
    "many are mismatched"
)


def calibrate(scores: Scores, *, like: DecoyCalibration | None = None) -> DecoyCalibration:
    """Fit the model to the evidence of the pairs.

    like: an earlier calibration of the same pairs by other scores, whose mismatch rates are kept.
    """
    scale = EvidenceScale.fit(scores.scored_decoys)
    z, kinds = scale(scores.scored), scores.kinds
    n = len(z)
    copies = np.ones(n) if kinds is None else kinds.copies
    weight = 1 / copies
    if like is not None:
        identities = like.identities
    elif kinds is None:
        identities = Identities.none()
    else:
        of_all = binormal.fit(binormal.histogram(z, weight))
        identities = Identities.fit(scores.scored, kinds.clusters, of_all, z, weight)
    single = identities.group(scores.scored) < 0
    by_phrase = None if scores.phrased is None else ByPhrase.of(scores, scale.overall, single, weight)
    apart: dict[int, Bivariate] = {}
    if like is not None:
        evidence = _Evidence.of(scores, scale, z, single & ~like.is_apart(scores.scored), weight)
        model, joint = evidence.fit_like(like)
        doubt = like.doubt and _doubt(evidence.counts, *(end.mismatched for end in like.doubt))
        if like.apart:
            alike = evidence.alike(joint, model.mismatched)
            apart = {
                kind: replace(alike, random=of.random, within=of.within, errors=of.errors)
                for kind, of in like.apart.items()
            }
        strata = like.strata and evidence.strata_like(like.strata)
        found = replace(like, scale=scale, model=model, joint=joint, apart=apart, doubt=doubt, strata=strata)
        if like.partial is None or by_phrase is None:
            return found
        return _with_phrases(found, by_phrase, z, evidence.counts, like.partial.mismatched)[0]
    evidence = _Evidence.of(scores, scale, z, single, weight)
    model, joint, low, high, why = evidence.fit()
    if joint is not None:
        kind = scores.scored.text_kind
        among = np.flatnonzero(single)
        every, members_of = places_of_values(kind[among])
        counts = [
            bivariate.histogram(z[members], scores.scored.standing[members], weight[members])
            for members in (among[places] for places in members_of)
        ]
        chosen = kinds_apart(np.stack(counts), joint)
        if len(chosen):
            evidence = evidence.of_pairs(scores.scored, z, single & ~np.isin(kind, every[chosen]), weight)
            model, joint, low, high, why = evidence.fit()
            models = fit_apart(np.stack(counts)[chosen], evidence.alike(joint))
            apart = dict(zip(every[chosen].tolist(), models, strict=True))
    strata = None
    if why != WEAK:
        strata, model, joint, low, high, why = evidence.by_strata(model, joint, low, high, why)
    identities = identities.with_rates(scores.scored, model, z, weight)
    doubt = _doubt(evidence.counts, low, high) if why == WEAK else None
    found = DecoyCalibration(scale, model, identities, Rate(0, 0, 1), joint, apart, doubt, strata=strata)
    if by_phrase is not None and not apart and found.reads_phrases and by_phrase.found(by_evidence(model, z), GAIN):
        found, (low, high) = _with_phrases(found, by_phrase, z, evidence.counts)
        why = PARTLY_RANGE
    return replace(found, rate=_rate(found, scores, z, single, copies, (low, high), why))


@dataclass(frozen=True)
class _Evidence:
    """Histograms of pairs, random re-pairings and re-pairings within kinds (from the coarsest to the finest).

    samples: pairs, random re-pairings, and re-pairings within kinds, of which the histograms are.
    counts, within: of the evidence; joint_counts, joint_random, joint_within: of evidence and standing.
    least_gain: in log likelihood per pair, from which on mismatches within kinds are taken to be there.
    siblings: whether the standing rests on other captions of the images too, and so tells more than the evidence.
    """

    samples: tuple[Sample, Sample, list[Sample]]
    counts: np.ndarray
    within: list[np.ndarray]
    joint_counts: np.ndarray
    joint_random: np.ndarray
    joint_within: list[np.ndarray]
    least_gain: float
    siblings: bool

    @staticmethod
    def of(scores: Scores, scale: EvidenceScale, z: np.ndarray, single: np.ndarray, weight: np.ndarray) -> _Evidence:
        """z: (n,) evidence of the pairs.  single: (n,) bool, those without a meaningless identity."""
        drawn = () if scores.kinds is None else [part for part in scores.kinds.within if len(part.score)]
        pairs = Sample.of(z[single], scores.scored.take(single), weight[single])
        random, *within = (Sample.of(scale(part), part) for part in (scores.scored_decoys, *drawn))
        return _Evidence(
            (pairs, random, within),
            binormal.histogram(pairs.z, pairs.weight),
            [binormal.smoothed(binormal.histogram(part.z)) for part in within],
            bivariate.histogram(pairs.z, pairs.v, pairs.weight),
            bivariate.smoothed(bivariate.histogram(random.z, random.v)),
            [bivariate.smoothed(bivariate.histogram(part.z, part.v)) for part in within],
            LEARNED_PER_PAIR if scores.learned else GAIN_PER_PAIR,
            scores.kinds is not None and scores.kinds.siblings >= MOST_KNOWN,
        )

    def of_pairs(self, scored: Scored, z: np.ndarray, which: np.ndarray, weight: np.ndarray) -> _Evidence:
        """With other pairs, and the same re-pairings.  which: (n,) bool."""
        pairs = Sample.of(z[which], scored.take(which), weight[which])
        return replace(
            self,
            samples=(pairs, *self.samples[1:]),
            counts=binormal.histogram(pairs.z, pairs.weight),
            joint_counts=bivariate.histogram(pairs.z, pairs.v, pairs.weight),
        )

    @property
    def middle(self) -> int:
        """The kinds of the size that is used, between coarser and finer ones."""
        return len(self.within) // 2

    def gain(self, rows: int) -> float:
        """In log likelihood, by mismatches within kinds.  rows: of z that are fitted one by one."""
        within = self.joint_within[self.middle]
        fits = [bivariate.fit(self.joint_counts, self.joint_random, mass, rows=rows) for mass in (None, within)]
        return fits[1].log_likelihood - fits[0].log_likelihood

    def fit(self) -> tuple[Binormal, Bivariate | None, float, float, str | None]:
        """The models, the interval of the share of mismatched pairs, and why that is a range."""
        n = float(self.counts.sum())
        model = binormal.fit(self.counts)
        low, high = binormal.interval(self.counts, model)
        # With no mismatch among n pairs, so much is known of the rate and no more.
        least_high = 1 - ((1 - 0.95) / 2) ** (1 / max(1.0, n))
        high = max(high, least_high)
        known = float(self.joint_counts.sum())
        if not self.within or known < MOST_KNOWN * n:
            return model, None, low, high, WEAK if high - low > WIDE else None
        without = bivariate.fit(self.joint_counts, self.joint_random)
        fits = [bivariate.fit(self.joint_counts, self.joint_random, mass) for mass in self.joint_within]
        found = fits[self.middle]
        gain = found.log_likelihood - without.log_likelihood
        misled = self.siblings and max(without.mismatched, found.mismatched) < low
        if gain > max(GAIN, self.least_gain * known) and not misled and self.gain(bivariate.COVERED) > GAIN:
            found = bivariate.with_errors(self.joint_counts, found)
            share, error = found.mismatched, found.errors[0]
            shares = [other.mismatched for other in fits]
            least, most = max(0.0, min(share - error, *shares)), min(1.0, max(share + error, *shares))
            if share > MOST_WITHIN and found.within > found.random:
                # All pairs look like that to an encoder that tells kinds apart, and nothing within them.
                return model, None, min(low, least), 1.0, WEAK
            if most - least > WIDE_WITHIN:
                # Matched pairs and mismatches within kinds look alike, so that neither model can be ruled out.
                return model, None, min(low, least), max(high, most), WEAK
            marginal = binormal.fit(self.counts, self.within[self.middle], mismatched=share)
            return marginal, found, least, most, WITHIN_RANGE if most - least > 2 * error + 0.01 else None
        joint = None
        if self.siblings and not misled:
            joint = bivariate.with_errors(self.joint_counts, without)
            low, high = (float(np.clip(joint.mismatched + side * joint.errors[0], 0, 1)) for side in (-1, 1))
            high = max(high, least_high)
            model = binormal.fit(self.counts, mismatched=joint.mismatched)
            joint = replace(joint, within_mass=self.joint_within[self.middle])
        if high - low > WIDE:
            return model, None, low, high, WEAK
        # With other captions of the images, matched pairs are not quite normal, which gains a little by itself.
        maybe = joint is None and gain > max(binormal.DROP, MAYBE_PER_PAIR * known)
        possible = found.mismatched if maybe else 0.0
        return model, joint, low, max(high, possible), MAYBE_WITHIN if possible > high + 0.01 else None

    def by_strata(
        self, model: Binormal, joint: Bivariate | None, low: float, high: float, why: str | None
    ) -> tuple[Strata | None, Binormal, Bivariate | None, float, float, str | None]:
        """The strata, if they are needed, and what was found without them, with the share that they give."""
        pairs, random, drawn = self.samples
        within = drawn if joint is not None and joint.within else []
        needed = fit_strata_needed(pairs, random, within, by_standing=joint is not None)
        if needed is None or needed[2] - needed[1] > (WIDE_WITHIN if within else WIDE):
            return None, model, joint, low, high, why
        strata, least, most = needed
        model = binormal.fit(self.counts, self.within[self.middle] if within else None, mismatched=strata.mismatched)
        if joint is not None:
            joint = replace(joint, random=strata.random, within=strata.within, errors=strata.errors)
            why = WITHIN_RANGE if within and most - least > 2 * strata.errors[0] + 0.01 else None
        if why == MAYBE_WITHIN and high > most + 0.01:
            return strata, model, joint, least, high, why
        return strata, model, joint, least, most, None if why == MAYBE_WITHIN else why

    def strata_like(self, like: Strata) -> Strata | None:
        """The strata of the same pairs by other scores, with the same share of mismatched pairs."""
        pairs, random, drawn = self.samples
        cuts = cuts_of(pairs.spread)
        if not len(cuts):
            return None
        within = drawn[self.middle] if like.within else None
        return fit_strata(pairs, random, within, cuts, by_standing=bool(like.joints), mismatched=like.mismatched)

    def fit_like(self, like: DecoyCalibration) -> tuple[Binormal, Bivariate | None]:
        """The models of the same pairs by other scores, with the same shares of mismatched pairs."""
        if like.joint is None:
            return binormal.fit(self.counts, mismatched=like.model.mismatched), None
        share, kinds = like.joint.mismatched, self.middle
        if not like.joint.within:
            joint = bivariate.fit(self.joint_counts, self.joint_random, mismatched=share)
            joint = replace(joint, within_mass=self.joint_within[kinds])
            return binormal.fit(self.counts, mismatched=share), joint
        joint = bivariate.fit(self.joint_counts, self.joint_random, self.joint_within[kinds], mismatched=share)
        return binormal.fit(self.counts, self.within[kinds], mismatched=share), joint

    def alike(self, joint: Bivariate | None, mismatched: float | None = None) -> Bivariate:
        """What matched and mismatched pairs look like, also where no mismatches within kinds were found.

        mismatched: the share of mismatched pairs, where it is known.
        """
        if joint is not None:
            return joint
        found = bivariate.fit(self.joint_counts, self.joint_random, mismatched=mismatched)
        return replace(found, within_mass=self.joint_within[self.middle])


def _with_phrases(
    plain: DecoyCalibration, by_phrase: ByPhrase, z: np.ndarray, counts: np.ndarray, mismatched: float | None = None
) -> tuple[DecoyCalibration, tuple[float, float]]:
    """The calibration with captions that are partly wrong, and the range of the share of mismatched pairs.

    plain: without them.  z: (n,) evidence of the pairs; counts: its histogram.  mismatched: the share, where known.
    """
    partial, by_s, ends = by_phrase.fit(by_evidence(plain.model, z), mismatched)
    model = binormal.fit(counts, by_s, mismatched=partial.mismatched)
    found = replace(plain, model=model, joint=None, doubt=None, strata=None, partial=partial, phrases=by_phrase.phrases)
    return found, ends


def _doubt(counts: np.ndarray, low: float, high: float) -> tuple[Binormal, Binormal]:
    return binormal.fit(counts, mismatched=low), binormal.fit(counts, mismatched=high)


def _rate(
    found: DecoyCalibration,
    scores: Scores,
    z: np.ndarray,
    single: np.ndarray,
    copies: np.ndarray,
    interval: tuple[float, float],
    why: str | None,
) -> Rate:
    """Of all pairs.  single: (n,) bool, those that have no meaningless identity; interval: of their share."""
    n, scored = len(z), scores.scored
    noisy = 1 - found.posterior(scored, z)
    apart = single & found.is_apart(scored)
    rest = single & ~apart
    # Of meaningless identities and of copies, whose pairs are right or wrong together.
    spread = np.where(single, (copies - 1) * noisy * (1 - noisy), copies * noisy * (1 - noisy)).sum() / n**2
    of_kind = [float((apart & (scored.text_kind == k)).sum()) / n * joint.errors[0] for k, joint in found.apart.items()]
    off = float(np.sqrt(1.96**2 * spread + np.square(of_kind).sum()))
    part = float(rest.mean())
    shift = float(noisy[rest].sum()) / n - part * found.model.mismatched  # copies weigh here, and not in the fit
    fixed = float(noisy[~rest].sum()) / n
    estimate = float(noisy.mean())
    low, high = (part * end + shift + fixed for end in interval)
    low, high = min(low - off, estimate) - TAIL, max(high + off, estimate)
    half = 0.5 / n
    ends = (max(0.0, low) if low > half else 0.0, min(1.0, high) if high < 1 - half else 1.0)
    return Rate(estimate, *ends, why_wide=why, parts=_parts(found, scored, noisy, rest, apart, ends))


def _parts(
    found: DecoyCalibration,
    scored: Scored,
    noisy: np.ndarray,
    rest: np.ndarray,
    apart: np.ndarray,
    ends: tuple[float, float],
) -> dict[str, dict[str, float]]:
    n, part = len(noisy), float(rest.mean())
    generic, placeholder = found.identities.generic(scored), found.identities.placeholder(scored)
    named = {"generic": generic & ~placeholder, "placeholder": placeholder}
    random, within = found.model.random, found.model.within
    other_sort, fitted = ("within_kind", found.joint) if found.partial is None else ("partly", found.partial)
    off = dict.fromkeys(("random", other_sort), (float(noisy.mean()) - ends[0], ends[1] - float(noisy.mean())))
    if fitted is None:
        off[other_sort] = 0.0, 0.0
    else:
        random, within, errors = fitted.random, fitted.within, fitted.errors
        off = {"random": (part * errors[1],) * 2, other_sort: (part * errors[2],) * 2}
    random, within = part * random, part * within
    for kind, joint in found.apart.items():
        share = float((apart & (scored.text_kind == kind)).sum()) / n
        random, within = random + share * joint.random, within + share * joint.within
        off = {
            name: tuple(np.hypot(of, share * joint.errors[1 + at]) for of in off[name]) for at, name in enumerate(off)
        }
    parts = {}
    for name, estimate in (("random", random), (other_sort, within)):
        below, above = off[name]
        parts[name] = {"estimate": estimate, "low": max(0.0, estimate - below), "high": min(1.0, estimate + above)}
    for name, members in named.items():
        estimate = float(noisy[members].sum()) / n
        error = 1.96 * float(np.sqrt((noisy[members] * (1 - noisy[members])).sum())) / n
        parts[name] = {"estimate": estimate, "low": max(0.0, estimate - error), "high": min(1.0, estimate + error)}
    return parts
