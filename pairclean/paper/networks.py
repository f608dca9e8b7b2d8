"""The retrieval model: regions and words into one space, and a learned similarity of an image and a caption.

The two similarity networks are SGR (similarity graph reasoning) and SAF (similarity attention filtration) of Diao et
al., "Similarity reasoning and filtration for image-text matching", AAAI 2021, as Han et al. 2024 use them. Parameters
are named as in the published code, so that published weights can be loaded.

Shapes: I images of R regions, C captions of at most L words, joint space of d, similarity vectors of s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

DROPOUT = 0.4
MOMENTUM = 0.1  # of the running statistics in SAF
#: How sharply a word attends to regions: the factor inside the softmax.
ATTENTION = 9.0
#: The most numbers in one tensor of attended regions, (I, captions, L, d). More captions are compared in several parts,
#: which are computed again in the backward pass: a batch of 128 would take tens of GiB otherwise.
LARGEST = 2**25
#: The same for single pairs of an image and a caption, (pairs, L, d). Larger parts are no faster on a CPU.
PAIRED = 2**22


@dataclass(frozen=True)
class Architecture:
    """Sizes and variants of the model; the defaults are the published ones.

    words: the size of the vocabulary.  bidirectional, gru_layers: of the GRU over the words.  norm_images, norm_texts:
    whether regions and words have unit length.  sgr_steps: graph reasoning steps.
    """

    words: int
    module: Literal["SGR", "SAF"] = "SGR"
    image_dim: int = 2048
    word_dim: int = 300
    joint_dim: int = 1024
    similarity_dim: int = 256
    regions: int = 36
    sgr_steps: int = 3
    gru_layers: int = 1
    bidirectional: bool = True
    norm_images: bool = True
    norm_texts: bool = True


def norm(x: Tensor) -> Tensor:
    """x / (‖x‖ + 1e-8) over the last axis."""
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-8)


class RegionEncoder(nn.Module):
    """Region features (I, R, image_dim) into the joint space, (I, R, d)."""

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        self.norm = of.norm_images
        self.fc = nn.Linear(of.image_dim, of.joint_dim)
        self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        regions = self.fc(images)
        return norm(regions) if self.norm else regions


class CaptionEncoder(nn.Module):
    """Words (C, L) int64 into the joint space, (C, L, d), zero beyond the length of a caption.

    The padding has index 0 and is an ordinary row of the embedding, which no caption reads. The GRU runs over the true
    length; its two directions are averaged.
    """

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        self.norm = of.norm_texts
        self.embed = nn.Embedding(of.words, of.word_dim)
        self.dropout = nn.Dropout(DROPOUT)
        self.cap_rnn = nn.GRU(
            of.word_dim, of.joint_dim, of.gru_layers, batch_first=True, bidirectional=of.bidirectional
        )
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, captions: Tensor, lengths: Tensor) -> Tensor:
        """captions: (C, L) int64.  lengths: (C,) int64, at least 1."""
        packed = pack_padded_sequence(
            self.dropout(self.embed(captions)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        words, _ = pad_packed_sequence(self.cap_rnn(packed)[0], batch_first=True, total_length=captions.shape[1])
        if self.cap_rnn.bidirectional:
            forth, back = words.chunk(2, dim=-1)
            words = (forth + back) / 2
        return norm(words) if self.norm else words


class ImageGlobal(nn.Module):
    """One vector per image, (I, d): a weighted sum of its regions, which are compared with their mean."""

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        d = of.joint_dim
        # Batch norm over the region slots: its statistics are over images and features.
        self.embedding_local = nn.Sequential(
            nn.Linear(d, d), nn.BatchNorm1d(of.regions), nn.Tanh(), nn.Dropout(DROPOUT)
        )
        self.embedding_global = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.Tanh(), nn.Dropout(DROPOUT))
        self.embedding_common = nn.Sequential(nn.Linear(d, 1))

    def forward(self, regions: Tensor) -> Tensor:
        common = self.embedding_local(regions) * self.embedding_global(regions.mean(1))[:, None]
        weight = self.embedding_common(common).softmax(1)
        return norm((weight * regions).sum(1))


class CaptionGlobal(nn.Module):
    """One vector per caption, (C, d): as `ImageGlobal`, over the words and without batch norm."""

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        d = of.joint_dim
        self.embedding_local = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Dropout(DROPOUT))
        self.embedding_global = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Dropout(DROPOUT))
        self.embedding_common = nn.Sequential(nn.Linear(d, 1))

    def forward(self, words: Tensor, real: Tensor) -> Tensor:
        """real: (C, L) bool, False for the padding."""
        mean = words.sum(1) / real.sum(1, keepdim=True)
        common = self.embedding_local(words) * self.embedding_global(mean)[:, None]
        weight = self.embedding_common(common).masked_fill(~real[..., None], -torch.inf).softmax(1)
        return norm((weight * words).sum(1))


def attend(regions: Tensor, words: Tensor) -> Tensor:
    """The regions that each word attends to, (I, C, L, d).  regions: (I, R, d).  words: (C, L, d), zero where padded.

    The scores are divided by their length over the words of the caption, so that a region that fits every word
    attracts none in particular.
    """
    score = nn.functional.leaky_relu(torch.einsum("cld,ird->iclr", words, regions), 0.1)
    score = score / (torch.linalg.vector_norm(score, dim=2, keepdim=True) + 1e-8)
    return norm(torch.einsum("iclr,ird->icld", (ATTENTION * score).softmax(-1), regions))


class GraphReasoning(nn.Module):
    """One step of SGR: every node becomes a mixture of all nodes, weighted by learned edges."""

    def __init__(self, s: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(s, s)
        self.graph_key_w = nn.Linear(s, s)
        self.sim_graph_w = nn.Linear(s, s)

    def forward(self, nodes: Tensor, real: Tensor, of: Tensor) -> Tensor:
        """nodes: (I, C, N, s).  real: (C, N) bool.  of: (I, C, M, s), the nodes to compute.  Returns (I, C, M, s)."""
        edges = self.graph_query_w(of) @ self.graph_key_w(nodes).mT
        edges = edges.masked_fill(~real[:, None], -torch.inf).softmax(-1)
        return torch.relu(self.sim_graph_w(edges @ nodes))


class AttentionFiltration(nn.Module):
    """SAF: the nodes weighted by how much each matters, (I, C, s).

    The published code calls the batch norm once per caption. In training each caption is therefore normalised by its
    own mean and variance over images and nodes, and the running statistics move once per caption, in order.
    """

    def __init__(self, s: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(s, 1)
        self.bn = nn.BatchNorm1d(1, momentum=MOMENTUM)

    def forward(self, nodes: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """nodes: (I, C, N, s).  real: (C, N) bool.

        Returns the vectors, and the mean and unbiased variance of each caption, (2, C), for `move`.
        """
        x = self.attn_sim_w(nodes).squeeze(-1).float()
        count = len(x) * real.sum(1)
        mean = (x * real).sum((0, 2)) / count
        variance = ((x - mean[:, None]).square() * real).sum((0, 2)) / count
        seen = torch.stack([mean, variance * count / (count - 1)]).detach()
        if not self.training:
            mean, variance = (running.expand(len(mean)) for running in self._running())
        x = (x - mean[:, None]) * (variance[:, None] + self.bn.eps).rsqrt() * self.bn.weight + self.bn.bias
        weight = torch.sigmoid(x) * real
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-8)
        return norm((weight[:, :, None] @ nodes).squeeze(2)), seen

    @torch.no_grad()
    def move(self, seen: Tensor) -> None:
        """Move the running statistics once per caption.  seen: (2, C), from `forward`, captions in order."""
        captions = seen.shape[1]
        weight = MOMENTUM * (1 - MOMENTUM) ** torch.arange(captions - 1, -1, -1, device=seen.device)
        for running, values in zip(self._running(), seen, strict=True):
            running.mul_((1 - MOMENTUM) ** captions).add_((weight * values).sum())
        assert self.bn.num_batches_tracked is not None
        self.bn.num_batches_tracked += captions

    def _running(self) -> tuple[Tensor, Tensor]:
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        return self.bn.running_mean, self.bn.running_var


class SimilarityNetwork(nn.Module):
    """The similarity in (0, 1) of every image and every caption, (I, C)."""

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        d, s = of.joint_dim, of.similarity_dim
        self.v_global_w = ImageGlobal(of)
        self.t_global_w = CaptionGlobal(of)
        self.sim_tranloc_w = nn.Linear(d, s)
        self.sim_tranglo_w = nn.Linear(d, s)
        self.sim_eval_w = nn.Linear(s, 1)
        if of.module == "SGR":
            self.SGR_module = nn.ModuleList(GraphReasoning(s) for _ in range(of.sgr_steps))
        else:
            self.SAF_module = AttentionFiltration(s)
        self.reasons = of.module == "SGR"
        self.apply(_start)

    def forward(self, regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """regions: (I, R, d).  words: (C, L, d).  lengths: (C,) int64."""
        real = _real(words, lengths)
        image, caption = self.v_global_w(regions), self.t_global_w(words, real)
        part = max(1, LARGEST // (len(regions) * words.shape[1] * words.shape[2]))
        found = []
        for some in zip(words.split(part), real.split(part), caption.split(part), strict=True):
            if torch.is_grad_enabled() and len(words) > part:
                # Nothing inside is random.
                found.append(
                    checkpoint(self._similarity, regions, image, *some, use_reentrant=False, preserve_rng_state=False)
                )
            else:
                found.append(self._similarity(regions, image, *some))
        if self.training and not self.reasons:
            self.SAF_module.move(torch.cat([seen for _, seen in found], 1))
        return torch.cat([similarity for similarity, _ in found], 1)

    def paired(self, regions: Tensor, words: Tensor, lengths: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """Of some images with some captions, (n,), in eval mode: the numbers of the matrix that `forward` gives.

        regions, words, lengths: as for `forward`.  image, caption: (n,) int64, rows of regions and of words.
        """
        real = _real(words, lengths)
        one_image, one_caption = self.v_global_w(regions), self.t_global_w(words, real)

        def similarity(*of: Tensor) -> Tensor:
            return self._similarity(*(x[None] for x in of))[0].squeeze()

        part = max(1, PAIRED // (words.shape[1] * words.shape[2]))
        found = [
            torch.func.vmap(similarity)(regions[i], one_image[i], words[c], real[c], one_caption[c])
            for i, c in zip(image.split(part), caption.split(part), strict=True)
        ]
        return torch.cat(found)

    def _similarity(
        self, regions: Tensor, image: Tensor, words: Tensor, real: Tensor, caption: Tensor
    ) -> tuple[Tensor, Tensor]:
        local = norm(self.sim_tranloc_w((attend(regions, words) - words).square()))
        whole = norm(self.sim_tranglo_w((image[:, None] - caption).square()))
        nodes = torch.cat([whole[:, :, None], local], 2)
        real = nn.functional.pad(real, (1, 0), value=True)
        if self.reasons:
            *before, last = self.SGR_module
            for step in before:
                nodes = step(nodes, real, of=nodes)
            vector = last(nodes, real, of=nodes[:, :, :1]).squeeze(2)  # only the first node is used
            seen = nodes.new_empty(2, 0)
        else:
            vector, seen = self.SAF_module(nodes, real)
        return torch.sigmoid(self.sim_eval_w(vector)).squeeze(-1), seen


class RetrievalModel(nn.Module):
    """Images and captions to the similarity of each with each.

    `architecture` tells how it was made.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.img_enc = RegionEncoder(architecture)
        self.txt_enc = CaptionEncoder(architecture)
        self.sim_enc = SimilarityNetwork(architecture)

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """images: (I, R, image_dim) float32.  captions: (C, L) int64, padded with 0.  lengths: (C,) int64, at least 1.

        Returns (I, C) float32 in (0, 1). I and C may differ.
        """
        return self.sim_enc(self.img_enc(images), self.txt_enc(captions, lengths), lengths)

    def image_vectors(self, images: Tensor) -> Tensor:
        """One vector of unit length per image, (I, d)."""
        return self.sim_enc.v_global_w(self.img_enc(images))

    def caption_vectors(self, captions: Tensor, lengths: Tensor) -> Tensor:
        """One vector of unit length per caption, (C, d)."""
        words = self.txt_enc(captions, lengths)
        return self.sim_enc.t_global_w(words, _real(words, lengths))


def _real(words: Tensor, lengths: Tensor) -> Tensor:
    """Which of the padded words are words, (C, L) bool."""
    return torch.arange(words.shape[1], device=words.device) < lengths.to(words.device)[:, None]


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
