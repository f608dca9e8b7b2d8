"""The score of a pair: its similarity, less how similar its image and its caption are to everything else.

    score(i, j) = s_ij / t - (lse_k s_ik / t + lse_k s_kj / t) / 2 + log R

over the R captions and images of a fixed reference sample, which removes hubness. With the whole data set as reference
it is the mean of the two log-softmaxes (negCLIPLoss, Wang et al. 2024), an estimate of the pointwise mutual information
of image and caption. The same formula scores observed pairs and decoys. Candidates for a rematch are scored against the
others alone (`exclude`): counted among R, a partner has a score of at most log R, however well it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..arrays import INNER_PRODUCT, Comparison, InnerProduct, Pairs, Rows, Space, chunks, unique_values
from ..execution import alone_on, side_by_side

#: Images and captions in a reference sample; the cost of scoring is pairs times this.
REFERENCE = 2048
#: Pairs and references that are compared at once: their similarities stay in the cache.
TILE = 1024, 1024
#: Pairs whose similarities, or scores, one thread computes.
SPAN = 65_536
#: The first is that of the publication and of CLIP.
TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
#: Of these, with how many a caption is compared to see how widely its similarities spread.
SPREAD_REFERENCE = 512
#: The most of a hubness that is taken to be the pair's own partner: what is left of it has to be told from rounding.
MOST_OWN = 0.95
#: Decoys per pair, and the most pairs that are re-paired (in all folds together).
DECOYS, DECOY_PAIRS = 20, 100_000


class Model(Space, Protocol):
    """A space that was fitted, with what scoring pairs in it needs to know.

    comparison: of its images and captions.  device: of torch, on which hubness is computed.  learned: whether it was
    learned from such pairs.
    """

    @property
    def comparison(self) -> Comparison: ...

    @property
    def device(self) -> str: ...

    @property
    def learned(self) -> bool: ...


@dataclass(frozen=True)
class Reference:
    """A fixed sample of images, and one of captions, in a model's space.

    image: (R, k), text: (S, k) float32 unit rows.  image_id: (R,), caption_id: (S,) int64.
    """

    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray

    @staticmethod
    def of(pairs: Pairs) -> Reference:
        """pairs: a sample that is in the model's space already (`Pairs.through`)."""
        return Reference(**vars(pairs))


