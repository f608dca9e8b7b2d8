"""Array jobs on one run, some of them killed in the middle of a part: prints what became of them, as JSON.

python arrays.py SHARDS HOME
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contents import content
from forks import ended, fork
from killing import watch
from scenarios import Process, command, holding_the_first_part, lines, noting_parts
from small import OPTIONS

import pairclean
from pairclean.run import Run
from pairclean.run.status import status

JOBS = 4
EMBED = ("--model", OPTIONS["model"])


def job(stage: str, shards: Path, run: Path, index: int, *, jobs: int = JOBS) -> None:
    source = (shards,) if stage == "embed" else ()
    options = EMBED if stage == "embed" else ()
    command(stage, *source, run, *options, "--shard-index", index, "--num-shards", jobs)


def killed_before(part_file: str, work: Callable[[], None], run: Path) -> None:
    """Does the work in this process, which is killed when the last file of a part is about to get its name."""
    sys.addaudithook(
        lambda event, given: (
            os.kill(os.getpid(), signal.SIGKILL)
            if event == "os.rename" and str(given[1]) == str(run / part_file)
            else None
        )
    )
    work()


def all_jobs(stage: str, shards: Path, run: Path, killed: dict[int, str]) -> list[int]:
    """The exit statuses of the jobs, which start at the same moment.  killed: by job, the file that it dies at."""

    def work(index: int) -> None:
        if index in killed:
            killed_before(killed[index], lambda: job(stage, shards, run, index), run)
        job(stage, shards, run, index)

    pids = [fork(lambda index=index: work(index), run.with_suffix(f".{stage}{index}")) for index in range(JOBS)]
    return [ended(pid) for pid in pids]


def said(work: Callable[[], None], file: Path) -> dict[str, Any]:
    return {"status": ended(fork(work, file)), "said": file.read_text()}


def states(run: Path) -> dict[str, Any]:
    found = {one.stage: one for one in status(Run.open(run))}
    parts = found["embed"].parts, found["export"].parts
    counts = [[of.done, of.running, of.missing] if of else None for of in parts]
    return {"states": [one.state for one in found.values()], "parts": counts}


def whole_run(shards: Path, home: Path) -> dict[str, Any]:
    """All stages by array jobs, two of four killed in each stage that has them."""
    run, alone = home / "run", home / "alone"
    assert ended(fork(lambda: void(pairclean.clean(shards, alone, **OPTIONS)))) == 0
    names = Run.open(alone).shards
    found: dict[str, Any] = {}
    of_embed = {1: f"embeddings/metadata/metadata_{names[5]}.parquet", 2: f"embeddings/img_emb/img_emb_{names[6]}.npy"}
    found["embed"] = all_jobs("embed", shards, run, of_embed)
    found["after embed"] = states(run)
    found["align too early"] = said(lambda: command("align", run, "--method", OPTIONS["method"]), home / "said")
    found["embed again"] = [ended(fork(lambda k=k: job("embed", shards, run, k), home / "log")) for k in of_embed]
    found["after embed again"] = states(run)
    stages = [("align", "--method", OPTIONS["method"]), ("judge",), ("rematch",)]
    found["middle"] = [ended(fork(lambda s=s: command(s[0], run, *s[1:]), home / "log")) for s in stages]
    of_export = {0: f"verdicts/{names[0]}.parquet", 3: f"cleaned/{names[7]}.parquet"}
    found["export"] = all_jobs("export", shards, run, of_export)
    found["after export"] = states(run)
    found["report too early"] = said(lambda: command("report", run), home / "said2")
    found["export again"] = [ended(fork(lambda k=k: job("export", shards, run, k), home / "log")) for k in of_export]
    found["report"] = ended(fork(lambda: command("report", run), home / "log"))
    found["finished"] = states(run)
    found["one more"] = said(lambda: job("export", shards, run, 1), home / "said3")
    one, many = content(alone), content(run)
    found["different"] = sorted(name for name in one.keys() | many.keys() if one.get(name) != many.get(name))
    found["compared"] = len(one)
    return found


def finished_by_one(shards: Path, home: Path) -> dict[str, Any]:
    """What an array left is made by a process without an index."""
    run = home / "run"
    first = ended(fork(lambda: job("embed", shards, run, 2), home / "log"))
    before = states(run)["parts"][0]

    def work() -> None:
        noting_parts(home / "parts")
        command("embed", shards, run, *EMBED)

    return {"job": first, "before": before, "rest": ended(fork(work, home / "log")), "parts": lines(home / "parts")}


def left_to_another(shards: Path, home: Path) -> dict[str, Any]:
    """A job does not wait for a part that another process is writing."""
    first = holding_the_first_part(shards, home)

    def work() -> None:
        noting_parts(home / "parts")
        job("embed", shards, home / "run", 0, jobs=2)

    second = said(work, home / "said2")
    meanwhile = states(home / "run")
    first.go_on()
    return {**second, "parts": lines(home / "parts"), "meanwhile": meanwhile, "first": first.end()["status"]}


def all_at_once(shards: Path, home: Path) -> list[list[int]]:
    """Eight jobs start on a directory that is not there yet, a few times."""
    found = []
    for k in range(4):
        gun = os.pipe()

        def work(index: int, run: Path = home / f"run{k}", gun: tuple[int, int] = gun) -> None:
            os.close(gun[1])
            os.read(gun[0], 1)  # until the other end is closed
            job("embed", shards, run, index, jobs=8)

        pids = [fork(lambda index=index, work=work: work(index), home / "log") for index in range(8)]
        time.sleep(0.1)
        os.close(gun[1])
        found.append([ended(pid) for pid in pids] + [states(home / f"run{k}")["parts"][0][0]])
    return found


def options_that_differ(shards: Path, home: Path) -> dict[str, Any]:
    """While others export, nobody changes the options under their hands."""
    run = home / "run"
    assert ended(fork(lambda: void(pairclean.clean(shards, run, **OPTIONS)))) == 0
    for folder in ("verdicts", "cleaned"):  # which jobs with other options do not replace
        shutil.rmtree(run / folder)

    def work(wait: Callable[[], None]) -> None:
        watch(run / "cleaned" / ".00000", lambda _: wait(), ("open",))
        command("export", run, "--captions", "best", "--shard-index", 0, "--num-shards", 2)

    first = Process(home / "first", work)
    first.until_it_waits()
    meanwhile = states(run)["states"]
    other = said(lambda: command("export", run, "--to", "webdataset"), home / "other")
    same = said(
        lambda: command("export", run, "--captions", "best", "--shard-index", 1, "--num-shards", 2), home / "same"
    )
    rematch = said(lambda: command("rematch", run, "--flag-below", 0.3), home / "rematch")
    first.go_on()
    ends = {"other": other, "same": same["status"], "rematch": rematch, "first": first.end()["status"]}
    return {**ends, "meanwhile": meanwhile, "report": said(lambda: command("report", run), home / "report")["status"]}


def void(_: object) -> None:
    pass


def main(shards: Path, home: Path) -> dict[str, Any]:
    found = {}
    for scenario in (whole_run, finished_by_one, left_to_another, all_at_once, options_that_differ):
        place = home / scenario.__name__
        place.mkdir()
        found[scenario.__name__] = scenario(shards, place)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
