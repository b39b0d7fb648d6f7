"""The records that everything about Caffe works on: a net of layers in the modern form, without any ONNX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from converters.caffe.prototxt import Fields, Scalar
from converters.caffe.schema import LayerParameter, NetParameter, Problem, fill
from converters.errors import FormatError


@dataclass
class Layer:
    """One layer: its LayerParameter, the line where it stands (0 if it comes from a binary) and what did not parse."""

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    message: Any
    line: int = 0
    problems: list[Problem] = field(default_factory=list)

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.type})"


@dataclass
class Net:
    """Layers in the order of the file, which is the order of execution.

    Once it is a deploy net it has ``outputs``; ``metadata`` is what its data layers say of preprocessing, ``dropped``
    are blobs of layers that only train.
    """

    name: str
    layers: list[Layer]
    state: Any
    outputs: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)


def net_from_tree(tree: Fields) -> Net:
    """The net of a tree that ``upgrade.modern`` has made modern.

    Raises FormatError for a field of the net itself that holds layers under an unknown name. Other unknown
    fields of the net (a fork's engine or solver settings) do not change what it computes and are passed over.
    """
    layers = [layer_from_tree(f.value, f.line) for f in tree if f.name == "layer" and not isinstance(f.value, Scalar)]
    header = NetParameter()
    for problem in fill(header, [f for f in tree if f.name != "layer" and not _looks_like_layer(f.value)]):
        if not problem.text.startswith("unknown field"):
            raise FormatError(f"line {problem.line}: {problem.text}")
    for f in tree:
        if f.name != "layer" and _looks_like_layer(f.value):
            raise FormatError(f"line {f.line}: unknown field '{f.name}', did you mean 'layer'?")
    return Net(header.name, layers, header.state)


def _looks_like_layer(value: Scalar | Fields) -> bool:
    return not isinstance(value, Scalar) and {"name", "type"} <= {f.name for f in value}


def layer_from_tree(tree: Fields, line: int) -> Layer:
    """A layer from its fields. What the schema does not know is kept as the layer's problems."""
    message = LayerParameter()
    problems = fill(message, [f for f in tree if f.name != "blobs"])
    return Layer(message.name, message.type, list(message.bottom), list(message.top), message, line, problems)


def wiring(layers: Iterable[Layer]) -> list[list[tuple[int, int] | None]]:
    """For each layer and each of its bottoms: (index of the layer, index of the top) that made it, or None.

    A blob that layers write in place has several makers; a bottom means the last one before it.
    """
    makers: dict[str, tuple[int, int]] = {}
    edges: list[list[tuple[int, int] | None]] = []
    for index, layer in enumerate(layers):
        edges.append([makers.get(bottom) for bottom in layer.bottoms])
        makers.update({top: (index, number) for number, top in enumerate(layer.tops)})
    return edges
