"""The public functions: load a file, save a graph, convert from file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.convert import Report
from converters.convert import convert as _convert
from converters.formats import format_named, format_of
from converters.loading import LoadOptions

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

PathName = str | PathLike[str]
Shapes = Mapping[str, Sequence[int]] | Sequence[int] | None


def load(
    source: PathName,
    *,
    file_format: str = "",
    prototxt: PathName | None = None,
    input_shape: Shapes = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    opset: int | None = None,
) -> gs.Graph:
    """The graph of a file, every tensor with its shape. Weights are views on the file until something changes them.

    ``input_shape`` is the shape of the only input, or shapes by name. ``inputs`` and ``outputs`` cut the net at blobs.
    Raises ConvertError.
    """
    path = Path(source)
    row = format_named(file_format) if file_format else format_of(path)
    options = LoadOptions(Path(prototxt) if prototxt else None, _shapes(input_shape), inputs, outputs, opset)
    graph = row.load(path, options)
    if (inputs or outputs) and not row.cuts:
        from onnx_passes import extract_branch

        extract_branch(graph, inputs=inputs, outputs=outputs)
    return graph


def save(graph: gs.Graph, target: PathName, *, file_format: str = "") -> None:
    """Write a graph; the file appears whole or not at all. Raises ConvertError."""
    path = Path(target)
    (format_named(file_format) if file_format else format_of(path)).save(graph, path, None)


def convert(source: PathName, target: PathName, *, input_shape: Shapes = None, **options: Any) -> Report:
    """From file to file: load, passes, save. ``options`` are those of the command line (fold_bn=True, verify=True...).

    Raises ConvertError or onnx_passes.GraphError.
    """
    return _convert(Path(source), Path(target), input_shapes=_shapes(input_shape), **options)


def _shapes(shapes: Shapes) -> Mapping[str, Sequence[int]]:
    if shapes is None:
        return {}
    return shapes if isinstance(shapes, Mapping) else {"": list(shapes)}
