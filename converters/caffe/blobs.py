"""Weights out of a .caffemodel without copying them: the file is mapped and its wire format walked.

    NetParameter    1 name   2 layers (V1)                     100 layer
    layer           1 name   2 type                            7 blobs
    layers (V1)     4 name   5 type (enum)   1 layer (V0)      6 blobs
    layer (V0)      1 name   2 type                            50 blobs
    BlobProto       1 2 3 4 num channels height width, or 7 shape   5 data   8 double_data
                    10 raw_data_type  12 raw_data   (NVCaffe and OpenCV, half floats)

Values are float32 views on the map. Only doubles, half floats and data in several pieces are copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from converters.caffe.prototxt import decode
from converters.errors import FormatError, place
from converters.filemap import MappedFile, not_a_model, view
from converters.wire import BYTES, FIXED32, FIXED64, VARINT, Field, bytes_header, fields, read_varint

Array = npt.NDArray[np.float32]

_LAYER, _V1_LAYER = 100, 2
_NAME_TAG = b"\x0a"  # field 1, bytes
_BLOBS = {_LAYER: 7, _V1_LAYER: 6}
_NAME = {_LAYER: 1, _V1_LAYER: 4}
_V0_LAYER, _V0_NAME, _V0_BLOBS = 1, 1, 50
_DATA, _SHAPE, _DOUBLE_DATA, _RAW_TYPE, _RAW_DATA = 5, 7, 8, 10, 12
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
_MAX_AXES = 32
_LARGEST_AXIS = 2**31 - 1


class StoredLayer(NamedTuple):
    """A layer of a .caffemodel: its name, its weights, and where its own message lies in the file."""

    name: str
    blobs: list[Array]


class CaffeModel(NamedTuple):
    """What a .caffemodel holds: layers with weights, and the net's definition (binary, without the weights)."""

    layers: list[StoredLayer]
    definition: bytes


def read_caffemodel(path: Path) -> CaffeModel:
    """Walk a .caffemodel. Raises FormatError, with the layer's name if there is one, for anything else or damaged."""
    source = MappedFile(path)
    try:
        return _walk(source)
    except FormatError:
        what = not_a_model(source[:64])
        if what:
            raise FormatError(what) from None
        raise


def _walk(source: MappedFile) -> CaffeModel:
    layers: list[StoredLayer] = []
    definition: list[bytes] = []
    for field in fields(source, 0, len(source)):
        if field.number in _BLOBS and field.wire_type == BYTES:
            stored, rest = _layer(source, field)
            layers.append(stored)
            definition += [bytes_header(field.number, len(rest)), rest]
        else:
            definition.append(source[field.tag : field.end])
    if not layers and not any(piece[:1] == _NAME_TAG for piece in definition):
        raise FormatError("it holds neither layers nor the name of a net: not a caffemodel")
    return CaffeModel(layers, b"".join(definition))


def _layer(source: MappedFile, layer: Field) -> tuple[StoredLayer, bytes]:
    """A layer's name and blobs, and its message without them."""
    name = ""
    blobs: list[Array] = []
    rest: list[bytes] = []
    for field in fields(source, layer.start, layer.end):
        if field.number == _NAME[layer.number] and field.wire_type == BYTES:
            name = decode(source[field.start : field.end])
        if field.number == _BLOBS[layer.number] and field.wire_type == BYTES:
            with place(f"layer '{name}': blob {len(blobs)}"):
                blobs.append(_blob(source, field))
        elif layer.number == _V1_LAYER and field.number == _V0_LAYER and field.wire_type == BYTES:
            v0, inner = _v0_layer(source, field)
            name, blobs = v0.name, blobs + v0.blobs
            rest += [bytes_header(_V0_LAYER, len(inner)), inner]
        else:
            rest.append(source[field.tag : field.end])
    return StoredLayer(name, blobs), b"".join(rest)


def _v0_layer(source: MappedFile, layer: Field) -> tuple[StoredLayer, bytes]:
    name = ""
    blobs: list[Array] = []
    rest: list[bytes] = []
    for field in fields(source, layer.start, layer.end):
        if field.number == _V0_NAME and field.wire_type == BYTES:
            name = decode(source[field.start : field.end])
        if field.number == _V0_BLOBS and field.wire_type == BYTES:
            with place(f"layer '{name}': blob {len(blobs)}"):
                blobs.append(_blob(source, field))
        else:
            rest.append(source[field.tag : field.end])
    return StoredLayer(name, blobs), b"".join(rest)


