"""Arrays in files that nobody sees."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from pairclean import scratch as module
from pairclean.scratch import MEMORY, SMALL, Scratch


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_large_array_takes_room_on_the_disk_and_leaves_no_file(
    fallocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 1000)
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    taken: list[int] = []
    reserve = module._reserve

    def watched(file: IO[bytes], size: int) -> None:
        reserve(file, size)
        taken.append(os.fstat(file.fileno()).st_blocks * 512)

    monkeypatch.setattr(module, "_reserve", watched)
    found = Scratch(tmp_path).empty((300, 7), np.float32)
    assert taken[0] >= 300 * 7 * 4
    assert isinstance(found.base, np.memmap)
    assert list(tmp_path.iterdir()) == []
    numbers = np.arange(2100, dtype=np.float32).reshape(300, 7)
    found[:] = numbers
    assert np.array_equal(found, numbers)


def test_small_arrays_and_those_without_a_folder_are_in_memory(tmp_path: Path) -> None:
    for found in (Scratch(tmp_path).empty((10, 2), np.int16), MEMORY.empty((SMALL // 8 + 1,), np.float64)):
        assert found.base is None
    assert Scratch(tmp_path).empty((0, 5), np.int64).shape == (0, 5)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        Scratch(tmp_path).empty((5,), np.int8)
