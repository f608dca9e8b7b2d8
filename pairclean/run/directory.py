"""A run directory: its options, which stages are done, and which process works on it."""

from __future__ import annotations

import copy
import errno
import json
import os
import shlex
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import Config
from ..files import fingerprint, is_temporary, write_json
from ..options import OPTIONS, SHARD_WISE, STAGES, flag
from ..pairs import PYTHON, Shard, UserError
from ..sources.storage import is_remote
from .lock import PAUSE, Lock

if TYPE_CHECKING:
    import pyarrow as pa

    from ..embed import Encoder
    from ..execution import Execution
    from ..export import Writer
    from ..sources import Source

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
_LOOKS = 3  # at a lock that another process holds, before its note is believed
LAYOUT = 4  # of the run directory: raised when files are renamed or change what they hold
_MANIFEST = {"pairclean", "layout", "source", "config", "frozen_from", "stages"}  # in every manifest


@dataclass(frozen=True)
class Objects:
    """What the caller handed in as Python objects. A later process has to hand in the same ones where it needs them."""

    source: Source | None = None
    encoder: Encoder | None = None
    writer: Writer | None = None


class Run:
    """A run directory.  `Run.create` makes one, `Run.open` opens one."""

    def __init__(self, path: Path, manifest: dict[str, Any], objects: Objects = Objects()):
        self.path, self.manifest, self.objects = path, manifest, objects
        self._compared: Sequence[str] = ()  # the stages whose options the caller relies on
        self._lock: Lock | None = None
        self._alone = False  # whether no other process works on this run

    # --- finding ------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        source: str | Path,
        config: Config,
        *,
        compare: Sequence[str] = tuple(STAGES),
        frozen_from: Run | None = None,
        objects: Objects = Objects(),
    ) -> Run:
        """A new run, or the existing one if its source and options are the same. Nothing is written before the first
        stage has opened the source and the encoder.

        compare: the stages whose options have to be the same.  frozen_from: the run whose model judges this one.
        objects: what is used in place of what `source`, the model and the layout name; `source` is then its name.
        Raises UserError if `path` holds something else, or a run of other options: results are never mixed.
        """
        from ..sources.storage import absolute

        path, origin = Path(path), str(source) if objects.source else absolute(source)
        writer = None if objects.writer is None else object_name(objects.writer)
        if path.is_file():
            raise UserError(f"{path} is a file: name a directory for the run")
        frozen = None if frozen_from is None else frozen_from._as_judge()
        try:
            # Listed first: processes that start at the same moment find either nothing, or a manifest too.
            there = [p.name for p in path.iterdir()] if path.exists() else []
            if (path / "manifest.json").exists():
                run = cls.open(path)
                run._must_match(origin, config, compare, frozen)
                if writer != run.manifest.get("writer"):
                    raise UserError(
                        f"{path} is a run with {_writer(run.manifest.get('writer'))}: name another directory"
                    )
                return cls(path, run.manifest, objects)._relying_on(compare)
            foreign = not all(_is_litter(name) for name in there)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if os.path.realpath(path) == os.path.realpath(origin):
            raise UserError(f"{path} is the source itself: name another directory for the run")
        if foreign:
            raise UserError(f"{path} is not empty and holds no run: name a new directory")
        manifest = {
            "pairclean": __version__,
            "layout": LAYOUT,
            "source": origin,
            "config": config.model_dump(),
            "frozen_from": frozen,
            "writer": writer,
            "stages": {},
        }
        if frozen_from is not None:  # its model was learned from vectors of this encoder
            manifest["encoder"] = frozen_from.manifest["encoder"]
            if "shared_sentences" in frozen_from.manifest:  # captions are read as its own were
                manifest["shared_sentences"] = frozen_from.manifest["shared_sentences"]
        return cls(path, manifest, objects)._relying_on(compare)

    def _relying_on(self, stages: Sequence[str]) -> Run:
        self._compared = stages
        return self

    @classmethod
    def open(cls, path: str | Path) -> Run:
        if is_remote(path):
            raise UserError(f"{path} is not on this machine: copy the run to a disk for this command")
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{path} is no run directory: it has no readable manifest.json") from None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or not manifest.keys() >= _MANIFEST:
            raise UserError(f"{path}/manifest.json is damaged: start a new run, or put the file back")
        if manifest["layout"] != LAYOUT:
            raise UserError(
                f"{path} was made by pairclean {manifest['pairclean']}, in a layout that this version does not read: "
                "start a new run in another directory"
            )
        return cls(path, manifest)

    def _as_judge(self) -> dict[str, str]:
        """What the manifest of another run records if this run's model and calibration judge it."""
        if not self.is_done("judge"):
            raise UserError(f"{self.path} has judged nothing yet: run `pairclean clean` on it to its end first")
        return {"path": os.path.abspath(self.path), "judge": self.manifest["stages"]["judge"]["fingerprint"]}

    def _must_match(self, origin: str, config: Config, stages: Sequence[str], frozen: dict[str, str] | None) -> None:
        if origin != self.manifest["source"]:
            raise UserError(
                f"{self.path} is a run over {self.manifest['source']}, not over {origin}: name another directory"
            )
        for stage in stages:
            for name, value in config.of(stage).items():
                there = getattr(self.config, name)
                if value != there:
                    change = f"`pairclean {stage} {shlex.quote(str(self.path))} {_typed(name, value)}`"
                    # The command line cannot express None.
                    instead = f", or change only that with {change}" if stage != "embed" and value is not None else ""
                    raise UserError(
                        f"{self.path} is a run with {_spoken(name, there)}, not with {_spoken(name, value)}: "
                        f"name another directory{instead}"
                    )
        if frozen != self.manifest["frozen_from"]:
            raise UserError(f"{self.path} is a run that was judged by another model: name another directory")

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the run directory is called where it is named to users: its path, or its address."""
        return str(self.path)

    def has_files(self, folder: str) -> bool:
        """Whether a folder of the run has files that are complete."""
        place = self.path / folder
        return place.is_dir() and any(not is_temporary(path.name) for path in place.iterdir())

    def fetch(self, stage: str, execution: Execution) -> None:
        """Have what a stage reads in `path`: it is, for a run on this machine."""

    @property
    def config(self) -> Config:
        return Config.make(**self.manifest["config"])

    def open_source(self, *, strict: bool = False) -> Source:
        """The source, with `limit` applied to its shards.  strict: whether a broken file raises UserError."""
        from ..sources import open_source

        config = self.config
        if self.objects.source is None:
            source = open_source(self.manifest["source"], config.columns, strict=strict)
        else:
            source = copy.copy(self.objects.source)
            source.strict = strict
        source.shards = limited(source.shards, config.limit)
        return source

    @property
    def writer(self) -> Writer | None:
        """The writer that the caller handed in, None where the layout's own is used."""
        if self.objects.writer is None and self.manifest.get("writer"):
            raise UserError(
                f"the writer of {self.path} is a Python object ({self.manifest['writer']}), which is not here: hand it "
                "to pairclean.clean again"
            )
        return self.objects.writer

    @property
    def comparable(self) -> bool:
        """Whether images and captions share the encoder's space before anything is learned."""
        return bool(self.manifest["encoder"]["comparable"])

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder made the vectors, which can read other texts; not if they came with the source."""
        return "model" in self.manifest["encoder"].get("description", {})

    @cached_property
    def frozen_from(self) -> Run | None:
        """The run whose model and calibration judge this one; None if it learns its own."""
        origin = self.manifest["frozen_from"]
        if origin is None:
            return None
        run = Run.open(origin["path"])
        if run._as_judge() != origin:
            raise UserError(f"{run.path} has been judged anew since it was applied to {self.path}: apply it again")
        return run

    @property
    def shards(self) -> list[str]:
        """Names of the embedded shards, in input order."""
        return list(self.manifest["shards"])

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json.  Raises UserError if it is missing or out of date."""
        self.must_be_done("report")
        content: dict[str, Any] = json.loads((self.path / "report.json").read_text(encoding="utf-8"))
        return content

    def verdict_tables(self) -> Iterator[pa.Table]:
        """One table per shard, `pairs.VERDICT_SCHEMA`.  Raises UserError if they are missing or out of date."""
        import pyarrow.parquet as pq

        self.must_be_done("export")
        for name in self.shards:
            yield pq.read_table(self.path / "verdicts" / f"{name}.parquet")

    def verdicts(self) -> pa.Table:
        """All verdicts, one row per input pair, in input order; `.to_pandas()` gives a frame."""
        import pyarrow as pa

        return pa.concat_tables(self.verdict_tables())

    def command(self, stage: str) -> str:
        """What to type to run a stage, with the options of `embed` that are not the default."""
        here = shlex.quote(self.name)
        if stage != "embed":
            return f"pairclean {stage} {here}"
        options = [
            _typed(name, value) for name, value in self.config.of("embed").items() if value != OPTIONS[name].default
        ]
        return " ".join(["pairclean embed", shlex.quote(self.manifest["source"]), here, *options])

    def must_be_done(self, stage: str) -> None:
        if not self.is_done(stage):
            raise UserError(f"{self.path} has no {stage} that is up to date: run `pairclean clean` to its end")

    # --- what is done -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        write_json(self.path / "manifest.json", self.manifest)

    def is_done(self, stage: str) -> bool:
        record = self.manifest["stages"].get(stage)
        if record is None or record["fingerprint"] is None:
            return False
        return bool(record["fingerprint"] == self._due(stage, self.labels_of(stage)))

    def labels_of(self, stage: str) -> str | None:
        """The labels that a stage's result rests on, as in `labels_for`."""
        return self.manifest["stages"].get(stage, {}).get("labels")

    def labels_for(self, stage: str) -> str | None:
        """A fingerprint of the labels that a stage would read now; None if it reads none, or there are none.

        New labels leave a finished stage as it is until it is run again: people who label are not to be interrupted.
        """
        if stage != "report" and not (stage == "judge" and self.config.use_labels):
            return None
        review = self.path / "review"
        parts = sorted(part.name for part in (review / "labels").glob("*.parquet"))
        return fingerprint(parts, (review / "design.json").exists()) if parts else None

    def _due(self, stage: str, labels: str | None) -> str | None:
        """The fingerprint of a stage's result: of its options, of the labels that it rests on, and of all earlier
        stages. None if those are not done."""
        before = list(STAGES)[: list(STAGES).index(stage)]
        if not before:
            return fingerprint(stage, self.manifest.get("parts"), self.config.of(stage))
        if not self.is_done(before[-1]):
            return None
        rest = [] if labels is None else [labels]
        return fingerprint(stage, self.manifest["stages"][before[-1]]["fingerprint"], self.config.of(stage), *rest)

    def set_done(self, stage: str, seconds: float, labels: str | None = None) -> bool:
        """Record that a stage is done.  labels: what `labels_for` gave before.  Returns whether its result is new."""
        before = self.manifest["stages"].get(stage)
        done = {"fingerprint": self._due(stage, labels), "seconds": round(seconds, 3)}
        if labels is not None:
            done["labels"] = labels
        new = before is None or before["fingerprint"] != done["fingerprint"]
        if self._alone:  # otherwise another process wrote the last part, and recorded it
            if self.manifest.get("begun", {}).get("stage") == stage:
                del self.manifest["begun"]
            # `embed` always looks for changes; if there are none, the time that it took earlier is kept.
            self.manifest["stages"][stage] = done if new else before
            self.save()
        return new

    def set_stale(self, stage: str) -> None:
        """Mark a stage's record as out of date, before its files change: it stays so if this process is killed."""
        if stage in self.manifest["stages"]:
            self.manifest["stages"][stage] = {**self.manifest["stages"][stage], "fingerprint": None}
            self.save()

    def has_begun(self, stage: str) -> bool:
        """Whether parts of this stage that are there are of the result that is due, and not of an earlier one."""
        begun = self.manifest.get("begun", {})
        return begun.get("stage") == stage and begun["fingerprint"] == self._due(stage, None)

    def begin(self, stage: str) -> None:
        """Record that parts of this stage are written from now on, until `set_done`."""
        self.manifest["begun"] = {"stage": stage, "fingerprint": self._due(stage, None), "at": time.time()}
        self.save()

    @property
    def alone(self) -> bool:
        """Whether no other process works on this run, so that this one may change its manifest."""
        return self._alone

    @contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        """Only one process at a time may work on a run, except that several may share a stage that writes parts.

        The lock is exclusive, or shared while parts are written, so that other processes can join.
        Raises UserError if another process is in a stage that cannot be shared, or that is not this one.
        """
        try:
            lock = Lock(self.path / "run.lock")
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; name another directory") from None
        with lock:
            self._lock = lock
            try:
                self._enter(stage)
                self._reread()
                yield
            except OSError as error:
                if error.errno not in _OUT_OF_SPACE:
                    raise
                raise UserError(f"cannot write to {self.path}: {error.strerror}; make room, then go on") from error
            finally:
                self._lock, alone, self._alone = None, self._alone, False
                if alone and not (self.path / "manifest.json").exists():  # nothing was ever recorded
                    lock.path.unlink(missing_ok=True)
                    with suppress(OSError):
                        self.path.rmdir()

    def _enter(self, stage: str) -> None:
        """Take the lock: exclusively if it is free, otherwise shared with processes that write parts of this stage."""
        assert self._lock is not None
        looks = 0
        while not self._lock.take():
            # Several looks: a process that has just taken the lock may not have written its note yet, and `pairclean
            # status` takes it for a moment.
            if looks >= _LOOKS:
                if stage not in SHARD_WISE or self._lock.note != stage:
                    raise self._taken()
                if self._lock.take(shared=True) and (self.path / "manifest.json").exists():
                    return
            looks += 1
            time.sleep(PAUSE)
        self._set_alone(stage)

    def _set_alone(self, stage: str) -> None:
        assert self._lock is not None
        self._alone, self._lock.note = True, stage
        for left in self.path.iterdir():  # left by a process that was killed
            if is_temporary(left.name):
                left.unlink(missing_ok=True)
        shutil.rmtree(
            self.path / "locks", ignore_errors=True
        )  # an exclusive lock on the run means that no part is locked

    def have_alone(self, stage: str) -> None:
        """Take the run exclusively, unless this process has joined others in a stage that they share.

        Raises UserError if another process has it.
        """
        assert self._lock is not None
        if not self._alone:
            if stage in SHARD_WISE:
                return
            if not self._lock.take():
                time.sleep(PAUSE)  # `pairclean status` takes it for a moment
                if not self._lock.take():
                    raise self._taken()
            self._reread()
        self._set_alone(stage)

    def _taken(self) -> UserError:
        assert self._lock is not None
        at = f" (at `{self._lock.note}`)" if self._lock.note in STAGES else ""
        return UserError(f"another process is working on {self.path}{at}: wait for it, or stop it")

    def begin_parts(self, parts: dict[str, str], **about: Any) -> None:
        """Record what is embedded from now on.

        parts: a fingerprint per shard.  about: further entries of the manifest.

        Raises UserError if other processes that embed have found another source.
        """
        if self._alone:
            changed = parts != self.manifest.get("parts")
            self.manifest |= {"parts": parts, "shards": list(parts), **about}
            if changed:
                self.set_stale("embed")  # its files are about to change
            if self.is_done("embed") or self.has_begun("embed"):
                self.save()
            else:
                self.begin("embed")
        elif parts != self.manifest.get("parts"):
            raise UserError(
                f"{self.manifest['source']} has changed since another process began to embed it: wait for that one, "
                "then run the command again"
            )

    @contextmanager
    def shared(self, stage: str, *, wait: bool = True) -> Iterator[None]:
        """Any number of processes may write parts of a stage in this block; after it, one of them has the run alone.

        wait: whether to wait for the other processes. Without, none of them need have the run alone afterwards.
        """
        assert self._lock is not None
        self._alone = False
        while not self._lock.take(shared=True):
            time.sleep(PAUSE)
        yield
        if not wait:
            return
        # All parts are written, so that no process takes long to get here.
        while not self._lock.take():
            self._reread()
            if self.is_done(stage):  # recorded by the first process, which continues
                return
            time.sleep(PAUSE)
        self._reread()
        self._set_alone(stage)

    @contextmanager
    def claim(self, part: str) -> Iterator[bool]:
        """Whether this process may write the part; while it may, no other process can."""
        with Lock(self.path / "locks" / f"{part}.lock") as lock:
            mine = lock.take()
            if not mine:  # `pairclean status` takes it for a moment
                time.sleep(PAUSE)
                mine = lock.take()
            yield mine

    def take(self, parts: Sequence[str], is_done: Callable[[str], bool], *, wait: bool = True) -> Iterator[str]:
        """Those of the parts that are not done, one after the other; while it is in hand, no other process writes it.

        wait: whether a part that another process is writing is waited for, in case that process dies.
        """
        waiting = deque(parts)
        while waiting:
            part = waiting.popleft()
            if is_done(part):
                continue
            with self.claim(part) as mine:
                if mine and not is_done(part):  # it may have been written meanwhile
                    yield part
            if not mine and wait:
                waiting.append(part)
                time.sleep(PAUSE)

    def _reread(self) -> None:
        """Read the manifest again: the process that had the lock may have changed it."""
        if (self.path / "manifest.json").exists():
            now = Run.open(self.path)
            if any(now.manifest[key] != self.manifest[key] for key in ("source", "frozen_from")) or any(
                now.config.of(stage) != self.config.of(stage) for stage in self._compared
            ):
                raise UserError(f"another process has changed {self.path} meanwhile: run the command again")
            self.manifest = now.manifest


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


def _is_litter(name: str) -> bool:
    """Whether a file may be left by a process that was killed before it recorded a run."""
    return name in ("run.lock", "locks") or is_temporary(name)


def object_name(given: Any) -> str:
    """How the manifest names an object that the caller handed in."""
    path = getattr(given, "path", None)
    return PYTHON + type(given).__qualname__ + (f"({path})" if path else "")


def _writer(name: str | None) -> str:
    return "the layout's own writer" if name is None else f"the writer {name}"


def _spoken(option: str, value: Any) -> str:
    if value is None or value is False:
        return f"no {flag(option)}"
    return flag(option) if value is True else f"{flag(option)} {value}"


def _typed(option: str, value: Any) -> str:
    """An option as it is typed on the command line."""
    if isinstance(value, bool):
        return flag(option) if value else f"--no-{flag(option)[2:]}"
    return f"{flag(option)} {shlex.quote(str(value))}"
