"""Builder: the only maker of nodes. Names, opset and shapes come from here.

A layer's handler asks for nodes and constants; when the layer is done, ``finish`` gives its nodes the layer's name
and its results the names of the source. Shapes and types are ONNX's own inference, node by node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx.defs import OpSchema, SchemaError, get_schema, onnx_opset_version
from onnx.shape_inference import InferenceError, infer_node_outputs

from converters.errors import ShapeError, UnsupportedError

OPSET = 18
OLDEST_OPSET = 13  # Softmax, Squeeze, Split and ReduceSum took their present form there

# Shape inference reads the values of constants this small: axes, shapes, repeats.
_MAX_INFERRED_VALUES = 1024


class Builder:
    """Builds one graph, layer by layer. ``reserved`` are names that helpers must not take: the source's own."""

    def __init__(self, name: str, *, opset: int = OPSET, reserved: Iterable[str] = ()) -> None:
        if not OLDEST_OPSET <= opset <= onnx_opset_version():
            raise UnsupportedError(f"opset {opset} cannot be written; {OLDEST_OPSET} to {onnx_opset_version()} can")
        self.opset = opset
        self.graph = gs.Graph(name=name or "net", opset=opset)
        self._opset_imports = [helper.make_opsetid("", opset)]
        self._tensor_names = set(reserved)
        self._node_names: set[str] = set()
        self._schemas: dict[str, OpSchema] = {}
        self._constants: dict[tuple[object, ...], gs.Constant] = {}
        self._is_inner = False
        self._layer = ""
        self._nodes: list[gs.Node] = []

    # ---- inputs and outputs ----

    def input(self, name: str, shape: Sequence[int | str], dtype: npt.DTypeLike = np.float32) -> gs.Variable:
        """A graph input. ``name`` is one of the reserved."""
        if self._is_inner:
            name = _fresh(f"{self._layer}/{name}", self._tensor_names)
        tensor = gs.Variable(name, np.dtype(dtype), list(shape))
        self.graph.inputs.append(tensor)
        return tensor

    def output(self, tensor: gs.Tensor, name: str) -> None:
        """Make ``tensor`` the graph output ``name``. One that must keep another name gets an Identity behind it."""
        if tensor.name != name or not tensor.inputs:
            self.begin(name)
            tensor = self.node("Identity", [tensor])
            self.finish([tensor], [name])
        self.graph.outputs.append(tensor)

    # ---- one layer ----

    def begin(self, layer: str) -> None:
        """From here on nodes and constants belong to ``layer``."""
        self._layer, self._nodes = layer, []

    def finish(self, results: Sequence[gs.Tensor], names: Sequence[str]) -> None:
        """Name what the layer made: results by ``names``, the first result's node as the layer, others ``layer/Op``.

        A result that the layer did not make itself (it passes a tensor on) keeps its name.
        """
        made = {id(tensor) for node in self._nodes for tensor in node.outputs}
        named = {id(tensor): name for tensor, name in zip(results, names, strict=True) if id(tensor) in made}
        main = next((node for node in self._nodes for tensor in node.outputs if id(tensor) in named), None)
        for node in self._nodes:
            node.name = _fresh(self._layer if node is main else f"{self._layer}/{node.op}", self._node_names)
            for number, tensor in enumerate(node.outputs):
                helper_name = node.name if number == 0 else f"{node.name}:{number}"
                tensor.name = named.get(id(tensor)) or _fresh(helper_name, self._tensor_names)
        self.graph.nodes.extend(self._nodes)
        self._nodes = []

    def node(self, op: str, inputs: Sequence[gs.Tensor | None], **attributes: Any) -> gs.Variable:
        """A node with one output.

        Raises UnsupportedError if the opset has no such op, ShapeError if the inputs do not fit it.
        """
        return self.nodes(op, inputs, 1, **attributes)[0]

    def nodes(self, op: str, inputs: Sequence[gs.Tensor | None], outputs: int, **attributes: Any) -> list[gs.Variable]:
        """A node's outputs, ``outputs`` many. ``None`` among the inputs is an optional one that is left out."""
        tensors = [gs.Variable.empty() if tensor is None else tensor for tensor in inputs]
        attributes = {name: value for name, value in attributes.items() if value is not None}
        results = [gs.Variable("") for _ in range(outputs)]
        for tensor, inferred in zip(results, self._inferred(op, tensors, outputs, attributes), strict=True):
            tensor.dtype = helper.tensor_dtype_to_np_dtype(inferred.tensor_type.elem_type)
            tensor.shape = _shape_of(inferred.tensor_type)
        self._nodes.append(gs.Node(op, attrs=attributes, inputs=tensors, outputs=results))
        return results

    def const(self, role: str, values: npt.NDArray[Any]) -> gs.Constant:
        """The constant ``layer.role``. An array that two layers share is one constant, named by the first."""
        # Two live arrays at one address with one layout are the same numbers: shared weights are views of one blob.
        key = (values.__array_interface__["data"][0], values.shape, values.strides, values.dtype.str)
        if not values.size or key not in self._constants:
            name = _fresh(f"{self._layer}.{role}", self._tensor_names)
            self._constants[key] = gs.Constant(name, values)
        return self._constants[key]

    def scalar(self, role: str, value: float) -> gs.Constant:
        """A float32 constant without axes."""
        return self.const(role, np.array(value, np.float32))

    def ints(self, role: str, values: Sequence[int]) -> gs.Constant:
        """An int64 vector: a shape, axes, repeats."""
        return self.const(role, np.array(values, np.int64))

    def subgraph(self, name: str) -> Builder:
        """A builder for a graph inside this one (a Scan's step), with names unlike the outer. ``close`` ends it."""
        inner = Builder(f"{self._layer}/{name}", opset=self.opset)
        inner._tensor_names, inner._node_names = self._tensor_names, self._node_names
        inner._is_inner = True
        inner.begin(inner.graph.name)
        return inner

    def close(self, results: Sequence[gs.Variable]) -> None:
        """Make ``results`` the outputs of a graph inside another, and name its nodes."""
        self.finish([], [])
        self.graph.outputs.extend(results)

    # ---- ops that many layers need, or whose form depends on the opset ----

    def reduce(self, op: str, x: gs.Tensor, axes: Sequence[int], *, keepdims: bool) -> gs.Variable:
        """ReduceMean and its like: the axes are an input since opset 18 (ReduceSum: 13), an attribute before."""
        if self.opset >= 18 or op == "ReduceSum":
            return self.node(op, [x, self.ints("axes", axes)], keepdims=int(keepdims))
        return self.node(op, [x], axes=list(axes), keepdims=int(keepdims))

    def reshape(self, x: gs.Tensor, shape: Sequence[int]) -> gs.Variable:
        """ONNX Reshape: 0 copies the axis at the same place, -1 is what is left."""
        return self.node("Reshape", [x, self.ints("shape", shape)])

    def slice(self, x: gs.Tensor, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> gs.Variable:
        """``x[start:end]`` on each of ``axes``."""
        inputs = [x, self.ints("starts", starts), self.ints("ends", ends), self.ints("axes", axes)]
        return self.node("Slice", inputs)

    # ---- inside ----

    def _inferred(
        self, op: str, inputs: Sequence[gs.Tensor], outputs: int, attributes: Mapping[str, Any]
    ) -> list[onnx.TypeProto]:
        if op not in self._schemas:
            try:
                self._schemas[op] = get_schema(op, self.opset, "")
            except SchemaError:
                raise UnsupportedError(f"needs the ONNX op {op}, which opset {self.opset} does not have") from None
        names = ["" if tensor.is_empty() and not tensor.inputs else f"i{n}" for n, tensor in enumerate(inputs)]
        results = [f"o{n}" for n in range(outputs)]
        node = helper.make_node(op, names, results, **{k: _attribute(v) for k, v in attributes.items()})
        given = [(name, tensor) for name, tensor in zip(names, inputs, strict=True) if name]
        types = {name: helper.make_tensor_type_proto(_elem_type(x), x.shape) for name, x in given}
        data = {name: numpy_helper.from_array(x.values, name) for name, x in given if _is_small_int(x)}
        try:
            inferred = infer_node_outputs(self._schemas[op], node, types, data, opset_imports=self._opset_imports)
        except InferenceError as error:
            shapes = " and ".join("x".join(map(str, x.shape)) or "a scalar" for _, x in given)
            raise ShapeError(f"shapes do not fit: {op} of {shapes} ({_reason(error)})") from None
        return [inferred[name] for name in results]


def _fresh(name: str, taken: set[str]) -> str:
    """``name``, or ``name_1``, ``name_2``... where it is taken; taken from now on."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _attribute(value: Any) -> Any:
    """A subgraph as the GraphProto that shape inference wants."""
    return gs.export_onnx(value, do_type_check=False).graph if isinstance(value, gs.Graph) else value


def _elem_type(tensor: gs.Tensor) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))


def _is_small_int(tensor: gs.Tensor) -> bool:
    if not isinstance(tensor, gs.Constant):
        return False
    return bool(tensor.values.dtype == np.int64) and int(tensor.values.size) <= _MAX_INFERRED_VALUES


def _shape_of(tensor_type: Any) -> list[int | str | None]:
    dims = tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims]


def _reason(error: Exception) -> str:
    """The last sentence of ONNX's message, without its C++ location."""
    lines = [line for line in str(error).strip().splitlines() if line]
    return lines[-1].split("] ")[-1].rstrip(".") if lines else "shape inference failed"
