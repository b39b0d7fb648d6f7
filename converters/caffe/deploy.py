"""Train / test net -> deploy net: data layers become inputs, what only trains falls away.

The layers of phase TEST are kept (Net::FilterNet), layers that only train are dropped by name, and what fed them
becomes an output under its own name. Then the net may be cut: ``inputs`` are blobs that are fed from outside,
``outputs`` the blobs that are wanted; layers outside the cut need not even be known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from converters.caffe.layers.training import (
    LEARNED_TYPES,
    data_shapes,
    is_data,
    is_training,
    makes_softmax,
    random_tops,
)
from converters.caffe.net import Layer, Net, wiring
from converters.caffe.schema import LayerParameter
from converters.errors import ConvertError, ShapeError, place
from converters.registry import nearest

TEST = 1


def deploy(net: Net, is_known: Callable[[str], bool]) -> Net:
    """The net that is left for inference. ``is_known`` tells the types that have an importer."""
    included = [_softmax(layer) for layer in net.layers if _included(layer, net.state)]
    excluded = [layer for layer in net.layers if not _included(layer, net.state)]
    layers, dropped = _without_training(included)
    layers = _data_layers_of_other_phases(layers, excluded) + layers
    layers = _without_labels(layers, _label_tops(layers, dropped, is_known))
    metadata = _preprocessing(layers, is_known)
    layers = _data_to_inputs(layers, is_known)
    silenced = {bottom for layer in dropped if layer.type == "Silence" for bottom in layer.bottoms}
    gone = {top for layer in dropped for top in layer.tops}
    return Net(net.name, layers, net.state, _outputs(layers, silenced), metadata, gone)


def cut(net: Net, inputs: Sequence[str], outputs: Sequence[str]) -> Net:
    """Only what is needed to compute ``outputs`` (default: the net's own) from ``inputs`` and the net's other inputs.

    Raises ConvertError for a name that no layer makes or reads.
    """
    inputs, outputs = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
    made = {name for layer in net.layers for name in layer.tops}
    blobs = made | {name for layer in net.layers for name in layer.bottoms}
    for name in [*inputs, *outputs]:
        if name in net.dropped and name not in blobs:
            raise ConvertError(f"blob '{name}' is what only training computes: layers that train fall away")
        if name not in (blobs if name in inputs else made):
            raise ConvertError(f"no layer makes a blob '{name}'{nearest(name, made)}")
    layers = _fed_from_outside(net.layers, inputs)
    wanted = outputs or net.outputs
    edges = wiring(layers)
    last_maker = {top: index for index, layer in enumerate(layers) for top in layer.tops}
    needed = {last_maker[name] for name in wanted if name in last_maker}
    for index in range(len(layers) - 1, -1, -1):
        if index in needed:
            needed |= {edge[0] for edge in edges[index] if edge is not None}
    asked = {index for index, layer in enumerate(layers) if layer.type == "Input" and set(layer.tops) & set(inputs)}
    kept = [layer for index, layer in enumerate(layers) if index in needed | asked]
    _check_inputs_named(kept, inputs, wanted)
    return replace(net, layers=kept, outputs=wanted)


def _check_inputs_named(layers: Sequence[Layer], inputs: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ConvertError where inputs were named, but what is wanted depends on another one as well."""
    edges = wiring(layers)
    maker = {top: index for index, layer in enumerate(layers) for top in layer.tops}
    for index, layer in enumerate(layers):
        if inputs and layer.type == "Input" and not set(layer.tops) & set(inputs):
            output = next(name for name in wanted if name in maker and index in _ancestors(edges, maker[name]))
            raise ConvertError(f"output '{output}' depends on input '{layer.tops[0]}', not among {list(inputs)}")


def _fed_from_outside(layers: Sequence[Layer], inputs: Sequence[str]) -> list[Layer]:
    """``layers`` with each of ``inputs`` made by an Input layer instead of by its own layers."""
    if not inputs:
        return list(layers)
    declared = {top for layer in layers if layer.type == "Input" for top in layer.tops}
    fed = [name for name in inputs if name not in declared]
    made = [_input(name, None) for name in fed]
    for layer in layers:
        if not layer.tops or not set(layer.tops) <= set(fed):
            tops = [f"{top}@{layer.name}" if top in fed else top for top in layer.tops]
            made.append(replace(layer, tops=tops))
    return made


def _included(layer: Layer, state: Any) -> bool:
    message = layer.message
    if message.include and message.exclude:
        raise ConvertError(f"{layer}: has include and exclude rules; Caffe takes one or the other")
    if message.include:
        return any(_meets(state, rule) for rule in message.include)
    return not any(_meets(state, rule) for rule in message.exclude)


def _meets(state: Any, rule: Any) -> bool:
    """Net::StateMeetsRule, for phase TEST and the level and stages that the net states itself."""
    if rule.HasField("phase") and rule.phase != TEST:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return set(rule.stage) <= stages and not set(rule.not_stage) & stages


def _without_training(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """(layers that infer, layers that only train). What only adds up losses goes with them.

    Raises ConvertError where a layer that is needed reads what only training computes.
    """
    kept, dropped = [], []
    edges = wiring(layers)
    gone: set[int] = set()
    for index, layer in enumerate(layers):
        read = [edge is not None and edge[0] in gone for edge in edges[index]]
        if is_training(layer) or (read and all(read)):
            gone.add(index)
            dropped.append(layer)
        elif any(read):
            blob = layer.bottoms[read.index(True)]
            raise ConvertError(f"{layer}: reads '{blob}', which only a layer that trains computes")
        else:
            kept.append(layer)
    return kept, dropped


def _data_layers_of_other_phases(layers: Sequence[Layer], excluded: Sequence[Layer]) -> list[Layer]:
    """Layers of phase TRAIN that make what the TEST net reads and nobody makes there: often the only data layer."""
    missing = {
        bottom
        for layer, edges in zip(layers, wiring(layers), strict=True)
        for bottom, edge in zip(layer.bottoms, edges, strict=True)
        if edge is None
    }
    found = []
    for layer in excluded:
        if not layer.bottoms and missing & set(layer.tops):
            found.append(layer)
            missing -= set(layer.tops)
    return found


def _ancestors(edges: list[list[tuple[int, int] | None]], start: int) -> set[int]:
    """The layers that ``start`` depends on, itself among them; by index."""
    found, todo = {start}, [start]
    while todo:
        for edge in edges[todo.pop()]:
            if edge is not None and edge[0] not in found:
                found.add(edge[0])
                todo.append(edge[0])
    return found


def _label_tops(
    layers: Sequence[Layer], dropped: Sequence[Layer], is_known: Callable[[str], bool]
) -> set[tuple[int, int]]:
    """Tops of data layers that only losses compare with: (index of the data layer, index of the top).

    A result of the net is a prediction unless it stands only in later bottoms of losses and no learned layer made it.
    """
    edges = wiring(layers)
    read = {edge for row in edges for edge in row if edge is not None}
    compared = {bottom for layer in dropped for bottom in layer.bottoms[1:]}
    compared -= {layer.bottoms[0] for layer in dropped if layer.bottoms}
    sources = {i for i, layer in enumerate(layers) if is_data(layer, is_known) or layer.type == "DummyData"}
    tops = {(index, number) for index in sources for number in range(len(layers[index].tops))}
    useful: set[tuple[int, int]] = set()
    for index, layer in enumerate(layers):
        if index in sources or all((index, number) in read for number in range(len(layer.tops))):
            continue
        above = _ancestors(edges, index)
        learned = any(layers[i].type in LEARNED_TYPES for i in above)
        if learned or any(top not in compared for number, top in enumerate(layer.tops) if (index, number) not in read):
            useful |= {edge for i in above for edge in edges[i] if edge is not None}
    return tops - useful


def _without_labels(layers: Sequence[Layer], labels: set[tuple[int, int]]) -> list[Layer]:
    """``layers`` without the tops in ``labels`` and without everything that is computed from them."""
    edges = wiring(layers)
    gone = set(labels)
    kept = []
    for index, layer in enumerate(layers):
        if any(edge in gone for edge in edges[index]):
            gone |= {(index, number) for number in range(len(layer.tops))}
            continue
        tops = [top for number, top in enumerate(layer.tops) if (index, number) not in labels]
        if tops or not layer.tops:
            kept.append(layer if len(tops) == len(layer.tops) else replace(layer, tops=tops))
    return kept


def _data_to_inputs(layers: Sequence[Layer], is_known: Callable[[str], bool]) -> list[Layer]:
    """``layers`` with an Input layer for each input and each top that stands for data; what is declared stays so."""
    declared = {top for layer in layers if layer.type == "Input" for top in layer.tops}
    result = []
    for layer in layers:
        if layer.type == "Input":
            result += _single_inputs(layer)
            continue
        drawn = layer.tops if is_data(layer, is_known) else random_tops(layer)
        if drawn:
            with place(str(layer)):
                shapes = data_shapes(layer)
            result += [_input(top, shapes[top]) for top in drawn if top not in declared]
        kept = [top for top in layer.tops if top not in drawn]
        if kept or not drawn:
            result.append(replace(layer, tops=kept))
    return result


def _single_inputs(layer: Layer) -> list[Layer]:
    """An Input layer for each of its tops. Shapes are given once for all, or once a top (input_layer.cpp)."""
    shapes = [list(shape.dim) for shape in layer.message.input_param.shape]
    if len(shapes) not in (0, 1, len(layer.tops)):
        raise ShapeError(f"{layer}: {len(shapes)} shapes for {len(layer.tops)} tops: none, one, or one a top")
    shapes = shapes * len(layer.tops) if len(shapes) == 1 else shapes
    return [
        replace(
            _input(top, shapes[index] if shapes else None), name=layer.name, line=layer.line, problems=layer.problems
        )
        for index, top in enumerate(layer.tops)
    ]


def _preprocessing(layers: Sequence[Layer], is_known: Callable[[str], bool]) -> dict[str, str]:
    """What the first data layer does to its images before the net sees them. Caffe's images are BGR."""
    for layer in layers:
        if is_data(layer, is_known) and layer.message.HasField("transform_param"):
            p = layer.message.transform_param
            found = {
                "mean_value": list(p.mean_value),
                "mean_file": p.mean_file,
                "scale": p.scale if p.HasField("scale") else "",
            }
            return {f"preprocessing.{key}": str(value) for key, value in found.items() if value}
    return {}


def _softmax(layer: Layer) -> Layer:
    return (
        replace(layer, type="Softmax", bottoms=layer.bottoms[:1], tops=layer.tops[1:])
        if makes_softmax(layer)
        else layer
    )


def _input(name: str, shape: Sequence[int] | None) -> Layer:
    message = LayerParameter(name=name, type="Input")
    if shape is not None:
        message.input_param.shape.add().dim.extend(shape)
    return Layer(name, "Input", [], [name], message)


def _outputs(layers: Sequence[Layer], silenced: Collection[str]) -> list[str]:
    """The blobs that nobody reads, in Caffe's alphabetical order; not what Silence took, nor an unread input."""
    unread: dict[str, bool] = {}
    for layer in layers:
        for bottom in layer.bottoms:
            unread.pop(bottom, None)
        unread.update(dict.fromkeys(layer.tops, bool(layer.bottoms) or layer.type == "Parameter"))
    return sorted(name for name, computed in unread.items() if computed and name not in silenced)
