"""BatchNorm <-> BatchNormalization, LRN <-> LRN, MVN -> its formula."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from converters.builder import Builder
from converters.caffe.layers.axes import needs_axes, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import UnsupportedError

ACROSS_CHANNELS = 0


@importer("BatchNorm", options="batch_norm_param", ignored=["moving_average_fraction"])
def batch_norm(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """y = (x - mean) / sqrt(variance + eps) a channel (batch_norm_layer.cpp).

    The file keeps running sums: blobs 0 and 1 times 1 / blob 2 are mean and variance; with blob 2 zero both are zero.
    With ``use_global_stats: false`` mean and variance are the batch's own, at test time too.
    """
    p = layer.options
    channels = sizes(x, 1, 2)[0] if len(x.shape) > 1 else 1
    mean, variance, factor = layer.weights((channels,), (channels,), (1,))
    if p.has("use_global_stats") and not p.use_global_stats:
        return _by_batch_statistics(x, p.eps, to)
    if len(x.shape) < 2:
        raise UnsupportedError("a bottom of one axis has no channels; ONNX's BatchNormalization needs an axis for them")
    if factor[0] != 1:
        # One over the factor is rounded first, as Caffe does.
        with np.errstate(all="ignore"):
            scale = np.float32(0) if factor[0] == 0 else np.float32(1) / factor[0]
            mean, variance = mean * scale, variance * scale
    constants = [
        to.const("gamma", np.ones(channels, np.float32)),
        to.const("beta", np.zeros(channels, np.float32)),
        to.const("mean", mean),
        to.const("variance", variance),
    ]
    return to.node("BatchNormalization", [x, *constants], epsilon=p.eps)


def _by_batch_statistics(x: gs.Tensor, eps: float, to: Builder) -> gs.Variable:
    if len(x.shape) < 2:
        raise UnsupportedError("a bottom of one axis has no channels")
    axes = [0, *range(2, len(x.shape))]
    centred = to.node("Sub", [x, to.reduce("ReduceMean", x, axes, keepdims=True)])
    variance = to.reduce("ReduceMean", to.node("Mul", [centred, centred]), axes, keepdims=True)
    deviation = to.node("Sqrt", [to.node("Add", [variance, to.scalar("eps", eps)])])
    return to.node("Div", [centred, deviation])


@importer("LRN", options="lrn_param")
def lrn(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Across channels: y = x / (k + alpha / n * sum x^2)^beta over n channels, which is ONNX's LRN.

    Within a channel: y = x * (1 + alpha * mean x^2)^-beta over n x n neighbours, zeros outside counted; k is not used.
    """
    p = layer.options
    needs_axes(x, 4)
    if p.local_size % 2 == 0:
        raise UnsupportedError(f"local_size {p.local_size} is even; Caffe takes odd ones only")
    if p.norm_region == ACROSS_CHANNELS:
        return to.node("LRN", [x], size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)
    p.ignore("k")
    squares = to.node("Mul", [x, x])
    pad = [(p.local_size - 1) // 2] * 4
    mean = to.node("AveragePool", [squares], kernel_shape=[p.local_size] * 2, pads=pad, count_include_pad=1)
    scaled = to.node("Add", [to.node("Mul", [mean, to.scalar("alpha", p.alpha)]), to.scalar("one", 1)])
    return to.node("Mul", [x, to.node("Pow", [scaled, to.scalar("minus_beta", -p.beta)])])


@importer("MVN", options="mvn_param")
def mvn(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """y = (x - mean) / (std + eps) over each channel's plane, or over all channels; the top always has four axes."""
    p = layer.options
    if not 1 <= len(x.shape) <= 4:
        raise UnsupportedError(f"takes 1 to 4 axes, not {len(x.shape)}")
    if len(x.shape) < 4:
        x = to.reshape(x, [0] * len(x.shape) + [1] * (4 - len(x.shape)))
    axes = [1, 2, 3] if p.across_channels else [2, 3]
    centred = to.node("Sub", [x, to.reduce("ReduceMean", x, axes, keepdims=True)])
    if not p.normalize_variance:
        p.ignore("eps")
        return centred
    variance = to.reduce("ReduceMean", to.node("Mul", [centred, centred]), axes, keepdims=True)
    deviation = to.node("Add", [to.node("Sqrt", [variance]), to.scalar("eps", p.eps)])
    return to.node("Div", [centred, deviation])
