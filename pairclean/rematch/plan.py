"""Transport over the candidate graph, and its rounding to one caption per image.

Every image of the pool stays with its caption, moves to a candidate, or has no partner in the pool, and so does every
caption. With likelihood ratios times priors as weights, the plan

    p_ij = u_i w_ij v_j,    u_i (sum_j w_ij v_j + none) = 1,    v_j (sum_i w_ij u_i / capacity + none) = 1

is entropic partial transport at the temperature at which the weights are probabilities, so that there is no bonus to
tune; `none` is the share of the dummy point. Potentials are kept in the log domain. Between updates of these,
iterations scale the plan that they give, which is sparse and in range (log-domain stabilisation: Schmitzer 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import csr_array

from ..arrays import chunks
from ..execution import available_cores

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

#: Iterations between two updates in the log domain, and the most updates.
INNER, OUTER = 20, 10
TOLERANCE = 1e-5
#: Over-relaxation of the iterations between two updates (Thibault et al. 2017). Random graphs and generated pools in
#: which images compete were .001 to .008 from the plan after the ten updates without it, and are 1e-6 with it.
RELAXATION = 1.7
#: Rounding takes the edges in bands of mass, the largest first.
BANDS = (0.1, 0.01, 0.0)
#: Images, or captions, in one block of the plan.
ROWS = 16_384


@dataclass(frozen=True)
class Graph:
    """The pool's edges, each once.  image, caption: (e,) integers, below `images` and `captions`.
    weight: (e,) log; single precision is enough below 100.  capacity: the number of images that one caption can be
    given to."""

    image: np.ndarray
    caption: np.ndarray
    weight: np.ndarray
    images: int
    captions: int
    capacity: int = 1


def transport(graph: Graph, none: float, device: str = "cpu") -> np.ndarray:
    """(e,) plan, in the precision of the weights: row sums are at most one, column sums at most the capacity.

    none: weight of having no partner, in (0, 1].  device: "cpu" or a CUDA device of torch, where it is the same but for
    the last digits.
    """
    if device != "cpu":
        return _transport_on(device, graph, none)
    shape, weight = (graph.images, graph.captions), graph.weight
    with ThreadPoolExecutor(available_cores()) as threads:
        by_image = _Side(graph.image, graph.caption, weight, shape, threads)
        by_caption = _Side(graph.caption, graph.image, weight, shape[::-1], threads)
        u, v = (x.astype(weight.dtype) for x in _potentials(graph, by_image, by_caption, none, np))
    mass = u[graph.image]
    mass += weight
    mass += v[graph.caption]
    return np.exp(mass, out=mass)


def _transport_on(device: str, graph: Graph, none: float) -> np.ndarray:
    import torch

    given = (graph.image, graph.caption, graph.weight.astype(np.float64))
    image, caption, weight = (torch.as_tensor(x, device=device) for x in given)
    shape = graph.images, graph.captions
    sides = _DeviceSide(image, caption, weight, shape), _DeviceSide(caption, image, weight, shape[::-1])
    u, v = _potentials(graph, *sides, none, torch)
    found: np.ndarray = torch.exp(weight + u[image] + v[caption]).cpu().numpy()
    return found


def _potentials(graph: Graph, rows: Any, columns: Any, none: float, xp: Any) -> tuple[Any, Any]:
    """log u of the images and log v of the captions.  xp: NumPy or torch."""
    log_none = rows.zeros + np.log(none), columns.zeros + np.log(none)
    u, v = rows.zeros, columns.zeros
    for _ in range(OUTER):
        before = v
        u = -xp.logaddexp(rows.logsumexp(v), log_none[0])
        v = -xp.logaddexp(columns.logsumexp(u) - np.log(graph.capacity), log_none[1])
        if not len(v) or xp.abs(v - before).max() < TOLERANCE:
            break
        plan, turned = rows.plan(u, v), columns.plan(v, u, graph.capacity)
        left_of_image, left_of_caption = xp.exp(log_none[0] + u), xp.exp(log_none[1] + v)
        a, b = xp.exp(rows.zeros), xp.exp(columns.zeros)
        for step in range(INNER):
            beyond = RELAXATION - 1 if 0 < step < INNER - 1 else 0.0  # plain steps at the start and at the end
            a = _relaxed(a, 1 / (plan @ b + left_of_image), beyond)
            b = _relaxed(b, 1 / (turned @ a + left_of_caption), beyond)
        u, v = u + xp.log(a), v + xp.log(b)
        del plan, turned  # before the next ones are made
    return u, v


def _relaxed(factor: Any, plain: Any, beyond: float) -> Any:
    """A factor's next value: the plain step, extrapolated by `beyond`."""
    return plain * (plain / factor) ** beyond if beyond else plain


