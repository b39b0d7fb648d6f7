"""Keep what lies between some tensors: the inputs and outputs that are named become those of the graph.

x -> conv1 -> a -> conv2 -> b        extract_branch(inputs=["a"], outputs=["b"])   a -> conv2 -> b
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_passes.errors import GraphError
from onnx_passes.graph import drop_nodes, nearest, producer, tensors


def extract_branch(graph: gs.Graph, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> list[str]:
    """Cut the graph. An input may be any tensor; without ``inputs`` the graph keeps those that the outputs need.

    Raises GraphError for a name that no tensor has, and where an output depends on an input that is not named.
    """
    named = {tensor.name: tensor for tensor in tensors(graph) if tensor.name}
    for name in [*inputs, *outputs]:
        if name not in named:
            raise GraphError(f"there is no tensor '{name}'{nearest(name, named)}")
    wanted = [named[name] for name in outputs] or list(graph.outputs)
    given = {id(named[name]) for name in inputs}
    kept, reached = _needed(wanted, given)
    if inputs:
        for tensor in graph.inputs:
            if id(tensor) in reached and id(tensor) not in given:
                raise GraphError(
                    f"{_path(tensor, wanted, given)} depends on input '{tensor.name}', not among {list(inputs)}"
                )
    dropped = [node for node in graph.nodes if id(node) not in kept]
    new_inputs = [named[name] for name in inputs] or [tensor for tensor in graph.inputs if id(tensor) in reached]
    if not dropped and _same(new_inputs, graph.inputs) and _same(wanted, graph.outputs):
        return []
    for tensor in new_inputs:
        if tensor.dtype is None or tensor.shape is None:
            raise GraphError(f"the shape of '{tensor.name}' is not known, so it cannot become an input")
    drop_nodes(graph, dropped)
    for tensor in new_inputs:
        tensor.inputs.clear()
    graph.inputs, graph.outputs = new_inputs, wanted
    return [
        f"{', '.join(t.name for t in new_inputs)} -> {', '.join(t.name for t in wanted)}: {len(dropped)} nodes dropped"
    ]


def _same(a: Sequence[gs.Tensor], b: Sequence[gs.Tensor]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _needed(wanted: Sequence[gs.Tensor], given: set[int]) -> tuple[set[int], set[int]]:
    """(nodes, tensors) that computing ``wanted`` reaches, going no further up than ``given``; as identities."""
    nodes: set[int] = set()
    reached: set[int] = set()
    todo = list(wanted)
    while todo:
        tensor = todo.pop()
        if id(tensor) in reached:
            continue
        reached.add(id(tensor))
        node = producer(tensor)
        if id(tensor) in given or node is None or id(node) in nodes:
            continue
        nodes.add(id(node))
        todo += node.inputs
        for inner in node.subgraphs(recursive=True):
            todo += [t for n in inner.nodes for t in n.inputs] + list(inner.outputs)
    return nodes, reached


def _path(tensor: gs.Tensor, wanted: Sequence[gs.Tensor], given: set[int]) -> str:
    """The outputs that read ``tensor``, by the first one found."""
    for output in wanted:
        if id(tensor) in _needed([output], given)[1]:
            return f"output '{output.name}'"
    return "an output"
