"""An .onnx file -> gs.Graph, with the weights left where they lie.

The file is mapped, large initializers are cut out of its bytes and become views on the map, the small rest is parsed.
External data become views on their file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from converters import wire
from converters.errors import ConvertError, FormatError, UnsupportedError, place
from converters.filemap import MappedFile, not_a_model, view
from converters.loading import LoadOptions
from converters.onnx_file.export import LARGE, Large, check
from onnx_passes.graph import tensors

Array = npt.NDArray[np.generic]

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA = 2, 4, 9, 10
_TYPED_DATA = {_FLOAT_DATA: TensorProto.FLOAT, _DOUBLE_DATA: TensorProto.DOUBLE}

_PACKED = {getattr(TensorProto, name, -1) for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")}

_ATTRIBUTES_THAT_GET_LOST = frozenset(
    {
        AttributeProto.TENSORS,
        AttributeProto.GRAPHS,
        AttributeProto.SPARSE_TENSOR,
        AttributeProto.SPARSE_TENSORS,
        AttributeProto.TYPE_PROTO,
        AttributeProto.TYPE_PROTOS,
    }
)


class _Cut(NamedTuple):
    """Where the data of a large initializer lie in the file."""

    start: int
    length: int


def load(path: Path, options: LoadOptions) -> gs.Graph:
    """The graph of an .onnx; large weights are views on the file. Takes no options but progress.

    Raises FormatError if it is no ONNX model, or damaged.
    """
    with place(path.name):
        return _load(path, options)


def _load(path: Path, options: LoadOptions) -> gs.Graph:
    if options.prototxt or options.input_shapes or options.opset is not None:
        raise UnsupportedError(
            "an ONNX model says its shapes and its opset itself: no --prototxt, --input-shape or --opset"
        )
    source = MappedFile(path)
    model, cuts = _parsed(source)
    _refuse_lost(model.graph)
    folder = _ExternalData(path.parent)
    arrays = _arrays(model, source, cuts, folder)
    _check(model, arrays)
    try:
        graph = gs.import_onnx(model)
    except Exception as error:  # noqa: BLE001 - what graphsurgeon raises on odd models has no common base
        raise FormatError(f"onnx-graphsurgeon does not read the model: {error}") from None
    for tensor in tensors(graph):
        if isinstance(tensor, gs.Constant) and tensor.name in arrays:
            tensor.values = arrays[tensor.name]
            tensor.data_location = None
    for name in ("name", "doc_string", "producer_name", "producer_version"):
        setattr(graph, name, _text(getattr(graph, name)))
    graph.source_files = [path, *folder.files]
    graph.metadata_props = {_text(entry.key): _text(entry.value) for entry in model.metadata_props}
    graph.model_header = {
        "domain": _text(model.domain),
        "doc_string": _text(model.doc_string),
        "model_version": model.model_version,
    }
    return graph


def _parsed(source: MappedFile) -> tuple[ModelProto, dict[int, _Cut]]:
    """The model without the data of large initializers, and by the initializer's number where those lie."""
    try:
        rest, cuts = _without_large_data(source)
        model = ModelProto.FromString(rest)
    except FormatError as error:
        raise FormatError(not_a_model(source[:64]) or error.message) from None
    except DecodeError:
        raise FormatError(not_a_model(source[:64]) or "not an ONNX model, or damaged") from None
    if not model.HasField("graph") or not model.opset_import:
        raise FormatError("not an ONNX model: it has no graph, or does not say its opset")
    return model, cuts


def _text(value: str | bytes) -> str:
    """protobuf hands out bytes where a text is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _arrays(model: ModelProto, source: MappedFile, cuts: Mapping[int, _Cut], folder: _ExternalData) -> dict[str, Array]:
    """Views for the initializers whose data lie in the file, or in a file beside it."""
    arrays: dict[str, Array] = {}
    for number, tensor in enumerate(model.graph.initializer):
        if number in cuts:
            arrays[tensor.name] = _array(tensor, source, cuts[number])
        elif tensor.data_location == TensorProto.EXTERNAL:
            arrays[tensor.name] = folder.array(tensor)
    return arrays


def _check(model: ModelProto, arrays: Mapping[str, Array]) -> None:
    """onnx.checker on what was read. Raises FormatError: whatever comes behind this may count on a valid model."""
    initializers = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(t for t in initializers if t.name not in arrays)
    try:
        check(model, [Large(t, arrays[t.name]) for t in initializers if t.name in arrays])
    except ConvertError as error:
        raise FormatError(error.message) from None
    finally:
        del model.graph.initializer[:]
        model.graph.initializer.extend(initializers)


def _without_large_data(source: MappedFile) -> tuple[bytes, dict[int, _Cut]]:
    """The model's bytes without the data of large initializers, and by the initializer's number where those lie."""
    pieces: list[bytes] = []
    cuts: dict[int, _Cut] = {}
    for field in wire.fields(source, 0, len(source)):
        if field.number == _MODEL_GRAPH and field.wire_type == wire.BYTES:
            graph = b"".join(_graph_pieces(source, field, cuts))
            pieces += [wire.bytes_header(_MODEL_GRAPH, len(graph)), graph]
        else:
            pieces.append(source[field.tag : field.end])
    return b"".join(pieces), cuts


def _graph_pieces(source: MappedFile, graph: wire.Field, cuts: dict[int, _Cut]) -> Iterator[bytes]:
    number = -1
    kept_from = graph.start
    for field in wire.fields(source, graph.start, graph.end):
        if field.number != _GRAPH_INITIALIZER or field.wire_type != wire.BYTES:
            continue
        number += 1
        data = _large_data(source, field)
        if data is None:
            continue
        yield source[kept_from : field.tag]
        kept_from = field.end
        header = source[field.start : data.tag] + source[data.end : field.end]
        yield wire.bytes_header(_GRAPH_INITIALIZER, len(header)) + header
        cuts[number] = _Cut(data.start, data.end - data.start)
    yield source[kept_from : graph.end]


def _large_data(source: MappedFile, tensor: wire.Field) -> wire.Field | None:
    """The one field that holds a tensor's data, if it is large and its bytes are the values as they lie in memory."""
    if tensor.end - tensor.start < LARGE:
        return None
    kind, found = 0, None
    for field in wire.fields(source, tensor.start, tensor.end):
        if field.number == _DATA_TYPE:
            kind = field.value
        elif field.number in (_RAW_DATA, *_TYPED_DATA) and field.wire_type == wire.BYTES:
            if found is not None:
                return None
            found = field
    if found is None or not _is_plain(kind) or _TYPED_DATA.get(found.number, kind) != kind:
        return None
    return found


