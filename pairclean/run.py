"""A run directory: what was asked for, what is done, and the one place that knows the order of the stages."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .config import STAGES, Config
from .files import fingerprint, write_json
from .pairs import Shard, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from .sources import Source

LAYOUT = 1  # of the run directory; a change makes older ones unreadable


class Progress:
    """What a run tells while it works; this one is silent. The command line draws one."""

    def start(self, stage: str, total: int | None = None) -> None: ...
    def advance(self, steps: int = 1) -> None: ...
    def finish(self, stage: str, seconds: float) -> None: ...
    def say(self, sentence: str) -> None: ...


@dataclass
class Execution:
    """How a run is executed; nothing here changes its results."""

    device: str = "auto"
    workers: int | None = None
    progress: Progress = field(default_factory=Progress)


class Run:
    """A run directory.  Made by `Run.create`, found again by `Run.open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest

    # --- finding ------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, source: str | Path, config: Config, *, frozen_from: Run | None = None) -> Run:
        """A new run, or the one that is there if it was asked for the same.

        Raises UserError if `path` holds something else, or a run of other options: results are never mixed.
        """
        path, origin = Path(path), os.path.abspath(source)
        if path.is_file():
            raise UserError(f"{path} is a file: name a directory for the run")
        if (path / "manifest.json").exists():
            run = cls.open(path)
            run._must_match(origin, config)
            return run
        if path.exists() and any(p.name != "run.lock" for p in path.iterdir()):
            raise UserError(f"{path} is not empty and holds no run: name a new directory")
        if _inside(path, origin):
            raise UserError(f"{path} is the source itself: name another directory for the run")
        manifest = {
            "pairclean": __version__,
            "layout": LAYOUT,
            "source": origin,
            "config": config.model_dump(),
            "frozen_from": None if frozen_from is None else os.path.abspath(frozen_from.path),
            "stages": {},
        }
        run = cls(path, manifest)
        try:
            run.save()
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{path} is no run directory: it has no readable manifest.json") from None
        except ValueError:
            raise UserError(f"{path}/manifest.json is damaged: start a new run, or put the file back") from None
        if manifest.get("layout") != LAYOUT:
            raise UserError(f"{path} was made by pairclean {manifest.get('pairclean')}, which this one cannot continue")
        return cls(path, manifest)

    def _must_match(self, origin: str, config: Config) -> None:
        if origin != self.manifest["source"]:
            raise UserError(
                f"{self.path} is a run over {self.manifest['source']}, not over {origin}: name another directory"
            )
        for stage in STAGES:
            for name, value in config.of(stage).items():
                if value != getattr(self.config, name):
                    later = stage in ("judge", "rematch")
                    command = f"`pairclean {stage} {self.path} --{name.replace('_', '-')} {value}`"
                    instead = f"; to change only that, {command}" if later else ""
                    raise UserError(
                        f"{self.path} is a run with {name} = {getattr(self.config, name)}, not {value}: "
                        f"name another directory{instead}"
                    )

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        return Config.make(**self.manifest["config"])

    def change(self, **options: Any) -> None:
        """Other options for stages that will be run again."""
        given = {k: v for k, v in options.items() if v is not None}
        self.manifest["config"] = Config.make(**{**self.manifest["config"], **given}).model_dump()

    def open_source(self) -> Source:
        """The source with `limit` applied to its shards."""
        from .sources import open_source

        config = self.config
        source = open_source(
            self.manifest["source"],
            image_column=config.image_column,
            caption_column=config.caption_column,
            id_column=config.id_column,
            image_root=config.image_root,
        )
        source.shards = limited(source.shards, config.limit)
        return source

    @property
    def comparable(self) -> bool:
        """Whether the encoder's two spaces are one before anything is learned."""
        return bool(self.manifest["encoder"]["comparable"])

    @cached_property
    def frozen_from(self) -> Run | None:
        """The run whose model and calibration judge this one, if it does not learn its own."""
        origin = self.manifest["frozen_from"]
        return None if origin is None else Run.open(origin)

    @property
    def shards(self) -> list[str]:
        """Names of the embedded shards, in input order."""
        return list(self.manifest["shards"])

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        try:
            return json.loads((self.path / "report.json").read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{self.path} has no report yet: run `pairclean clean` to its end") from None

    def verdict_tables(self) -> Iterator[pa.Table]:
        """One table a shard, `pairs.VERDICT_SCHEMA`."""
        import pyarrow.parquet as pq

        for name in self.shards:
            yield pq.read_table(self.path / "verdicts" / f"{name}.parquet")

    def verdicts(self) -> pa.Table:
        """All verdicts, one row an input pair, in input order; `.to_pandas()` gives a frame."""
        import pyarrow as pa

        return pa.concat_tables(self.verdict_tables())

    # --- running -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        write_json(self.path / "manifest.json", self.manifest)

    def is_done(self, stage: str) -> bool:
        record = self.manifest["stages"].get(stage)
        return record is not None and record["fingerprint"] == self._expected(stage)

    def _expected(self, stage: str) -> str | None:
        """The fingerprint of a stage's result: its options, and everything before it. None if that is not done."""
        order = list(STAGES)
        before = order[: order.index(stage)]
        if before:
            record = self.manifest["stages"].get(before[-1])
            if record is None or record["fingerprint"] != self._expected(before[-1]):
                return None
            return fingerprint(stage, record["fingerprint"], self.config.of(stage))
        return fingerprint(stage, self.manifest.get("parts"), self.config.of(stage))

    def advance(self, stages: Sequence[str], execution: Execution, *, again: bool = False) -> None:
        """Do these stages in order, leaving out those that are done, unless `again`.

        Raises UserError if a stage before them is missing, or another process works on this run.
        """
        from . import stages as do

        with self.locked():
            first = list(STAGES).index(stages[0])
            for needed in list(STAGES)[:first]:
                if not self.is_done(needed):
                    raise UserError(f"{self.path} has not been through `{needed}`: run `pairclean {needed}` first")
            for stage in stages:
                if stage != "embed" and self.is_done(stage) and not again:
                    continue
                begun = time.perf_counter()
                was_done = self.is_done(stage)
                getattr(do, stage)(self, execution)
                if stage == "embed" and was_done and self.is_done(stage):
                    continue  # it looked, and nothing was new
                seconds = time.perf_counter() - begun
                self.manifest["stages"][stage] = {"fingerprint": self._expected(stage), "seconds": round(seconds, 3)}
                self.save()
                execution.progress.finish(stage, seconds)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; the lock goes with the process that held it, however that ended."""
        import fcntl

        with (self.path / "run.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is working on {self.path}: wait for it, or stop it") from None
            yield


def limited(shards: Sequence[Shard], limit: int | None) -> list[Shard]:
    """The first `limit` rows of the shards."""
    if limit is None:
        return list(shards)
    kept = []
    for shard in shards:
        if limit <= 0:
            break
        kept.append(replace(shard, rows=min(shard.rows, limit)))
        limit -= shard.rows
    return kept


def _inside(path: Path, origin: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(origin)
