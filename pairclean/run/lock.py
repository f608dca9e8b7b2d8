"""A lock that several processes see, and that goes with the process that held it, however that ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..pairs import UserError

#: How long to wait before asking again for what another process has, in seconds.
PAUSE = 0.1


class Lock:
    """A file that is held alone by one process, or shared by several; never waited for.

    `note` is what a holder says about itself for others to read; it means nothing where nobody holds the lock.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = self._open()

    def take(self, *, shared: bool = False) -> bool:
        """Hold it, also instead of the other way.  Returns False, and holds nothing, if another is in the way."""
        import fcntl

        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a lock that could not be changed may be lost, or kept
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
        with suppress(OSError):  # a courtesy, which a full disk need not end
            self.path.write_text(words, encoding="utf-8")

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a")

    def _was_replaced(self) -> bool:
        """Whether its last holder removed the file while it was asked for."""
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
