"""Manners for onnx-graphsurgeon: the verbs that passes speak, and the only file that knows where its API bites.

A graph output is not among a tensor's consumers there, tensors compare by name, and its own sort recurses; here
outputs count, identity decides, and nothing recurses.
"""

from __future__ import annotations

import difflib
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_passes.errors import GraphError

# graphsurgeon prints through a logger of its own; what matters of its warnings, check() raises.
G_LOGGER.severity = G_LOGGER.CRITICAL

Array: TypeAlias = npt.NDArray[Any]


class View:
    """Who makes and who reads what in one graph, at the time of asking. Graph outputs count as readers."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._outputs = Counter(id(tensor) for tensor in graph.outputs)
        self._own = {id(node) for node in graph.nodes}
        self._names = {tensor.name for tensor in tensors(graph)}

    def is_output(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self._outputs

    def readers(self, tensor: gs.Tensor) -> int:
        """How often ``tensor`` is read: by nodes, by nodes inside If or Loop bodies, as a graph output."""
        return len(tensor.outputs) + self._outputs[id(tensor)]

    def sole_consumer(self, tensor: gs.Tensor) -> gs.Node | None:
        """The one node that reads ``tensor``, if nothing else does and it stands in this graph itself."""
        if self.readers(tensor) != 1 or not tensor.outputs or id(tensor.outputs[0]) not in self._own:
            return None
        return tensor.outputs[0]

    def fresh(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``... where a tensor has it already."""
        candidate, number = name, 0
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    def constant(self, name: str, values: Array) -> gs.Constant:
        """A new constant under a name of its own."""
        return gs.Constant(self.fresh(name), values)

    def replaced(self, old: gs.Constant, values: Array) -> gs.Constant:
        """A constant for ``old`` with other values: of its name if only one node reads it, else of a fresh one."""
        if self.readers(old) <= 1:
            return gs.Constant(old.name, values)
        return self.constant(old.name, values)


def tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Every tensor that nodes or the graph itself name, those of subgraphs included; some come more than once."""
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs
        for inner in node.subgraphs():
            yield from tensors(inner)


def ops(graph: gs.Graph, *kinds: str) -> list[gs.Node]:
    """The nodes of these op types in ONNX's own domain, in the graph's order."""
    return [node for node in graph.nodes if node.op in kinds and node.domain in (None, "", "ai.onnx")]


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes ``tensor``, or None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def value(tensor: gs.Tensor) -> Array | None:
    """The values of a constant, or None if ``tensor`` is none."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def set_input(node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    """Make ``tensor`` the input ``index``, which may be one behind the last."""
    inputs = list(node.inputs)
    inputs[index : index + 1] = [tensor]
    node.inputs = inputs


def take_over(maker: gs.Node, last: gs.Node, between: Sequence[gs.Node]) -> None:
    """Let ``maker`` make the first output of ``last``; ``between``, ``last`` among them, are cut off."""
    result = last.outputs[0]
    for node in between:
        node.inputs = []
        node.outputs = []
    maker.outputs = [result]


def drop_nodes(graph: gs.Graph, nodes: Sequence[gs.Node]) -> None:
    """Take ``nodes`` out of the graph, in one go."""
    gone = {id(node) for node in nodes}
    for node in nodes:
        node.inputs = []
        node.outputs = []
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def check(graph: gs.Graph) -> None:
    """Raises GraphError unless node names and tensor names are unique and every node stands behind what it reads."""
    made = {id(tensor) for tensor in graph.inputs}
    owner: dict[str, int] = {}
    names: set[str] = set()
    for node in graph.nodes:
        if node.name and node.name in names:
            raise GraphError(f"two nodes are called '{node.name}'")
        names.add(node.name)
        for tensor in (*node.inputs, *node.outputs):
            if tensor.name and owner.setdefault(tensor.name, id(tensor)) != id(tensor):
                raise GraphError(f"two tensors are called '{tensor.name}'")
        for tensor in node.inputs:
            if tensor.inputs and id(tensor) not in made and tensor.inputs[0].outputs:
                raise GraphError(f"node '{node.name}' stands before '{tensor.inputs[0].name}', whose result it reads")
        made.update(id(tensor) for tensor in node.outputs)


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'conv1'?" where a known name looks like ``name``, else nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def forget(array: Array) -> None:
    """Let go of the memory of a view on a mapped file that will not be read soon; it stays readable."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise"):
        return
    start = array.ctypes.data - np.frombuffer(base, np.uint8, 1).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)


def float64(array: Array) -> npt.NDArray[np.float64]:
    """A copy for arithmetic; results are rounded once, at the end."""
    return array.astype(np.float64)
