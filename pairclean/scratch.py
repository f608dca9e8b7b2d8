"""Large arrays that live in files instead of in memory, and are gone when they are no longer used."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

#: Arrays of fewer bytes than this stay in memory.
SMALL = 2**26


@dataclass(frozen=True)
class Scratch:
    """Makes arrays.  folder: where large ones are put, in files without a name, which end with the process however it
    ends; None keeps all of them in memory."""

    folder: Path | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Like `np.empty`.  Raises OSError where the disk has no room for it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size < SMALL:
            return np.empty(shape, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            _reserve(file, size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room now: a disk that is full later would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, SMALL):  # macOS
        file.write(bytes(min(SMALL, size - start)))
    file.flush()


#: Keeps all arrays in memory.
MEMORY = Scratch()
