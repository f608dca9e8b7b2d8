"""Transport over the candidate graph, and its rounding to one caption an image.

Every image of the pool stays with its caption, moves to a candidate, or has no partner here; every caption likewise.
With the weights as likelihood ratios times priors, the plan

    p_ij = u_i w_ij v_j,    u_i (sum_j w_ij v_j + none) = 1,    v_j (sum_i w_ij u_i / capacity + none) = 1

is entropic partial transport at the temperature at which the weights are probabilities (no bonus to tune): `none` is
the dummy point's share. Potentials are kept in the log domain; between updates there the iterations scale the plan that
they give, which is sparse and in range (log-domain stabilisation: Schmitzer 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Iterations between two updates in the log domain, and how many of these there are at most.
INNER, OUTER = 20, 10
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Graph:
    """The pool's edges, each once.  image, caption: (e,) int64, below `images` and `captions`; weight: (e,) float64,
    log.  capacity: images that one caption can go to."""

    image: np.ndarray
    caption: np.ndarray
    weight: np.ndarray
    images: int
    captions: int
    capacity: int = 1


def transport(graph: Graph, none: float) -> np.ndarray:
    """(e,) float64 plan: row sums are at most one, column sums at most the capacity.

    none: weight of having no partner, in (0, 1].
    """
    from scipy.sparse import csr_array

    log_none, log_capacity = np.log(none), np.log(graph.capacity)
    rows, columns = _Groups(graph.image, graph.images), _Groups(graph.caption, graph.captions)
    u, v = np.zeros(graph.images), np.zeros(graph.captions)
    for _ in range(OUTER):
        before = v
        u = -np.logaddexp(rows.logsumexp(graph.weight + v[graph.caption]), log_none)
        v = -np.logaddexp(columns.logsumexp(graph.weight + u[graph.image]) - log_capacity, log_none)
        if np.abs(v - before).max(initial=0) < TOLERANCE:
            break
        mass = np.exp(graph.weight + u[graph.image] + v[graph.caption])
        plan = csr_array((mass[rows.order], graph.caption[rows.order], rows.ends), (graph.images, graph.captions))
        turned = csr_array(
            (mass[columns.order] / graph.capacity, graph.image[columns.order], columns.ends),
            (graph.captions, graph.images),
        )
        left_of_image, left_of_caption = np.exp(log_none + u), np.exp(log_none + v)
        a, b = np.ones(graph.images), np.ones(graph.captions)
        for _ in range(INNER):
            a = 1 / (plan @ b + left_of_image)
            b = 1 / (turned @ a + left_of_caption)
        u, v = u + np.log(a), v + np.log(b)
    return np.exp(graph.weight + u[graph.image] + v[graph.caption])


class _Groups:
    """log-sum-exp over the edges of each row, vectorised: edges sorted once, reduced by slices."""

    def __init__(self, group: np.ndarray, size: int):
        self.order = np.argsort(group, kind="stable")
        self.present, self.start = np.unique(group[self.order], return_index=True)
        self.lengths = np.diff(np.append(self.start, len(group)))
        self.ends = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=size))])
        self.size = size

    def logsumexp(self, x: np.ndarray) -> np.ndarray:
        out = np.full(self.size, -np.inf)
        if len(x):
            x = x[self.order]
            top = np.maximum.reduceat(x, self.start)
            total = np.add.reduceat(np.exp(x - np.repeat(top, self.lengths)), self.start)
            out[self.present] = top + np.log(total)
        return out


def round_plan(graph: Graph, mass: np.ndarray) -> np.ndarray:
    """The chosen caption of each image, (images,) int64, -1 where none: greedily by mass, each caption at most
    `capacity` times.

    In rounds: every edge is taken that is the largest left of its image, and of its caption one of as many as places
    are left. Ties go to the first.
    """
    chosen = np.full(graph.images, -1)
    places = np.full(graph.captions, graph.capacity)
    order = np.lexsort((graph.caption, graph.image, -mass))
    image, caption = graph.image[order], graph.caption[order]
    while len(image):
        best_of_image = np.zeros(len(image), bool)
        best_of_image[np.unique(image, return_index=True)[1]] = True
        taken = best_of_image & (_rank(caption) < places[caption])
        chosen[image[taken]] = caption[taken]
        places -= np.bincount(caption[taken], minlength=len(places))
        left = (chosen[image] < 0) & (places[caption] > 0)
        image, caption = image[left], caption[left]
    return chosen


def _rank(group: np.ndarray) -> np.ndarray:
    """(n,) how many of the same group come before each."""
    order = np.argsort(group, kind="stable")
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(start, count)
    return rank
