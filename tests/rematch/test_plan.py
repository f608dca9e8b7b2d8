"""Transport over a sparse graph, and its rounding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pairclean import scratch
from pairclean.rematch import plan as module
from pairclean.rematch.device_plan import DevicePlan, transport_on
from pairclean.rematch.plan import (
    ComputedPlan,
    Graph,
    Links,
    Part,
    Plan,
    ends_of,
    ends_of_blocks,
    grouped,
    round_plan,
    sort_blocks,
)
from pairclean.scratch import MEMORY, Scratch


@dataclass(frozen=True)
class Edges:
    """Each edge once, in any order."""

    image: np.ndarray
    caption: np.ndarray
    weight: np.ndarray
    images: int
    captions: int
    capacity: int = 1

    def graph(self) -> Graph:
        links = Links.of(self.image, self.caption, self.weight, self.images, self.captions)
        return Graph((Part.whole(links),), self.images, self.captions, self.capacity)

    def of(self, plan: Plan) -> np.ndarray:
        """The plan's masses in the order of these edges."""
        image, caption, mass = _edges(plan)
        found = np.zeros((self.images, self.captions), mass.dtype)
        found[image, caption] = mass
        return found[self.image, self.caption]

    def weighing(self, mass: np.ndarray) -> Plan:
        """A plan of these masses."""
        with np.errstate(divide="ignore"):
            weight = np.log(mass)
        graph = replace(self, weight=weight).graph()
        return ComputedPlan(graph, np.zeros(self.images), np.zeros(self.captions))


