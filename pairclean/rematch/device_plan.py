"""The transport of `plan` on a GPU: edges and masses stay there, and what comes back are sums and a few edges.

Torch's sums over slices are fast on a GPU; on a CPU they take ten times as long as those of `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .plan import Graph, Part, potentials


@dataclass(frozen=True)
class DevicePlan:
    """A plan with all its masses on a device.  mass: (e,) float64, in the order of `rows`."""

    graph: Graph
    rows: _Side
    columns: _Side
    mass: Tensor

    def open_edges(
        self, least: float, below: float, chosen: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        now = torch.nonzero((self.mass >= least) & (self.mass < below))[:, 0]
        image, caption = self.rows.group[now], self.rows.other[now]
        still = (self._there(chosen)[image] < 0) & (self._there(places)[caption] > 0)
        return image[still].cpu().numpy(), caption[still].cpu().numpy(), self.mass[now][still].cpu().numpy()

    def totals(
        self, stays: np.ndarray, text: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, caption = self.rows.group, self.rows.other
        moved = torch.where(caption == self._there(stays)[image], 0.0, self.mass)
        same = self._there(text)[caption] == self._there(wanted)[image]
        sums = (
            self.rows.sums(moved),
            self.rows.sums(torch.where(same, moved, 0.0)),
            self.columns.sums(moved[self.columns.order]),
        )
        of_image, of_wanted, of_caption = (x.cpu().numpy() for x in sums)
        return of_image, of_wanted, of_caption

    def _there(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.mass.device)


def transport_on(device: str, graph: Graph, none: float) -> DevicePlan:
    """The plan of a graph, that of `plan.transport` but for the last digits.  device: of torch."""
    image, caption, weight = (torch.cat(x) for x in zip(*(_edges(part, device) for part in graph.parts), strict=True))
    rows = _Side(image, caption, weight, graph.images)
    columns = _Side(rows.other, rows.group, rows.weight, graph.captions)
    u, v = potentials(graph, rows, columns, none, torch)
    return DevicePlan(graph, rows, columns, torch.exp(rows.weight + u[rows.group] + v[rows.other]))


def _edges(part: Part, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions and weights of a part's edges, (e,) on a device."""
    links = part.links
    count = torch.from_numpy(np.diff(links.ends)).to(device)
    image = torch.repeat_interleave(torch.from_numpy(part.images).to(device), count)
    caption = torch.from_numpy(part.captions).to(device)[torch.from_numpy(links.caption).to(device).long()]
    return image, caption, torch.from_numpy(links.weight).to(device).double() + part.bonus


class _Side:
    """A graph's edges by image, or by caption, and what is summed over them.  order: (e,) which edge each one was."""

    def __init__(self, group: Tensor, other: Tensor, weight: Tensor, size: int):
        self.group, self.order = torch.sort(group, stable=True)
        self.other, self.weight = other[self.order], weight[self.order]
        self.ends = torch.searchsorted(self.group, torch.arange(size + 1, device=group.device, dtype=group.dtype))
        self.zeros = torch.zeros(size, dtype=torch.float64, device=group.device)

    def sums(self, values: Tensor) -> Tensor:
        """(e,) values of the edges in this order -> those of each image, or of each caption."""
        return torch.segment_reduce(values, "sum", offsets=self.ends)

    def logsumexp(self, of_other: Tensor) -> Tensor:
        x = self.weight + of_other[self.other]
        top = torch.segment_reduce(x, "max", offsets=self.ends, initial=-torch.inf)
        return self.sums(torch.exp(x - top[self.group])).log() + torch.clamp(top, min=-1e300)

    def plan(self, of_group: Tensor, of_other: Tensor, capacity: int = 1) -> _Masses:
        """The masses over the capacity."""
        return _Masses(self, torch.exp(self.weight + of_group[self.group] + of_other[self.other]) / capacity)


@dataclass(frozen=True)
class _Masses:
    """The sparse matrix of a side's masses.  mass: (e,) in the side's order."""

    side: _Side
    mass: Tensor

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.side.sums(self.mass * x[self.side.other])
