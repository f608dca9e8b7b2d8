"""Transport over the candidate graph, and its rounding to one caption an image.

Every image of the pool stays with its caption, moves to a candidate, or has no partner here; every caption likewise.
With the weights as likelihood ratios times priors, the plan

    p_ij = u_i w_ij v_j,    u_i (sum_j w_ij v_j + none) = 1,    v_j (sum_i w_ij u_i + none) = 1

is entropic partial transport at the temperature at which the weights are probabilities (no bonus to tune): `none` is
the dummy point's share. Solved in the log domain by alternating updates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ITERATIONS = 200
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Graph:
    """The pool's edges.  image, caption: (e,) int64 pool rows; weight: (e,) float64, log; size: images in the pool."""

    image: np.ndarray
    caption: np.ndarray
    weight: np.ndarray
    size: int


def transport(graph: Graph, none: float) -> np.ndarray:
    """(e,) float64 plan; row and column sums are at most one.  none: weight of having no partner, in (0, 1]."""
    u, v = np.zeros(graph.size), np.zeros(graph.size)
    log_none = np.log(none)
    rows, columns = _Groups(graph.image, graph.size), _Groups(graph.caption, graph.size)
    for _ in range(ITERATIONS):
        before = u
        u = -np.logaddexp(rows.logsumexp(graph.weight + v[graph.caption]), log_none)
        v = -np.logaddexp(columns.logsumexp(graph.weight + u[graph.image]), log_none)
        if np.abs(u - before).max(initial=0) < TOLERANCE:
            break
    return np.exp(graph.weight + u[graph.image] + v[graph.caption])


class _Groups:
    """log-sum-exp over the edges of each row, vectorised: edges sorted once, reduced by slices."""

    def __init__(self, group: np.ndarray, size: int):
        self.order = np.argsort(group, kind="stable")
        self.present, self.start = np.unique(group[self.order], return_index=True)
        self.lengths = np.diff(np.append(self.start, len(group)))
        self.size = size

    def logsumexp(self, x: np.ndarray) -> np.ndarray:
        out = np.full(self.size, -np.inf)
        if len(x):
            x = x[self.order]
            top = np.maximum.reduceat(x, self.start)
            total = np.add.reduceat(np.exp(x - np.repeat(top, self.lengths)), self.start)
            out[self.present] = top + np.log(total)
        return out


def round_plan(graph: Graph, plan: np.ndarray) -> np.ndarray:
    """The chosen caption of each image, (size,) int64, -1 where none: greedily by mass, each caption at most once.

    In rounds: every edge that is the largest left of both its image and its caption is taken. Ties go to the first.
    """
    chosen = np.full(graph.size, -1)
    order = np.lexsort((graph.caption, graph.image, -plan))
    image, caption = graph.image[order], graph.caption[order]
    while len(image):
        best_of_image = np.zeros(len(image), bool)
        best_of_image[np.unique(image, return_index=True)[1]] = True
        best_of_caption = np.zeros(len(image), bool)
        best_of_caption[np.unique(caption, return_index=True)[1]] = True
        taken = best_of_image & best_of_caption
        chosen[image[taken]] = caption[taken]
        image_done, caption_done = np.zeros(graph.size, bool), np.zeros(graph.size, bool)
        image_done[image[taken]], caption_done[caption[taken]] = True, True
        left = ~(image_done[image] | caption_done[caption])
        image, caption = image[left], caption[left]
    return chosen