class _Side:
    """The edges sorted by image, or by caption, so that sums are over slices; in place, since there are many.

    threads: what works on blocks of rows side by side; a block's results do not depend on the others.
    """

    def __init__(
        self, group: np.ndarray, other: np.ndarray, weight: np.ndarray, shape: tuple[int, int], threads: Executor
    ):
        order = grouped(group, shape[0])
        self.other, self.weight, self.shape, self.threads = other[order], weight[order], shape, threads
        self.count = np.bincount(group, minlength=shape[0])
        self.ends = np.concatenate([[0], np.cumsum(self.count)])
        self.zeros = np.zeros(shape[0])

    def _blocks(self, work: Callable[[slice, slice], T]) -> list[T]:
        """work(rows, edges) of every block, in order."""

        def of_rows(rows: slice) -> T:
            return work(rows, slice(self.ends[rows.start], self.ends[rows.stop]))

        return list(self.threads.map(of_rows, chunks(self.shape[0], ROWS)))

    def logsumexp(self, of_other: np.ndarray) -> np.ndarray:
        out = np.full(self.shape[0], -np.inf)
        of_other = of_other.astype(self.weight.dtype)

        def of_block(rows: slice, edges: slice) -> None:
            x = of_other[self.other[edges]]
            x += self.weight[edges]
            count = self.count[rows]
            present = np.flatnonzero(count)
            if len(present):
                start = self.ends[rows][present] - edges.start
                top = np.maximum.reduceat(x, start)
                x -= np.repeat(top, count[present])
                out[rows.start + present] = top + np.log(np.add.reduceat(np.exp(x, out=x), start))

        self._blocks(of_block)
        return out

    def plan(self, of_group: np.ndarray, of_other: np.ndarray, capacity: int = 1) -> _Plan:
        of_group, of_other = of_group.astype(self.weight.dtype), of_other.astype(self.weight.dtype)
        every = np.empty_like(self.weight)

        def of_block(rows: slice, edges: slice) -> csr_array:
            mass, other = every[edges], self.other[edges]
            np.add(np.repeat(of_group[rows], self.count[rows]), self.weight[edges], out=mass)
            mass += of_other[other]
            np.exp(mass, out=mass)
            mass /= capacity
            return csr_array(
                (mass, other, self.ends[rows.start : rows.stop + 1] - edges.start),
                (rows.stop - rows.start, self.shape[1]),
            )

        return _Plan(self._blocks(of_block), every.dtype, self.threads)


@dataclass(frozen=True)
class _Plan:
    """A sparse matrix in blocks of rows."""

    blocks: list[csr_array]
    dtype: np.dtype
    threads: Executor

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(self.dtype)  # scipy would convert the plan instead, every time
        products = list(self.threads.map(lambda block: block @ x, self.blocks))
        return np.concatenate(products) if products else x[:0]


class _DeviceSide:
    """`_Side` of tensors on a GPU, where torch's sums over slices are fast; on a CPU they take ten times as long."""

    def __init__(self, group: Tensor, other: Tensor, weight: Tensor, shape: tuple[int, int]):
        import torch

        self.group, order = torch.sort(group, stable=True)
        self.other, self.weight, self.shape = other[order], weight[order], shape
        self.ends = torch.searchsorted(self.group, torch.arange(shape[0] + 1, device=group.device, dtype=group.dtype))
        self.zeros = torch.zeros(shape[0], dtype=torch.float64, device=group.device)

    def logsumexp(self, of_other: Tensor) -> Tensor:
        import torch

        x = self.weight + of_other[self.other]
        top = torch.segment_reduce(x, "max", offsets=self.ends, initial=-torch.inf)
        scaled = torch.exp(x - top[self.group])
        return torch.segment_reduce(scaled, "sum", offsets=self.ends).log() + torch.clamp(top, min=-1e300)

    def plan(self, of_group: Tensor, of_other: Tensor, capacity: int = 1) -> _DevicePlan:
        import torch

        mass = torch.exp(self.weight + of_group[self.group] + of_other[self.other]) / capacity
        return _DevicePlan(mass, self.other, self.ends)


@dataclass(frozen=True)
class _DevicePlan:
    """A sparse matrix on a GPU.  mass, other: (e,) by row; row i has those from ends[i] to ends[i + 1]."""

    mass: Tensor
    other: Tensor
    ends: Tensor

    def __matmul__(self, x: Tensor) -> Tensor:
        import torch

        return torch.segment_reduce(self.mass * x[self.other], "sum", offsets=self.ends)


def grouped(group: np.ndarray, size: int) -> np.ndarray:
    """A stable argsort of (n,) integers below `size`, in linear time."""
    n = len(group)
    place: np.ndarray = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    return csr_array((np.ones(n, np.int8), (group, place)), (size, n)).indices


def round_plan(graph: Graph, mass: np.ndarray) -> np.ndarray:
    """The chosen caption of each image, (images,) int64, -1 where none: greedily by mass, each caption at most
    `capacity` times.

    In each round an edge is taken if it is the largest left of its image, and among the largest of its caption, as many
    as it has places left. Ties go to the first edge.
    """
    chosen = np.full(graph.images, -1)
    places = np.full(graph.captions, graph.capacity)
    left = np.ones(len(mass), bool)
    for least in BANDS:  # the first band leaves little of the others to sort
        now = np.flatnonzero(left & (mass >= least))
        now = now[np.lexsort((graph.caption[now], graph.image[now], -mass[now]))]
        image, caption = graph.image[now], graph.caption[now]
        while len(image):
            first = np.empty(graph.images, np.int64)
            first[image[::-1]] = np.arange(len(image))[::-1]  # the last one written remains
            best_of_image = first[image] == np.arange(len(image))
            taken = best_of_image & (_rank(caption, graph.captions) < places[caption])
            chosen[image[taken]] = caption[taken]
            places -= np.bincount(caption[taken], minlength=len(places))
            open_ = (chosen[image] < 0) & (places[caption] > 0)
            image, caption = image[open_], caption[open_]
        left = (mass < least) & (chosen[graph.image] < 0) & (places[graph.caption] > 0)
    return chosen


def _rank(group: np.ndarray, size: int) -> np.ndarray:
    """(n,) how many of the same group come before each."""
    order, count = grouped(group, size), np.bincount(group, minlength=size)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    return rank
