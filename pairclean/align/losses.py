"""Losses over the similarities of a batch, in the log domain and differentiable.

`similarity` is S throughout: (B, B) float32 cosines, row i an image, column j a caption, the observed pairs on the
diagonal.  Without the options marked as ours, values and gradients are those of the code published with
Han et al., "Learning to rematch mismatched pairs for robust cross-modal retrieval" (L2RM), CVPR 2024, arXiv 2403.05105.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same_identity(image_id: Tensor, caption_id: Tensor) -> Tensor:
    """Which pairs of the batch are copies of each other: those that share their image or their caption.

    image_id, caption_id: (B,) int64 content hashes.  Returns (B, B) bool, symmetric, True on the diagonal.
    """
    return (image_id[:, None] == image_id) | (caption_id[:, None] == caption_id)


def warm_up_loss(
    similarity: Tensor, temperature: float = 0.05, eps: float = 1e-7, target: Tensor | None = None
) -> Tensor:
    """Cross-entropy plus reverse cross-entropy, the mean of image to text and text to image.

    `½ Σ_directions [mean_i(-Σ_j T̄_ij log P_ij) + mean_i(-Σ_j P_ij log(T_ij + eps))]`, P the softmax of S / temperature.

    similarity: (B, B) float32.  temperature: in units of the similarity.
    target: (B, B) bool or float in [0, 1], T: 1 where the caption belongs to the image, with some mass in every row and
    column; T̄ is T with rows (columns) normalised.  None: the diagonal, as published; another (for copies) is ours.
    Returns a scalar.  Source: Han et al. 2024, and its published code.
    """
    if target is None:
        target = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    target = target.to(similarity.dtype)
    reverse = (target + eps).log()
    loss = similarity.new_zeros(())
    for axis in (1, 0):
        log_p = torch.log_softmax(similarity / temperature, axis)
        forward = target / target.sum(axis, keepdim=True)
        loss = loss - (forward * log_p + reverse * log_p.exp()).sum(axis).mean()
    return loss / 2


def triplet_loss(
    similarity: Tensor, margin: float = 0.2, hardest: bool = True, *, same: Tensor | None = None
) -> Tensor:
    """Hinge loss against the hardest negative in both directions, summed (not averaged) over the batch.

    `Σ_k max_j [margin + S_kj - S_kk]_+ + max_i [margin + S_ik - S_kk]_+`.  With hardest=False every negative counts and
    max becomes a mean over all B entries (the zeroed diagonal among them): what the published warm-up option does.

    similarity: (B, B) float32.  margin: in units of the similarity.
    same: (B, B) bool, entries that are no negatives (copies, from `same_identity`; ours), the diagonal included.
    None: the diagonal only, as published.
    Returns a scalar.  Source: Han et al. 2024, and its published code.
    """
    if not hardest:
        return triplet_per_pair(similarity, margin, same=same).sum()
    captions, images = _violations(similarity, margin, same)
    return captions.amax(1).sum() + images.amax(0).sum()


def triplet_per_pair(similarity: Tensor, margin: float = 0.2, *, same: Tensor | None = None) -> Tensor:
    """The loss l_k by which L2RM splits pairs: mean violation of the margin over all captions plus over all images.

    `l_k = mean_j [margin + S_kj - S_kk]_+ + mean_i [margin + S_ik - S_kk]_+`, zero where j or i is k (or `same`).

    similarity, same: as in `triplet_loss`.  Returns (B,) float32, non-negative.
    Source: Han et al. 2024, and its published code.
    """
    captions, images = _violations(similarity, margin, same)
    return captions.mean(1) + images.mean(0)


def _violations(similarity: Tensor, margin: float, same: Tensor | None) -> tuple[Tensor, Tensor]:
    """By how much each caption (image) comes within the margin of its row's (column's) own pair: (B, B) twice."""
    own = similarity.diagonal()
    if same is None:
        same = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    captions = (margin + similarity - own[:, None]).clamp(min=0).masked_fill(same, 0)
    images = (margin + similarity - own[None, :]).clamp(min=0).masked_fill(same, 0)
    return captions, images


def targets_from_plan(
    plan: Tensor, floor: float = 1e-10, *, mass_threshold: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft labels from a transport plan: the plan floored, then its rows and its columns normalised.

    plan: (Q, B) float32, non-negative mass.
    floor: the least mass of an entry; without it the reverse KL divergence is infinite.
    mass_threshold: the share of its capacity (1/Q per row, 1/B per column) that a row or column must exceed to count as
    having mass.  None: all count, as published, and a row without mass is a uniform target (half of them at reg 0.01).
    Returns row_target (Q, B), column_target (Q, B), rows_with_mass (Q,) bool, columns_with_mass (B,) bool.
    Source: Han et al. 2024, and its published code.
    """
    threshold = -1.0 if mass_threshold is None else mass_threshold
    rows, columns = plan.shape
    floored = plan.clamp(min=floor)
    return (
        floored / floored.sum(1, keepdim=True),
        floored / floored.sum(0, keepdim=True),
        plan.sum(1) * rows > threshold,
        plan.sum(0) * columns > threshold,
    )


def symmetric_kl(
    similarity: Tensor,
    row_target: Tensor,
    column_target: Tensor,
    temperature: float = 0.05,
    *,
    row_mask: Tensor | None = None,
    column_mask: Tensor | None = None,
) -> Tensor:
    """The rematching loss: how far the batch's softmaxes are from the targets, in both directions of the divergence.

    `½ [KL(T_r‖P_i2t) + KL(P_i2t‖T_r)]`, averaged over the rows, plus the same for T_c, P_t2i and the columns; each
    bracket is `Σ (T - P)(log T - log P)`, whose terms are all non-negative.

    similarity: (Q, B) float32.
    row_target, column_target: (Q, B) float32, positive, rows and columns summing to one (`targets_from_plan`).
    row_mask, column_mask: (Q,) and (B,) bool, False where a target is left out (ours).
    Returns a scalar, 0 where nothing is left.  Source: Han et al. 2024, and its published code.
    """
    rows = _jeffreys(torch.log_softmax(similarity / temperature, 1), row_target).sum(1)
    columns = _jeffreys(torch.log_softmax(similarity / temperature, 0), column_target).sum(0)
    return (_masked_mean(rows, row_mask) + _masked_mean(columns, column_mask)) / 2


def _jeffreys(log_p: Tensor, target: Tensor) -> Tensor:
    return (target - log_p.exp()) * (target.log() - log_p)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def info_nce(similarity_logits: Tensor, same: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (the loss of CLIP), the mean of both directions and over the pairs.

    similarity_logits: (B, B) float32, similarities already divided by the temperature.
    same: (B, B) bool, True where an off-diagonal entry is a copy (`same_identity`): left out of the denominators.
    weight: (B,) float32, non-negative; normalised by its sum (all zero: the loss is 0).
    Returns a scalar.  Source: Radford et al. 2021; leaving out copies is ours.
    """
    own = similarity_logits.diagonal()
    if same is not None:
        copies = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        similarity_logits = similarity_logits.masked_fill(copies, -torch.inf)
    per_pair = (similarity_logits.logsumexp(1) + similarity_logits.logsumexp(0)) / 2 - own
    if weight is None:
        return per_pair.mean()
    return (per_pair * weight).sum() / weight.sum().clamp(min=torch.finfo(per_pair.dtype).tiny)
