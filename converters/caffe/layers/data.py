"""Layers without bottoms that stay: DummyData and Parameter -> constants. The reader makes inputs of Input layers."""

from __future__ import annotations

from converters.builder import Builder
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.caffe.layers.training import dummy_shapes
from converters.errors import ShapeError, UnsupportedError


@importer("DummyData", options="dummy_data_param")
def dummy_data(layer: ParsedLayer, *, to: Builder) -> Results:
    """Blobs of one number each. (Randomly filled ones stand for data: they have become inputs before.)"""
    p = layer.options
    p.ignore("num", "channels", "height", "width", "shape")
    count = len(layer.all_tops)
    shapes = dummy_shapes(p, count)
    fillers = list(p.data_filler)
    if len(fillers) not in (0, 1, count):
        raise ShapeError(f"{len(fillers)} data_filler for {count} tops: none, one, or one a top")
    values = [filler.value for filler in fillers] or [0.0]
    values = values * count if len(values) == 1 else values
    blobs = dict(zip(layer.all_tops, zip(shapes, values, strict=True), strict=True))
    return [
        to.node("Expand", [to.scalar("value", value), to.ints("shape", shape)])
        for shape, value in (blobs[top] for top in layer.tops)
    ]


@importer("Parameter", options="parameter_param")
def parameter(layer: ParsedLayer, *, to: Builder) -> Results:
    """The layer's one blob as a top."""
    shape = list(layer.options.shape.dim)
    if not shape:
        raise UnsupportedError("shape is missing")
    (value,) = layer.weights(shape)
    return to.const("value", value)
