"""The mismatch rate and the probability that a pair is matched, from its evidence and what else is known of it.

`binormal` models the evidence; `bivariate` adds the standing, where mismatches within kinds are found, or the fit of
the weakest phrase, where captions that are partly wrong are.

All pairs share one mismatch rate, except for those of texts and images that say nothing of their partners
(`identities`), of kinds of captions that are far worse than the others (`apart`), and, where some captions tell much
less than others, by how much they tell (`strata`). Copies of a pair count once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from . import binormal
from .binormal import Binormal
from .bivariate import Bivariate
from .decoys import DecoyScale, Rate, tie_break
from .evidence import EvidenceScale, Scored, probit
from .identities import Identities
from .strata import Strata

#: An encoder that ranks fewer matched pairs than this above a random mismatch tells nothing about phrases: without any
#: such captions, weak encoders gained as much as strong ones with 40% of them (coco2k, .86 ranked so). Nor does it tell
#: captions of similar pictures from right ones (docs/methods.md, section 6).
LEAST_RANKED = 0.95


@dataclass(frozen=True)
class DecoyCalibration:
    """What was fitted; it gives the probability for any scores, also of pairs that it was not fitted on.

    model: of the evidence alone.  joint: of evidence and standing; None where no mismatches within kinds were found and
    the standing does not rest on other captions of the images either.
    identities: those that say nothing of their partners, which have mismatch rates of their own.
    apart: models of the kinds of captions that have a rate of their own.  The other models are of all other pairs.
    doubt: the least and the largest share of mismatched pairs that the evidence allows, if the encoder tells too
    little; else None.
    partial: of the score and that of the weakest phrase, on the scales `scale.overall` and `phrases` of random
    re-pairings; None where no captions that are partly wrong were found. There is no `joint` and there are no `strata`
    with it.
    strata: models by how much captions tell, in place of `model` and `joint`; None where matched pairs are alike. The
    shares of `model` and `joint` are theirs then.
    """

    scale: EvidenceScale
    model: Binormal
    identities: Identities
    rate: Rate
    joint: Bivariate | None = None
    apart: dict[int, Bivariate] = field(default_factory=dict)
    doubt: tuple[Binormal, Binormal] | None = None
    partial: Bivariate | None = None
    phrases: DecoyScale | None = None
    strata: Strata | None = None
    kind: ClassVar[Literal["decoy"]] = "decoy"

    @property
    def prior(self) -> float:
        """P(mismatched) before the evidence is seen, away from 0 and 1."""
        return float(np.clip(self.rate.estimate, 1e-6, 1 - 1e-6))

    def clean_probability(self, scored: Scored) -> np.ndarray:
        """P(matched), (n,) float64.  It rises strictly with the evidence, all else being equal."""
        z = self.scale(scored)
        return tie_break(self.posterior(scored, z), z - 1)

    def posterior(self, scored: Scored, z: np.ndarray) -> np.ndarray:
        """(n,) P(matched).  z: (n,) the evidence of these pairs."""
        share = self.identities.rate(scored)
        rest = np.isnan(share)
        posterior = _posterior(self.model, z, share, rest)
        if self.strata is not None:
            stratum = np.where(rest, self.strata.of(scored.spread), -1)
            for k, model in enumerate(self.strata.models):
                posterior[stratum == k] = by_evidence(model, z[stratum == k])
        for known, joint in self._by_standing(scored, rest):
            posterior[known] = joint.clean_probability(z[known], scored.standing[known])
        if self.partial is not None:
            s, u = self._by_phrase(scored)
            known = rest & ~np.isnan(u)
            posterior[known] = self.partial.clean_probability(s[known], u[known])
        return posterior

    def _by_phrase(self, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
        """(n,) fit of the captions and of their weakest phrases, standard normal for random mismatches.

        NaN where the phrases are not known.
        """
        assert self.phrases is not None
        return probit(self.scale.overall(scored.score)), probit(self.phrases(scored.weakest))

    def _by_standing(self, scored: Scored, among: np.ndarray) -> Iterator[tuple[np.ndarray, Bivariate]]:
        """Which of these pairs are judged by their standing too, (n,) bool, and by which model."""
        among = among & ~np.isnan(scored.standing)
        if self.joint is not None:
            stratum = np.full(len(among), -1) if self.strata is None else self.strata.of(scored.spread)
            common = among & ~self.is_apart(scored)
            yield common & (stratum < 0), self.joint
            for k, joint in enumerate(() if self.strata is None else self.strata.joints):
                yield common & (stratum == k), joint
        for kind, joint in self.apart.items():
            yield among & (scored.text_kind == kind), joint

    def is_apart(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs of the kinds that have a rate of their own."""
        return np.isin(scored.text_kind, list(self.apart))

    def undecided(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs that are likelier matched or not, depending on the rate, where that is in doubt."""
        if self.doubt is None:
            return np.zeros(len(scored.score), bool)
        z = self.scale(scored)
        low, high = (by_evidence(model, z) >= 0.5 for model in self.doubt)
        return low != high

    def resembles(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs that, if mismatched, are likelier so within their kind than at random."""
        if self.partial is not None:
            return np.zeros(len(scored.score), bool)
        z = self.scale(scored)
        found = self._other_sort(z)
        for known, joint in self._by_standing(scored, np.ones(len(z), bool)):
            found[known] = joint.within_odds(z[known], scored.standing[known]) > 1
        return found

    def partly(self, scored: Scored) -> np.ndarray:
        """(n,) bool: pairs whose caption, if it is wrong, is likelier partly wrong than completely."""
        if self.partial is None:
            return np.zeros(len(scored.score), bool)
        s, u = self._by_phrase(scored)
        found, known = self._other_sort(self.scale(scored)), ~np.isnan(u)
        found[known] = self.partial.within_odds(s[known], u[known]) > 1
        return found

    def _other_sort(self, z: np.ndarray) -> np.ndarray:
        """(n,) bool: mismatches that by their evidence are likelier of the other sort than random."""
        if not self.model.within:
            return np.zeros(len(z), bool)
        random, within = (
            self.model.random * binormal.density(binormal.RANDOM, z),
            binormal.density(self.model.within_mass, z),
        )
        return np.asarray(self.model.within * within > random)

    @property
    def ranked(self) -> float:
        """P(a matched pair has more evidence than a random mismatch)."""
        from scipy.special import ndtr

        return float(ndtr(self.model.mu / np.sqrt(1 + self.model.sigma**2)))

    @property
    def reads_phrases(self) -> bool:
        """Whether the encoder is good enough for single phrases."""
        return self.ranked >= LEAST_RANKED

    @property
    def blind_to_near_misses(self) -> bool:
        """Whether captions of similar pictures may look like right ones without being counted: the encoder is weak,
        and neither other captions of the pictures nor mismatches within kinds say how right ones look."""
        return not self.reads_phrases and self.joint is None and self.doubt is None

    def share_among(self, z: np.ndarray) -> float:
        """The mismatch rate of some pairs, if those that are matched are like the matched pairs of the whole.

        z: (n,) the evidence of these pairs.
        """
        ratio = binormal.ratio_to_random(self.model, z)
        share = 0.5
        for _ in range(200):
            before, share = share, float((share / (share + (1 - share) * ratio)).mean())
            if share == before:  # and stays so
                break
        return share

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "mismatch_rate": vars(self.rate),
            "evidence": self.scale.to_json(),
            "model": _model_json(self.model),
            "joint": self.joint and _joint_json(self.joint),
            "apart": {str(kind): _joint_json(joint) for kind, joint in self.apart.items()},
            "identities": self.identities.to_json(),
            "doubt": self.doubt and [_model_json(model) for model in self.doubt],
            "partial": self.partial and _joint_json(self.partial),
            "phrases": self.phrases and self.phrases.to_json(),
            "strata": self.strata and _strata_json(self.strata),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> DecoyCalibration:
        doubt = data["doubt"] and tuple(_read_model(model) for model in data["doubt"])
        return DecoyCalibration(
            EvidenceScale.from_json(data["evidence"]),
            _read_model(data["model"]),
            Identities.from_json(data["identities"]),
            Rate(**data["mismatch_rate"]),
            data["joint"] and _read_joint(data["joint"]),
            {int(kind): _read_joint(joint) for kind, joint in data["apart"].items()},
            doubt,
            data["partial"] and _read_joint(data["partial"]),
            data["phrases"] and DecoyScale.from_json(data["phrases"]),
            data["strata"] and _read_strata(data["strata"]),
        )


# --- densities --------------------------------------------------------------------------------------------------------


def by_evidence(model: Binormal, z: np.ndarray) -> np.ndarray:
    """(n,) P(matched) of pairs that have the model's own share."""
    return _posterior(model, z, np.full(len(z), np.nan), np.ones(len(z), bool))


def _posterior(model: Binormal, z: np.ndarray, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(n,) P(matched), non-decreasing in z for pairs of one share.  rest: pairs that have the model's own share."""
    out = np.empty(len(z))
    noisy = float(np.clip(model.mismatched, 1e-9, 1 - 1e-9))
    ratio = binormal.ratio(model, z[rest])
    out[rest] = (1 - noisy) * ratio / ((1 - noisy) * ratio + noisy)
    ratio, noisy_of = binormal.ratio_to_random(model, z[~rest]), share[~rest]
    out[~rest] = (1 - noisy_of) * ratio / ((1 - noisy_of) * ratio + noisy_of)
    return out


def _model_json(model: Binormal) -> dict[str, Any]:
    return {**vars(model), **{name: getattr(model, name).tolist() for name in ("within_mass", "random_mass")}}


def _read_model(data: dict[str, Any]) -> Binormal:
    return Binormal(**{**data, **{name: np.array(data[name]) for name in ("within_mass", "random_mass")}})


def _strata_json(strata: Strata) -> dict[str, Any]:
    models, joints = [_model_json(model) for model in strata.models], [_joint_json(joint) for joint in strata.joints]
    return {**vars(strata), "cuts": strata.cuts.tolist(), "models": models, "joints": joints}


def _read_strata(data: dict[str, Any]) -> Strata:
    models, joints = tuple(map(_read_model, data["models"])), tuple(map(_read_joint, data["joints"]))
    cuts, errors = np.array(data["cuts"], np.float64), tuple(data["errors"])
    return Strata(**{**data, "cuts": cuts, "models": models, "joints": joints, "errors": errors})


def _joint_json(joint: Bivariate) -> dict[str, Any]:
    masses = {name: getattr(joint, name).tolist() for name in ("random_mass", "within_mass")}
    return {**vars(joint), **masses}


def _read_joint(data: dict[str, Any]) -> Bivariate:
    masses = {name: np.array(data[name]) for name in ("random_mass", "within_mass")}
    return Bivariate(**{**data, **masses, "shape": tuple(data["shape"]), "errors": tuple(data["errors"])})
