"""gs.Graph -> ModelProto without its large initializers, which a writer streams.

graphsurgeon's own export copies every weight, drops metadata and repeats a constant in each subgraph that reads it.
Here constants of all depths are initializers of the main graph, where subgraphs see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, update_import_domains
from onnx_graphsurgeon.ir.tensor import SparseValues

from converters.errors import ConvertError, UnsupportedError
from converters.version import __version__

PRODUCER = "decant"
INITIALIZERS_APART = 4  # the IR version from which an initializer need not be an input, too
LARGE = 1024  # bytes; smaller constants stand in the model itself


class Large(NamedTuple):
    """An initializer that is streamed: its TensorProto without data, and the array that holds the data."""

    header: TensorProto
    values: npt.NDArray[np.generic]


def export(graph: gs.Graph) -> tuple[ModelProto, list[Large]]:
    """The model without its large initializers, and those. ``graph.metadata_props`` becomes the model's metadata."""
    small: list[TensorProto] = []
    large: list[Large] = []
    local = _ambiguous(graph)
    for constant in _constants(graph):
        if isinstance(constant._values, SparseValues) or constant.name in local:
            continue
        if _is_plain(constant) and constant.values.nbytes >= LARGE:
            large.append(Large(_header(constant), constant.values))
        else:
            small.append(_tensor(constant))
    proto = _graph(graph, local)
    proto.initializer.extend(small)
    proto.sparse_initializer.extend(c._values.tensor for c in _constants(graph) if isinstance(c._values, SparseValues))
    functions = [OnnxExporter.export_function(function) for function in graph.functions]
    model = helper.make_model(proto, opset_imports=update_import_domains(graph), functions=functions)
    model.producer_name = graph.producer_name or PRODUCER
    model.producer_version = graph.producer_version or ("" if graph.producer_name else __version__)
    lowest = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(graph.ir_version or lowest, INITIALIZERS_APART)
    for name, value in getattr(graph, "model_header", {}).items():
        setattr(model, name, value)
    helper.set_model_props(model, dict(getattr(graph, "metadata_props", {})))
    return model, large


def check(model: ModelProto, large: Sequence[Large]) -> None:
    """onnx.checker in full. Large initializers stand in as inputs of their type: no second copy is made of them.

    Raises ConvertError with the checker's reason.
    """
    before = len(model.graph.input)
    named = {info.name for info in model.graph.input}  # in old models an initializer may also be an input
    model.graph.input.extend(
        helper.make_tensor_value_info(item.header.name, item.header.data_type, item.header.dims)
        for item in large
        if item.header.name not in named
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConvertError(f"the graph is not valid ONNX: {' '.join(lines[:2])}") from None
    finally:
        del model.graph.input[before:]


def _subgraphs(nodes: Iterable[gs.Node]) -> Iterator[gs.Graph]:
    for node in nodes:
        yield from (value for value in node.attrs.values() if isinstance(value, gs.Graph))


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    """All constants that nodes read, at any depth, and those that are graph outputs; each once."""
    found: dict[int, gs.Constant] = {}
    todo = [graph]
    while todo:
        inner = todo.pop()
        read = [*(tensor for node in inner.nodes for tensor in node.inputs), *inner.outputs]
        found.update((id(tensor), tensor) for tensor in read if isinstance(tensor, gs.Constant))
        todo.extend(_subgraphs(inner.nodes))
    return list(found.values())


def _ambiguous(graph: gs.Graph) -> set[str]:
    """Names that several constants have, as the branches of an If may: those stay in the subgraph that reads them."""
    seen: set[str] = set()
    return {c.name for c in _constants(graph) if c.name in seen or seen.add(c.name)}  # type: ignore[func-returns-value]


def _is_plain(constant: gs.Constant) -> bool:
    """Whether the values are an array of a type that numpy itself has; others stay as the file had them."""
    return isinstance(constant._values, np.ndarray) and constant._values.dtype.kind in "fiub"


def _header(constant: gs.Constant) -> TensorProto:
    dtype = helper.np_dtype_to_tensor_dtype(constant.values.dtype.newbyteorder("="))
    return TensorProto(name=constant.name, data_type=dtype, dims=constant.values.shape)


def _tensor(constant: gs.Constant) -> TensorProto:
    proto: TensorProto = OnnxExporter.export_tensor_proto(constant)
    return proto


def _graph(graph: gs.Graph, local: set[str]) -> GraphProto:
    own = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    made = {id(tensor): tensor for node in graph.nodes for tensor in node.outputs if id(tensor) not in own}
    proto = GraphProto(name=graph.name, doc_string=graph.doc_string)
    proto.node.extend(_node(node, local) for node in graph.nodes)
    proto.input.extend(_value_info(tensor) for tensor in graph.inputs)
    proto.output.extend(_value_info(tensor) for tensor in graph.outputs)
    proto.value_info.extend(_value_info(tensor) for tensor in made.values() if tensor.name and tensor.dtype is not None)
    read = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant) and t.name in local}
    proto.initializer.extend(_tensor(constant) for constant in read.values())
    return proto


def _value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Raises UnsupportedError for a type that graphsurgeon does not carry."""
    if isinstance(tensor, gs.Constant) or tensor.type == "tensor_type":
        return _tensor_info(tensor)
    if tensor.type is None:
        return helper.make_empty_tensor_value_info(tensor.name)
    if tensor.type not in ("sequence_type", "sparse_tensor_type"):
        raise UnsupportedError(f"tensor '{tensor.name}' is of type {tensor.type}, which cannot be written")
    proto: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
    return proto


def _tensor_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    if tensor.dtype is None:
        return helper.make_empty_tensor_value_info(tensor.name)
    kind = tensor.dtype if isinstance(tensor.dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)


def _node(node: gs.Node, local: set[str]) -> NodeProto:
    proto = NodeProto(
        op_type=node.op,
        name=node.name,
        domain=node.domain or "",
        input=[tensor.name for tensor in node.inputs],
        output=[tensor.name for tensor in node.outputs],
    )
    proto.attribute.extend(_attribute(node, name, value, local) for name, value in node.attrs.items())
    return proto


def _attribute(node: gs.Node, name: str, value: Any, local: set[str]) -> AttributeProto:
    if isinstance(value, gs.Graph):
        return helper.make_attribute(name, _graph(value, local))
    if isinstance(value, gs.Constant):
        return helper.make_attribute(name, _tensor(value))
    if isinstance(value, (list, tuple)) and not value:
        return helper.make_attribute(name, value, attr_type=_declared_type(node, name))
    if isinstance(value, (type, np.dtype)):
        value = helper.np_dtype_to_tensor_dtype(np.dtype(value))
    return helper.make_attribute(name, value)


def _declared_type(node: gs.Node, name: str) -> int:
    """The type of an attribute whose empty list does not tell it."""
    try:
        declared = onnx.defs.get_schema(node.op, node.domain or "").attributes[name].type
    except (onnx.defs.SchemaError, KeyError):
        return AttributeProto.INTS
    return AttributeProto.AttributeType.Value(str(declared).rpartition(".")[2])
