"""Layers that change each value by itself, and Softmax.

ReLU, PReLU, ELU, Sigmoid, TanH, AbsVal, Power, Exp, Log, BNLL, Threshold, Clip, Swish, Dropout.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError


@importer("ReLU", options="relu_param")
def relu(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """max(x, 0) + negative_slope * min(x, 0)"""
    slope = layer.options.negative_slope
    return to.node("LeakyRelu", [x], alpha=slope) if slope else to.node("Relu", [x])


@importer("PReLU", options="prelu_param")
def prelu(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """max(x, 0) + slope * min(x, 0), a slope a channel or one for all."""
    if len(x.shape) < 2:
        raise ShapeError("needs a bottom of 2 axes or more")
    channels = sizes(x, 1, 2)[0]
    (slope,) = layer.weights(() if layer.options.channel_shared else (channels,))
    shape = (1,) if layer.options.channel_shared else (channels, *([1] * (len(x.shape) - 2)))
    return to.node("PRelu", [x, to.const("slope", slope.reshape(shape))])


@importer("ELU", options="elu_param")
def elu(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """x above zero, alpha (exp(x) - 1) below."""
    return to.node("Elu", [x], alpha=layer.options.alpha)


@importer("Sigmoid", options="sigmoid_param")
def sigmoid(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """1 / (1 + exp(-x))"""
    return to.node("Sigmoid", [x])


@importer("TanH", options="tanh_param")
def tanh(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """tanh(x)"""
    return to.node("Tanh", [x])


@importer("AbsVal")
def abs_val(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """|x|"""
    return to.node("Abs", [x])


@importer("BNLL")
def bnll(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """log(1 + exp(x)), which ONNX calls Softplus."""
    return to.node("Softplus", [x])


@importer("Threshold", options="threshold_param")
def threshold(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """1 where x > threshold, else 0."""
    above = to.node("Greater", [x, to.scalar("threshold", layer.options.threshold)])
    return to.node("Cast", [above], to=TensorProto.FLOAT)


@importer("Clip", options="clip_param")
def clip(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """max(min, min(x, max)); Caffe requires both."""
    p = layer.options
    if not (p.has("min") and p.has("max")):
        raise UnsupportedError("needs both min and max")
    if p.min > p.max:  # ONNX's Clip lets the maximum win
        return to.node("Max", [to.node("Min", [x, to.scalar("max", p.max)]), to.scalar("min", p.min)])
    return to.node("Clip", [x, to.scalar("min", p.min), to.scalar("max", p.max)])


@importer("Swish", options="swish_param")
def swish(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """x * sigmoid(beta x)"""
    beta = layer.options.beta
    scaled = x if beta == 1 else to.node("Mul", [x, to.scalar("beta", beta)])
    return to.node("Mul", [x, to.node("Sigmoid", [scaled])])


@importer("Power", options="power_param")
def power(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """(shift + scale * x) ^ power; with scale or power zero a constant that does not read x (power_layer.cpp)."""
    p = layer.options
    exponent, scale, shift = p.power, p.scale, p.shift
    if exponent * scale == 0:
        return _filled(x, 1.0 if exponent == 0 else _pow(shift, exponent), to)
    return _raised(_affine(x, scale, shift, to), exponent, to)


@importer("Exp", options="exp_param")
def exp(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """base ^ (shift + scale * x), computed as base^shift * exp(log(base) * scale * x); base -1 means e."""
    p = layer.options
    log_base = _log_base(p.base)
    y = to.node("Exp", [_affine(x, log_base * p.scale, 0, to)])
    return _affine(y, _pow(math.e if p.base == -1 else p.base, p.shift), 0, to)


@importer("Log", options="log_param")
def log(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """log_base(shift + scale * x); base -1 means e."""
    p = layer.options
    log_base = _log_base(p.base)
    if log_base == 0:
        raise UnsupportedError("base 1 has no logarithm")
    return _affine(to.node("Log", [_affine(x, p.scale, p.shift, to)]), 1 / log_base, 0, to)


@importer("Dropout", options="dropout_param", ignored=["dropout_ratio"])
def dropout(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Nothing at test time: Caffe scales while it trains."""
    return x


@importer("Softmax", options="softmax_param")
def softmax(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """exp(x) / sum exp(x) along one axis."""
    return to.node("Softmax", [x], axis=canonical(layer.options.axis, len(x.shape)))


def _log_base(base: float) -> float:
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise UnsupportedError(f"base {base:g} is not a positive number; -1 stands for e")
    return math.log(base)


def _affine(x: gs.Tensor, scale: float, shift: float, to: Builder) -> gs.Tensor:
    """scale * x + shift, without the steps that change nothing."""
    y = x if scale == 1 else to.node("Mul", [x, to.scalar("scale", scale)])
    return y if shift == 0 else to.node("Add", [y, to.scalar("shift", shift)])


def _raised(x: gs.Tensor, exponent: float, to: Builder) -> gs.Tensor:
    return x if exponent == 1 else to.node("Pow", [x, to.scalar("power", exponent)])


def _pow(base: float, exponent: float) -> float:
    """C's pow: NaN where it has no real value."""
    with np.errstate(all="ignore"):
        return float(np.power(np.float32(base), np.float32(exponent)))


def _filled(x: gs.Tensor, value: float, to: Builder) -> gs.Variable:
    """A blob of x's shape that holds ``value`` everywhere."""
    return to.node("Expand", [to.scalar("value", value), to.node("Shape", [x])])
