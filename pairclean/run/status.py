"""How far a run is: its stages, their parts, and the time left. Nothing is changed, and no lock is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow.parquet as pq

from ..options import SHARD_WISE, STAGES
from .directory import Run
from .lock import Lock
from .parts import part_file, presence, seconds_of_parts
from .remote import RemoteRun

#: The speed is that of so many of the latest parts, or of twice as many as are written at the same time.
LATEST = 20

State = Literal["done", "running", "incomplete", "missing", "stale"]


@dataclass(frozen=True)
class Parts:
    """The parts of a stage that works shard by shard; a part is made of one shard.

    total: how many the stage has; done, running (a living process is writing it) and missing (nobody is) add up to it.
    pairs_per_second: the speed of all processes together, in pairs per second, from the latest parts that were
    completed since work on the stage was last resumed; None unless a process is running and there are two such parts.
    seconds_left: the time that the parts that are not done take at this speed, in seconds; None without a speed.
    """

    total: int
    done: int
    running: int
    missing: int
    pairs_per_second: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is.

    state: "done"; "running"; "incomplete" where some parts are there and no process is working on the stage; "missing"
    where nothing is there; "stale" where it was done and something before it has changed.
    seconds: how long the stage took, in seconds; None unless it is done (of a run at an address: and recorded). Of a
    stage that array jobs made it is the time from its beginning to its last part, pauses between jobs included;
    otherwise it is the working time of the process that finished it.
    parts: None for a stage that needs all pairs at once, and before the shards are known.
    """

    stage: str
    state: State
    seconds: float | None = None
    parts: Parts | None = None


def status(run: Run) -> list[StageStatus]:
    """All stages of a run in order, also while other processes work on it; `pairclean status --json` prints them."""
    lock = run.path / "run.lock"
    locked, note = Lock.is_held(lock), Lock.note_in(lock)
    found = []
    for stage in STAGES:
        parts = _parts(run, stage, note) if stage in SHARD_WISE and "shards" in run.manifest else None
        record = run.manifest["stages"].get(stage)
        seconds = None
        if run.is_done(stage):
            state: State = "done"
            seconds = float(record["seconds"])
        elif note == stage and (locked or (parts is not None and parts.running)):
            state = "running"
        elif parts is not None and parts.total == parts.done and run.has_begun(stage):
            state = "done"  # which the next stage records, with the time that it took
            seconds = None if isinstance(run, RemoteRun) else seconds_of_parts(run, stage)
        elif parts is not None and parts.done:
            state = "incomplete"
        else:
            state = "missing" if record is None else "stale"
        found.append(StageStatus(stage, state, seconds, parts))
    return found


def _parts(run: Run, stage: str, at_work: str) -> Parts:
    total = len(run.shards)
    if run.is_done(stage):
        return Parts(total, total, 0, 0)
    is_there = run.presence(stage) if isinstance(run, RemoteRun) else presence(run, stage)
    there = [part for part in run.shards if is_there(part)]
    others = sorted(set(run.shards) - set(there))
    locks = [run.path / "locks" / f"{part}.lock" for part in others] if stage == at_work else []
    running = sum(map(Lock.is_held, locks))
    speed, rows = _speed(run, stage, there, max(LATEST, 2 * running)) if running else (None, 0.0)
    left = len(others) * rows / speed if speed else None
    return Parts(total, len(there), running, len(others) - running, speed, left)


def _speed(run: Run, stage: str, there: list[str], latest: int) -> tuple[float | None, float]:
    """Pairs per second, and pairs per part, of the latest parts since work was last resumed."""
    # A process that finds nobody at work writes its note into the lock; those that join it do not.
    resumed = (run.path / "run.lock").stat().st_mtime
    files = [part_file(run, stage, part) for part in there]
    times = sorted((time, file) for file in files if (time := file.stat().st_mtime) >= resumed)[-latest:]
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None, 0.0
    rows = [pq.read_metadata(file).num_rows for _, file in times[1:]]  # since the first of them was written
    return sum(rows) / (times[-1][0] - times[0][0]), sum(rows) / len(rows)
