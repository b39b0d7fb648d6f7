"""Weights out of .caffemodels, against protobuf's own parsing of the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from converters.caffe.blobs import CaffeModel, read_caffemodel
from converters.caffe.schema import NetParameter
from converters.errors import FormatError
from converters.filemap import origin
from converters.wire import FIXED32, FIXED64, bytes_header, write_varint

# ---- bytes, by hand ----


def tagged(number: int, payload: bytes) -> bytes:
    """A field of bytes, or a message."""
    return bytes_header(number, len(payload)) + payload


def varint(number: int, value: int) -> bytes:
    return write_varint(number << 3) + write_varint(value % 2**64)


def packed(kind: str, *values: float) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def unpacked(number: int, kind: str, *values: float) -> bytes:
    """Numbers as protobuf 2 wrote them: each behind a tag of its own."""
    tag = write_varint(number << 3 | (FIXED32 if kind == "f" else FIXED64))
    return b"".join(tag + packed(kind, value) for value in values)


def shape(*dims: int) -> bytes:
    return tagged(7, tagged(1, b"".join(write_varint(dim % 2**64) for dim in dims)))


def legacy(*dims: int) -> bytes:
    return b"".join(varint(number, dim) for number, dim in enumerate(dims, 1))


def net(*blobs: bytes, name: bytes = b"conv1") -> bytes:
    """A modern .caffemodel of one layer."""
    return tagged(100, tagged(1, name) + tagged(2, b"Convolution") + b"".join(tagged(7, blob) for blob in blobs))


DATA, DIFF, DOUBLES, RAW_TYPE, RAW = 5, 6, 8, 10, 12
SIX = (1.5, -2.0, 3.25, 0.0, 1e-30, -4e20)
FLOATS = tagged(DATA, packed("f", *SIX))


def read(folder: Path, raw: bytes) -> CaffeModel:
    path = folder / "net.caffemodel"
    path.write_bytes(raw)
    return read_caffemodel(path)


def blobs_by_protobuf(raw: bytes) -> list[list[np.ndarray[Any, Any]]]:
    """The blobs of each layer as protobuf parses them, shaped as Blob::FromProto does."""
    message: Any = NetParameter.FromString(raw)
    old = [layer.layer if layer.HasField("layer") else layer for layer in message.layers]
    return [[shaped(blob) for blob in layer.blobs] for layer in (*message.layer, *old)]


def shaped(blob: Any) -> np.ndarray[Any, Any]:
    values = np.array(blob.double_data or blob.data, np.float32)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return values.reshape(blob.num, blob.channels, blob.height, blob.width)
    return values.reshape(blob.shape.dim)


# ---- what is read ----


class Stored(NamedTuple):
    """One layer's blobs as some Caffe wrote them; ``views`` says whether they stay in the file."""

    says: str
    blobs: Sequence[bytes]
    views: bool = True


