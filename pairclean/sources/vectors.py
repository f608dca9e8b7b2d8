"""Arrays of vectors in `.npy` and `.npz` files, read some rows at a time and never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..pairs import UserError
from .storage import CorruptFile, is_remote, open_file

_SUFFIX = ".npy"


@dataclass(frozen=True)
class Where:
    """An array: a `.npy` file, or one of the arrays of a `.npz` file."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.member} of {self.path}"


@dataclass
class VectorFile:
    """An array that is being read, in order.  rows, dim: its shape."""

    where: Where
    rows: int
    dim: int
    dtype: np.dtype
    stream: IO[bytes]

    def read(self, count: int) -> np.ndarray:
        """The next `count` vectors, (count, dim) float32. Raises CorruptFile where they cannot be had."""
        size = count * self.dim * self.dtype.itemsize
        with _parsing(self.where.path):
            data = self.stream.read(size)
        if len(data) < size:
            raise CorruptFile(self.where.path, "ends early")
        with np.errstate(over="ignore"):  # what is too large for float32 is said to be not finite
            return np.frombuffer(data, self.dtype).reshape(count, self.dim).astype(np.float32)

    def finish(self) -> None:
        """A sum over a packed array is checked where it ends."""
        with _parsing(self.where.path):
            self.stream.read(1)


@contextmanager
def opened_vectors(where: Where) -> Iterator[VectorFile]:
    """An array, its header checked. Raises CorruptFile where the file is broken."""
    with open_file(where.path) as file:
        with _parsing(where.path):
            found = _opened(where, file)
        yield found


@contextmanager
def _parsing(path: str) -> Iterator[None]:
    """What is broken makes the libraries that read it raise nearly anything; what cannot be reached is not broken."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise CorruptFile(path, f"cannot be read as an array ({' '.join(str(error).split())[:100]})") from error


def _opened(where: Where, file: Any) -> VectorFile:
    if where.member is None:
        return _checked(where, file, file.size())
    archive, name = zipfile.ZipFile(file), where.member + _SUFFIX
    if name not in archive.namelist():
        raise UserError(f"{where.path} has no array {where.member!r}: give shards of other vectors separate runs")
    return _checked(where, archive.open(name), archive.getinfo(name).file_size)


def _checked(where: Where, stream: Any, size: int) -> VectorFile:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, by_column, dtype = read(stream)
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, which could run code: save it as an array of floats")
    if dtype.kind != "f" or len(shape) != 2 or not shape[1] or (by_column and shape[0] > 1):
        how = f"{dtype}, {len(shape)}-dimensional{', column by column' if by_column else ''}"
        raise UserError(f"{where} is {how}: save it as a two-dimensional array of floats, a row a pair")
    if size - stream.tell() < shape[0] * shape[1] * dtype.itemsize:
        raise CorruptFile(where.path, "ends early")
    return VectorFile(where, shape[0], shape[1], dtype, stream)


def array_names(path: str) -> list[str]:
    """The arrays of a `.npz` file. Raises CorruptFile where it is none."""
    with open_file(path) as file, _parsing(path):
        names = zipfile.ZipFile(file).namelist()
    return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]


def whole_array(where: Where, *, empty: bool = False) -> np.ndarray:
    """All of an array as it is: mapped where that is possible, else in memory.  empty: without its rows.

    Raises CorruptFile where it cannot be read.
    """
    with opened_vectors(where) as found:
        if empty or not found.rows:
            return np.zeros((0, found.dim), found.dtype)
        with _parsing(where.path):
            if where.member is None and not is_remote(where.path):
                array: np.ndarray = np.load(where.path, mmap_mode="r", allow_pickle=False)
                return array
            data = found.stream.read(found.rows * found.dim * found.dtype.itemsize)
        found.finish()
        return np.frombuffer(data, found.dtype).reshape(found.rows, found.dim)
