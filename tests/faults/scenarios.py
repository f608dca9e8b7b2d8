"""Several processes on one run, and interrupts: prints what became of each, as JSON.

python scenarios.py SHARDS HOME
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pairclean_cli.main
from forks import ended, fork
from small import OPTIONS

import pairclean
from pairclean import pipeline
from pairclean.embed import embed as embedding
from pairclean.execution import side_by_side
from pairclean.options import STAGES
from pairclean.run import Execution, Run


class Process:
    """A fork that runs the command line, and stops where `wait` is called in it until it is told to go on."""

    def __init__(self, said: Path, work: Callable[[Callable[[], None]], None]):
        there, here = os.pipe(), os.pipe()
        self.said = said

        def wait() -> None:
            os.write(there[1], b"x")
            os.read(here[0], 1)

        self.pid = fork(lambda: work(wait), said)
        self._there, self._here = there, here
        os.close(there[1])

    def until_it_waits(self) -> bool:
        return os.read(self._there[0], 1) == b"x"

    def go_on(self) -> None:
        os.write(self._here[1], b"x")

    def end(self, signal_: int | None = None) -> dict[str, Any]:
        if signal_ is not None:
            os.kill(self.pid, signal_)
        status = ended(self.pid)
        return {"status": status, "said": self.said.read_text()}


def command(*words: object) -> None:
    sys.argv = ["pairclean", *map(str, words)]
    pairclean_cli.main.main()


def noting_parts(file: Path, before: Callable[[str], None] = lambda name: None) -> None:
    """Has this process note the parts that it writes."""
    write = embedding.write_part

    def noted(root: Path, name: str, *rest: Any) -> None:
        before(name)
        with file.open("a") as lines:
            lines.write(f"{name}\n")
        write(root, name, *rest)

    embedding.write_part = noted


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def holding_the_first_part(shards: Path, home: Path) -> Process:
    def work(wait: Callable[[], None]) -> None:
        noting_parts(home / "first", lambda name: wait() if name == "00000" else None)
        command("embed", shards, home / "run", "--model", "hog-tfidf")

    process = Process(home / "said", work)
    process.until_it_waits()
    return process


def embedding_the_rest(shards: Path, home: Path) -> int:
    def work() -> None:
        noting_parts(home / "second")
        command("embed", shards, home / "run", "--model", "hog-tfidf")

    pid = fork(work, home / "said2")
    while len(lines(home / "second")) < 7:
        time.sleep(0.02)
    return pid


def shared(shards: Path, home: Path) -> dict[str, Any]:
    first = holding_the_first_part(shards, home)
    second = embedding_the_rest(shards, home)
    time.sleep(0.3)
    waits = os.waitpid(second, os.WNOHANG)[0] == 0
    first.go_on()
    statuses = [first.end()["status"], ended(second)]
    fork_status = ended(fork(lambda: void(pipeline.embed(shards, home / "alone", model="hog-tfidf"))))
    parts = sorted((home / "alone/embeddings").rglob("*.*"))
    return {
        "statuses": statuses,
        "waits": waits,
        "parts": [lines(home / "first"), lines(home / "second")],
        "alone": fork_status,
        "same": [path.read_bytes() == (home / "run" / path.relative_to(home / "alone")).read_bytes() for path in parts],
        "done": Run.open(home / "run").is_done("embed"),
        "left": sorted(path.name for path in (home / "run").iterdir()),
    }


def taken_over(shards: Path, home: Path) -> dict[str, Any]:
    first = holding_the_first_part(shards, home)
    second = embedding_the_rest(shards, home)
    time.sleep(0.3)
    waits = os.waitpid(second, os.WNOHANG)[0] == 0
    first.end(signal.SIGKILL)
    return {
        "waits": waits,
        "status": ended(second),
        "parts": lines(home / "second"),
        "done": Run.open(home / "run").is_done("embed"),
    }


def stopping_at(stage: str, shards: Path, home: Path) -> Process:
    def work(wait: Callable[[], None]) -> None:
        module = import_module(f"pairclean.stages.{stage}")
        do = getattr(module, stage)

        def stopped(run: Run, execution: Execution) -> None:
            wait()
            do(run, execution)

        setattr(module, stage, stopped)
        command("clean", shards, home / "run", *(word for k, v in OPTIONS.items() for word in (f"--{k}", v)))

    process = Process(home / f"said_{stage}", work)
    process.until_it_waits()
    return process


def refused(stage: str, shards: Path, home: Path) -> dict[str, Any]:
    first = stopping_at(stage, shards, home)
    again = fork(
        lambda: command("clean", shards, home / "run", "--model", "hog-tfidf", "--method", "canonical"), home / "2"
    )
    other = fork(lambda: command("judge", home / "run"), home / "3")
    statuses = [ended(again), ended(other)]
    first.end(signal.SIGKILL)
    last = ended(fork(lambda: void(pairclean.clean(shards, home / "run", **OPTIONS)), home / "4"))
    return {"statuses": statuses, "said": [(home / k).read_text() for k in "23"], "afterwards": last}


def interrupted(shards: Path, home: Path) -> dict[str, Any]:
    return {stage: stopping_at(stage, shards, home).end(signal.SIGINT) for stage in STAGES}


def interrupted_while_threads_work(shards: Path, home: Path) -> dict[str, Any]:
    def work(wait: Callable[[], None]) -> None:
        def learn(k: int, device: str) -> None:
            if k == 0:
                wait()
            threading.Event().wait(1000)

        def clean(*_: Any, **__: Any) -> None:
            side_by_side(learn, 2, ["cpu"])

        with mock.patch.object(pipeline, "clean", clean):
            command("clean", shards, home / "run")

    process = Process(home / "said", work)
    process.until_it_waits()
    return process.end(signal.SIGINT)


def void(_: object) -> None:
    pass


def main(shards: Path, home: Path) -> dict[str, Any]:
    scenarios: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
        "shared": shared,
        "taken over": taken_over,
        "refused at align": lambda *paths: refused("align", *paths),
        "refused at report": lambda *paths: refused("report", *paths),
        "interrupted": interrupted,
        "threads": interrupted_while_threads_work,
    }
    found = {}
    for name, scenario in scenarios.items():
        place = home / name.replace(" ", "_")
        place.mkdir()
        found[name] = scenario(shards, place)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
