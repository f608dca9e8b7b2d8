"""A run directory on an object store, at an address of fsspec (`s3://bucket/run`).

A process works on a copy in a temporary directory, as on any run directory. Files that a stage reads are downloaded
when it begins, and files that it has written are uploaded: those of a part as soon as it is complete, those of other
stages at their end. What makes them count is uploaded last: of a part the file that is written last, of a stage the
manifest. So a part, and a stage, is there completely or not at all, whenever a process is killed.

Object stores have no locks. Jobs with different `--shard-index` write different files and need none; two processes that
write the same part upload the same bytes. Stages that work on all pairs are for one process at a time: a process that
finds that another one has changed the manifest stops with an error, before its own results count.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Config
from ..embed.embed import threads
from ..embed.store import fingerprint_in, image_path, metadata_path, text_path
from ..execution import Execution
from ..files import is_temporary, write_json
from ..options import STAGES
from ..pairs import UserError
from ..sources.storage import absolute, file_system, is_remote, reaching
from .directory import Run

#: What each stage writes, from the run directory: folders, and of `report` files.
WRITES = {
    "embed": ("embeddings",),
    "align": ("faults", "model"),
    "judge": ("judge",),
    "rematch": ("rematch",),
    "export": ("verdicts", "cleaned"),
    "report": ("report.json", "report.html"),
}
_MANIFEST = "manifest.json"
_AT_ONCE = 8  # files on their way; of a large one, up to 100 MB are in memory
#: What is the same in the manifests of two processes that do the same.
_ESSENCE = ("layout", "source", "config", "frozen_from", "writer", "encoder", "shared_sentences", "parts", "stages")


def open_run(path: str | Path, *, whole: bool = False) -> Run:
    """An existing run directory, on this machine or at an address.

    whole: whether to download all of it, for those who only read.
    Raises UserError if there is none.
    """
    if not is_remote(path):
        return Run.open(_on_disk(path))
    mirror = Mirror(str(path))
    mirror.pull([_MANIFEST, *mirror.names("review"), *(mirror.names() if whole else ())])
    with mirror.spoken_of():
        return RemoteRun(mirror, Run.open(mirror.home))


def create_run(
    path: str | Path, source: str | Path, config: Config, *, compare: Sequence[str] = tuple(STAGES), **options: Any
) -> Run:
    """`Run.create`, with its options, on this machine or at an address."""
    if not is_remote(path):
        return Run.create(_on_disk(path), source, config, compare=compare, **options)
    mirror = Mirror(str(path))
    if mirror.address == absolute(source):
        raise UserError(f"{mirror.address} is the source itself: name another folder for the run")
    mirror.pull([_MANIFEST, *mirror.names("review")])
    if not mirror.is_same(_MANIFEST) and mirror.names() and mirror.read(_MANIFEST) is None:
        raise UserError(f"{mirror.address} is not empty and holds no run: name a new folder")
    with mirror.spoken_of():
        run = Run.create(mirror.home, source, config, compare=compare, **options)
        return RemoteRun(mirror, run)._relying_on(compare)


def _on_disk(path: str | Path) -> str | Path:
    """The path that an address of this machine's files (`file:///...`) names; any other path as it is."""
    return absolute(path) if "://" in str(path) else path


