"""Work on several devices, or on the cores of a CPU."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType

import pytest
import torch

from pairclean import execution
from pairclean.execution import alone_on, side_by_side


def test_devices_work_at_the_same_time_each_on_one_thing() -> None:
    lock, both, busy, used = threading.Lock(), threading.Barrier(2), set[str](), list[str]()

    def work(k: int, device: str) -> int:
        with lock:
            assert device not in busy
            busy.add(device)
            used.append(device)
        if k < 2:
            both.wait(60)  # passes only if the other device is at work too
        with lock:
            busy.remove(device)
        return k * k

    done = []
    assert side_by_side(work, 6, ["cuda:0", "cuda:1"], lambda: done.append(1)) == [0, 1, 4, 9, 16, 25]
    assert set(used) == {"cuda:0", "cuda:1"}
    assert len(done) == 6


def test_a_device_that_is_free_takes_what_is_next() -> None:
    slow, others = threading.Event(), []

    def work(k: int, device: str) -> str:
        if k == 0:
            assert slow.wait(60)
        else:
            others.append(k)
            if len(others) == 4:
                slow.set()
        return device

    first, *rest = side_by_side(work, 5, ["cuda:0", "cuda:1"])
    assert set(rest) == {"cuda:0", "cuda:1"} - {first}


def test_one_device_works_in_the_calling_thread() -> None:
    def work(k: int, device: str) -> tuple[int, str, int]:
        return k, device, threading.get_ident()

    assert side_by_side(work, 3, ["mps"]) == [(k, "mps", threading.get_ident()) for k in range(3)]


def test_a_cpu_works_on_its_cores_with_a_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairclean.execution.available_cores", lambda: 2)
    both = threading.Barrier(2)

    def work(k: int, device: str) -> tuple[str, int]:
        both.wait(60)
        return device, torch.get_num_threads()

    assert side_by_side(work, 4, ["cpu"]) == [("cpu", 1)] * 4


def test_no_work_has_no_results() -> None:
    assert side_by_side(lambda k, device: k, 0, ["cpu"]) == []


def test_a_fault_on_one_device_ends_the_work() -> None:
    begun = []

    def work(k: int, device: str) -> None:
        begun.append(k)
        if k == 0:
            raise MemoryError("the device is full")
        time.sleep(0.01)

    with pytest.raises(MemoryError, match="the device is full"):
        side_by_side(work, 1000, ["cuda:0", "cuda:1"])
    assert len(begun) < 1000


def test_work_on_a_core_that_asks_for_the_cores_stays_on_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairclean.execution.available_cores", lambda: 2)

    def work(k: int, device: str) -> bool:
        inner = side_by_side(lambda i, device: (i, device, threading.get_ident()), 3, ["cpu"])
        return inner == [(i, "cpu", threading.get_ident()) for i in range(3)]

    assert side_by_side(work, 4, ["cpu"]) == [True] * 4
    assert threading.get_ident() not in side_by_side(lambda k, device: threading.get_ident(), 4, ["cpu"])


def test_one_thread_at_a_time_computes_on_a_device_and_all_on_the_cpu() -> None:
    inside, most, both = [0], [0], threading.Barrier(2)

    def on_device() -> None:
        with alone_on("cuda:7"), alone_on("cuda:7"):  # what is there already does not wait for itself
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    def on_cpu() -> None:
        with alone_on("cpu"):
            both.wait(60)  # passes only if the other thread is there too

    for work in (on_device, on_cpu):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]
    assert not both.broken


def test_libraries_are_looked_for_again_only_after_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    found = execution._libraries()
    assert execution._libraries() is found
    monkeypatch.setitem(sys.modules, "a_module_with_threads", ModuleType("a_module_with_threads"))
    assert execution._libraries() is not found
