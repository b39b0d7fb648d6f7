"""Reduction <-> ReduceSum and its like, ArgMax <-> ArgMax or TopK."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import UnsupportedError

_OPS = {1: "ReduceSum", 2: "ReduceL1", 3: "ReduceSumSquare", 4: "ReduceMean"}
_TO_THE_START = -(2**63) + 1


@importer("Reduction", options="reduction_param")
def reduction(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """SUM, ASUM, SUMSQ or MEAN over all axes from ``axis`` on, times coeff."""
    p = layer.options
    axes = range(canonical(p.axis, len(x.shape)), len(x.shape))
    y = to.reduce(_OPS[p.operation], x, axes, keepdims=False)
    return y if p.coeff == 1 else to.node("Mul", [y, to.scalar("coeff", p.coeff)])


@importer("ArgMax", options="argmax_param")
def arg_max(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """The places of the ``top_k`` largest values, as floats; of equal values the last is first (argmax_layer.cpp).

    Along an axis: places, or with ``out_max_val`` the values, in a blob of x's axes. Over whole items: (N, 1, k), with
    ``out_max_val`` (N, 2, k), places before values; a bottom of more axes gets ones behind.
    """
    p = layer.options
    if p.has("axis"):
        axis = canonical(p.axis, len(x.shape))
        values, places = _largest(x, axis, p.top_k, to)
        return values if p.out_max_val else places
    flat = to.node("Flatten", [x], axis=1)
    values, places = _largest(flat, 1, p.top_k, to)
    ones = [1] * max(0, len(x.shape) - 3)
    if not p.out_max_val:
        return to.reshape(places, [0, 1, p.top_k, *ones])
    both = to.node("Concat", [places, values], axis=1)
    return to.reshape(both, [0, 2, p.top_k, *ones])


def _largest(x: gs.Tensor, axis: int, k: int, to: Builder) -> tuple[gs.Variable, gs.Variable]:
    """(values, places) of the k largest along ``axis``. TopK prefers the first of equals, so it reads backwards."""
    (size,) = sizes(x, axis, axis + 1)
    if not 1 <= k <= size:
        raise UnsupportedError(f"top_k {k} of {size} values")
    if k == 1:
        places = to.node("ArgMax", [x], axis=axis, keepdims=1, select_last_index=1)
        values = to.reduce("ReduceMax", x, [axis], keepdims=True)
        return values, to.node("Cast", [places], to=TensorProto.FLOAT)
    starts, ends, axes, steps = (to.ints("backwards", [n]) for n in (-1, _TO_THE_START, axis, -1))
    reversed_x = to.node("Slice", [x, starts, ends, axes, steps])
    values, places = to.nodes("TopK", [reversed_x, to.ints("k", [k])], 2, axis=axis, largest=1, sorted=1)
    forwards = to.node("Sub", [to.ints("last", [size - 1]), places])
    return values, to.node("Cast", [forwards], to=TensorProto.FLOAT)
