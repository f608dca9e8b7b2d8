"""What the other captions of an image say of one: captions that belong to one image resemble one another.

    agreement = (y - m) . sum_j w_j (y_j - m) / W,    W = sum_j w_j

over the other captions of the image, m the mean of all captions. w_j rises with the standing of caption j, since only
captions that belong to the image say what it shows. The agreement becomes part of the standing,

    v = (standing + W * probit of the share of re-pairings within kinds that agree less) / (1 + W).

Captions that moved to another image together agree with one another too. So this is done only where captions are wrong
one by one. It shows by the other captions of one with low standing: they stand as high as those of any caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit

from ..arrays import chunks
from .decoys import DecoyScale
from .embedded import CHUNK, Vectors
from .evidence import probit
from .scores import pair_codes

#: The standing at which a caption has half the full weight, and how steeply the weight rises there. Of captions moved
#: within kinds, one in five stands above .7. Chosen on photos of people and dogs with five and with fifteen captions
#: each.
HALF, STEEP = 0.7, 3.0
#: Captions are wrong one by one if the mean standing of the siblings of those that stand below 0 is at least ONE_BY_ONE
#: of the mean over all captions. At least FEWEST_LOW captions have to stand below 0. The ratio was .82 to 1.05 where
#: captions were moved one by one or judged wrong by people, .23 where none were, -.31 to -.02 where all captions of an
#: image moved together, and .35 to .45 where half of the moved ones did.
ONE_BY_ONE, FEWEST_LOW = 0.7, 20
#: The others of a caption are ignored if their weights sum to less.
LEAST = 1e-3
#: The fewest re-pairings within kinds by which agreement can be put on a scale.
FEWEST = 200


@dataclass(frozen=True)
class Siblings:
    """The captions of images that have several.  captions: of n pairs, in a model's space.

    group: (n,) int64, a number for the image of each pair, -1 where it has one caption only.
    total: (g, d) float32, the weighted sum of the distinct captions of each image, less their mean; weight: (g,) the
    sum of their weights.
    own: (n,) the weight in it of each pair's caption.  mean: (d,) float32 of all captions.
    """

    captions: Vectors
    group: np.ndarray
    total: np.ndarray
    weight: np.ndarray
    own: np.ndarray
    mean: np.ndarray

    @staticmethod
    def of(captions: Vectors, image_id: np.ndarray, caption_id: np.ndarray, standing: np.ndarray) -> Siblings | None:
        """None if captions are not wrong one by one, or no image has several.

        captions: of n pairs.  image_id, caption_id: (n,) int64.  standing: (n,), NaN where it is not known.
        """
        _, first, code, copies = np.unique(
            pair_codes(image_id, caption_id), return_index=True, return_inverse=True, return_counts=True
        )
        _, image, count = np.unique(image_id[first], return_inverse=True, return_counts=True)
        several = np.flatnonzero(count > 1)
        if not len(several):
            return None
        number = np.full(len(count), -1)
        number[several] = np.arange(len(several))
        group = number[image][code]
        if not _one_by_one(standing[first], group[first]):
            return None
        weight = np.where(np.isnan(standing), 0.0, expit(STEEP * (np.nan_to_num(standing) - HALF)))
        share = weight / copies[code]  # copies of a pair are one caption
        n, dim = len(standing), captions[:1].shape[1]
        total, mean = np.zeros((len(several), dim)), np.zeros(dim, np.float32)
        for part in chunks(n, CHUNK):
            y = captions[part]
            member = np.flatnonzero(group[part] >= 0)
            groups, at = np.unique(group[part][member], return_inverse=True)  # few of all
            total[groups] += csr_matrix((share[part][member], (at, member)), (len(groups), len(y))) @ y
            mean += y.sum(0) / n
        members = group >= 0
        summed = np.bincount(group[members], share[members], len(several))
        centred = np.asarray(total - summed[:, None] * mean, np.float32)
        return Siblings(captions, group, centred, summed, np.bincount(code, share)[code], mean)

    def agreement(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) float64 agreement of captions right with the captions of images left other than left's own, NaN where
        there are none; and W, (m,) float64.  left, right: (m,) positions."""
        found, weight = np.full(len(left), np.nan), np.zeros(len(left))
        group = self.group[left]
        some = np.flatnonzero(group >= 0)
        weight[some] = np.maximum(self.weight[group[some]] - self.own[left[some]], 0)
        some = some[weight[some] > LEAST]
        for members in (some[part] for part in chunks(len(some), CHUNK)):
            i, j = left[members], right[members]
            own, y = (self.captions[k] - self.mean for k in (i, j))
            others = self.total[group[members]] - self.own[i, None] * own
            found[members] = np.einsum("ij,ij->i", y, others) / weight[members]
        return found, weight

    def joined(
        self,
        standing: np.ndarray,
        drawn: Sequence[tuple[np.ndarray, np.ndarray]],
        of_drawn: Sequence[np.ndarray],
        null: int,
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Standing with agreement: of the n pairs, and of each set of re-pairings; and W of the pairs, (n,).

        standing: (n,).  drawn: positions of images and of captions of re-pairings.  of_drawn: their standing.
        null: which of these sets is of re-pairings within kinds, whose agreement the others are compared with.
        """
        every = np.arange(len(standing))
        known = [np.flatnonzero(~np.isnan(of)) for of in (standing, *of_drawn)]
        found = [
            self.agreement(left[some], right[some])
            for (left, right), some in zip(((every, every), *drawn), known, strict=True)
        ]
        sample = found[1 + null][0]
        sample = sample[~np.isnan(sample)]
        weight = np.zeros(len(every))
        if len(sample) < FEWEST:
            return standing, list(of_drawn), weight
        scale = DecoyScale.fit(sample)
        out = [of.copy() for of in (standing, *of_drawn)]
        for v, some, (agreement, w) in zip(out, known, found, strict=True):
            has = np.flatnonzero(~np.isnan(agreement))
            v[some[has]] = (v[some[has]] + w[has] * probit(scale(agreement[has]))) / (1 + w[has])
        weight[known[0]] = found[0][1]
        return out[0], out[1:], weight


def _one_by_one(standing: np.ndarray, group: np.ndarray) -> bool:
    """Whether captions are wrong one by one.

    standing: (n,) of distinct pairs.  group: (n,) int64, their images; -1 where an image has one caption only.
    """
    known = np.flatnonzero(~np.isnan(standing) & (group >= 0))
    v, of = standing[known], group[known]
    count, total = np.bincount(of), np.bincount(of, v)
    some = count[of] > 1
    siblings = (total[of] - v)[some] / (count[of][some] - 1)
    low = v[some] < 0
    return bool(low.sum() >= FEWEST_LOW and siblings[low].mean() >= ONE_BY_ONE * siblings.mean() > 0)