def _edges(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All edges and their masses."""
    if isinstance(plan, DevicePlan):
        image, caption, mass = (x.cpu().numpy() for x in (plan.rows.group, plan.rows.other, plan.mass))
        return image, caption, mass
    assert isinstance(plan, ComputedPlan)
    nothing = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
    image, caption, mass = map(np.concatenate, zip(nothing, *plan.blocks(), strict=True))
    return image, caption, mass


def transport(edges: Edges, none: float, device: str = "cpu") -> np.ndarray:
    return edges.of(_plan(edges.graph(), none, device))


def _plan(graph: Graph, none: float, device: str) -> Plan:
    return module.transport(graph, none) if device == "cpu" else transport_on(device, graph, none)


def rounded(edges: Edges, none: float) -> np.ndarray:
    return round_plan(module.transport(edges.graph(), none))


def graph(size: int, edges: int, seed: int = 0, spread: float = 2.0) -> Edges:
    """Random, in random order; the last image and the last caption have no edge."""
    rng = np.random.default_rng(seed)
    code = rng.choice((size - 1) ** 2, edges, replace=False)
    return Edges(code // (size - 1), code % (size - 1), spread * rng.standard_normal(edges), size, size)


def full(weight: np.ndarray) -> Edges:
    image, caption = np.divmod(np.arange(weight.size), len(weight))
    return Edges(image, caption, weight.ravel().astype(float), *weight.shape)


def dense_plan(g: Edges, none: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain Sinkhorn over matrices, to convergence: the plan, and what each image and each caption leaves to none."""
    w = np.zeros((g.images, g.images))
    w[g.image, g.caption] = np.exp(g.weight)
    u, v = np.ones(g.images), np.ones(g.images)
    for _ in range(20_000):
        u = 1 / (w @ v + none)
        v = 1 / (w.T @ u + none)
    return u[:, None] * w * v, u * none, v * none


@pytest.mark.parametrize("none", [0.05, 0.3, 1.0])
def test_the_plan_is_that_of_a_dense_sinkhorn(none: float) -> None:
    g = graph(30, 200)
    plan, left_of_image, left_of_caption = dense_plan(g, none)
    np.testing.assert_allclose(transport(g, none), plan[g.image, g.caption], atol=1e-4)
    # Every image and every caption has a whole, or none, in all.
    rows = np.bincount(g.image, transport(g, none), g.images)
    columns = np.bincount(g.caption, transport(g, none), g.images)
    np.testing.assert_allclose(rows + left_of_image, 1, atol=1e-4)
    np.testing.assert_allclose(columns + left_of_caption, 1, atol=1e-4)
    assert rows[-1] == columns[-1] == 0


@pytest.mark.parametrize(("spread", "none"), [(4.0, 0.05), (4.0, 0.01)])
def test_it_converges_where_images_compete(spread: float, none: float) -> None:
    """Plain iterations, as many, end up to .008 from the plan."""
    g = graph(40, 300, spread=spread)
    np.testing.assert_allclose(transport(g, none), dense_plan(g, none)[0][g.image, g.caption], atol=1e-5)


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_plan_made_by_torch_is_the_same(capacity: int, device: str) -> None:
    for seed, spread in enumerate((2.0, 4.0, 1000.0)):
        g = graph(40, 300, seed, spread)
        g = replace(g, image=g.image.astype(np.int32), caption=g.caption.astype(np.int32), capacity=capacity)
        np.testing.assert_allclose(transport(g, 0.05, device), transport(g, 0.05), atol=1e-9)
    nothing = np.zeros(0, np.int64)
    assert transport(Edges(nothing, nothing, np.zeros(0), 3, 3), 0.3, device).shape == (0,)


@pytest.mark.parametrize("capacity", [1, 3])
def test_what_a_plan_is_asked_for(capacity: int, device: str) -> None:
    """Sums over the edges that move, and the edges that can still be taken: on both devices what all masses say."""
    rng = np.random.default_rng(0)
    g = replace(graph(40, 300, spread=3.0), capacity=capacity)
    stays, text, wanted = rng.permutation(40), rng.integers(0, 12, 40), rng.integers(0, 12, 40)
    stays[:20] = -1
    chosen, places = np.where(rng.random(40) < 0.3, 0, -1), rng.integers(0, 2, 40)
    for plan in (_plan(g.graph(), 0.05, where) for where in ("cpu", device)):
        image, caption, mass = _edges(plan)
        moved = mass * (caption != stays[image])
        assert (moved != mass).any()
        expected = (
            np.bincount(image, moved, 40),
            np.bincount(image, moved * (text[caption] == wanted[image]), 40),
            np.bincount(caption, moved, 40),
        )
        np.testing.assert_allclose(plan.totals(stays, text, wanted), expected, atol=1e-12)
        found = plan.open_edges(1e-3, 0.2, chosen, places)
        open_ = (mass >= 1e-3) & (mass < 0.2) & (chosen[image] < 0) & (places[caption] > 0)
        assert 0 < open_.sum() < ((mass >= 1e-3) & (mass < 0.2)).sum()
        assert set(zip(*found, strict=True)) == set(zip(image[open_], caption[open_], mass[open_], strict=True))
    assert np.array_equal(round_plan(plan), rounded(g, 0.05))


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_sums_are_at_most_one_whatever_the_weights(scale: float) -> None:
    for seed in range(5):
        g = graph(40, 400, seed, spread=scale)
        plan = transport(g, 0.3)
        assert np.isfinite(plan).all()
        assert plan.min() >= 0
        assert np.bincount(g.caption, plan, g.images).max() <= 1 + 1e-6
        assert np.bincount(g.image, plan, g.images).max() <= 1 + 1e-3


def test_extreme_weights_are_taken_or_left() -> None:
    g = Edges(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1000.0, -1000.0, 1000.0]), 2, 2)
    np.testing.assert_allclose(transport(g, 0.3), [1, 0, 1], atol=0.01)
    alone = Edges(np.array([0]), np.array([0]), np.array([-1000.0]), 1, 1)
    assert transport(alone, 0.3)[0] == pytest.approx(0, abs=1e-300)


def test_one_edge_by_hand() -> None:
    """u (w v + o) = 1 and v (w u + o) = 1 with u = v: the mass is 1 - o u, u the positive root of w u² + o u = 1."""
    w, o = 2.5, 0.3
    u = (-o + np.sqrt(o * o + 4 * w)) / (2 * w)
    found = transport(Edges(np.array([0]), np.array([0]), np.array([np.log(w)]), 1, 1), o)
    assert found[0] == pytest.approx(w * u * u, abs=1e-4)
    assert found[0] == pytest.approx(1 - o * u, abs=1e-4)


def test_an_empty_graph() -> None:
    nothing = np.zeros(0, np.int64)
    for size in (0, 3):
        g = Edges(nothing, nothing, np.zeros(0), size, size)
        plan = transport(g, 0.3)
        assert plan.shape == (0,)
        assert rounded(g, 0.3).tolist() == [-1] * size


def test_the_order_of_edges_does_not_matter() -> None:
    g = graph(30, 200)
    order = np.random.default_rng(1).permutation(200)
    shuffled = Edges(g.image[order], g.caption[order], g.weight[order], g.images, g.captions)
    np.testing.assert_allclose(transport(shuffled, 0.3), transport(g, 0.3)[order], atol=1e-12)
    assert np.array_equal(rounded(shuffled, 0.3), rounded(g, 0.3))


