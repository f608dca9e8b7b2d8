"""The evidence of a pair: how far it stands out from re-pairings with captions, and with images, of its own kinds.

    z = probit of the share of decoys that score below the pair

among decoys whose captions are of the pair's caption's kind, and among decoys whose images are of its image's kind: the
lower of the two, on the scale of random re-pairings, whose evidence is standard normal. A placeholder image fits no
caption better than another, and a slogan no image, however their scores compare with those of other pairs; held
fixed, their kinds say so. For random mismatches the evidence is standard normal whatever the kinds are like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import chunks, places_of_values
from ..execution import side_by_side
from .decoys import DecoyScale

#: A kind with fewer decoys is judged on the scale of all decoys.
FEWEST_DECOYS = 200
#: Scores whose evidence one thread computes.
SPAN = 65_536


@dataclass(frozen=True)
class Scored:
    """Scores of image-caption pairs.  score: (n,) float64.  image_kind, text_kind: (n,) int64.

    standing: (n,) float64, among others of their kinds (see `standing`); NaN where it is not known.
    weakest: (n,) float64, the score of the caption's weakest phrase (see `phrased`); NaN where it is not known.
    spread: (n,) float64, how widely the caption's similarities with images spread (see `strata`); NaN where it is not
    known.
    """

    score: np.ndarray
    image_kind: np.ndarray
    text_kind: np.ndarray
    standing: np.ndarray
    weakest: np.ndarray
    spread: np.ndarray

    @staticmethod
    def plain(score: np.ndarray) -> Scored:
        """All of one kind, and nothing else known."""
        kind = np.zeros(len(score), np.int64)
        return Scored.of_kinds(score, kind, kind)

    @staticmethod
    def of_kinds(score: np.ndarray, image_kind: np.ndarray, text_kind: np.ndarray) -> Scored:
        """Nothing else is known."""
        return Scored(score, image_kind, text_kind, *np.full((3, len(score)), np.nan))

    def take(self, which: Any) -> Scored:
        return Scored(*(values[which] for values in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[Scored]) -> Scored:
        return Scored(*(np.concatenate(arrays) for arrays in zip(*(vars(p).values() for p in parts), strict=True)))


@dataclass(frozen=True)
class EvidenceScale:
    """Scores and kinds -> evidence.  image, text: the scales of the kinds that have enough decoys, by kind.

    overall: of all decoys.  lower: of the lower of both sides, before it is standard normal for decoys.
    """

    overall: DecoyScale
    image: dict[int, DecoyScale]
    text: dict[int, DecoyScale]
    lower: DecoyScale

    @staticmethod
    def fit(decoys: Scored) -> EvidenceScale:
        overall = DecoyScale.fit(decoys.score)
        image, text = _by_kind(decoys.score, decoys.image_kind), _by_kind(decoys.score, decoys.text_kind)
        bare = EvidenceScale(overall, image, text, overall)
        return EvidenceScale(overall, image, text, DecoyScale.fit(_in_spans(bare._lower, decoys)))

    def __call__(self, scored: Scored) -> np.ndarray:
        """(n,) float64, strictly increasing in the score within a pair of kinds."""
        return _in_spans(lambda part: probit(self.lower(self._lower(part))), scored)

    def _lower(self, scored: Scored) -> np.ndarray:
        sides = ((self.image, scored.image_kind), (self.text, scored.text_kind))
        by_image, by_text = (self._of_side(scales, scored.score, kind) for scales, kind in sides)
        return np.minimum(by_image, by_text)

    def _of_side(self, scales: dict[int, DecoyScale], score: np.ndarray, kind: np.ndarray) -> np.ndarray:
        logit = self.overall(score)
        for k, scale in scales.items():
            members = np.flatnonzero(kind == k)
            logit[members] = scale(score[members])
        return probit(logit)

    def to_json(self) -> dict[str, Any]:
        def side(scales: dict[int, DecoyScale]) -> dict[str, Any]:
            return {str(kind): scale.to_json() for kind, scale in scales.items()}

        both = {"overall": self.overall.to_json(), "lower": self.lower.to_json()}
        return {**both, "image": side(self.image), "text": side(self.text)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> EvidenceScale:
        image, text = ({int(k): DecoyScale.from_json(v) for k, v in data[side].items()} for side in ("image", "text"))
        return EvidenceScale(DecoyScale.from_json(data["overall"]), image, text, DecoyScale.from_json(data["lower"]))


def _in_spans(evidence: Callable[[Scored], np.ndarray], scored: Scored) -> np.ndarray:
    """(n,) float64: `evidence` of some of the pairs on each core."""
    out = np.empty(len(scored.score))
    spans = list(chunks(len(out), SPAN))

    def of_span(k: int, _: str) -> None:
        out[spans[k]] = evidence(scored.take(spans[k]))

    side_by_side(of_span, len(spans), ["cpu"])
    return out


def probit(logit: np.ndarray) -> np.ndarray:
    """The standard normal z that a share p of all exceed.  logit: (n,) float64, of p."""
    from scipy.special import log_expit, ndtri_exp

    lower = ndtri_exp(log_expit(-np.abs(logit)))  # of the smaller of p and 1 - p, which keeps its digits
    return np.where(logit < 0, -lower, lower)


def _by_kind(score: np.ndarray, kind: np.ndarray) -> dict[int, DecoyScale]:
    kinds, places = places_of_values(kind)
    scales = {}
    if len(kinds) > 1:
        for k, members in zip(kinds.tolist(), places, strict=True):
            if len(members) >= FEWEST_DECOYS and np.ptp(score[members]) > 1e-9:
                scales[k] = DecoyScale.fit(score[members], knots=64)
    return scales
