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

    @property
    def note(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @note.setter
    def note(self, words: str) -> None:
        with suppress(OSError):  # a full disk must not end the run for a note
            self.path.write_text(words, encoding="utf-8")

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a")

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
