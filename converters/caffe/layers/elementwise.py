"""Eltwise, Scale and Bias: sums, products and maxima of blobs, and with weights along some axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, shown, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError

PROD, SUM, MAX = 0, 1, 2


@importer("Eltwise", options="eltwise_param", ignored=["stable_prod_grad"])
def eltwise(layer: ParsedLayer, x: gs.Tensor, y: gs.Tensor, *more: gs.Tensor, to: Builder) -> Results:
    """PROD, MAX, or SUM with a coefficient a bottom. All bottoms have one shape: Caffe does not broadcast here."""
    p = layer.options
    bottoms = [x, y, *more]
    if any(list(b.shape) != list(x.shape) for b in bottoms):
        raise ShapeError(f"its bottoms differ in shape: {' and '.join(shown(b.shape) for b in bottoms)}")
    if p.coeff and len(p.coeff) != len(bottoms):
        raise UnsupportedError(f"has {len(p.coeff)} coeff for {len(bottoms)} bottoms: one a bottom")
    if p.operation == MAX:
        return to.node("Max", bottoms)
    if p.operation == SUM:
        return _sum(bottoms, list(p.coeff), to)
    if p.coeff:
        raise UnsupportedError("coeff goes with SUM only")
    product = x
    for factor in bottoms[1:]:
        product = to.node("Mul", [product, factor])
    return product


def _sum(bottoms: Sequence[gs.Tensor], coeff: Sequence[float], to: Builder) -> gs.Variable:
    if list(coeff) == [1, -1]:
        return to.node("Sub", bottoms)
    terms = [
        b if c == 1 else to.node("Mul", [b, to.scalar("coeff", c)])
        for b, c in zip(bottoms, coeff or [1.0] * len(bottoms), strict=True)
    ]
    return to.node("Add" if len(terms) == 2 else "Sum", terms)


@importer("Scale", options="scale_param")
def scale(layer: ParsedLayer, x: gs.Tensor, factor: gs.Tensor | None = None, *, to: Builder) -> Results:
    """x * scale (+ bias), the scale laid along x's axes from ``axis`` on; learned, or the second bottom."""
    p = layer.options
    if factor is not None:
        p.ignore("num_axes")
        axis, covered = _covered_by(factor, x, p.axis)
        product = to.node("Mul", [x, _spread(factor, len(x.shape) - axis - len(covered), to)])
        biases = layer.weights(covered) if p.bias_term else layer.weights()
    else:
        axis, covered = _covered(x, p.axis, p.num_axes)
        weight, *biases = layer.weights(covered, *([covered] if p.bias_term else []))
        ones = [1] * (len(x.shape) - axis - len(covered) if covered else 0)
        product = to.node("Mul", [x, to.const("scale", weight.reshape([*covered, *ones]))])
    if not biases:
        return product
    ones = [1] * (len(x.shape) - axis - len(covered) if covered else 0)
    return to.node("Add", [product, to.const("bias", biases[0].reshape([*covered, *ones]))])


@importer("Bias", options="bias_param")
def bias(layer: ParsedLayer, x: gs.Tensor, term: gs.Tensor | None = None, *, to: Builder) -> Results:
    """x + bias, laid along x's axes from ``axis`` on; learned, or the second bottom."""
    p = layer.options
    if term is not None:
        p.ignore("num_axes")
        axis, covered = _covered_by(term, x, p.axis)
        return to.node("Add", [x, _spread(term, len(x.shape) - axis - len(covered), to)])
    axis, covered = _covered(x, p.axis, p.num_axes)
    (weight,) = layer.weights(covered)
    ones = [1] * (len(x.shape) - axis - len(covered) if covered else 0)
    return to.node("Add", [x, to.const("bias", weight.reshape([*covered, *ones]))])


def _covered(x: gs.Tensor, axis: int, num_axes: int) -> tuple[int, list[int]]:
    """(first axis, sizes) of the axes that a learned scale covers; ``num_axes`` 0 is one number, -1 the rest."""
    start = canonical(axis, len(x.shape))
    end = len(x.shape) if num_axes == -1 else start + num_axes
    if num_axes < -1 or end > len(x.shape):
        raise ShapeError(f"axis {axis} and num_axes {num_axes} reach over the {len(x.shape)} axes of the bottom")
    return start, sizes(x, start, end)


def _covered_by(factor: gs.Tensor, x: gs.Tensor, axis: int) -> tuple[int, list[int]]:
    """(first axis, sizes) of the axes of ``x`` that a second bottom covers."""
    count = len(factor.shape)
    start = canonical(axis, len(x.shape)) if count else 0
    if list(x.shape)[start : start + count] != list(factor.shape):
        raise ShapeError(
            f"its second bottom, {shown(factor.shape)}, does not lie along {shown(x.shape)} from axis {start} on"
        )
    return start, list(factor.shape)


def _spread(factor: gs.Tensor, trailing: int, to: Builder) -> gs.Tensor:
    """``factor`` with ``trailing`` axes of one behind, so that ONNX broadcasts it where Caffe lays it."""
    if not factor.shape or not trailing:
        return factor
    return to.reshape(factor, [0] * len(factor.shape) + [1] * trailing)
