"""Another place for what a run writes, an object store above all: `cleaned/` and a copy of `verdicts/`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..pairs import UserError
from ..sources.storage import absolute, file_system, is_remote, reaching


class Destination:
    """A remote folder.  Raises UserError where the address is none, or cannot be reached.

    address: as fsspec knows it, `s3://bucket/folder`.
    """

    def __init__(self, address: str) -> None:
        if not is_remote(address):
            raise UserError(
                f"--cleaned-to {address} is no remote address such as s3://bucket/folder: leave it out (cleaned/ of "
                "the run may be a link to another disk)"
            )
        self.address = absolute(address)
        self.system, self.root = file_system(self.address)
        self.files()

    def files(self) -> list[str]:
        """What lies there already, in the folders that a run writes."""
        with reaching(self.address):
            self.system.invalidate_cache()
            return [name for part in ("cleaned", "verdicts") for name in self.system.find(f"{self.root}/{part}")]

    def remove(self, names: Iterable[str]) -> None:
        """Remove these files and folders, where they are there."""
        with reaching(self.address):
            for name in names:
                if self.system.exists(f"{self.root}/{name}"):
                    self.system.rm(f"{self.root}/{name}", recursive=True)

    def copy(self, file: Path, name: str) -> None:
        """A local file there, whole or not at all where the store does so (S3, GCS)."""
        with reaching(self.address):
            self.system.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.system.put_file(str(file), f"{self.root}/{name}")

    def move(self, home: Path, names: Iterable[str]) -> None:
        """Copy files and folders of `home` into the folder of its name, and remove them here."""
        for path in [home / name for name in names]:
            inside = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            for file in inside:
                self.copy(file, f"{home.name}/{file.relative_to(home).as_posix()}")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