def reference_rows(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sample of at most REFERENCE of `rows`, ascending."""
    return np.sort(rng.choice(rows, min(REFERENCE, len(rows)), replace=False))


def hubness(x: np.ndarray, other: np.ndarray, temperature: float, device: str = "cpu") -> np.ndarray:
    """log mean exp of similarities to the reference over the temperature.  x: (n, k), other: (R, k) -> (n,) float64."""
    return hubness_at(x, other, (temperature,), device)[0]


def hubness_at(
    x: Rows,
    other: np.ndarray,
    temperatures: Sequence[float],
    device: str = "cpu",
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray] = INNER_PRODUCT.with_texts,
) -> np.ndarray:
    """`hubness` at several temperatures, (T, n) float64.

    device: of torch, on which inner products are computed.  compare: (n, k), (R, k) -> (n, R), anything else on a CPU.
    """
    out = np.empty((len(temperatures), x.shape[0]))
    if device != "cpu":
        return _hubness_on(device, x, other, temperatures, out)
    out.fill(-np.inf)
    rows = list(chunks(x.shape[0], TILE[0]))

    def of_rows(k: int, _: str) -> None:
        part = rows[k]
        for columns in chunks(len(other), TILE[1]):
            similarity = compare(x[part], other[columns])
            top = similarity.max(1)
            similarity -= top[:, None]
            scaled = np.empty_like(similarity)
            for at, temperature in zip(out, temperatures, strict=True):
                np.multiply(similarity, np.float32(1 / temperature), out=scaled)
                total = np.exp(scaled, out=scaled).sum(1).astype(np.float64)
                at[part] = np.logaddexp(at[part], top / temperature + np.log(total))

    on_all_cores(of_rows, len(rows), getattr(compare, "__self__", None))
    return out - np.log(len(other))


def _hubness_on(device: str, x: Rows, other: np.ndarray, temperatures: Sequence[float], out: np.ndarray) -> np.ndarray:
    import torch

    there = torch.from_numpy(other).to(device)
    for part in chunks(x.shape[0], 4096):
        here = torch.from_numpy(x[part])
        with alone_on(device):
            similarity = here.to(device) @ there.T
            for at, temperature in zip(out, temperatures, strict=True):
                at[part] = torch.logsumexp(similarity / temperature, 1).cpu().numpy()
    return out - np.log(len(other))


def spread(
    x: np.ndarray,
    other: np.ndarray,
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray] = INNER_PRODUCT.with_images,
) -> np.ndarray:
    """(n,) float64 standard deviations of the similarities of x (n, k) with some of the others (R, k)."""
    some = other[:: max(1, len(other) // SPREAD_REFERENCE)]
    parts = [compare(x[part], some).std(1, dtype=np.float64) for part in chunks(len(x), 1024)]
    return np.concatenate(parts) if parts else np.zeros(0)


def include(found: np.ndarray, logit: np.ndarray, missing: np.ndarray, reference: int) -> np.ndarray:
    """Hubness as if the pair's own partner were in the reference.

    found: (n,) hubness in a reference of `reference` rows.  missing: (n,) bool, whether the partner is not among them.
    """
    return np.where(missing, np.logaddexp(found, logit - np.log(reference)), found)


def exclude(found: np.ndarray, logit: np.ndarray, missing: np.ndarray, reference: int) -> np.ndarray:
    """Hubness as if the pair's own partner were not in the reference.  Arguments as for `include`."""
    share = np.exp(np.minimum(logit - np.log(reference) - found, 0))  # the partner's, of the hubness found
    return np.where(missing, found, found + np.log1p(-np.minimum(share, MOST_OWN)))


@dataclass(frozen=True)
class Scorer:
    """Scores embedded images and captions against a reference, at a temperature.

    device: computes hubness.  comparison: of the space that they are embedded in.
    """

    reference: Reference
    temperature: float
    device: str = "cpu"
    comparison: Comparison = INNER_PRODUCT

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(value) for name, value in vars(self.reference).items()}
        save_file({**tensors, "temperature": np.array([self.temperature])}, path)

    @staticmethod
    def load(path: Path) -> Scorer:
        from safetensors.numpy import load_file

        tensors = load_file(path)
        temperature = float(tensors.pop("temperature")[0])
        return Scorer(Reference(**tensors), temperature)

    def without(self, image_id: np.ndarray, caption_id: np.ndarray) -> Scorer:
        """The same, without these images and these captions in the reference."""
        r = self.reference
        images, captions = ~among(r.image_id, image_id), ~among(r.caption_id, caption_id)
        left = Reference(r.image[images], r.text[captions], r.image_id[images], r.caption_id[captions])
        return replace(self, reference=left)

    def hubness(self, image: Rows, text: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Hubness of each image among the reference captions, and of each caption among the reference images."""
        r = self.reference
        at, device, compare = (self.temperature,), self.device, self.comparison
        of_image = hubness_at(image, r.text, at, device, compare.with_texts)[0]
        return of_image, hubness_at(text, r.image, at, device, compare.with_images)[0]

    def combine(
        self,
        similarity: np.ndarray,
        image_hubness: np.ndarray,
        text_hubness: np.ndarray,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        *,
        against: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray] = include,
    ) -> np.ndarray:
        """(n,) similarities of images with captions, with their hubness and identities -> (n,) float64 scores.

        against: `include` scores a pair against all, itself among them, and no score is above the logarithm of the
        reference's size.  `exclude` scores it against the others: the better it fits, the higher it scores.
        """
        out, r = np.empty(len(similarity)), self.reference
        spans = list(chunks(len(out), SPAN))

        def of_span(k: int, _: str) -> None:
            s = spans[k]
            logit = similarity[s].astype(np.float64) / self.temperature
            no_text, no_image = ~among(caption_id[s], r.caption_id), ~among(image_id[s], r.image_id)
            row = against(image_hubness[s], logit, no_text, len(r.text))
            column = against(text_hubness[s], logit, no_image, len(r.image))
            out[s] = logit - (row + column) / 2

        on_all_cores(of_span, len(spans))
        return out


def pair_similarity(
    image: Rows,
    text: Rows,
    left: np.ndarray,
    right: np.ndarray,
    comparison: Comparison = INNER_PRODUCT,
) -> np.ndarray:
    """Similarities of image[left] and text[right], (m,) float32, without holding m vectors at once."""
    out = np.empty(len(left), np.float32)
    spans = list(chunks(len(left), SPAN))

    def of_span(k: int, _: str) -> None:
        rows, columns, found = left[spans[k]], right[spans[k]], out[spans[k]]
        for part in chunks(len(found), 1024):  # their vectors stay in the cache
            found[part] = comparison.of_pairs(image[rows[part]], text[columns[part]])

    on_all_cores(of_span, len(spans), comparison)
    return out


def on_all_cores(work: Callable[[int, str], None], count: int, by: object = INNER_PRODUCT) -> None:
    """work(k) for k below count; side by side unless a user compares, who need not be ready for several threads.

    by: the comparison of the space in which the work is done.
    """
    if count > 1 and isinstance(by, InnerProduct):
        side_by_side(work, count, ["cpu"])
    else:
        for k in range(count):
            work(k, "cpu")


def draw_decoys(
    image_id: np.ndarray, caption_id: np.ndarray, rng: np.random.Generator, *, limit: int = DECOY_PAIRS
) -> tuple[np.ndarray, np.ndarray]:
    """Random re-pairings: (m,) rows of images and (m,) rows of captions, m close to DECOYS per pair.

    limit: the most pairs that take part.  A decoy never joins an image with a caption that it, or a copy of it, has.
    """
    n = len(image_id)
    pool = np.arange(n) if n <= limit else np.sort(rng.choice(n, limit, replace=False))
    n = len(pool)
    left = np.tile(np.arange(n), DECOYS)
    right = (left + rng.integers(1, max(2, n), len(left))) % n
    left, right = pool[left], pool[right]
    allowed = ~carries(image_id, caption_id, left, right)
    return left[allowed], right[allowed]


def carries(image_id: np.ndarray, caption_id: np.ndarray, image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """(m,) bool: whether the image of row image[i], or a copy of it, has the text of row caption[i] in any pair."""
    _, image_of = np.unique(image_id, return_inverse=True)
    texts, text_of = np.unique(caption_id, return_inverse=True)
    carried = unique_values(image_of * len(texts) + text_of)
    return among(image_of[image] * len(texts) + text_of[caption], carried)


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) bool: which of n values are among the known ones; `np.isin`, but without sorting these together.

    Values in ascending order are looked up several times as fast as in any other: what is known is read in order.
    """
    if not len(known):
        return np.zeros(len(values), bool)
    known = np.sort(known)
    order = np.argsort(values)
    values = values[order]
    found = np.empty(len(values), bool)
    found[order] = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


def pair_codes(image_id: np.ndarray, caption_id: np.ndarray) -> np.ndarray:
    """(n,) int64 hashes, equal for pairs of the same image and text."""
    with np.errstate(over="ignore"):
        return np.asarray(image_id, np.int64) * np.int64(0x5851F42D4C957F2D) + np.asarray(caption_id, np.int64)