def greedy(g: Edges, plan: np.ndarray) -> list[int]:
    """One edge at a time, the largest first."""
    chosen, taken = [-1] * g.images, set()
    for e in np.lexsort((g.caption, g.image, -plan)):
        i, j = int(g.image[e]), int(g.caption[e])
        if chosen[i] < 0 and j not in taken:
            chosen[i] = j
            taken.add(j)
    return chosen


@pytest.mark.parametrize("ties", [False, True])
def test_rounding_is_greedy_and_one_to_one(ties: bool) -> None:
    for seed in range(20):
        g = graph(40, 300, seed)
        plan = np.random.default_rng(seed).uniform(size=300)
        if ties:
            plan = np.round(plan, 1)
        chosen = round_plan(g.weighing(plan))
        assert chosen.tolist() == greedy(g, plan)
        used = chosen[chosen >= 0]
        assert len(set(used)) == len(used)
        assert len(used) > 20


def test_where_partners_are_clear_it_is_the_exact_assignment() -> None:
    rng = np.random.default_rng(0)
    partner = rng.permutation(50)
    weight = rng.standard_normal((50, 50))
    weight[np.arange(50), partner] += 8
    chosen = rounded(full(weight), 0.3)
    assert np.array_equal(chosen, partner)
    assert np.array_equal(chosen, linear_sum_assignment(-weight)[1])


def test_transport_settles_who_has_a_caption_that_two_want() -> None:
    """Image 1 likes caption 0 best, but can have caption 1; image 0 can have nothing else."""
    weight = np.array([[3.0, -9.0], [3.3, 2.5]])
    assert (weight.argmax(1) == 0).all()
    assert rounded(full(weight), 0.01).tolist() == [0, 1]


def test_a_caption_goes_to_as_many_images_as_it_has_capacity() -> None:
    """Three images want caption 0 alone: one, two or three get it, the surest first."""
    image, caption = np.arange(3), np.zeros(3, np.int64)
    for capacity in (1, 2, 3):
        g = Edges(image, caption, np.array([2.0, 4.0, 3.0]), 3, 1, capacity)
        plan = transport(g, 0.01)
        assert plan.sum() == pytest.approx(capacity, abs=0.1)
        assert (rounded(g, 0.01) >= 0).tolist() == [capacity > 2, True, capacity > 1]


def test_the_plan_converges_where_weights_are_far_apart() -> None:
    """Marginals hold to 1e-3 after the iterations that are allowed."""
    g = graph(200, 4000, spread=10.0)
    left_of_image = dense_plan(graph(40, 300, spread=4.0), 0.05)[1]
    small = transport(graph(40, 300, spread=4.0), 0.05)
    rows = np.bincount(graph(40, 300, spread=4.0).image, small, 40)
    np.testing.assert_allclose(rows + left_of_image, 1, atol=2e-3)
    assert np.bincount(g.image, transport(g, 0.05), g.images).max() <= 1 + 1e-3


@pytest.mark.parametrize("plain", [0.9, 0.99, 0.999])
def test_the_relaxation_is_adapted_to_the_one_that_converges_fastest(plain: float) -> None:
    """Over-relaxed alternating steps on a 1 x 1 problem whose plain steps shrink the error by `plain`."""

    def rate(relaxation: float) -> float:
        a, b, sizes = 1.0, 1.0, []
        for _ in range(400):
            a += relaxation * (plain**0.5 * b - a)
            b += relaxation * (plain**0.5 * a - b)
            sizes.append(abs(b))
        return float((sizes[-1] / sizes[-101]) ** 0.01)

    best = 2 / (1 + (1 - plain) ** 0.5)
    assert module._adapted(1.2, rate(1.2)) == pytest.approx(min(best, module.MOST_RELAXED), abs=1e-3)
    assert module._adapted(1.9, 0.5) == 1.9  # faster than any: nothing is known of the plain rate
    assert module._adapted(1.5, 1.2) == 1.5


