"""Kills runs of one small data set at chosen moments, goes on with them, and prints what differs: JSON.

    python killing.py SHARDS HOME

What a run does to its directory (a file opened for writing, renamed, removed, a folder made) is counted by an audit
hook, which pulls the plug before the n-th; some are killed in the middle of writing, by a limit on the size of a file,
and some by the clock. A full disk is one on which, from the n-th write on, nothing can be written.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pairclean_cli.main
from contents import content
from forks import ended, fork
from small import OPTIONS

import pairclean
from pairclean.options import STAGES
from pairclean.run import Execution

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITES = os.O_WRONLY | os.O_RDWR


def writes(event: str, arguments: tuple[Any, ...], home: str) -> bool:
    """Whether an audited event is about to change something under `home`."""
    if event not in CHANGES:
        return False
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return False
    return str(arguments[0]).startswith(home)


def watch(run: Path, at_write: Callable[[int], None], of: tuple[str, ...] = CHANGES) -> None:
    """Calls at_write with the number of each write under `run` that is one of these events; all are counted."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if writes(event, arguments, str(run)):
            count += 1
            if event in of:
                at_write(count)

    sys.addaudithook(hook)


def clean(shards: Path, run: Path) -> None:
    pairclean.clean(shards, run, execution=Execution(workers=2), **OPTIONS)


def moments(shards: Path, run: Path, notes: Path) -> list[str]:
    """The stage that each write of an undisturbed run belongs to."""

    def work() -> None:
        file = os.open(notes, os.O_CREAT | os.O_WRONLY)

        def note(_: int) -> None:
            lock = run / "run.lock"
            os.write(file, ((lock.read_text() if lock.exists() else "") or "embed").encode() + b"\n")

        watch(run, note)
        clean(shards, run)

    assert ended(fork(work)) == 0
    return notes.read_text().split()


def killed_at(n: int, shards: Path, run: Path) -> bool:
    def work() -> None:
        watch(run, lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == n else None)
        clean(shards, run)

    return ended(fork(work)) < 0


def killed_inside_a_file(limit: int, shards: Path, run: Path) -> bool:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which ends the process; Python ignores it otherwise
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        clean(shards, run)

    return ended(fork(work)) < 0


def killed_after(seconds: float, shards: Path, run: Path) -> bool:
    return ended(fork(lambda: clean(shards, run)), within=seconds) < 0


def main(shards: Path, home: Path) -> dict[str, Any]:
    stages = moments(shards, home / "whole", home / "notes")
    whole = content(home / "whole")
    rng = np.random.default_rng(0)
    plans: list[tuple[str, Callable[[Path], bool]]] = []
    for stage in STAGES:
        here = [n for n, of in enumerate(stages, start=1) if of == stage]
        for n in rng.choice(here, 2, replace=False):
            plans += [(f"{stage}, before write {n}", partial(killed_at, int(n), shards))]
    for limit in (1000, 5000, 20_000):
        plans += [(f"inside a file, at byte {limit}", partial(killed_inside_a_file, limit, shards))]
    for seconds in rng.uniform(0.05, 1, 3).round(2):
        plans += [(f"after {seconds} s", partial(killed_after, seconds, shards))]
    trials = []
    for k, (name, kill) in enumerate(plans):
        run, again = home / f"run{k}", int(rng.integers(1, 9))  # what goes on is killed too
        kills = {name: kill(run), f"going on, before write {again}": killed_at(again, shards, run)}
        trials.append({"kills": kills, **gone_on(shards, run, whole)})
    disks = []
    for k, stage in enumerate(STAGES):
        run, said = home / f"full{k}", home / f"said{k}"
        n = int(rng.choice([n for n, of in enumerate(stages, start=1) if of == stage]))
        status = full_disk(n, shards, run, said)
        disks.append({"name": f"{stage}, write {n}", "status": status, "said": said.read_text()})
        disks[-1] |= {"after": gone_on(shards, run, whole)}
    return {"writes": {stage: stages.count(stage) for stage in STAGES}, "trials": trials, "full disks": disks}


def gone_on(shards: Path, run: Path, whole: dict[str, str]) -> dict[str, Any]:
    """Goes on to the end: how that ended, and which files are not those of the run that nothing happened to."""
    status = ended(fork(lambda: clean(shards, run)))
    after = content(run) if status == 0 else {}
    return {
        "status": status,
        "different": sorted(k for k in whole.keys() | after.keys() if whole.get(k) != after.get(k)),
    }


def full_disk(n: int, shards: Path, run: Path, said: Path) -> int:
    """From the n-th write on nothing can be written any more."""

    def refuse(count: int) -> None:
        if count >= n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work() -> None:
        watch(run, refuse, ("open", "os.mkdir"))
        sys.argv = [
            "pairclean",
            "clean",
            str(shards),
            str(run),
            *(w for k, v in OPTIONS.items() for w in (f"--{k}", v)),
        ]
        pairclean_cli.main.main()

    return ended(fork(work, said))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
