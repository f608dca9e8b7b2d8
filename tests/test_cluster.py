"""The simulation of a cluster, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cluster
from benchmarks.cluster import World, makespan, policies


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of one worker and one speed."""
    monkeypatch.setattr(cluster, "MACHINE", 1)
    monkeypatch.setattr(cluster, "SPREAD", 0.0)


def run(lengths: list[float], policy: str, world: World, workers: int = 2) -> float:
    tasks = policies(np.array(lengths), workers)[policy]
    return makespan(tasks, world, workers, np.random.default_rng(0))


def test_nothing_goes_wrong() -> None:
    """The first job of the array has five hours of the six; a queue gives what is left to the other worker."""
    calm = World("calm")
    assert run([4.0, 0.5, 1.0, 0.5], "array", calm) == pytest.approx(5 / 3)
    assert run([4.0, 0.5, 1.0, 0.5], "queue", calm) == pytest.approx(4 / 3)
    assert run([1.0] * 10, "array", calm) == run([1.0] * 10, "queue", calm) == pytest.approx(1)


def test_a_lost_machine_leaves_its_parts_to_the_others() -> None:
    """Of four parts each the first worker finishes two; the other one makes its own four and the two that are left."""
    lost = World("lost", lost=True)
    assert run([1.0] * 8, "array", lost) == pytest.approx(6 / 4)
    assert run([1.0] * 8, "queue", lost) == pytest.approx(6 / 4)


def test_preempted_workers_lose_the_part_in_hand_alone() -> None:
    often = World("often", lifetime=5.0)
    assert 1 < run([1.0] * 200, "array", often) < 3
    assert run([0.01] * 20_000, "array", often) < run([1.0] * 200, "array", often)
