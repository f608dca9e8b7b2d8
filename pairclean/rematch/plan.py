"""Transport over the candidate graph, and its rounding to one caption per image.

Every image of the pool stays with its caption, moves to a candidate, or has no partner in the pool, and so does every
caption. With likelihood ratios times priors as weights, the plan

    p_ij = u_i w_ij v_j,    u_i (sum_j w_ij v_j + none) = 1,    v_j (sum_i w_ij u_i / capacity + none) = 1

is entropic partial transport at the temperature at which the weights are probabilities, so that there is no bonus to
tune; `none` is the share of the dummy point. Potentials are kept in the log domain. Between updates of these,
iterations scale the plan that they give, which is sparse and in range (log-domain stabilisation: Schmitzer 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array

from ..arrays import chunks
from ..execution import available_cores
from ..scratch import MEMORY, Scratch

#: The most iterations between two updates in the log domain, and the most updates. A factor that changes by less than
#: the tolerance, relatively, has converged.
INNER, OUTER = 50, 10
TOLERANCE = 1e-5
#: Over-relaxation of the iterations between two updates: where it begins, its most, and after how many iterations it is
#: adapted to the rate of convergence. Where images compete for captions, a fixed one of 1.7 took 150 to 600 iterations
#: and this takes 100 to 250; elsewhere 30 to 40, and 16 to 21.
RELAXATION, MOST_RELAXED, ADAPTED = 1.5, 1.95, 10
#: Rounding takes the edges in bands of mass, the largest first.
BANDS = (0.1, 0.01, 0.0)
#: Images, or captions, in one block of the plan.
ROWS = 16_384
#: Those whose edges are sorted at once: few enough for what sorting takes, many enough for what a block costs whatever
#: its size.
SORTED = 131_072


@dataclass(frozen=True)
class Links:
    """Edges of images, ordered by image.

    ends: (images + 1,) int64; image i has the edges from ends[i] to ends[i + 1].  caption: (e,) int32.  weight: (e,)
    log; single precision is enough below 100.  captions: how many there are.  scratch: where what is made of all edges
    is put.
    """

    ends: np.ndarray
    caption: np.ndarray
    weight: np.ndarray
    captions: int
    scratch: Scratch = MEMORY

    @property
    def images(self) -> int:
        return len(self.ends) - 1

    @staticmethod
    def of(image: np.ndarray, caption: np.ndarray, weight: np.ndarray, images: int, captions: int) -> Links:
        """(e,) edges in any order."""
        order = grouped(image, images)
        return Links(ends_of(image, images), caption[order].astype(np.int32, copy=False), weight[order], captions)

    @cached_property
    def turned(self) -> Links:
        """The same edges ordered by caption: images and captions change places."""
        image, weight = (self.scratch.empty((len(self.caption),), dtype) for dtype in (np.int32, self.weight.dtype))
        ends = ends_of_blocks((self.caption[edges] for _, edges in self.blocks(SORTED)), self.captions)
        sort_blocks(self._by_image(), ends, (image, weight))
        return Links(ends, image, weight, self.images, self.scratch)

    def blocks(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of `size` images, with their edges."""
        for rows in chunks(self.images, size):
            yield rows, slice(int(self.ends[rows.start]), int(self.ends[rows.stop]))

    def _by_image(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Captions, images and weights of all edges, in blocks."""
        for rows, edges in self.blocks(SORTED):
            count = np.diff(self.ends[rows.start : rows.stop + 1])
            image = np.repeat(np.arange(rows.start, rows.stop, dtype=np.int32), count)
            yield self.caption[edges], image, self.weight[edges]


@dataclass(frozen=True)
class Part:
    """Edges between some images and captions of a graph.

    images, captions: which these are, (links.images,) and (links.captions,) of the graph's, each once, in any order.
    Where edges lead to captions that lie together, sums over them take a fraction of the time.  bonus: what is added to
    the weights.
    """

    links: Links
    images: np.ndarray
    captions: np.ndarray
    bonus: float = 0.0

    @staticmethod
    def whole(links: Links, bonus: float = 0.0) -> Part:
        """Edges between all images and captions, in their order."""
        return Part(links, np.arange(links.images), np.arange(links.captions), bonus)

    @property
    def turned(self) -> Part:
        return Part(self.links.turned, self.captions, self.images, self.bonus)


@dataclass(frozen=True)
class Graph:
    """Edges in parts, each edge in one of them.  images, captions: how many there are.  capacity: the number of images
    that one caption can be given to."""

    parts: tuple[Part, ...]
    images: int
    captions: int
    capacity: int = 1


class Plan(Protocol):
    """The masses of a graph's edges: those of an image sum to one at most, those of a caption to its capacity."""

    @property
    def graph(self) -> Graph: ...

    def open_edges(
        self, least: float, below: float, chosen: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, captions and masses of the edges of a band of mass that can still be taken, (e,) each.

        chosen: (images,) int64, -1 where none is.  places: (captions,) int64 that are left.
        """

    def totals(
        self, stays: np.ndarray, text: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over the edges by which an image moves: of each image, of each image to captions with the text that is
        wanted, and of each caption; (images,), (images,) and (captions,) float64.

        stays: (images,) int64, the captions that images stay with.  text: (captions,), wanted: (images,) int64.
        """


@dataclass(frozen=True)
class ComputedPlan:
    """A plan by its potentials.  u: (images,), v: (captions,) log, in the precision of the weights.

    Masses are computed when they are asked for: there are too many to be kept.
    """

    graph: Graph
    u: np.ndarray
    v: np.ndarray

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Images, captions and masses of all edges, (e,) each, in blocks; the edges of an image follow one another."""
        for part in self.graph.parts:
            links, u, v = part.links, self.u[part.images], self.v[part.captions]
            for rows, edges in links.blocks(ROWS):
                count, caption = np.diff(links.ends[rows.start : rows.stop + 1]), links.caption[edges]
                mass = np.repeat(u[rows] + part.bonus, count)
                mass += links.weight[edges]
                mass += v[caption]
                yield np.repeat(part.images[rows], count), part.captions[caption], np.exp(mass, out=mass)

    def open_edges(
        self, least: float, below: float, chosen: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))]
        for image, caption, mass in self.blocks():
            now = np.flatnonzero((mass >= least) & (mass < below))
            now = now[(chosen[image[now]] < 0) & (places[caption[now]] > 0)]
            found.append((image[now].astype(np.int32), caption[now].astype(np.int32), mass[now]))
        image, caption, mass = map(np.concatenate, zip(*found, strict=True))
        return image, caption, mass

    def totals(
        self, stays: np.ndarray, text: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of_image, of_wanted = np.zeros((2, self.graph.images))
        of_caption = np.zeros(self.graph.captions)
        for image, caption, mass in self.blocks():
            moves = np.flatnonzero(caption != stays[image])
            image, caption, mass = image[moves], caption[moves], mass[moves]
            same = np.flatnonzero(text[caption] == wanted[image])
            _add(of_image, image, mass)
            _add(of_wanted, image[same], mass[same])
            of_caption += np.bincount(caption, mass, len(of_caption))
        return of_image, of_wanted, of_caption


def _add(total: np.ndarray, image: np.ndarray, mass: np.ndarray) -> None:
    """Add the masses of edges to what their images have; those of an image follow one another."""
    if len(image):
        first = np.flatnonzero(np.append(True, image[1:] != image[:-1]))
        total[image[first]] += np.add.reduceat(mass, first)


def transport(graph: Graph, none: float) -> ComputedPlan:
    """The plan of a graph.  none: weight of having no partner, in (0, 1]."""
    dtype = np.result_type(*(part.links.weight for part in graph.parts)) if graph.parts else np.dtype(np.float64)
    with ThreadPoolExecutor(available_cores()) as threads:
        by_image = _Side(graph.parts, graph.images, dtype, threads)
        by_caption = _Side((part.turned for part in graph.parts), graph.captions, dtype, threads)
        u, v = potentials(graph, by_image, by_caption, none, np)
    return ComputedPlan(graph, u.astype(dtype), v.astype(dtype))


def potentials(graph: Graph, rows: Any, columns: Any, none: float, xp: Any) -> tuple[Any, Any]:
    """log u of the images and log v of the captions.

    rows, columns: the edges by image and by caption, `_Side` or `device_plan._Side`.  xp: NumPy or torch.
    """
    log_none = rows.zeros + np.log(none), columns.zeros + np.log(none)
    u, v = rows.zeros, columns.zeros
    relaxation = RELAXATION
    for _ in range(OUTER):
        before = v
        u = -xp.logaddexp(rows.logsumexp(v), log_none[0])
        v = -xp.logaddexp(columns.logsumexp(u) - np.log(graph.capacity), log_none[1])
        if not len(v) or xp.abs(v - before).max() < TOLERANCE:
            break
        plan, turned = rows.plan(u, v), columns.plan(v, u, graph.capacity)
        left_of_image, left_of_caption = xp.exp(log_none[0] + u), xp.exp(log_none[1] + v)
        a, b = xp.exp(rows.zeros), xp.exp(columns.zeros)
        changes: list[float] = []
        for step in range(INNER):
            beyond = relaxation - 1 if 0 < step < INNER - 1 else 0.0  # plain steps at the start and at the end
            a = _relaxed(a, 1 / (plan @ b + left_of_image), beyond)
            plain = 1 / (turned @ a + left_of_caption)
            changes.append(float(xp.abs(plain / b - 1).max()))
            b = _relaxed(b, plain, beyond)
            if changes[-1] < TOLERANCE:
                break
            if step and step % ADAPTED == 0:
                relaxation = _adapted(relaxation, (changes[-1] / changes[-ADAPTED]) ** (1 / (ADAPTED - 1)))
        u, v = u + xp.log(a), v + xp.log(b)
    return u, v


def _relaxed(factor: Any, plain: Any, beyond: float) -> Any:
    """A factor's next value: the plain step, extrapolated by `beyond`, but never by orders of magnitude."""
    return plain * (plain / factor).clip(0.1, 10) ** beyond if beyond else plain


def _adapted(relaxation: float, rate: float) -> float:
    """The relaxation that converges fastest, given the rate by which changes shrink from step to step at another one.

    The theory of successive over-relaxation (Young 1954), for Sinkhorn's iterations Lehmann et al. 2021: with r the
    rate of plain steps, (rate + relaxation - 1)^2 = r rate relaxation^2, and 2 / (1 + sqrt(1 - r)) is best. Beyond that
    one, rates say nothing of r; nor do changes that grow.
    """
    if not relaxation - 1 < rate < 1:
        return relaxation
    plain = (rate + relaxation - 1) ** 2 / (rate * relaxation**2)
    return min(max(relaxation, 2 / (1 + max(0.0, 1 - plain) ** 0.5)), MOST_RELAXED)


class _Side:
    """A graph's edges by image, or by caption, and what is summed over them.

    threads: work on blocks of rows side by side; a block's results do not depend on the others.
    """

    def __init__(self, parts: Iterable[Part], size: int, dtype: np.dtype, threads: Executor):
        self.parts = [_PartOfSide(part, dtype, threads) for part in parts]
        self.zeros, self.dtype = np.zeros(size), dtype

    def logsumexp(self, of_other: np.ndarray) -> np.ndarray:
        out, of_other = np.full(len(self.zeros), -np.inf), of_other.astype(self.dtype)
        for part in self.parts:
            out[part.rows] = np.logaddexp(out[part.rows], part.logsumexp(of_other[part.columns]))
        return out

    def plan(self, of_ours: np.ndarray, of_other: np.ndarray, capacity: int = 1) -> _Masses:
        """The masses over the capacity, in place of those of an earlier plan."""
        of_ours, of_other = (of_ours - np.log(capacity)).astype(self.dtype), of_other.astype(self.dtype)
        for part in self.parts:
            part.weigh(of_ours[part.rows], of_other[part.columns])
        return _Masses(self)


@dataclass(frozen=True)
class _Masses:
    """The sparse matrix of a side's masses."""

    side: _Side

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(self.side.dtype)  # scipy would convert the masses instead, every time
        out = np.zeros(len(self.side.zeros), self.side.dtype)
        for part in self.side.parts:
            out[part.rows] += part @ x[part.columns]
        return out


class _PartOfSide:
    """The edges of one part, and their masses as a sparse matrix in blocks of rows."""

    def __init__(self, part: Part, dtype: np.dtype, threads: Executor):
        self.part, self.links, self.threads = part, part.links, threads
        self.rows, self.columns = part.images, part.captions
        self.mass = part.links.scratch.empty((len(part.links.caption),), dtype)
        self.blocks: list[csr_array] = []

    def logsumexp(self, of_other: np.ndarray) -> np.ndarray:
        links, out = self.links, np.full(self.links.images, -np.inf)

        def of_block(block: tuple[slice, slice]) -> None:
            rows, edges = block
            x = of_other[links.caption[edges]]
            x += links.weight[edges]
            count = np.diff(links.ends[rows.start : rows.stop + 1])
            present = np.flatnonzero(count)
            if len(present):
                start = links.ends[rows][present] - edges.start
                top = np.maximum.reduceat(x, start)
                x -= np.repeat(top, count[present])
                out[rows.start + present] = top + np.log(np.add.reduceat(np.exp(x, out=x), start))

        list(self.threads.map(of_block, links.blocks(ROWS)))
        return out + self.part.bonus

    def weigh(self, of_ours: np.ndarray, of_other: np.ndarray) -> None:
        links, of_ours = self.links, of_ours + self.part.bonus

        def of_block(block: tuple[slice, slice]) -> csr_array:
            rows, edges = block
            ends, caption, mass = links.ends[rows.start : rows.stop + 1], links.caption[edges], self.mass[edges]
            np.add(np.repeat(of_ours[rows], np.diff(ends)), links.weight[edges], out=mass)
            mass += of_other[caption]
            np.exp(mass, out=mass)
            matrix = csr_array((rows.stop - rows.start, links.captions), dtype=mass.dtype)
            # Its constructor would copy what is part of a larger array, and captions as int64 because of the ends.
            matrix.data, matrix.indices, matrix.indptr = mass, caption, (ends - edges.start).astype(np.int32)
            return matrix

        self.blocks = list(self.threads.map(of_block, links.blocks(ROWS)))

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        products = list(self.threads.map(lambda block: block @ x, self.blocks))
        return np.concatenate(products) if products else x[:0]


def ends_of(group: np.ndarray, size: int) -> np.ndarray:
    """(size + 1,) int64: of (n,) integers below `size`, once sorted, those equal to g are ends[g] to ends[g + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=size))])


def ends_of_blocks(groups: Iterable[np.ndarray], size: int) -> np.ndarray:
    """`ends_of` integers that come in blocks."""
    ends = np.zeros(size + 1, np.int64)
    for group in groups:
        ends[1:] += np.bincount(group, minlength=size)
    return np.cumsum(ends, out=ends)


def sort_blocks(blocks: Iterable[tuple[np.ndarray, ...]], ends: np.ndarray, out: tuple[np.ndarray, ...]) -> None:
    """A stable sort by group in linear time, which holds one block at a time.

    blocks: (n,) groups, and (n,) values of each kind.  ends: (size + 1,) of all groups, as `ends_of_blocks` says.
    out: where the values of each kind are put, by group and in the order in which they come.
    """
    free = ends[:-1].copy()
    for group, *values in blocks:
        order, count = grouped(group, len(free)), np.bincount(group, minlength=len(free))
        place = np.arange(len(group)) + np.repeat(free - (np.cumsum(count) - count), count)
        for kind, of_kind in zip(values, out, strict=True):
            of_kind[place] = kind[order]
        free += count


def grouped(group: np.ndarray, size: int) -> np.ndarray:
    """A stable argsort of (n,) integers below `size`, in linear time."""
    n = len(group)
    place: np.ndarray = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    return csr_array((np.ones(n, np.int8), (group, place)), (size, n)).indices


def round_plan(plan: Plan) -> np.ndarray:
    """The chosen caption of each image, (images,) int64, -1 where none: greedily by mass, each caption at most
    `capacity` times.

    In each round an edge is taken if it is the largest left of its image, and among the largest of its caption, as many
    as it has places left. Ties go to the first edge, by image, then caption.
    """
    graph = plan.graph
    chosen, places = np.full(graph.images, -1), np.full(graph.captions, graph.capacity)
    below = np.inf
    for least in BANDS:  # the first band leaves little of the others to sort
        image, caption, mass = plan.open_edges(least, below, chosen, places)
        order = np.lexsort((caption, image, -mass))
        image, caption, below = image[order], caption[order], least
        while len(image):
            first = np.empty(graph.images, np.int64)
            first[image[::-1]] = np.arange(len(image))[::-1]  # the last one written remains
            best_of_image = first[image] == np.arange(len(image))
            taken = best_of_image & (_rank(caption, graph.captions) < places[caption])
            chosen[image[taken]] = caption[taken]
            places -= np.bincount(caption[taken], minlength=len(places))
            open_ = (chosen[image] < 0) & (places[caption] > 0)
            image, caption = image[open_], caption[open_]
    return chosen


def _rank(group: np.ndarray, size: int) -> np.ndarray:
    """(n,) how many of the same group come before each."""
    order, count = grouped(group, size), np.bincount(group, minlength=size)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    return rank