STORED = [
    Stored("packed floats", [shape(2, 3) + FLOATS]),
    Stored("packed floats before their shape", [FLOATS + shape(2, 3)]),
    Stored("several blobs", [shape(6) + FLOATS, shape(1, 6) + FLOATS, shape(3, 1, 2) + FLOATS]),
    Stored("unpacked floats", [shape(2, 3) + unpacked(DATA, "f", *SIX)]),
    Stored("one unpacked float", [shape(1) + unpacked(DATA, "f", 7.0)]),
    Stored("unpacked floats before their shape", [unpacked(DATA, "f", *SIX) + shape(2, 3)]),
    Stored("unpacked dims of a shape", [tagged(7, varint(1, 2) + varint(1, 3)) + FLOATS]),
    Stored("num, channels, height and width", [legacy(1, 1, 2, 3) + FLOATS]),
    Stored("the old four behind the data", [FLOATS + legacy(1, 2, 3, 1)]),
    Stored("the old four win over a shape", [shape(6) + legacy(1, 1, 2, 3) + FLOATS]),
    Stored("diffs are passed over", [shape(2, 3) + FLOATS + tagged(DIFF, packed("f", *SIX))]),
    Stored("unpacked diffs are passed over", [shape(2, 3) + unpacked(DATA, "f", *SIX) + unpacked(DIFF, "f", *SIX)]),
    Stored("an unknown field among them", [shape(2, 3) + varint(77, 1) + FLOATS + tagged(78, b"more")]),
    Stored("a scalar", [tagged(7, b"") + tagged(DATA, packed("f", 0.25))]),
    Stored("a scalar of an unpacked float", [tagged(7, b"") + unpacked(DATA, "f", 0.25)]),
    Stored("a blob without values", [shape(0) + tagged(DATA, b""), shape(2, 0)]),
    Stored("NaN and infinity", [shape(3) + tagged(DATA, packed("f", np.nan, np.inf, -np.inf))]),
    Stored("a layer without blobs", []),
    Stored("packed floats in several pieces", [shape(2, 3) + tagged(DATA, packed("f", *SIX[:2])) + tagged(DATA, packed("f", *SIX[2:]))], views=False),
    Stored("packed and unpacked floats in turn", [shape(2, 3) + unpacked(DATA, "f", *SIX[:2]) + tagged(DATA, packed("f", *SIX[2:4])) + unpacked(DATA, "f", *SIX[4:])], views=False),
    Stored("unpacked floats with the shape between them", [unpacked(DATA, "f", *SIX[:2]) + shape(2, 3) + unpacked(DATA, "f", *SIX[2:])], views=False),
    Stored("doubles", [shape(2, 3) + tagged(DOUBLES, packed("d", *SIX))], views=False),
    Stored("unpacked doubles", [shape(2, 3) + unpacked(DOUBLES, "d", *SIX)], views=False),
]  # fmt: skip


@pytest.mark.parametrize("row", STORED, ids=lambda row: row.says)
def test_blobs_are_what_protobuf_parses(row: Stored, tmp_path: Path) -> None:
    raw = net(*row.blobs)
    (layer,) = read(tmp_path, raw).layers
    (want,) = blobs_by_protobuf(raw)
    assert layer.name == "conv1"
    assert [blob.shape for blob in layer.blobs] == [blob.shape for blob in want]
    for got, expected in zip(layer.blobs, want, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
        assert not (row.views and got.size and got.flags.writeable)


@pytest.mark.parametrize("row", [row for row in STORED if row.blobs], ids=lambda row: row.says)
def test_float_blobs_stay_in_the_file(row: Stored, tmp_path: Path) -> None:
    """A view of the map: the first value lies where its bytes are in the file, and is not copied."""
    raw = net(*row.blobs)
    for blob in read(tmp_path, raw).layers[0].blobs:
        base: Any = blob
        while isinstance(base, np.ndarray):
            base = base.base
        if row.views and blob.size:
            source = base.obj if isinstance(base, memoryview) else base
            assert np.shares_memory(blob, np.frombuffer(source, np.uint8))
            at = blob.ctypes.data - source.address
            assert raw[at : at + 4] == blob.ravel()[:1].tobytes()
        elif blob.size:
            assert base is None


def test_packed_floats_can_be_copied_from_file_to_file(tmp_path: Path) -> None:
    raw = net(shape(2, 3) + FLOATS, shape(2, 3) + unpacked(DATA, "f", *SIX))
    whole, scattered = read(tmp_path, raw).layers[0].blobs
    where = origin(whole)
    assert where is not None
    assert raw[where[1] :][: whole.nbytes] == packed("f", *SIX)
    assert origin(scattered) is None  # a tag stands between its values


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(0, np.float64), (1, np.float32), (2, np.float16), (None, np.float32)],
    ids=["double", "float", "half", "no type said"],
)
def test_raw_data_of_nvcaffe_and_opencv(kind: int | None, dtype: type, tmp_path: Path) -> None:
    values = np.array([1.5, -2, 0.333, 65504, 6e-8, 0], dtype)
    said = varint(RAW_TYPE, kind) if kind is not None else b""
    (layer,) = read(tmp_path, net(shape(3, 2) + said + tagged(RAW, values.tobytes()))).layers
    assert layer.blobs[0].dtype == np.float32
    np.testing.assert_array_equal(layer.blobs[0], values.astype(np.float32).reshape(3, 2))


