"""What every method returns: one head per modality, which maps its embeddings into the common space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import INNER_PRODUCT, Comparison, Pairs, Rows, chunks, single, single_unit
from ..execution import alone_on
from .canonical import LinearMap

HIDDEN = 256


class Head(nn.Module):
    """z = (x - mean) @ matrix, then unit(z * scale + residual(z)): a linear map, and a network that corrects it.

    The residual's last layer starts at zero, so that a new head equals its linear map. Its first layer is drawn from
    `seed` and not from torch's global generator, so that folds can be fitted in parallel. Without a matrix, z is x
    times the square root of its dimension: the encoder's own space.
    """

    mean: Tensor | None
    matrix: Tensor | None
    scale: Tensor

    def __init__(
        self, d: int, start: LinearMap | None = None, scale: np.ndarray | None = None, *, seed: int | None = None
    ):
        """seed: of the residual network; None makes a head without one."""
        super().__init__()
        self.register_buffer("mean", None if start is None else torch.tensor(start.mean))
        self.register_buffer("matrix", None if start is None else torch.tensor(start.matrix))
        self.width = k = d if start is None else start.matrix.shape[1]
        self.register_buffer("scale", torch.full((k,), k**-0.5) if scale is None else torch.tensor(scale))
        self.residual: nn.Sequential | None = None
        if seed is not None:
            first, last = nn.utils.skip_init(nn.Linear, k, HIDDEN), nn.utils.skip_init(nn.Linear, HIDDEN, k)
            generator = torch.Generator().manual_seed(seed)
            nn.init.uniform_(first.weight, -(k**-0.5), k**-0.5, generator=generator)
            for zero in (first.bias, last.weight, last.bias):
                nn.init.zeros_(zero)
            self.residual = nn.Sequential(first, nn.GELU(), last)

    def start(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, k) coordinates of about unit variance; they do not change during training."""
        if self.matrix is None or self.mean is None:
            return x * x.shape[1] ** 0.5
        return (x - self.mean) @ self.matrix

    def finish(self, z: Tensor) -> Tensor:
        y = z * self.scale
        return nn.functional.normalize(y if self.residual is None else y + self.residual(z), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.start(x))


class Layers(nn.Module):
    """z = (x - mean) @ matrix, then a multilayer perceptron with ReLU between its layers, scaled to unit length.

    The last layer has no bias. Weights are drawn from `seed` alone, by PyTorch's default for linear layers. Without a
    matrix, z is x.
    """

    mean: Tensor | None
    matrix: Tensor | None

    def __init__(self, d: int, widths: Sequence[int], start: LinearMap | None = None, *, seed: int = 0):
        """widths: the number of outputs of each layer."""
        super().__init__()
        self.register_buffer("mean", None if start is None else torch.tensor(start.mean))
        self.register_buffer("matrix", None if start is None else torch.tensor(start.matrix))
        self.layers = nn.ModuleList()
        generator = torch.Generator().manual_seed(seed)
        inputs = d if start is None else start.matrix.shape[1]
        for i, width in enumerate(widths):
            layer = nn.utils.skip_init(nn.Linear, inputs, width, bias=i < len(widths) - 1)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
            self.layers.append(layer)
            inputs = width
        self.width = inputs

    def finish(self, z: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            z = torch.relu(layer(z))
        return nn.functional.normalize(self.layers[-1](z), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x if self.matrix is None or self.mean is None else (x - self.mean) @ self.matrix)


class Method(Protocol):
    """A way to learn a common space.  `fit` returns an `Alignment`, which maps images and captions into that space.

    pairs: N pairs.  rows: (n,) int64, the pairs to learn from; the others are not looked at.
    clean_probability: (N,) in [0, 1], an earlier judgement of the pairs; None where there was none.
    """

    def fit(self, pairs: Pairs, rows: np.ndarray, clean_probability: np.ndarray | None = None) -> Alignment: ...


class Alignment:
    """A fitted method.  Subclasses add `fit`; all of them are saved in one format and loaded as this class.

    largest_epoch: of a method, the most pairs that it learns from in one epoch; None if there is no limit.
    """

    largest_epoch: int | None = None
    image: Head | Layers | None = None  # None: the encoder's own embeddings
    text: Head | Layers | None = None
    comparison: Comparison = INNER_PRODUCT

    def __init__(self, *, device: str = "cpu"):
        self.device = device

    @property
    def learned(self) -> bool:
        """Whether the space differs from the encoder's own."""
        return self.image is not None

    def embed_image(self, image: Rows) -> np.ndarray:
        """(n, d) embeddings -> (n, k) float32 unit rows of the common space."""
        return self._embed(self.image, image)

    def embed_text(self, text: Rows) -> np.ndarray:
        return self._embed(self.text, text)

    def _embed(self, head: Head | Layers | None, x: Rows) -> np.ndarray:
        if head is None:
            return single_unit(x[:])
        head.eval()
        parts = []
        with torch.inference_mode():
            for part in chunks(x.shape[0], 16384):
                batch = torch.from_numpy(single(x[part]))
                with alone_on(self.device):
                    parts.append(head(batch.to(self.device)).cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, head.width), np.float32)

    def save(self, path: Path) -> None:
        """Write the tensors of both heads as safetensors; the encoder's own space has none."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for name, head in (("image", self.image), ("text", self.text)):
            if head is not None:
                tensors |= {f"{name}.{k}": v.cpu().contiguous() for k, v in head.state_dict().items()}
        save_file(tensors, path)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Alignment:
        from safetensors.torch import load_file

        tensors = load_file(path)
        out = Alignment(device=device)
        for name in ("image", "text"):
            head = _head(tensors, name)
            setattr(out, name, None if head is None else head.to(device))
        return out


def _head(tensors: dict[str, Tensor], name: str) -> Head | Layers | None:
    state = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
    if not state:
        return None
    start = LinearMap(state["mean"].numpy(), state["matrix"].numpy()) if "matrix" in state else None
    head: Head | Layers
    if "scale" in state:
        head = Head(len(state["scale"]), start, seed=0 if any(k.startswith("residual") for k in state) else None)
    else:
        weights = [state[f"layers.{i}.weight"] for i in range(sum(k.endswith("weight") for k in state))]
        head = Layers(weights[0].shape[1], [len(weight) for weight in weights], start)
    head.load_state_dict(state)
    return head
