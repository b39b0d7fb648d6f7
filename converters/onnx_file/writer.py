"""gs.Graph -> an .onnx file, weights streamed.

The model is serialised without its large initializers, whose bytes are then written one by one into the graph message
(their lengths are known beforehand), from file to file where they are still views. Past protobuf's 2 GB the weights go
to ``NAME.onnx.data`` as ONNX external data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto

from converters import wire
from converters.errors import ConvertError
from converters.filemap import origin
from converters.loading import Progress
from converters.onnx_file.export import Large, check, export

MAX_PROTOBUF = 2**31 - 1
EXTERNAL_ALIGNMENT = 4096

Array = npt.NDArray[np.generic]

_CHUNK = 1 << 22

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _RAW_DATA = 7, 5, 9


def save(graph: gs.Graph, path: Path, *, progress: Progress | None = None) -> list[Path]:
    """Write ``graph``; returns the files that it became. ``graph.metadata_props`` becomes the model's metadata.

    The model is checked in full, without its weights, before a byte is written. The file appears whole or not at all:
    it is written beside ``path`` and renamed. Raises ConvertError if the graph is not valid.
    """
    model, large = export(graph)
    check(model, large)
    total = sum(item.values.nbytes for item in large)
    report = _Report(progress, total)
    if model.ByteSize() + total + 64 * (len(large) + 1) <= MAX_PROTOBUF:
        with _replacing(path) as out:
            _write_inline(model, large, out, report)
        return [path]
    data_path = path.with_name(path.name + ".data")
    with _replacing(path) as out, _replacing(data_path) as data:
        _write_external(model, large, data, data_path.name, report)
        out.write(model.SerializeToString())
    return [path, data_path]


def _write_inline(model: ModelProto, large: Sequence[Large], out: BinaryIO, report: _Report) -> None:
    """The model's bytes with the large initializers at the end of its graph."""
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [_initializer_head(item) for item in large]
    length = len(graph) + sum(len(head) + item.values.nbytes for head, item in zip(heads, large, strict=True))
    out.write(model.SerializeToString())
    out.write(wire.bytes_header(_MODEL_GRAPH, length))
    out.write(graph)
    for head, item in zip(heads, large, strict=True):
        out.write(head)
        _write_array(item.values, out, report)


def _initializer_head(item: Large) -> bytes:
    """Everything of an initializer's field but its data, which are the last bytes of it."""
    header = item.header.SerializeToString()
    data = wire.bytes_header(_RAW_DATA, item.values.nbytes)
    return wire.bytes_header(_GRAPH_INITIALIZER, len(header) + len(data) + item.values.nbytes) + header + data


def _write_external(model: ModelProto, large: Sequence[Large], data: BinaryIO, location: str, report: _Report) -> None:
    """The data of large initializers one behind the other, and in the model where they lie."""
    for item in large:
        data.seek(-data.tell() % EXTERNAL_ALIGNMENT, os.SEEK_CUR)
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(item.header)
        tensor.data_location = TensorProto.EXTERNAL
        for key, number in {"offset": data.tell(), "length": item.values.nbytes}.items():
            tensor.external_data.add(key=key, value=str(number))
        tensor.external_data.add(key="location", value=location)
        _write_array(item.values, data, report)


def _write_array(array: Array, out: BinaryIO, report: _Report) -> None:
    """The array's bytes, little-endian in C order: from file to file where it is a view, in pieces otherwise."""
    where = origin(array)
    if where is not None:
        _copy_range(where[0].descriptor, where[1], array.nbytes, out, report)
        return
    flat = array.reshape(-1)
    step = max(1, _CHUNK // array.itemsize)
    for start in range(0, flat.size, step):
        piece = np.ascontiguousarray(flat[start : start + step], array.dtype.newbyteorder("<"))
        out.write(piece.view(np.uint8).data)
        report.add(piece.nbytes)


def _copy_range(source: int, offset: int, length: int, out: BinaryIO, report: _Report) -> None:
    """``length`` bytes from a file to ``out``, inside the kernel where it can."""
    out.flush()
    while length:
        copied = _kernel_copy(source, offset, min(length, _CHUNK * 16), out.fileno(), out.tell())
        if copied:
            out.seek(copied, os.SEEK_CUR)
        else:
            piece = os.pread(source, min(length, _CHUNK), offset)
            if not piece:
                raise ConvertError("the source file became shorter while it was read")
            out.write(piece)
            out.flush()
            copied = len(piece)
        offset += copied
        length -= copied
        report.add(copied)


def _kernel_copy(source: int, offset: int, length: int, target: int, target_offset: int) -> int:
    """os.copy_file_range; 0 where the system or the file systems have none."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, target, length, offset, target_offset)
    except OSError:
        return 0


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write to, renamed to ``path`` at the end; on a failure removed, ``path`` untouched."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as out:
            yield out
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Report:
    """Counts bytes for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done, self._total)