# ---- layers of all ages ----

BLOB = shape(6) + FLOATS
V1 = tagged(2, tagged(4, b"conv1") + varint(5, 4) + tagged(6, BLOB))
V0 = tagged(2, tagged(1, tagged(1, b"conv1") + tagged(2, b"conv") + tagged(50, BLOB) + tagged(50, BLOB)))


@pytest.mark.parametrize(
    ("raw", "names", "blobs"),
    [
        (net(BLOB), ["conv1"], [1]),
        (V1, ["conv1"], [1]),
        (V0, ["conv1"], [2]),
        (V1 + V1, ["conv1", "conv1"], [1, 1]),
        (tagged(1, b"net") + V1 + tagged(3, b"data") + V0, ["conv1", "conv1"], [1, 2]),
        (tagged(2, tagged(6, BLOB) + tagged(4, b"late")), ["late"], [1]),
        (tagged(100, tagged(7, BLOB) + tagged(1, b"late")), ["late"], [1]),
        (tagged(100, b""), [""], [0]),
    ],
    ids=["V2", "V1", "V0", "two of one name", "V1 and V0", "V1, name last", "V2, name last", "an empty layer"],
)
def test_layers_of_all_ages(raw: bytes, names: list[str], blobs: list[int], tmp_path: Path) -> None:
    layers = read(tmp_path, raw).layers
    assert [layer.name for layer in layers] == names
    assert [len(layer.blobs) for layer in layers] == blobs
    for layer, want in zip(layers, blobs_by_protobuf(raw), strict=True):
        for got, expected in zip(layer.blobs, want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "raw", [tagged(1, b"net") + net(BLOB, BLOB) + tagged(3, b"data"), V1, V0], ids=["V2", "V1", "V0"]
)
def test_the_definition_is_the_file_without_its_weights(raw: bytes, tmp_path: Path) -> None:
    want: Any = NetParameter.FromString(raw)
    for layer in (*want.layer, *want.layers, *(layer.layer for layer in want.layers if layer.HasField("layer"))):
        layer.ClearField("blobs")
    assert NetParameter.FromString(read(tmp_path, raw).definition) == want


@pytest.mark.parametrize(
    ("stored", "name"),
    [(b"conv\xc3\xa9", "convé"), ("卷积".encode("gbk"), "卷积"), (b"caf\xe9", "café"), (b"", "")],
    ids=["UTF-8", "GBK", "Latin-1", "empty"],
)
def test_names_are_text_whatever_their_encoding(stored: bytes, name: str, tmp_path: Path) -> None:
    assert read(tmp_path, net(BLOB, name=stored)).layers[0].name == name


# ---- what is refused ----


class Damage(NamedTuple):
    """A file that holds no weights, and the message (without its place)."""

    says: str
    raw: bytes
    message: str