class Mirror:
    """A folder at an address, and the temporary directory with a copy of some of its files.

    home: that directory; it is removed when the process ends.
    Raises UserError where the address cannot be reached, here and in all methods.
    """

    def __init__(self, address: str) -> None:
        self.address = absolute(address)
        self.system, self._root = file_system(self.address)
        self._folder = tempfile.TemporaryDirectory(prefix="pairclean-", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name) / "run"
        self.home.mkdir()
        self._same: dict[str, tuple[int, int]] = {}  # files that are the same here and there, and their stamps here

    def listing(self, folder: str = "") -> dict[str, Mapping[str, Any]]:
        """The files that are there now, by their names from the run directory, with what the store says of each."""
        with reaching(self.address):
            self.system.invalidate_cache()
            try:
                found = self.system.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                raise UserError(f"there is no bucket for {self.address}: make it first, or name another one") from None
        return {path.removeprefix(f"{self._root}/"): about for path, about in found.items()}

    def names(self, folder: str = "") -> list[str]:
        return sorted(self.listing(folder))

    def pull(self, names: Iterable[str]) -> None:
        """Download those of these files that are there and are not here yet."""
        wanted = [name for name in dict.fromkeys(names) if not self.is_same(name)]
        with reaching(self.address), threads(_AT_ONCE, "store") as pool:
            self.system.invalidate_cache()
            list(pool.map(self._get, wanted))

    def _get(self, name: str) -> None:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            self.system.get_file(f"{self._root}/{name}", str(temporary))
            written = self.system.info(f"{self._root}/{name}").get("LastModified")
        except FileNotFoundError:
            temporary.unlink(missing_ok=True)
            return
        if isinstance(written, datetime):  # when a part was written tells how long its stage took
            os.utime(temporary, (written.timestamp(), written.timestamp()))
        os.replace(temporary, file)
        self._same[name] = self._stamp(name)

    def push(self, names: Iterable[str]) -> None:
        """Upload those of these files that are not the same there."""
        changed = [name for name in names if not self.is_same(name)]
        with reaching(self.address), threads(_AT_ONCE, "store") as pool:
            list(pool.map(self._put, changed))

    def _put(self, name: str) -> None:
        stamp = self._stamp(name)
        self.system.put_file(str(self.home / name), f"{self._root}/{name}")
        self._same[name] = stamp

    def remove(self, names: Iterable[str]) -> None:
        """Remove these files there."""
        with reaching(self.address):
            for name in names:
                self._same.pop(name, None)
                with suppress(FileNotFoundError):  # removed by another process
                    self.system.rm_file(f"{self._root}/{name}")

    def read(self, name: str) -> bytes | None:
        """The content of a file there; None if it is not there."""
        with reaching(self.address):
            self.system.invalidate_cache()
            try:
                content: bytes = self.system.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        return content

    def push_new(self, name: str) -> bool:
        """Upload a file, unless there is one of this name already, where the store can tell. Returns whether it did."""
        put = getattr(self.system, "_put_file", self.system.put_file)
        if "mode" in signature(put).parameters:
            with reaching(self.address):
                try:
                    self.system.put_file(str(self.home / name), f"{self._root}/{name}", mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError:  # a store without exclusive writes; any other error comes again
                    pass
        self.push([name])
        return True

    def here(self, folder: str, *, but: Container[str] = ()) -> list[str]:
        """The files that are here, in a folder or of this name; none that are still being written.

        but: entries of the folder that are left out.
        """
        place = self.home / folder
        inside = [path for path in (place.iterdir() if place.is_dir() else [place]) if path.name not in but]
        found = [file for path in inside for file in (path, *path.rglob("*")) if file.is_file()]
        names = [path.relative_to(self.home) for path in found]
        return sorted(name.as_posix() for name in names if not any(map(is_temporary, name.parts)))

    def gone(self, folder: str) -> list[str]:
        """The files of a folder that were here and there, and are not here any more."""
        return [name for name in self._same if name.startswith(f"{folder}/") and not (self.home / name).exists()]

    def footers(self, names: Sequence[str]) -> list[pa.Schema | None]:
        """The schema of Parquet files there, None of those that are not there."""

        def footer(name: str) -> pa.Schema | None:
            try:
                with self.system.open(f"{self._root}/{name}", "rb") as file:
                    return pq.read_schema(file)
            except FileNotFoundError:
                return None

        with reaching(self.address), threads(_AT_ONCE, "store") as pool:
            return list(pool.map(footer, names))

    @contextmanager
    def spoken_of(self) -> Iterator[None]:
        """Errors name the address in place of the directory that nobody has chosen."""
        try:
            yield
        except UserError as error:
            if isinstance(error.__cause__, OSError):  # of the disk, or of the store, which is named already
                raise
            raise UserError(str(error).replace(str(self.home), self.address)) from error.__cause__

    def is_same(self, name: str) -> bool:
        """Whether a file is here as it was downloaded or uploaded last."""
        return name in self._same and (self.home / name).exists() and self._same[name] == self._stamp(name)

    def was_there(self, name: str) -> bool:
        """Whether a file has been downloaded or uploaded."""
        return name in self._same

    def _stamp(self, name: str) -> tuple[int, int]:
        status = (self.home / name).stat()
        return status.st_size, status.st_mtime_ns


class _Changed(UserError):
    """Another process has written a manifest that this one knows nothing of."""


class RemoteRun(Run):
    """A run directory at an address, and a copy of it: `path` is the copy, `name` the address."""

    def __init__(self, mirror: Mirror, copy: Run):
        super().__init__(copy.path, copy.manifest, copy.objects)
        self.mirror = mirror
        self._seen = self.path.joinpath(_MANIFEST).read_bytes() if self.path.joinpath(_MANIFEST).exists() else None
        self._stage, self._shares = "", False
        self._exported: set[str] = set()  # the parts that this process has uploaded

    @property
    def name(self) -> str:
        return self.mirror.address

    @property
    def report(self) -> dict[str, Any]:
        self.mirror.pull(WRITES["report"])
        return super().report

    def verdict_tables(self) -> Iterator[pa.Table]:
        self.mirror.pull(self.mirror.names("verdicts"))
        return super().verdict_tables()

    @contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        """As for a run on this machine. No other process works on the copy."""
        with self.mirror.spoken_of(), super().locked(stage):
            yield

    def has_files(self, folder: str) -> bool:
        return bool(self.mirror.names(folder))

    def fetch(self, stage: str, execution: Execution) -> None:
        """Download what a stage reads.

        Raises UserError if one job of several would have to remove an earlier export: others may write theirs already.
        """
        self._stage, self._shares = stage, execution.is_array_job
        if stage == "export" and execution.is_array_job and self.has_files("verdicts"):
            self._refresh()  # jobs that began since then have told so before they wrote their first part
            if not (self.has_begun(stage) or self.is_done(stage)):
                raise UserError(
                    f"{self.name} has an earlier export, which a job with --shard-index does not replace: remove its "
                    f"folders verdicts and cleaned first, or run `{self.command('export')}` without --shard-index"
                )
        if stage == "embed":  # which looks for each part when its turn comes
            return
        # Export reads no vectors, unless it writes them.
        kinds = slice(1) if stage == "export" and self.config.to != "embeddings" else slice(None)
        names = [name for part in self.manifest.get("shards", ()) for name in self._files_of_embedded(part)[kinds]]
        for earlier in list(STAGES)[1 : list(STAGES).index(stage)]:
            folders = ("verdicts",) if earlier == "export" else WRITES[earlier]
            names += [name for folder in folders for name in self.mirror.names(folder)]
        if self.config.to == "uids" and self.has_begun("export"):  # whose parts are joined at the end
            names += self.mirror.names("cleaned")
        self.mirror.pull(names)

    @contextmanager
    def claim(self, part: str) -> Iterator[bool]:
        """As for a run on this machine. In the block a part that is there is here too; after it, one that was written
        in it is there too.
        """
        embeds = self._stage == "embed"
        record = self._record(self._stage, part)
        with super().claim(part) as mine:
            self.mirror.pull([record])  # first, as its data have been there since before it was
            if embeds and (self.path / record).exists():
                self.mirror.pull(self._files_of_embedded(part))
            yield mine
            if not (self.path / record).exists() or self.mirror.is_same(record):
                return
            if self.mirror.was_there(record):  # of an earlier state of the source
                self.mirror.remove([record])
            if embeds:
                self.mirror.push(self._files_of_embedded(part)[1:])
            else:
                # A folder of the name of a shard may have very many files; it is looked through once.
                self.mirror.push(self.mirror.here("cleaned", but=self._exported))
                self._exported.add(part)
            self.mirror.push([record])

    def begin(self, stage: str) -> None:
        if stage == "export" and not self._shares:
            self.mirror.remove(name for folder in WRITES[stage] for name in self.mirror.names(folder))
        self._exported.clear()
        super().begin(stage)

    def set_done(self, stage: str, seconds: float, labels: str | None = None) -> bool:
        if self.mirror.read(_MANIFEST) != self._seen:
            raise self._changed()
        for place in WRITES[stage]:
            here = self.mirror.here(place)
            self.mirror.push(here)
            # What an earlier pass has left; of `cleaned`, not every file need be here.
            left = self.mirror.gone(place) if place == "cleaned" else set(self.mirror.names(place)) - set(here)
            self.mirror.remove(left)
        try:
            return super().set_done(stage, seconds, labels)
        except _Changed:  # by another process in these moments, whose files may have been replaced just now
            self._set_stale_there(stage)
            raise

    def save(self) -> None:
        super().save()
        mine, there = (self.path / _MANIFEST).read_bytes(), self.mirror.read(_MANIFEST)
        if there == self._seen and there != mine:
            if there is None and not self.mirror.push_new(_MANIFEST):
                there = self.mirror.read(_MANIFEST)
            elif there is not None:
                self.mirror.push([_MANIFEST])
        if there == self._seen:
            self._seen = mine
        elif there is not None and self._is_as_mine(json.loads(there)):
            self._take_over(there)
        else:
            raise self._changed()

    def _reread(self) -> None:
        there = self.mirror.read(_MANIFEST)
        if there is not None and there != self._seen:
            self._seen = there
            (self.path / _MANIFEST).write_bytes(there)
        super()._reread()

    def _refresh(self) -> None:
        """Read the manifest again, in case others have begun the same stage meanwhile."""
        there = self.mirror.read(_MANIFEST)
        if there is not None and there != self._seen:
            if not self._is_as_mine(json.loads(there)):
                raise self._changed()
            self._take_over(there)

    def _is_as_mine(self, manifest: Mapping[str, Any]) -> bool:
        """Whether another process, which wrote this manifest, does the same as this one, and may be a step ahead."""
        begun, mine = (of.get("begun", {}) for of in (manifest, self.manifest))
        return all(manifest.get(name) == self.manifest.get(name) for name in _ESSENCE) and (
            begun.get("stage") in (self._stage, mine.get("stage"))
        )

    def _take_over(self, manifest: bytes) -> None:
        self._seen, self.manifest = manifest, json.loads(manifest)
        super().save()

    def _set_stale_there(self, stage: str) -> None:
        mine = self.manifest["stages"][stage]["fingerprint"]
        manifest = json.loads(self.mirror.read(_MANIFEST) or b"{}")
        record = manifest.get("stages", {}).get(stage)
        if record is not None and record["fingerprint"] != mine:
            record["fingerprint"] = None
            write_json(self.path / _MANIFEST, manifest)
            self.mirror.push([_MANIFEST])

    def _changed(self) -> _Changed:
        return _Changed(f"another process has changed {self.name} meanwhile: run the command again")

    def presence(self, stage: str) -> Callable[[str], bool]:
        """`parts.presence`, of what is there, for `status`; nothing but footers is downloaded."""
        there = self.mirror.listing(WRITES[stage][0])
        if stage == "export":
            due = self.has_begun(stage) or self.is_done(stage)
            return lambda part: due and self._record(stage, part) in there
        fingerprints: dict[str, str] = self.manifest["parts"]
        parts = [part for part in fingerprints if there.keys() >= set(self._files_of_embedded(part))]
        footers = self.mirror.footers([self._record(stage, part) for part in parts])
        done = {
            part
            for part, schema in zip(parts, footers, strict=True)
            if schema is not None and fingerprint_in(schema.metadata) == fingerprints[part]
        }
        return lambda part: part in done

    def _record(self, stage: str, part: str) -> str:
        """The file of a part that is written last, from the run directory."""
        return self._files_of_embedded(part)[0] if stage == "embed" else f"verdicts/{part}.parquet"

    def _files_of_embedded(self, part: str) -> list[str]:
        """The record first."""
        paths = [path_of(self.embeddings, part) for path_of in (metadata_path, image_path, text_path)]
        return [path.relative_to(self.path).as_posix() for path in paths]
