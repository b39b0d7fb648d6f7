"""Message classes from caffe.desc; a prototxt's tree <-> messages."""

from __future__ import annotations

import math
import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from converters.caffe.prototxt import Field, Fields, Scalar, decode
from converters.errors import FormatError
from converters.registry import nearest

PACKAGE = "decant.caffe"

_KIND = descriptor_pb2.FieldDescriptorProto
_UNSIGNED_BITS = {_KIND.TYPE_UINT32: 32, _KIND.TYPE_UINT64: 64}
_SIGNED_BITS = {_KIND.TYPE_INT32: 32, _KIND.TYPE_INT64: 64}
_BOOLS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}

# Twenty digits are more than any field holds, and few enough for int().
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,19})")
_OCTAL = re.compile(r"[-+]?0[0-7]{1,24}")
_HEXADECIMAL = re.compile(r"[-+]?0[xX][0-9a-fA-F]{1,18}")


class Problem(NamedTuple):
    """A field that the schema does not have, or a value that does not fit its field."""

    line: int
    text: str


def _descriptors() -> descriptor_pb2.FileDescriptorProto:
    raw = files(__package__).joinpath("caffe.desc").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(raw).file[0]


_FILE = _descriptors()
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_FILE)


@cache
def message_class(name: str) -> Any:
    """The class of a message by its name in caffe.proto."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


NetParameter = message_class("NetParameter")
LayerParameter = message_class("LayerParameter")


@cache
def _fields_of(full_name: str) -> dict[str, descriptor_pb2.FieldDescriptorProto]:
    message = next(m for m in _FILE.message_type if f"{PACKAGE}.{m.name}" == full_name)
    return {field.name: field for field in message.field}


@cache
def _enum_of(type_name: str) -> dict[str, int]:
    enum = _POOL.FindEnumTypeByName(type_name.lstrip("."))
    return {value.name: value.number for value in enum.values}


def parse_net(raw: bytes) -> Any:
    """A binary NetParameter (without its weights). Raises FormatError if it is none."""
    try:
        return NetParameter.FromString(raw)
    except DecodeError as error:
        raise FormatError("damaged: the net's definition is not a Caffe NetParameter") from error


def fill(message: Any, tree: Fields, prefix: str = "") -> list[Problem]:
    """Set the fields of ``message`` as ``tree`` says; what does not fit the schema is left out and returned."""
    known = _fields_of(message.DESCRIPTOR.full_name)
    problems: list[Problem] = []
    seen: set[str] = set()
    for field in tree:
        name = prefix + field.name
        spec = known.get(field.name)
        if spec is None:
            problems.append(Problem(field.line, f"unknown field '{name}'{nearest(field.name, known)}"))
            continue
        repeated = spec.label == _KIND.LABEL_REPEATED
        if not repeated and field.name in seen:
            problems.append(Problem(field.line, f"'{name}' is given twice"))
            continue
        seen.add(field.name)
        if spec.type == _KIND.TYPE_MESSAGE:
            if isinstance(field.value, Scalar):
                problems.append(Problem(field.line, f"'{name}' is a message, not a single value"))
                continue
            child = getattr(message, field.name)
            child = child.add() if repeated else child
            child.SetInParent()
            problems += fill(child, field.value, f"{name}.")
            continue
        try:
            value = _value(spec, field.value)
        except ValueError as error:
            problems.append(Problem(field.line, f"'{name}' {error}"))
            continue
        if repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return problems


def _value(spec: descriptor_pb2.FieldDescriptorProto, value: Scalar | Fields) -> Any:
    """The Python value of a scalar field. Raises ValueError with the end of a sentence about the field."""
    if not isinstance(value, Scalar):
        raise ValueError("is a single value, not a message")
    text = value.text
    if spec.type == _KIND.TYPE_STRING:
        return text
    if spec.type == _KIND.TYPE_BOOL:
        if text not in _BOOLS:
            raise ValueError(f"is true or false, not {_short(text)}")
        return _BOOLS[text]
    if spec.type == _KIND.TYPE_ENUM:
        return _enum_value(spec, text)
    if spec.type in (_KIND.TYPE_FLOAT, _KIND.TYPE_DOUBLE):
        return _float_value(text)
    return _int_value(spec, text)


def _enum_value(spec: descriptor_pb2.FieldDescriptorProto, text: str) -> int:
    values = _enum_of(spec.type_name)
    if text in values:
        return values[text]
    if _DECIMAL.fullmatch(text) and int(text) in values.values():
        return int(text)
    raise ValueError(f"has no value {_short(text)}{nearest(text, values) or ', only ' + ', '.join(values)}")


def _float_value(text: str) -> float:
    try:
        return float(text.rstrip("fF") if text[:2].lower() != "0x" and "inf" not in text.lower() else text)
    except ValueError:
        raise ValueError(f"is a number, not {_short(text)}") from None


def _int_value(spec: descriptor_pb2.FieldDescriptorProto, text: str) -> int:
    """Decimal, hexadecimal, or octal with a leading zero, as in C."""
    if _DECIMAL.fullmatch(text):
        number = int(text)
    elif _OCTAL.fullmatch(text):
        number = int(text, 8)
    elif _HEXADECIMAL.fullmatch(text):
        number = int(text, 16)
    else:
        number = _integral(text)
    low, high = (0, 1 << _UNSIGNED_BITS[spec.type]) if spec.type in _UNSIGNED_BITS else _signed_range(spec)
    if not low <= number < high:
        raise ValueError(f"is out of range: {_short(text)}")
    return number


def _signed_range(spec: descriptor_pb2.FieldDescriptorProto) -> tuple[int, int]:
    half = 1 << (_SIGNED_BITS[spec.type] - 1)
    return -half, half


def _integral(text: str) -> int:
    """An integer that somebody wrote as ``3.0``."""
    number = math.nan if text.lstrip("+-")[:2].isdigit() and text.lstrip("+-")[0] == "0" else _float_value(text)
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"is a whole number, not {_short(text)}")
    return int(number)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def tree(message: Any) -> Fields:
    """A message as the tree that its prototxt would parse to; lines are 0."""
    known = _fields_of(message.DESCRIPTOR.full_name)
    found: Fields = []
    for descriptor, content in message.ListFields():
        spec = known[descriptor.name]
        values = content if spec.label == _KIND.LABEL_REPEATED else [content]
        found += [Field(spec.name, _tree_value(spec, value), 0) for value in values]
    return found


def _tree_value(spec: descriptor_pb2.FieldDescriptorProto, value: Any) -> Scalar | Fields:
    if spec.type == _KIND.TYPE_MESSAGE:
        return tree(value)
    if spec.type == _KIND.TYPE_ENUM:
        names = {number: name for name, number in _enum_of(spec.type_name).items()}
        return Scalar(names.get(value, str(value)), quoted=False)
    if spec.type == _KIND.TYPE_BOOL:
        return Scalar("true" if value else "false", quoted=False)
    if spec.type == _KIND.TYPE_STRING:
        return Scalar(decode(value) if isinstance(value, bytes) else value, quoted=True)
    return Scalar(repr(value), quoted=False)
