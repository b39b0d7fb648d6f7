"""The protobuf wire format, walked without building messages: where each field lies in a buffer.

https://protobuf.dev/programming-guides/encoding. Weights are never touched here: a field is a pair of
offsets, so that a 500 MB file costs as much as its few hundred tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple, TypeAlias

from converters.errors import FormatError

Buffer: TypeAlias = bytes | mmap | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """One field of a message. ``start:end`` is the payload, ``tag`` where its tag begins; ``value`` of a varint."""

    number: int
    wire_type: int
    tag: int
    start: int
    end: int
    value: int


def read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """The varint at ``at`` and the offset behind it. Raises FormatError where it does not end."""
    value = shift = 0
    for position in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise FormatError(f"damaged: a number does not end at byte {at}")


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``buffer[start:end]``, in file order. Raises FormatError where it is damaged."""
    at = start
    while at < end:
        tag = at
        key, at = read_varint(buffer, at, end)
        number, wire_type = key >> 3, key & 7
        value, payload = 0, at
        if wire_type == VARINT:
            value, at = read_varint(buffer, at, end)
        elif wire_type == BYTES:
            length, payload = read_varint(buffer, at, end)
            at = payload + length
        elif wire_type == FIXED32:
            at += 4
        elif wire_type == FIXED64:
            at += 8
        else:
            raise FormatError(f"damaged: byte {tag} is not the start of a protobuf field")
        if number == 0:
            raise FormatError(f"damaged: byte {tag} is not the start of a protobuf field")
        if at > end:
            raise FormatError(
                f"truncated: a field at byte {tag} is {at - payload:,} bytes long, {end - payload:,} are left"
            )
        yield Field(number, wire_type, tag, payload, at, value)


def write_varint(value: int) -> bytes:
    """``value`` (not negative) as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_header(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes (or of a message) that is ``length`` long."""
    return write_varint(number << 3 | BYTES) + write_varint(length)
