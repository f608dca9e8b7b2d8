"""The score of a pair: its similarity less how similar its image and its caption are to everything.

    score(i, j) = s_ij / t - (lse_k s_ik / t + lse_k s_kj / t) / 2 + log R

over the R captions and images of a fixed reference sample, which removes hubness: with the whole data set as
reference it is the mean of the two log-softmaxes (negCLIPLoss, Wang et al. 2024), an estimate of the pointwise mutual
information of image and caption. The same formula scores observed pairs, decoys and candidates of a rematch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..align.alignment import Alignment
from ..arrays import Rows, chunks

#: Images and captions in a reference sample; the quadratic part of scoring is pairs x this.
REFERENCE = 2048
#: The first is the published one, of CLIP itself.
TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
#: Random re-pairings a pair, and the most pairs that they are drawn from (in all folds together).
DECOYS, DECOY_PAIRS = 20, 100_000


@dataclass(frozen=True)
class Reference:
    """A fixed sample of embedded pairs. image, text: (R, k) float32 unit rows; image_id, caption_id: (R,) int64."""

    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray

    @staticmethod
    def embed(
        model: Alignment, image: Rows, text: Rows, image_id: np.ndarray, caption_id: np.ndarray, rows: np.ndarray
    ) -> Reference:
        """The pairs `rows` of (N, d) and (N, e) embeddings, in a model's space."""
        return Reference(model.embed_image(image[rows]), model.embed_text(text[rows]), image_id[rows], caption_id[rows])


def reference_rows(rows: np.ndarray, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    """At most `size` of `rows`, ascending; REFERENCE unless given."""
    return np.sort(rng.choice(rows, min(size or REFERENCE, len(rows)), replace=False))


def hubness(x: np.ndarray, other: np.ndarray, temperature: float, device: str = "cpu") -> np.ndarray:
    """log mean exp of x's similarities to the reference.  x: (n, k), other: (R, k) -> (n,) float64."""
    return hubness_at(x, other, (temperature,), device)[0]


def hubness_at(x: np.ndarray, other: np.ndarray, temperatures: Sequence[float], device: str = "cpu") -> np.ndarray:
    """`hubness` at several temperatures, (T, n) float64; device: a torch device, where the products are made."""
    out = np.empty((len(temperatures), len(x)))
    if device != "cpu":
        return _hubness_on(device, x, other, temperatures, out)
    for part in chunks(len(x), 1024):
        similarity = x[part] @ other.T
        s = np.empty_like(similarity)
        for level, temperature in zip(out, temperatures, strict=True):
            np.divide(similarity, np.float32(temperature), out=s)
            top = s.max(1)
            s -= top[:, None]
            level[part] = top + np.log(np.exp(s, out=s).mean(1, dtype=np.float64))
    return out


def _hubness_on(
    device: str, x: np.ndarray, other: np.ndarray, temperatures: Sequence[float], out: np.ndarray
) -> np.ndarray:
    import torch

    there = torch.from_numpy(other).to(device)
    for part in chunks(len(x), 4096):
        similarity = torch.from_numpy(x[part]).to(device) @ there.T
        for level, temperature in zip(out, temperatures, strict=True):
            level[part] = torch.logsumexp(similarity / temperature, 1).cpu().numpy()
    return out - np.log(len(other))


def include(level: np.ndarray, logit: np.ndarray, missing: np.ndarray, reference: int, size: float) -> np.ndarray:
    """`hubness` as if the pair's own partner were one of `size`, be it `missing` in the reference or one of that."""
    own = logit - np.log(size)
    here = np.exp(np.minimum(logit - np.log(reference) - level, 0))  # its share of the level
    return np.where(missing, np.logaddexp(level, own), level + np.log1p(here * (reference / size - 1)))


@dataclass(frozen=True)
class Scorer:
    """Scores pairs of embedded images and captions against a reference at a temperature; device: where hubness is
    computed."""

    reference: Reference
    temperature: float
    device: str = "cpu"

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
        """The same, with these images and these captions left out of the reference."""
        r = self.reference
        images, captions = ~among(r.image_id, image_id), ~among(r.caption_id, caption_id)
        left = Reference(r.image[images], r.text[captions], r.image_id[images], r.caption_id[captions])
        return Scorer(left, self.temperature, self.device)

    def levels(self, image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hubness of each image among the reference captions and of each caption among the reference images."""
        r = self.reference
        t, device = self.temperature, self.device
        return hubness(image, r.text, t, device), hubness(text, r.image, t, device)

    def combine(
        self,
        similarity: np.ndarray,
        image_level: np.ndarray,
        text_level: np.ndarray,
        image_id: np.ndarray,
        caption_id: np.ndarray,
        *,
        size: float = 0,
    ) -> np.ndarray:
        """(n,) similarities of any image with any caption, and their levels and identities -> (n,) float64 scores.

        No score is above the logarithm of the reference's size, or of `size`, if that is more: of so many a partner is
        told apart. Among more than it was told apart from, a partner would seem less sure than it is.
        """
        logit = similarity.astype(np.float64) / self.temperature
        r = self.reference
        row = include(image_level, logit, ~among(caption_id, r.caption_id), len(r.text), max(len(r.text), size))
        column = include(text_level, logit, ~among(image_id, r.image_id), len(r.image), max(len(r.image), size))
        return logit - (row + column) / 2


def pair_similarity(image: np.ndarray, text: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products of image[left] with text[right], (m,) float32, without holding m vectors at once."""
    out = np.empty(len(left), np.float32)
    for part in chunks(len(left), 65536):
        out[part] = np.einsum("ij,ij->i", image[left[part]], text[right[part]])
    return out


def draw_decoys(
    image_id: np.ndarray, caption_id: np.ndarray, rng: np.random.Generator, *, pairs: int = DECOY_PAIRS
) -> tuple[np.ndarray, np.ndarray]:
    """Random re-pairings: (m,) rows of images and (m,) rows of captions, m close to DECOYS for each of `pairs` pairs.

    Identity-aware: a decoy never joins an image with a caption that it, or a copy of it, carries.
    """
    n = len(image_id)
    pool = np.arange(n) if n <= pairs else np.sort(rng.choice(n, pairs, replace=False))
    n = len(pool)
    left = np.tile(np.arange(n), DECOYS)
    right = (left + rng.integers(1, max(2, n), len(left))) % n
    left, right = pool[left], pool[right]
    allowed = ~carries(image_id, caption_id, left, right)
    return left[allowed], right[allowed]


def carries(image_id: np.ndarray, caption_id: np.ndarray, image: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """(m,) bool: whether the image of row image[i], or a copy of it, carries the text of row caption[i] somewhere."""
    _, image_of = np.unique(image_id, return_inverse=True)
    texts, text_of = np.unique(caption_id, return_inverse=True)
    carried = np.unique(image_of * len(texts) + text_of)
    return among(image_of[image] * len(texts) + text_of[caption], carried)


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) bool: which of n values are among the known ones. As `np.isin`, without sorting the many by the few."""
    if not len(known):
        return np.zeros(len(values), bool)
    known = np.sort(known)
    found: np.ndarray = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


def pair_codes(image_id: np.ndarray, caption_id: np.ndarray) -> np.ndarray:
    """(n,) int64, the same for the same image and text; different ones meet as seldom as 64-bit hashes do."""
    with np.errstate(over="ignore"):
        return np.asarray(image_id, np.int64) * np.int64(0x5851F42D4C957F2D) + np.asarray(caption_id, np.int64)
