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
from converters.wire import BYTES, FIXED32, FIXED64, VARINT, Field, bytes_header, fields

Array = npt.NDArray[np.float32]

_LAYER, _V1_LAYER = 100, 2
_NAME_TAG = b"\x0a"  # field 1, bytes
_BLOBS = {_LAYER: 7, _V1_LAYER: 6}
_NAME = {_LAYER: 1, _V1_LAYER: 4}
_V0_LAYER, _V0_NAME, _V0_BLOBS = 1, 1, 50
_DATA, _SHAPE, _DOUBLE_DATA, _RAW_TYPE, _RAW_DATA = 5, 7, 8, 10, 12
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
_MAX_AXES = 32


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
    except FormatError as error:
        raise FormatError(not_a_model(source[:64]) or error.message) from None


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
    """One BlobProto as float32. Both layouts of the shape: ``shape``, or the old four dimensions (Blob::FromProto)."""
    dims: list[int] | None = None
    legacy: dict[int, int] = {}
    pieces: list[npt.NDArray[np.generic]] = []
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
            values, at = _values(source, field, raw_type, blob.end)
            pieces.append(values)
    if legacy:
        dims = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    return _shaped(pieces, dims or [])


def _values(source: MappedFile, field: Field, raw_type: int, end: int) -> tuple[npt.NDArray[np.generic], int]:
    """The numbers of a data field, and where the next field begins (unpacked numbers are many fields)."""
    dtype = {_DATA: "<f4", _DOUBLE_DATA: "<f8"}.get(field.number) or _RAW_DTYPES.get(raw_type)
    if dtype is None:
        raise FormatError(f"raw_data of type {raw_type} is unknown; 0 (double), 1 (float) and 2 (half) are read")
    size = np.dtype(dtype).itemsize
    if field.wire_type == BYTES:
        count, odd = divmod(field.end - field.start, size)
        if odd:
            raise FormatError(f"damaged: {field.end - field.start} bytes are not a whole number of {size}-byte values")
        return view(source, dtype, field.start, [count]), field.end
    if field.wire_type not in (FIXED32, FIXED64) or field.end - field.start != size:
        raise FormatError("damaged: data that are no floating-point numbers")
    return _unpacked(source, field, dtype, end)


def _unpacked(source: MappedFile, field: Field, dtype: str, end: int) -> tuple[npt.NDArray[np.generic], int]:
    """Numbers that stand one by one behind a tag each: a view with the tag in its stride."""
    if field.start - field.tag != 1:
        raise FormatError("damaged: data that are no floating-point numbers")
    step = field.end - field.tag
    tags = view(source, np.uint8, field.tag, [(end - field.tag) // step], step)
    others = np.flatnonzero(tags != source[field.tag])
    count = int(others[0]) if others.size else len(tags)
    return view(source, dtype, field.start, [count], step), field.tag + count * step


def _dims(source: MappedFile, shape: Field) -> Iterator[int]:
    for field in fields(source, shape.start, shape.end):
        if field.number == 1 and field.wire_type == VARINT:
            yield field.value
        elif field.number == 1 and field.wire_type == BYTES:
            packed = memoryview(source)[field.start : field.end]
            # A packed run of varints reads like fields without tags.
            yield from _packed_varints(packed)


def _packed_varints(packed: memoryview) -> Iterator[int]:
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0
    if shift:
        raise FormatError("damaged: a shape does not end")


def _shaped(pieces: list[npt.NDArray[np.generic]], dims: list[int]) -> Array:
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(dims) > _MAX_AXES:
        raise FormatError(f"damaged: a shape of {len(dims)} axes; Caffe's blobs have at most {_MAX_AXES}")
    # An empty shape is a scalar, but also what a blob without any shape has.
    if math.prod(dims) != values.size and (dims or values.size == 0):
        raise FormatError(f"its shape is {'x'.join(map(str, dims)) or 'a scalar'}, but it holds {values.size:,} values")
    if values.dtype != np.float32:
        values = values.astype(np.float32)
    return values.reshape(dims or (values.shape if values.size != 1 else ()))  # type: ignore[return-value]
