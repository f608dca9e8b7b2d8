"""The mismatch rate and the probability that a pair is matched, from its evidence; see `binormal` for the model.

Pairs with a repeated text or a repeated image have a mismatch rate of their own, one per text (image), drawn towards
the rate of all such pairs: a slogan under many images is wrong every time, a class name is not. All other pairs share
one. Copies of a pair count once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from . import binormal
from .binormal import Binormal
from .crossfit import Scores
from .decoys import Rate, tie_break
from .evidence import EvidenceScale, Scored

#: Pairs that the rate of all repeated identities weighs in the rate of each.
PRIOR_PAIRS = 2.0
#: An interval of more than this says that the encoder tells too little.
WIDE = 0.25
#: Matched pairs below the normal tail: without planted mismatches, up to so many were taken for mismatched.
TAIL = 0.002
#: A repeated identity with a higher mismatch rate says nothing of its partners.
MEANINGLESS = 0.8
GRID = np.linspace(-6.0, binormal.TOP, 361)

WITHIN_RANGE = (
    "some mismatched captions resemble the right ones, and how many is known up to the size of the kinds that captions "
    "are compared within: the range is from coarse kinds to fine ones"
)
MAYBE_WITHIN = (
    "some mismatched captions may resemble the right ones; the evidence is too weak to count them in the estimate, and "
    "the range includes them"
)
WEAK = (
    "the encoder cannot tell: its similarities distinguish matched pairs from random re-pairings too little to say how "
    "many are mismatched"
)


@dataclass(frozen=True)
class DecoyCalibration:
    """What was fitted; it gives the probability for any scores, also of pairs that it was not fitted on.

    clusters: of images and of captions; kinds from these numbers on are repeated identities.
    image_share, text_share: the mismatch rate of each repeated identity.
    doubt: the least and the largest share of mismatched pairs that the evidence allows, if the encoder tells too
    little; else None.
    """

    scale: EvidenceScale
    model: Binormal
    clusters: tuple[int, int]
    image_share: np.ndarray
    text_share: np.ndarray
    rate: Rate
    doubt: tuple[Binormal, Binormal] | None = None
    kind: ClassVar[Literal["decoy"]] = "decoy"

    @property
    def prior(self) -> float:
        """P(mismatched) before the evidence is seen, away from 0 and 1."""
        return float(np.clip(self.rate.estimate, 1e-6, 1 - 1e-6))

    def clean_probability(self, scored: Scored) -> np.ndarray:
        """P(matched), (n,) float64.  It rises strictly with the evidence among pairs of one mismatch rate."""
        z = self.scale(scored)
        share = self._share(scored)
        return tie_break(_posterior(self.model, z, share, np.isnan(share)), z - 1)

    def undecided(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs that are likelier matched or not, depending on the rate, where that is in doubt."""
        if self.doubt is None:
            return np.zeros(len(scored.score), bool)
        z, none = self.scale(scored), np.full(len(scored.score), np.nan)
        low, high = (_posterior(model, z, none, np.isnan(none)) >= 0.5 for model in self.doubt)
        return low != high

    def resembles(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs that, if mismatched, are likelier so within their kind than at random."""
        if not self.model.within:
            return np.zeros(len(scored.score), bool)
        z = self.scale(scored)
        random, within = self.model.random * _density(binormal.RANDOM, z), _density(self.model.within_mass, z)
        return self.model.within * within > random

    def share_among(self, scored: Scored) -> float:
        """The mismatch rate of these pairs, if those that are matched are like the matched pairs of the whole."""
        ratio = _ratio(replace(self.model, random=1.0, within=0.0), self.scale(scored))
        share = 0.5
        for _ in range(200):
            share = float((share / (share + (1 - share) * ratio)).mean())
        return share

    def generic(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs whose caption says nothing of the many images that it is with."""
        return _of_kind(self.text_share > MEANINGLESS, scored.text_kind, self.clusters[1])

    def placeholder(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs whose image fits none of the many captions that it is with."""
        return _of_kind(self.image_share > MEANINGLESS, scored.image_kind, self.clusters[0])

    def _share(self, scored: Scored) -> np.ndarray:
        """(n,) the mismatch rate of each pair's repeated identity, NaN where it has none."""
        image = _of_kind(self.image_share, scored.image_kind, self.clusters[0], np.nan)
        text = _of_kind(self.text_share, scored.text_kind, self.clusters[1], np.nan)
        return np.where(np.isnan(image), text, image)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "mismatch_rate": vars(self.rate),
            "evidence": self.scale.to_json(),
            "model": _model_json(self.model),
            "clusters": list(self.clusters),
            "image_share": self.image_share.tolist(),
            "text_share": self.text_share.tolist(),
            "doubt": self.doubt and [_model_json(model) for model in self.doubt],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> DecoyCalibration:
        doubt = data["doubt"] and tuple(_read_model(model) for model in data["doubt"])
        return DecoyCalibration(
            EvidenceScale.from_json(data["evidence"]),
            _read_model(data["model"]),
            (data["clusters"][0], data["clusters"][1]),
            np.array(data["image_share"]),
            np.array(data["text_share"]),
            Rate(**data["mismatch_rate"]),
            doubt,
        )


def calibrate(scores: Scores, *, like: DecoyCalibration | None = None, seed: int = 0) -> DecoyCalibration:
    """Fit the model to the evidence of the pairs.

    like: an earlier calibration of the same pairs by other scores, whose mismatch rates are kept.
    """
    scale = EvidenceScale.fit(scores.scored_decoys)
    z, kinds = scale(scores.scored), scores.kinds
    n = len(z)
    copies = np.ones(n) if kinds is None else kinds.copies
    clusters = (1, 1) if kinds is None else kinds.clusters
    group = _groups(scores, clusters)
    single = group < 0
    counts = binormal.histogram(z[single], 1 / copies[single])
    drawn = () if kinds is None else kinds.within
    within = [binormal.smoothed(binormal.histogram(scale(part))) for part in drawn if len(part.score)]
    if like is not None:
        mass = like.model.within_mass if not within else within[len(within) // 2]
        model = binormal.fit(counts, mass if like.model.within else None, mismatched=like.model.mismatched)
        doubt = like.doubt and _doubt(counts, *(end.mismatched for end in like.doubt))
        return replace(like, scale=scale, model=model, doubt=doubt)
    model, low, high, why = _fit(counts, within)
    sizes = _sizes(scores, clusters)
    shares = _repeated_shares(model, z, group, 1 / copies, sum(sizes))
    of_image, of_text = np.split(shares, [sizes[0]])
    doubt = _doubt(counts, low, high) if why == WEAK else None
    found = DecoyCalibration(scale, model, clusters, of_image, of_text, Rate(0, 0, 1), doubt)
    return replace(found, rate=_rate(found, scores, z, group, copies, counts, (low, high), why, seed))


def _fit(counts: np.ndarray, within: list[np.ndarray]) -> tuple[Binormal, float, float, str | None]:
    """The model, the interval of its share of mismatched pairs, and why that is a range."""
    n = float(counts.sum())
    model = binormal.fit(counts)
    possible = 0.0
    if within:
        fits = [binormal.fit(counts, mass) for mass in within]
        middle = fits[len(fits) // 2]
        if binormal.is_evident(model, middle, n):
            low, high = binormal.interval(counts, middle, with_within=True)
            shares = [found.mismatched for found in fits]
            wider = min(low, *shares), max(high, *shares)
            return middle, *wider, WITHIN_RANGE if wider[1] - wider[0] > high - low + 0.01 else None
        if middle.log_likelihood - model.log_likelihood > binormal.DROP:
            possible = middle.mismatched
    low, high = binormal.interval(counts, model, with_within=False)
    # With no mismatch among n pairs, so much is known of the rate and no more.
    high = max(high, 1 - ((1 - 0.95) / 2) ** (1 / max(1.0, n)))
    if high - low > WIDE:
        return model, low, high, WEAK
    return model, low, max(high, possible), MAYBE_WITHIN if possible > high + 0.01 else None


def _doubt(counts: np.ndarray, low: float, high: float) -> tuple[Binormal, Binormal]:
    return binormal.fit(counts, mismatched=low), binormal.fit(counts, mismatched=high)


def _groups(scores: Scores, clusters: tuple[int, int]) -> np.ndarray:
    """(n,) int64: which repeated identity a pair belongs to, images before texts; -1 for none."""
    if scores.kinds is None:
        return np.full(len(scores.score), -1)
    images = _sizes(scores, clusters)[0]
    by_image, by_text = scores.kinds.image - clusters[0], scores.kinds.text - clusters[1]
    return np.where(by_image >= 0, by_image, np.where(by_text >= 0, images + by_text, -1))


def _sizes(scores: Scores, clusters: tuple[int, int]) -> tuple[int, int]:
    """How many repeated images and texts there are."""
    if scores.kinds is None:
        return 0, 0
    image, text = (int(kind.max(initial=0)) + 1 for kind in (scores.kinds.image, scores.kinds.text))
    return max(0, image - clusters[0]), max(0, text - clusters[1])


def _repeated_shares(model: Binormal, z: np.ndarray, group: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """(count,) mismatch rate of every repeated identity, by EM with the rate of all of them as a prior."""
    share = np.full(count, 0.3)
    members = np.flatnonzero(group >= 0)
    if not len(members):
        return share
    at, w = group[members], weight[members]
    ratio = _ratio(replace(model, random=1.0, within=0.0), z[members])
    size = np.bincount(at, w, count)
    for _ in range(200):
        noisy = w * share[at] / (share[at] + (1 - share[at]) * ratio)
        overall = noisy.sum() / w.sum()
        share = (np.bincount(at, noisy, count) + PRIOR_PAIRS * overall) / (size + PRIOR_PAIRS)
    return np.clip(share, 1e-6, 1 - 1e-6)


def _rate(
    found: DecoyCalibration,
    scores: Scores,
    z: np.ndarray,
    group: np.ndarray,
    copies: np.ndarray,
    counts: np.ndarray,
    single: tuple[float, float],
    why: str | None,
    seed: int,
) -> Rate:
    """Of all pairs.  single: the interval of pairs without a repeated identity."""
    n, scored = len(z), scores.scored
    share = found._share(scored)
    noisy = 1 - _posterior(found.model, z, share, np.isnan(share))
    rest = group < 0
    # Of repeated identities and of copies, whose pairs are right or wrong together.
    spread = np.where(rest, (copies - 1) * noisy * (1 - noisy), copies * noisy * (1 - noisy)).sum() / n**2
    off = 1.96 * float(np.sqrt(spread))
    part = float(rest.mean())
    shift = float(noisy[rest].sum()) / n - part * found.model.mismatched  # copies weigh here, and not in the fit
    fixed = float(noisy[~rest].sum()) / n
    estimate = float(noisy.mean())
    low, high = (part * end + shift + fixed for end in single)
    low, high = min(low - off, estimate) - TAIL, max(high + off, estimate)
    half = 0.5 / n
    ends = (max(0.0, low) if low > half else 0.0, min(1.0, high) if high < 1 - half else 1.0)
    return Rate(estimate, *ends, why_wide=why, parts=_parts(found, scored, noisy, rest, counts, ends, seed))


def _parts(
    found: DecoyCalibration,
    scored: Scored,
    noisy: np.ndarray,
    rest: np.ndarray,
    counts: np.ndarray,
    ends: tuple[float, float],
    seed: int,
) -> dict[str, dict[str, float]]:
    n, part, model = len(noisy), float(rest.mean()), found.model
    generic, placeholder = found.generic(scored), found.placeholder(scored)
    named = {"generic": generic & ~placeholder, "placeholder": placeholder}
    other = float(noisy[~rest & ~generic & ~placeholder].sum()) / n  # moved captions of repeated identities
    parts = {}
    if model.within:
        random, within = binormal.bootstrap(counts, model, seed=seed)
        sizes = {"random": (part * model.random + other, random), "within_kind": (part * model.within, within)}
        for name, (estimate, again) in sizes.items():
            low, high = np.quantile(again - again.mean(), [0.025, 0.975]) * part + estimate
            parts[name] = {"estimate": estimate, "low": max(0.0, float(low)), "high": min(1.0, float(high))}
    else:
        estimate = part * model.random + other
        rate = float(noisy.mean())
        parts["random"] = {
            "estimate": estimate,
            "low": max(0.0, estimate - (rate - ends[0])),
            "high": min(1.0, estimate + (ends[1] - rate)),
        }
        parts["within_kind"] = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    for name, members in named.items():
        estimate = float(noisy[members].sum()) / n
        off = 1.96 * float(np.sqrt((noisy[members] * (1 - noisy[members])).sum())) / n
        parts[name] = {"estimate": estimate, "low": max(0.0, estimate - off), "high": min(1.0, estimate + off)}
    return parts


# --- densities --------------------------------------------------------------------------------------------------------


def _posterior(model: Binormal, z: np.ndarray, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(n,) P(matched), non-decreasing in z for pairs of one share.  rest: pairs that have the model's own share."""
    out = np.empty(len(z))
    noisy = float(np.clip(model.mismatched, 1e-9, 1 - 1e-9))
    ratio = _ratio(model, z[rest])
    out[rest] = (1 - noisy) * ratio / ((1 - noisy) * ratio + noisy)
    ratio, noisy_of = _ratio(replace(model, random=1.0, within=0.0), z[~rest]), share[~rest]
    out[~rest] = (1 - noisy_of) * ratio / ((1 - noisy_of) * ratio + noisy_of)
    return out


def _ratio(model: Binormal, z: np.ndarray) -> np.ndarray:
    """(n,) density of the evidence of matched pairs over that of mismatched ones, held monotone past its extremes."""
    mass = model.matched_mass()
    noise = max(model.random, 1e-12) * binormal.RANDOM
    if model.within:
        noise = noise + model.within * model.within_mass
    noise = noise / noise.sum()
    log = np.log(np.maximum(_density(mass, GRID), 1e-300)) - np.log(np.maximum(_density(noise, GRID), 1e-300))
    log[-1] = np.log(max(mass[-1], 1e-300)) - np.log(max(noise[-1], 1e-300))  # all of what is above TOP
    peak = int(log.argmax())
    log[peak:] = log[peak]
    trough = int(log[: peak + 1].argmin())
    log[:trough] = log[trough]
    return np.exp(np.clip(np.interp(z, GRID, np.maximum.accumulate(log)), -700, 700))


def _density(mass: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(n,) of a mass over the cells, linear between their centres; the two tails are spread over one unit."""
    width = (binormal.TOP - binormal.LOW) / binormal.CELLS
    height = np.concatenate([mass[:1], mass[1:-1] / width, mass[-1:]])
    return np.interp(z, binormal.CENTRES, height)


def _of_kind(values: np.ndarray, kind: np.ndarray, clusters: int, missing: Any = False) -> np.ndarray:
    """(n,) the value of each repeated identity; `missing` for kinds that are none."""
    at = kind - clusters
    inside = (at >= 0) & (at < len(values))
    out = np.full(len(kind), missing, values.dtype if len(values) else type(missing))
    out[inside] = values[at[inside]]
    return out


def _model_json(model: Binormal) -> dict[str, Any]:
    return {**vars(model), "within_mass": model.within_mass.tolist()}


def _read_model(data: dict[str, Any]) -> Binormal:
    return Binormal(**{**data, "within_mass": np.array(data["within_mass"])})
