"""A lock between processes, which is released when the process that holds it ends, however it ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..pairs import UserError

#: Seconds between two attempts to take a lock that another process holds.
PAUSE = 0.1
_LENGTH = 16  # of a note


class Lock:
    """A file lock, exclusive or shared; taking it never waits.

    `note` is what the holder writes for other processes to read; without a holder it means nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = self._open()

    def take(self, *, shared: bool = False) -> bool:
        """Take the lock, or change it between shared and exclusive.  Returns False, holding nothing, if that fails."""
        import fcntl

        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # after a failed change the old lock may or may not be held
            return False
        except OSError as error:
            raise UserError(f"cannot lock {self.path}: {error.strerror}; name a directory on another disk") from None
        if self._was_replaced():
            self._file.close()
            self._file = self._open()
            return self.take(shared=shared)
        return True

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether a process holds the lock exclusively. It is taken for a moment, shared, where it is not."""
        import fcntl

        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or a disk without locks
            return False
        return False

    @property
    def note(self) -> str:
        return self.note_in(self.path)

    @note.setter
    def note(self, words: str) -> None:
        with suppress(OSError):  # a full disk must not end the run for a note
            # In one piece and always of one length, so that a process that reads it finds the old one or the new one.
            os.pwrite(self._file.fileno(), words.ljust(_LENGTH).encode(), 0)

    @staticmethod
    def note_in(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # On NFS a shared lock needs a file that is open for reading, and an exclusive one a file open for writing.
        return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")

    def _was_replaced(self) -> bool:
        """Whether the last holder removed the file in the meantime."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return True

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
