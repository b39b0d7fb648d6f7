"""InnerProduct <-> Gemm, Embed -> Gather."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs
from onnx import TensorProto

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import UnsupportedError


@importer("InnerProduct", options="inner_product_param")
def inner_product(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """y = x W^T + b over all axes from ``axis`` on, flattened; W (num_output, count), or turned by ``transpose``."""
    p = layer.options
    if not p.num_output:
        raise UnsupportedError("num_output is missing or zero")
    axis = canonical(p.axis, len(x.shape))
    count = math.prod(sizes(x, axis))
    shape = (count, p.num_output) if p.transpose else (p.num_output, count)
    weight, *bias = layer.weights(shape, *([(p.num_output,)] if p.bias_term else []))
    constants = [to.const("weight", weight), *(to.const("bias", b) for b in bias)]
    flat = x if axis == 1 and len(x.shape) == 2 else to.node("Flatten", [x], axis=axis)
    y = to.node("Gemm", [flat, *constants], transB=0 if p.transpose else 1)
    if axis == 1:
        return y
    return to.reshape(y, [0 if axis == 0 else -1, *sizes(x, 1, axis), p.num_output] if axis else [p.num_output])


@importer("Embed", options="embed_param")
def embed(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Row x of the weights for each number in x, plus the bias; numbers arrive as floats and are cut to integers."""
    p = layer.options
    if not p.num_output or not p.input_dim:
        raise UnsupportedError("num_output or input_dim is missing or zero")
    weight, *bias = layer.weights((p.input_dim, p.num_output), *([(p.num_output,)] if p.bias_term else []))
    indices = to.node("Cast", [x], to=TensorProto.INT64)
    rows = to.node("Gather", [to.const("weight", weight), indices], axis=0)
    return to.node("Add", [rows, to.const("bias", bias[0])]) if bias else rows
