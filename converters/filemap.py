"""A file mapped into memory, arrays that are views on it, and where in the file such a view lies.

A weight stays a view from the moment it is found in the source until a pass changes it or the writer
copies its bytes from file to file; it is never read in between.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.errors import FormatError


class MappedFile(mmap.mmap):
    """A read-only map of a whole file. ``file`` stays open, for copies from file to file."""

    path: Path
    descriptor: int
    address: int

    def __new__(cls, path: Path) -> MappedFile:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if os.fstat(descriptor).st_size == 0:
                raise FormatError("the file is empty")
            self = super().__new__(cls, descriptor, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(descriptor)
            raise
        self.path = path
        self.descriptor = descriptor
        self.address = np.frombuffer(self, np.uint8, 1).ctypes.data
        return self

    def __del__(self) -> None:
        os.close(self.descriptor)


def view(
    source: MappedFile, dtype: npt.DTypeLike, start: int, shape: Sequence[int], stride: int | None = None
) -> npt.NDArray[np.generic]:
    """The values at ``source[start:]`` as an array of ``shape``; ``stride`` is in bytes, for values that do not lie side by side.

    Raises FormatError if they would reach over the end of the file.
    """
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    step = stride or dtype.itemsize
    if count and start + step * (count - 1) + dtype.itemsize > len(source):
        raise FormatError(f"truncated: {count:,} values at byte {start:,} reach over the end of the file")
    flat = np.ndarray((count,), dtype, source, start if count else 0, (step,))
    return flat.reshape(tuple(shape))


def origin(array: npt.NDArray[np.generic]) -> tuple[MappedFile, int] | None:
    """The file and the offset where the bytes of ``array`` lie, in its order and in little-endian; None if nowhere."""
    if not array.flags.c_contiguous or array.dtype.byteorder == ">":
        return None
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, MappedFile):
        return None
    return base, array.ctypes.data - base.address
