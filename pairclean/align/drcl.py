"""DRCL: dual reversible consistency learning from class labels (TMM 2025, arXiv 2501.05686), on embeddings.

No pair is used: each modality learns alone to map its items near the places of their classes in a common space. `fit`
follows the paper's steps: a selective prior, which finds those places; recasting, by which labels become features;
feature augmentation, and the reversible consistency loss. docs/methods.md lists what differs from the publication.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from ..arrays import Pairs, Rows, chunks
from .alignment import Alignment, Layers
from .principal import principal_map
from .training import LARGEST_EPOCH

#: Feature augmentation: the share of the first of two mixed features.
MIXED = 0.9
#: Weights of the consistency of relations, and of features with recast labels; classification has weight one.
ALPHA, BETA = 0.1, 0.1
BETAS, CLIP = (0.5, 0.999), 2.0


@dataclass(frozen=True)
class Size:
    """widths: of the layers, the last of the common space; None is the number of classes, or 64 if that is more.

    principal: the number of principal coordinates that the first layer gets; None gives it the vectors themselves.
    ramp: the number of epochs over which the exponent q of the classification loss rises to 1.
    """

    widths: tuple[int | None, ...]
    principal: int | None
    batch: int
    rate: float
    prior_epochs: int
    epochs: int
    ramp: int


#: As published: about a second per step on two cores.
PUBLISHED = Size((4096, 4096, 2048), None, 1024, 5e-4, 100, 100, 100)
#: For thousands of pairs and more.
SMALL = Size((256, 256, None), 256, 512, 2e-3, 8, 20, 20)


class DRCL(Alignment):
    """One network per modality, and one place in their common space per class."""

    image: Layers
    text: Layers
    largest_epoch = LARGEST_EPOCH

    def __init__(
        self,
        image_label: csr_matrix | np.ndarray | None,
        caption_label: csr_matrix | np.ndarray | None,
        *,
        size: Size = SMALL,
        device: str = "cpu",
        seed: int = 0,
    ):
        """image_label, caption_label: (N, C), non-zero where the image (caption) of a pair is of a class; a row
        without a class is not learned from.  None, for one of them, takes the classes of the other, which are wrong for
        mismatched pairs.
        """
        super().__init__(device=device)
        given = [label for label in (image_label, caption_label) if label is not None]
        self.label = csr_matrix(given[0]), csr_matrix(given[-1])
        self.own = image_label is not None, caption_label is not None
        self.size, self.seed = size, seed

    def fit(self, pairs: Pairs, rows: np.ndarray, clean_probability: np.ndarray | None = None) -> DRCL:
        """Arguments as in `Method`; identities are not used.

        Clean probabilities weight the side that takes its classes from the other. They have no effect where both sides
        have classes of their own.
        """
        sides = [
            Side(x, label, rows, None if own else clean_probability, self.size, self.device)
            for x, label, own in zip((pairs.image, pairs.text), self.label, self.own, strict=True)
        ]
        priors = [self._prior(side, self.seed + k) for k, side in enumerate(sides)]
        prior = max(priors, key=lambda found: found[0])[1]
        self.image, self.text = (self._learn(side, prior, self.seed + k) for k, side in enumerate(sides))
        return self

    def _prior(self, side: Side, seed: int) -> tuple[float, Tensor]:
        """The quality and the places W (k, C) of the classes that one modality finds, of its best epoch."""
        net = side.network(seed)
        prior = nn.Parameter(orthogonal(net.width, side.classes, seed).to(self.device))
        optimiser = torch.optim.Adam([*net.parameters(), prior], self.size.rate, betas=BETAS)
        best, kept = -1.0, prior.detach().clone()
        for epoch in range(self.size.prior_epochs):
            quality = []
            for z, label, weight in side.batches(seed + epoch):
                logits = net.finish(z) @ prior
                _step(optimiser, generalised_cross_entropy(logits, label, self._q(epoch), weight))
                quality.append(float(true_probability(logits.detach(), label).mean()))
            if quality and float(np.mean(quality)) > best:
                best, kept = float(np.mean(quality)), prior.detach().clone()
        return best, kept

    def _learn(self, side: Side, prior: Tensor, seed: int) -> Layers:
        net, places = side.network(seed), torch.linalg.pinv(prior)
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam(net.parameters(), self.size.rate, betas=BETAS)
        for epoch in range(self.size.epochs):
            for z, label, weight in side.batches(seed + epoch):
                other = torch.randperm(len(z), generator=generator).to(z.device)
                features, label, weight = (MIXED * v + (1 - MIXED) * v[other] for v in (net.finish(z), label, weight))
                _step(optimiser, reversible_loss(features, label, prior, places, self._q(epoch), weight))
        return net

    def _q(self, epoch: int) -> float:
        return min(1.0, (epoch + 1) / self.size.ramp)


class Side:
    """One modality of the pairs to learn from, without those that have no class in it."""

    def __init__(
        self, x: Rows, label: csr_matrix, rows: np.ndarray, trusted: np.ndarray | None, size: Size, device: str
    ):
        self.x, self.size, self.device, self.classes = x, size, device, label.shape[1]
        self.rows = rows[np.diff(label.indptr)[rows] > 0]
        self.label = label[self.rows]
        self.weight = np.ones(len(self.rows)) if trusted is None else trusted[self.rows]
        self.start = None if size.principal is None else principal_map(x, self.rows, size.principal)
        self.held: np.ndarray | None = None
        if self.start is not None:
            parts = [self.start(x[self.rows[part]]).astype(np.float16) for part in chunks(len(self.rows), 16384)]
            self.held = np.concatenate(parts or [np.zeros((0, 1), np.float16)])

    def network(self, seed: int) -> Layers:
        widths = [max(64, self.classes) if width is None else width for width in self.size.widths]
        return Layers(self.x.shape[1], widths, self.start, seed=seed).to(self.device)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """An epoch: coordinates (B, d), labels (B, C) of length one, weights (B,)."""
        order = np.random.default_rng(seed).permutation(len(self.rows))[:LARGEST_EPOCH]
        for part in np.array_split(order, max(1, round(len(order) / self.size.batch))) if len(order) else []:
            label = (self.label[part].toarray() != 0).astype(np.float32)
            label /= np.sqrt(label.sum(1, keepdims=True))
            x = self.x[self.rows[part]] if self.held is None else self.held[part]
            arrays = (np.asarray(x, np.float32), label, self.weight[part].astype(np.float32))
            z, y, weight = (torch.from_numpy(a).to(self.device) for a in arrays)
            yield z, y, weight


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], CLIP)
    optimiser.step()


def orthogonal(width: int, classes: int, seed: int) -> Tensor:
    """(width, classes) float32, the upper left part of an orthogonal matrix."""
    square = torch.empty(max(width, classes), max(width, classes))
    nn.init.orthogonal_(square, generator=torch.Generator().manual_seed(seed))
    return square[:width, :classes].contiguous()


def true_probability(logits: Tensor, label: Tensor) -> Tensor:
    """(B,) the softmax probability, from logits (B, C), of the classes of the label (B, C)."""
    return (logits.softmax(1) * label).sum(1)


def generalised_cross_entropy(logits: Tensor, label: Tensor, q: float, weight: Tensor | None = None) -> Tensor:
    """mean [(1 - p^q) / q], p the probability of the true classes: cross-entropy at q → 0, mean error at 1.

    logits, label: (B, C) float32; q: in (0, 1]; weight: (B,) float32, non-negative, None weights all equally.
    Returns a scalar.  Source: Zhang and Sabuncu 2018.
    """
    p = true_probability(logits, label).clamp(min=1e-12)
    return _mean((1 - p**q) / q, weight)


def reversible_loss(
    features: Tensor, label: Tensor, prior: Tensor, places: Tensor, q: float, weight: Tensor | None = None
) -> Tensor:
    """α [mean (c(R, R) - c(F, F))² + mean (c(R, F) - c(R, F)ᵀ)²] + β mse(R, F) + GCE_q(F W, Y), R = Y L, c = 2 cos.

    features: F (B, k), label: Y (B, C), both augmented; prior: W (k, C); places: L (C, k), its generalised inverse;
    weight: (B,), of a sample; of two samples it is their product; None weights all equally.
    Returns a scalar.  Source: arXiv 2501.05686; the weights are ours.
    """
    recast = label @ places
    r, f = (nn.functional.normalize(v, dim=1) for v in (recast, features))
    own, crossed = 2 * (r @ r.T - f @ f.T), 2 * r @ f.T
    two = None if weight is None else weight[:, None] * weight
    relations = _mean(own**2, two) + _mean((crossed - crossed.T) ** 2, two)
    reversed_ = _mean(((recast - features) ** 2).mean(1), weight)
    return ALPHA * relations + BETA * reversed_ + generalised_cross_entropy(features @ prior, label, q, weight)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean()
    return (values * weight).sum() / weight.sum().clamp(min=torch.finfo(values.dtype).tiny)
