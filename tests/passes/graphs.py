"""Small graphs for the passes, as ONNX text, and what onnxruntime computes of them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime

from converters.onnx_file.export import check, export

Array = npt.NDArray[Any]


def graph_of(text: str, *, dtype: Any = np.float32) -> gs.Graph:
    """The graph of ONNX text. Inputs whose names end in ``_`` become seeded constants: weights with a declared shape."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    weights = [info for info in model.graph.input if info.name.endswith("_")]
    for info in weights:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        rng = np.random.default_rng(zlib.crc32(info.name.encode()))
        values = np.asarray(rng.uniform(0.2, 1.2, shape), dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
        model.graph.input.remove(info)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{number}"
    return gs.import_onnx(onnx.shape_inference.infer_shapes(model))


def text_of(graph: gs.Graph) -> list[str]:
    """The graph's nodes as ``outputs = Op(inputs)``, in order."""
    return [
        f"{', '.join(t.name for t in node.outputs)} = {node.op}({', '.join(t.name for t in node.inputs)})"
        for node in graph.nodes
    ]


def run(graph: gs.Graph, feeds: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """All outputs on seeded input, optimisations off. The graph must be valid ONNX."""
    model, large = export(graph)
    check(model, large)
    for item in large:
        model.graph.initializer.append(onnx.numpy_helper.from_array(item.values, item.header.name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = feeds or {t.name: random_input(t) for t in graph.inputs}
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def random_input(tensor: gs.Tensor) -> Array:
    rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
    shape = [size if isinstance(size, int) else 3 for size in tensor.shape]
    return np.asarray(rng.uniform(-1, 1, shape), tensor.dtype)
