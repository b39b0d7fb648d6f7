"""What a graph costs: nodes, parameters, multiply-accumulates (MACs), all told and node by node.

MACs count Conv, ConvTranspose, Gemm and MatMul: one multiplication with its addition is one MAC. A Scan's step counts
as often as it runs.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_passes.graph import tensors


@dataclass(frozen=True)
class Cost:
    """``macs`` is None where a shape is not known in numbers."""

    nodes: Counter[str]
    parameters: int
    macs: int | None


def cost(graph: gs.Graph) -> Cost:
    """The cost of a graph as it stands. Constants that several nodes share count once."""
    constants = {id(t): t for t in tensors(graph) if isinstance(t, gs.Constant) and t.dtype.kind == "f"}
    parameters = sum(math.prod(t.shape) for t in constants.values())
    return Cost(Counter(node.op for node in graph.nodes), parameters, macs(graph))


def macs(graph: gs.Graph) -> int | None:
    """The MACs of all nodes, or None where a shape is not known in numbers."""
    total = 0
    for node in graph.nodes:
        count = node_macs(node)
        if count is None:
            return None
        total += count
    return total


def node_macs(node: gs.Node) -> int | None:
    """The MACs of one node; 0 for ops that do not multiply matrices."""
    if node.op == "Conv":
        return _product(node.outputs[0].shape, _part(node.inputs[1], 1))
    if node.op == "ConvTranspose":
        return _product(node.inputs[0].shape, _part(node.inputs[1], 1))
    if node.op == "Gemm":
        transposed = node.attrs.get("transA", 0)
        return _product(node.outputs[0].shape, _part(node.inputs[0], 0 if transposed else 1, 1 if transposed else None))
    if node.op == "MatMul":
        return _product(node.outputs[0].shape, _part(node.inputs[0], -1))
    if node.op == "Scan":
        steps = _part(node.inputs[len(node.inputs) - node.attrs["num_scan_inputs"]], 0, 1)
        inner = macs(node.attrs["body"])
        return None if inner is None else _product(steps, [inner])
    return 0


def _part(tensor: gs.Tensor, start: int, end: int | None = None) -> list[int] | None:
    return None if tensor.shape is None else list(tensor.shape)[start:end]


def _product(*shapes: list[int] | None) -> int | None:
    sizes = [size for shape in shapes for size in (shape if shape is not None else [None])]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[arg-type]
