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

# How files begin that are not what their suffix says, and what they are.
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run 'git lfs pull' where it came from"),
    (b"<!doctype html", "an HTML page: the download went wrong"),
    (b"<html", "an HTML page: the download went wrong"),
    (b"<?xml", "an XML page: the download went wrong"),
    (b"\x89hdf\r\n", "an HDF5 file; a .caffemodel.h5 has to be saved again with snapshot_format: BINARYPROTO"),
    (b"pk\x03\x04", "a zip archive: unpack it first, if it is one of a model"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"name:", "a text file, perhaps a prototxt"),
    (b"layer", "a text file, perhaps a prototxt"),
    (b"input:", "a text file, perhaps a prototxt"),
)


def not_a_model(head: bytes) -> str:
    """What a file that begins with ``head`` is instead of a model, or '' if that is not clear."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for beginning, what in _BEGINNINGS if start.startswith(beginning)), "")


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
    """The values at ``source[start:]`` as an array of ``shape``; ``stride`` in bytes if they do not lie side by side.

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