def _blob(source: MappedFile, blob: Field) -> Array:
    """One BlobProto as float32 (Blob::FromProto): old dimensions before ``shape``, doubles before floats."""
    dims: list[int] = []
    legacy: dict[int, int] = {}
    data: dict[int, list[Field]] = {}
    raw_type = 1
    at = blob.start
    while at < blob.end:
        field = next(fields(source, at, blob.end))
        at = field.end
        if field.number == _SHAPE and field.wire_type == BYTES:
            dims = list(_dims(source, field))
        elif 1 <= field.number <= 4 and field.wire_type == VARINT:
            legacy[field.number] = field.value
        elif field.number == _RAW_TYPE and field.wire_type == VARINT:
            raw_type = field.value
        elif field.number in (_DATA, _DOUBLE_DATA, _RAW_DATA):
            data.setdefault(field.number, []).append(field)
            at = _end_of_run(source, field, blob.end)
    if legacy:
        dims = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    number = next((number for number in (_DOUBLE_DATA, _DATA, _RAW_DATA) if number in data), _DATA)
    dtype = {_DATA: "<f4", _DOUBLE_DATA: "<f8"}.get(number) or _RAW_DTYPES.get(raw_type)
    if dtype is None:
        raise FormatError(f"raw_data of type {raw_type} is unknown; 0 (double), 1 (float) and 2 (half) are read")
    return _shaped([_values(source, field, dtype, blob.end) for field in data.get(number, [])], dims)


def _values(source: MappedFile, field: Field, dtype: str, end: int) -> npt.NDArray[np.generic]:
    """The numbers that begin with ``field``: a run of bytes, or one by one with the tag in the view's stride."""
    size = np.dtype(dtype).itemsize
    length = field.end - field.start
    if field.wire_type == BYTES and length % size == 0:
        return view(source, dtype, field.start, [length // size])
    if field.wire_type == BYTES:
        raise FormatError(f"damaged: {length} bytes are not a whole number of {size}-byte values")
    if length != size:
        raise FormatError("damaged: data that are no floating-point numbers")
    step = field.end - field.tag
    return view(source, dtype, field.start, [(_end_of_run(source, field, end) - field.tag) // step], step)


def _end_of_run(source: MappedFile, first: Field, end: int) -> int:
    """Where a run of fields of one tag and a fixed size ends; one field of bytes is a run of its own."""
    if first.wire_type not in (FIXED32, FIXED64) or first.start - first.tag != 1:
        return first.end
    step = first.end - first.tag
    tags = view(source, np.uint8, first.tag, [(end - first.tag) // step], step)
    others = np.flatnonzero(tags != source[first.tag])
    return first.tag + step * (int(others[0]) if others.size else len(tags))


def _dims(source: MappedFile, shape: Field) -> Iterator[int]:
    for field in fields(source, shape.start, shape.end):
        if field.number == 1 and field.wire_type == VARINT:
            yield field.value
        elif field.number == 1 and field.wire_type == BYTES:
            at = field.start
            while at < field.end:
                size, at = read_varint(source, at, field.end)
                yield size


def _shaped(pieces: list[npt.NDArray[np.generic]], dims: list[int]) -> Array:
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(dims) > _MAX_AXES:
        raise FormatError(f"damaged: a shape of {len(dims)} axes; Caffe's blobs have at most {_MAX_AXES}")
    if max(dims, default=0) > _LARGEST_AXIS:
        raise FormatError(f"damaged: an axis of {max(dims)} values; Caffe's have at most {_LARGEST_AXIS}")
    # An empty shape is a scalar, but also what a blob without any shape has.
    if math.prod(dims) != values.size and (dims or values.size == 0):
        raise FormatError(f"its shape is {'x'.join(map(str, dims)) or 'a scalar'}, but it holds {values.size:,} values")
    if values.dtype != np.float32:
        values = values.astype(np.float32)
    return values.reshape(dims or (values.shape if values.size != 1 else ()))  # type: ignore[return-value]