DAMAGED = [
    Damage("a shape that lies", net(shape(2**40, 2**40) + tagged(DATA, packed("f", 1, 2))), "damaged: an axis of 1099511627776 values; Caffe's have at most 2147483647"),
    Damage("old dimensions that lie", net(legacy(1, 1, 2, 2) + FLOATS), "its shape is 1x1x2x2, but it holds 6 values"),
    Damage("one of the old dimensions missing", net(varint(1, 6) + FLOATS), "its shape is 6x0x0x0, but it holds 6 values"),
    Damage("values without a shape", net(shape(2) + shape(3) + FLOATS), "its shape is 3, but it holds 6 values"),
    Damage("a shape without values", net(shape(2, 3)), "its shape is 2x3, but it holds 0 values"),
    Damage("neither shape nor values", net(b""), "its shape is a scalar, but it holds 0 values"),
    Damage("the second of two blobs", net(BLOB, shape(5) + FLOATS), "its shape is 5, but it holds 6 values"),
    Damage("a shape of too many axes", net(shape(*[1] * 33) + tagged(DATA, packed("f", 1))), "damaged: a shape of 33 axes; Caffe's blobs have at most 32"),
    Damage("a shape that does not end", net(tagged(7, tagged(1, b"\x80")) + FLOATS), "damaged: a number does not end at byte 29"),
    Damage("floats with a byte too many", net(tagged(DATA, b"12345")), "damaged: 5 bytes are not a whole number of 4-byte values"),
    Damage("doubles with a float too many", net(tagged(DOUBLES, b"1234")), "damaged: 4 bytes are not a whole number of 8-byte values"),
    Damage("floats that are integers", net(shape(1) + varint(DATA, 3)), "damaged: data that are no floating-point numbers"),
    Damage("floats of eight bytes", net(shape(1) + unpacked(DATA, "d", 3)), "damaged: data that are no floating-point numbers"),
    Damage("raw data of an unknown type", net(shape(1) + varint(RAW_TYPE, 5) + tagged(RAW, b"1234")), "raw_data of type 5 is unknown; 0 (double), 1 (float) and 2 (half) are read"),
    Damage("a net of nothing but an input", tagged(3, b"data"), "it holds neither layers nor the name of a net: not a caffemodel"),
    Damage("a text", b"Once upon a time there was a network", "damaged: byte 0 is not the start of a protobuf field"),
    Damage("a .caffemodel cut off", net(BLOB)[:-10], "truncated: a field at byte 0 is 53 bytes long, 43 are left"),
    Damage("zeros", bytes(100), "damaged: byte 0 is not the start of a protobuf field"),
    Damage("a group, which protobuf gave up", b"\x0b", "damaged: byte 0 is not the start of a protobuf field"),
    Damage("a length that does not end", b"\xa2\x06" + b"\xff" * 20, "damaged: a number does not end at byte 2"),
    Damage("an empty file", b"", "the file is empty"),
    Damage("an HTML page", b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page: the download went wrong"),
    Damage("an HTML page without its doctype", b"<html><body>404</body></html>", "an HTML page: the download went wrong"),
    Damage("an XML page", b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML page: the download went wrong"),
    Damage("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer, not the file itself: run 'git lfs pull' where it came from"),
    Damage("a zip archive", b"PK\x03\x04" + bytes(60), "a zip archive: unpack it first, if it is one of a model"),
    Damage("a gzip archive", b"\x1f\x8b\x08" + bytes(60), "a gzip archive: unpack it first"),
    Damage("an HDF5 file", b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file; a .caffemodel.h5 has to be saved again with snapshot_format: BINARYPROTO"),
    *(Damage(f"a prototxt that begins with {text[:6]!r}", text, "a text file, perhaps a prototxt") for text in (b'name: "net"', b'\xef\xbb\xbfname: "net"', b'layer {\n name: "a"\n}', b'layers { }', b'input: "data"', b'  input: "data"')),
]  # fmt: skip


@pytest.mark.parametrize("row", DAMAGED, ids=lambda row: row.says)
def test_refused(row: Damage, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, row.raw)
    assert caught.value.message == row.message


def test_the_place_of_a_damaged_blob_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"^layer 'conv1': blob 1: its shape is 5, but it holds 6 values"):
        read(tmp_path, net(BLOB, shape(5) + FLOATS))


@pytest.mark.parametrize(
    "blob",
    [
        shape(-6) + FLOATS,
        shape(-2, -3) + FLOATS,
        shape(2**63, 2) + FLOATS,
        shape(2**62, 4),  # 0 in 64 bits: sizes are multiplied without overflow
        shape(0, 2**63),
        shape(0, 2**62, 4),
        tagged(7, tagged(1, b"\xff" * 5000 + b"\x01")) + FLOATS,
    ],
    ids=[
        "one negative",
        "two negative",
        "too large",
        "an overflow",
        "none of many",
        "none of too many",
        "a long number",
    ],
)
def test_negative_and_absurd_sizes_are_refused(blob: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        read(tmp_path, net(blob))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    raw = net(shape(2, 3) + FLOATS, legacy(1, 1, 1, 2) + unpacked(DATA, "f", 1, 2))
    for length in range(1, len(raw)):
        with pytest.raises(FormatError):
            read(tmp_path, raw[:length])
