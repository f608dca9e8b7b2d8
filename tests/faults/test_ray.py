"""A run on a Ray cluster of two nodes, one of which dies in the middle."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contents import content

import pairclean
from pairclean import pipeline
from pairclean.pairs import UserError
from pairclean.pipeline import redo
from pairclean.run import Execution, Progress, Run
from pairclean.stages import on_ray
from pairclean.stages.on_ray import IN_FLIGHT, TRIES
from pairclean.synthetic.scenes import draw_scenes, write_shards

OPTIONS = {"model": "hog-tfidf", "method": "canonical"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(240, 0), folder, shard_size=15)
    return folder


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return pairclean.clean(shards, tmp_path_factory.mktemp("runs") / "alone", **OPTIONS).path


class Noting(Progress):
    """Notes what is said, and the stage that is running."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stage = ""

    def start(self, stage: str, total: int | None = None) -> None:
        self.stage = stage

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["embed", "export"])
def test_a_lost_node_changes_nothing(
    shards: Path, alone: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = tmp_path / "hold"
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )

    class Held(on_ray.Worker):
        """Makes the first four parts, and then waits while there is a file `hold`."""

        def make(self, part: str) -> int:
            while part >= "00004" and hold.exists():
                time.sleep(0.05)
            return super().make(part)

    class Driver(on_ray._Driver):
        """Kills the second node as soon as both workers have parts in hand that are held."""

        def __init__(self, ray: Any, start: Any, progress: Any):
            super().__init__(ray, start, progress)
            if progress.stage == stage:
                hold.touch()

        def _hand_out(self, worker: Any) -> None:
            super()._hand_out(worker)
            held = [parts and min(parts) >= "00004" for parts in self._in_hand.values()]
            if hold.exists() and len(held) == 2 and all(held):
                cluster.remove_node(second, allow_graceful=False)
                # Its worker lives a little longer, and could still make its parts.
                while sum(node["Alive"] for node in self._ray.nodes()) > 1:
                    time.sleep(0.05)
                hold.unlink()

    monkeypatch.setattr(on_ray, "Worker", Held)
    monkeypatch.setattr(on_ray, "_Driver", Driver)
    progress = Noting()
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        execution = Execution(engine="ray", ray_address=cluster.address, progress=progress)
        pairclean.clean(shards, tmp_path / "run", execution=execution, **OPTIONS)
    finally:
        cluster.shutdown()
    assert f"{stage} on 2 workers of Ray, at most 4 parts at a time" in progress.said
    assert sum(said.startswith("a worker of Ray was lost; others make its parts: 0") for said in progress.said) == 1
    one, other = content(alone), content(tmp_path / "run")
    assert sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)) == []
    assert len(one) > 80


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """Ray on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    yield
    ray.shutdown()


@pytest.mark.slow
def test_what_a_worker_raises_is_said(here: None, shards: Path, tmp_path: Path) -> None:
    pipeline.embed(shards, tmp_path / "run", model="hog-tfidf")
    run = Run.open(tmp_path / "run")
    run.manifest["source"] = str(tmp_path / "elsewhere")
    run.save()
    with on_ray.workers_of(run, "embed", Execution(engine="ray")) as make_parts:
        assert make_parts is not None
        with pytest.raises(UserError, match="elsewhere"):
            make_parts(run.shards)


@pytest.mark.slow
def test_a_cluster_without_room_is_refused_before_anything_is_written(here: None, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 cores and 0 GPUs, and a worker needs 64 and 0"):
        pairclean.clean(shards, tmp_path / "run", execution=Execution(engine="ray", workers=64), **OPTIONS)
    assert not (tmp_path / "run").exists()


class Lost(Exception):
    """In place of Ray's RayActorError."""


class Simulated:
    """In place of Ray: a call is done when it is waited for, and some workers die at it."""

    class exceptions:
        RayActorError, RayTaskError = Lost, ZeroDivisionError

    def __init__(self, dies: Any):
        self._dies = dies
        self.made: list[str | None] = []
        self.most = self._number = 0

    def start(self) -> Any:
        self._number += 1
        return Handle(self._number)

    def wait(self, calls: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        self.most = max(self.most, sum(part is not None for _, part, _ in calls))
        return calls[:1], calls[1:]

    def get(self, call: Any) -> int:
        worker, part, _ = call
        if self._dies(worker.number, part):
            raise Lost
        self.made.append(part)
        return 1

    def kill(self, worker: Any) -> None:
        worker.killed = True


class Handle:
    def __init__(self, number: int):
        self.number, self.calls = number, 0
        self.prepare = self.make = self

    def remote(self, part: str | None = None) -> Any:
        self.calls += 1
        return self, part, self.calls


PARTS = [f"{k:05d}" for k in range(20)]


def driven(dies: Any, count: int = 3) -> tuple[Simulated, Noting]:
    simulated = Simulated(dies)
    progress = Noting()
    on_ray._Driver(simulated, simulated.start, progress).run(PARTS, count)
    return simulated, progress


def test_every_part_is_made_once_and_few_are_handed_out_at_a_time() -> None:
    simulated, _ = driven(lambda worker, part: False)
    assert sorted(part for part in simulated.made if part) == PARTS
    assert simulated.most == 3 * IN_FLIGHT


def test_the_parts_of_lost_workers_are_made_by_others() -> None:
    for dying in ({1}, {1, 2}, {1, 2, 3}):
        simulated, progress = driven(lambda worker, part, dying=dying: worker in dying and part is not None)
        assert sorted(part for part in simulated.made if part) == PARTS
        assert simulated.most <= 3 * IN_FLIGHT
        assert sum("was lost" in said for said in progress.said) == len(dying)


def test_a_part_that_kills_every_worker_ends_the_run() -> None:
    with pytest.raises(UserError, match=f"died {TRIES} times while they make 00007"):
        driven(lambda worker, part: part == "00007", count=1)


def test_workers_that_cannot_be_prepared_end_the_run() -> None:
    with pytest.raises(UserError, match=f"died {TRIES} times while they prepare"):
        driven(lambda worker, part: part is None)


def test_ray_shares_the_parts_itself() -> None:
    with pytest.raises(UserError, match="leave --shard-index and --num-shards out"):
        Execution(engine="ray", shard_index=0, num_shards=2)
    with pytest.raises(UserError, match="goes with --engine ray"):
        Execution(ray_address="auto")
    with pytest.raises(UserError, match="one of local, ray"):
        Execution(engine="dask")  # type: ignore[arg-type]


def test_ray_that_is_not_installed_is_noticed_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: install it with `pip install 'pairclean\[ray\]'`"):
        Execution(engine="ray")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_before_anything_is_written(
    shards: Path, alone: Path, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # by another test
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    refused = Execution(engine="ray", ray_address=address)
    sentence = f"no Ray cluster answers at {address} .*refused"
    with pytest.raises(UserError, match=sentence):
        pairclean.clean(shards, tmp_path / "run", execution=refused, **OPTIONS)
    assert not (tmp_path / "run").exists()
    shutil.copytree(alone, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    before = content(run.path)
    with pytest.raises(UserError, match=sentence):
        redo(run, "export", refused, to="webdataset")
    assert content(run.path) == before
    assert Run.open(run.path).is_done("report")