@pytest.mark.parametrize("spread", [2.0, 4.0, 10.0])
def test_single_precision_is_enough(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of any number of rows."""
    for seed in range(5):
        g = graph(200, 4000, seed, spread)
        exact = transport(g, 0.05)
        for rows in (7, 16_384):
            monkeypatch.setattr(module, "ROWS", rows)
            found = transport(replace(g, weight=g.weight.astype(np.float32)), 0.05)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, exact, atol=5e-5)
            np.testing.assert_allclose(transport(g, 0.05), exact, rtol=1e-12)


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_graph_in_parts_has_the_plan_of_the_whole(capacity: int, device: str) -> None:
    """One part has all edges between some images and captions, in its own order, with a bonus; the other the rest."""
    g, rng = replace(graph(40, 400, spread=3.0), capacity=capacity), np.random.default_rng(0)
    images, captions = rng.permutation(40)[:30], rng.permutation(40)[:25]
    inside = np.isin(g.image, images) & np.isin(g.caption, captions)
    image, caption = (
        np.argsort(order)[np.searchsorted(np.sort(order), ids[inside])]
        for order, ids in ((images, g.image), (captions, g.caption))
    )
    some = Part(Links.of(image, caption, g.weight[inside] - 0.5, 30, 25), images, captions, 0.5)
    rest = Part.whole(Links.of(g.image[~inside], g.caption[~inside], g.weight[~inside], 40, 40))
    plan = _plan(Graph((rest, some), 40, 40, capacity), 0.05, device)
    np.testing.assert_allclose(g.of(plan), transport(g, 0.05), atol=1e-9)
    assert np.array_equal(round_plan(plan), rounded(g, 0.05))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_sorting_in_blocks_is_a_stable_sort(size: int) -> None:
    """Also where some blocks are empty, and some groups."""
    rng = np.random.default_rng(0)
    group, value = rng.integers(0, 20, 300).astype(np.int32), rng.standard_normal(300)
    group[group == 13] = 4
    parts = [slice(k, k + size) for k in range(0, 300, size)] + [slice(300, 300)]
    ends = ends_of_blocks((group[part] for part in parts), 22)
    assert np.array_equal(ends, np.searchsorted(np.sort(group), np.arange(23)))
    assert np.array_equal(ends, ends_of(group, 22))
    order, values = np.empty(300, np.int32), np.empty(300)
    sort_blocks(((group[part], np.arange(300)[part], value[part]) for part in parts), ends, (order, values))
    assert np.array_equal(order, np.argsort(group, kind="stable"))
    assert np.array_equal(order, grouped(group, 22))
    assert np.array_equal(values, value[order])


@pytest.mark.parametrize("rows", [3, 40, 1000])
def test_turned_edges_are_ordered_by_caption_then_image(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SORTED", rows)
    g = graph(40, 300)
    links = Links.of(g.image, g.caption, g.weight, 40, 45)
    order = np.lexsort((g.image, g.caption))
    turned = links.turned
    assert (turned.images, turned.captions) == (45, 40)
    assert np.array_equal(np.repeat(np.arange(45), np.diff(turned.ends)), g.caption[order])
    assert np.array_equal(turned.caption, g.image[order])
    assert np.array_equal(turned.weight, g.weight[order])
    assert turned.caption.dtype == np.int32
    again = turned.turned
    assert np.array_equal(again.ends, links.ends)
    assert np.array_equal(again.weight, g.weight[np.lexsort((g.caption, g.image))])


def test_a_plan_of_edges_in_files_is_that_of_edges_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SMALL", 1)
    monkeypatch.setattr(module, "ROWS", 7)
    g = graph(200, 4000)
    links = Links.of(g.image, g.caption, g.weight.astype(np.float32), 200, 200)
    plans = []
    for where in (MEMORY, Scratch(tmp_path)):
        some = replace(links, scratch=where)
        in_files = where.folder is not None
        assert all(isinstance(x.base, np.memmap) == in_files for x in (some.turned.caption, some.turned.weight))
        with ThreadPoolExecutor() as threads:
            side = module._Side([Part.whole(some)], 200, np.dtype(np.float32), threads)
            side.plan(np.zeros(200), np.zeros(200))
        blocks = side.parts[0].blocks
        assert len(blocks) == 29
        assert all(np.shares_memory(block.indices, some.caption) for block in blocks)  # not copies in memory
        assert all(np.shares_memory(block.data, side.parts[0].mass) for block in blocks)
        assert isinstance(side.parts[0].mass.base, np.memmap) == in_files
        plans.append(module.transport(Graph((Part.whole(some),), 200, 200), 0.05))
    for ours, theirs in zip(*(_edges(plan) for plan in plans), strict=True):
        assert np.array_equal(ours, theirs)
