"""Layers without bottoms that stay: DummyData and Parameter -> constants. (Input layers become graph inputs in the reader.)"""

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
    shapes = dummy_shapes(p, len(layer.tops))
    values = [filler.value for filler in p.data_filler] or [0.0]
    values = values * len(layer.tops) if len(values) == 1 else values
    if len(shapes) != len(layer.tops) or len(values) != len(layer.tops):
        raise ShapeError(f"{len(shapes)} shape(s) and {len(values)} filler(s) for {len(layer.tops)} tops: one, or one a top")
    return [
        to.node("Expand", [to.scalar("value", value), to.ints("shape", shape)])
        for shape, value in zip(shapes, values, strict=True)
    ]


@importer("Parameter", options="parameter_param")
def parameter(layer: ParsedLayer, *, to: Builder) -> Results:
    """The layer's one blob as a top."""
    shape = list(layer.options.shape.dim)
    if not shape:
        raise UnsupportedError("shape is missing")
    (value,) = layer.weights(shape)
    return to.const("value", value)