def _is_plain(kind: int) -> bool:
    """Whether numpy itself has the type, so that bytes in the file are values in an array."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind)).kind in "fiub" and kind not in _PACKED
    except (KeyError, TypeError, ValueError):
        return False


def _array(tensor: TensorProto, source: MappedFile, cut: _Cut) -> Array:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) * dtype.itemsize != cut.length:
        raise FormatError(f"damaged: initializer '{tensor.name}' of {list(tensor.dims)} holds {cut.length} bytes")
    return view(source, dtype, cut.start, tensor.dims)


class _ExternalData:
    """Files beside the model that hold weights. Only files inside its folder are read, and never through a link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, MappedFile] = {}

    @property
    def files(self) -> list[Path]:
        """What was read."""
        return [source.path for source in self._files.values()]

    def array(self, tensor: TensorProto) -> Array:
        """Raises FormatError if the file is missing, lies elsewhere, or is too short."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        where = f"initializer '{tensor.name}'"
        if not _is_plain(tensor.data_type):
            raise UnsupportedError(f"{where}: external data of type {TensorProto.DataType.Name(tensor.data_type)}")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
        size = math.prod(tensor.dims) * dtype.itemsize
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError:
            raise FormatError(f"{where}: its place in the external file is not a number") from None
        if min(tensor.dims, default=0) < 0 or length != size or offset < 0:
            raise FormatError(f"{where}: {length} bytes of external data for shape {list(tensor.dims)}")
        return view(self._file(entries.get("location", ""), where), dtype, offset, tensor.dims)

    def _file(self, location: str, where: str) -> MappedFile:
        if location not in self._files:
            with place(where):
                self._files[location] = self._opened(location)
        return self._files[location]

    def _opened(self, location: str) -> MappedFile:
        name = f"external data '{location[:80]}'"
        try:
            path = self._folder / location
            inside = path.resolve().is_relative_to(self._folder.resolve()) and ".." not in Path(location).parts
            if not location or Path(location).is_absolute() or not inside or path.is_symlink():
                raise FormatError(f"its {name} lie outside of the model's folder")
            if not path.is_file():
                raise FormatError(f"its {name} are missing")
            with place(name):
                return MappedFile(path)
        except (OSError, ValueError) as error:  # too long a name, a zero byte in it
            raise FormatError(f"its {name} cannot be read: {error}") from None


def _refuse_lost(graph: GraphProto) -> None:
    """Raises for attributes of rare types, which graphsurgeon drops without a word, and for names that are no text."""
    for node in graph.node:
        texts = (node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute))
        if not all(isinstance(text, str) for text in texts):
            raise FormatError("damaged: a name is not UTF-8")
        for attribute in node.attribute:
            if attribute.type in _ATTRIBUTES_THAT_GET_LOST:
                kind = AttributeProto.AttributeType.Name(attribute.type)
                raise UnsupportedError(
                    f"node '{node.name}' ({node.op_type}): attribute '{attribute.name}' of type {kind}"
                )
            if attribute.type == AttributeProto.GRAPH:
                _refuse_lost(attribute.g)
    for tensor in graph.initializer:
        if tensor.data_type not in TensorProto.DataType.values():
            raise FormatError(
                f"damaged: initializer '{tensor.name}' is of type {tensor.data_type}, which ONNX does not have"
            )
    names = [info.name for infos in (graph.input, graph.output, graph.value_info, graph.initializer) for info in infos]
    for name in names:
        if not isinstance(name, str):
            raise FormatError("damaged: a name is not UTF-8")
