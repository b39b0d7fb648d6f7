"""Convolution <-> Conv, Deconvolution <-> ConvTranspose, Im2col -> Conv with one-hot filters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, per_axis, shown, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError

# Values of the filters that stand for an Im2col: 256 MB.
_MOST_ONE_HOT = 1 << 26


@importer("Convolution", options="convolution_param", ignored=["force_nd_im2col"])
def convolution(layer: ParsedLayer, *bottoms: gs.Tensor, to: Builder) -> Results:
    """Cross-correlation of (N, C, spatial...) with filters (num_output, C / group, kernel...); sizes are floored."""
    p = layer.options
    channels, spatial = _channels_and_axes(layer, bottoms)
    kernel = _kernel(layer, spatial)
    _check_groups(channels, p.num_output, p.group)
    attributes = _attributes(layer, kernel)
    _check_fits(bottoms[0], kernel, attributes)
    constants = _weights(layer, to, (p.num_output, channels // p.group, *kernel))
    return [to.node("Conv", [x, *constants], **attributes) for x in bottoms]


@importer("Deconvolution", options="convolution_param", ignored=["force_nd_im2col"])
def deconvolution(layer: ParsedLayer, *bottoms: gs.Tensor, to: Builder) -> Results:
    """A convolution's transpose: filters (C, num_output / group, kernel...), top stride (size - 1) + extent - 2 pad."""
    p = layer.options
    channels, spatial = _channels_and_axes(layer, bottoms)
    kernel = _kernel(layer, spatial)
    _check_groups(channels, p.num_output, p.group)
    attributes = _attributes(layer, kernel)
    _check_result(bottoms[0], kernel, attributes)
    constants = _weights(layer, to, (channels, p.num_output // p.group, *kernel))
    return [to.node("ConvTranspose", [x, *constants], **attributes) for x in bottoms]


@importer("Im2col", options="convolution_param", ignored=["force_nd_im2col", "num_output", "bias_term", "group"])
def im2col(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Each kernel position as a channel of its own: (N, C * kernel, spatial...), channel = c * kernel + position."""
    channels, spatial = _channels_and_axes(layer, [x])
    kernel = _kernel(layer, spatial)
    positions = math.prod(kernel)
    if positions * positions * channels > _MOST_ONE_HOT:
        raise UnsupportedError(
            f"kernel {shown(kernel)} over {channels} channels is too large to write as a convolution"
        )
    one_hot = np.eye(positions, dtype=np.float32).reshape(positions, 1, *kernel)
    filters = np.tile(one_hot, (channels, *([1] * (spatial + 1))))
    attributes = _attributes(layer, kernel)
    _check_fits(x, kernel, attributes)
    attributes["group"] = channels
    return to.node("Conv", [x, to.const("weight", filters)], **attributes)


def _channels_and_axes(layer: ParsedLayer, bottoms: Sequence[gs.Tensor]) -> tuple[int, int]:
    """Channels and the number of spatial axes. More axes before the channels than the batch are refused."""
    if not bottoms:
        raise UnsupportedError("takes 1 or more bottom(s), not 0")
    x = bottoms[0]
    if any(list(other.shape) != list(x.shape) for other in bottoms):
        raise ShapeError(f"its bottoms differ in shape: {' and '.join(shown(b.shape) for b in bottoms)}")
    axis = canonical(layer.options.axis, len(x.shape))
    if axis != 1 or len(x.shape) < 3:
        raise UnsupportedError(
            f"channels on axis {axis} of {len(x.shape)}: only axis 1 before spatial axes has an ONNX form"
        )
    return sizes(x, 1, 2)[0], len(x.shape) - 2


def _kernel(layer: ParsedLayer, spatial: int) -> list[int]:
    kernel = per_axis(layer.options, "kernel_size", spatial, 0)
    if not all(kernel):
        raise UnsupportedError("kernel_size is missing or zero")
    return kernel


def _check_groups(channels: int, num_output: int, group: int) -> None:
    if not num_output or not group:
        raise UnsupportedError("num_output or group is missing or zero")
    if channels % group or num_output % group:
        raise ShapeError(f"{channels} channels to num_output {num_output} do not divide into {group} group(s)")


def _extents(kernel: Sequence[int], attributes: Mapping[str, Any]) -> list[int]:
    return [dilation * (k - 1) + 1 for k, dilation in zip(kernel, attributes["dilations"], strict=True)]


def _check_fits(x: gs.Tensor, kernel: Sequence[int], attributes: Mapping[str, Any]) -> None:
    """Raises ShapeError where not even one window lies inside the padded bottom."""
    extents = _extents(kernel, attributes)
    for size, extent, pad in zip(x.shape[2:], extents, attributes["pads"], strict=False):
        if isinstance(size, int) and size + 2 * pad < extent:
            raise ShapeError(f"a kernel of {extent} does not fit in a bottom of {size} with {pad} of padding")


def _check_result(x: gs.Tensor, kernel: Sequence[int], attributes: Mapping[str, Any]) -> None:
    """Raises ShapeError where a deconvolution's padding takes away all that it makes."""
    extents = _extents(kernel, attributes)
    for size, extent, pad, stride in zip(x.shape[2:], extents, attributes["pads"], attributes["strides"], strict=False):
        if isinstance(size, int) and stride * (size - 1) + extent - 2 * pad < 1:
            raise ShapeError(f"{pad} of padding leaves nothing of a top of {stride * (size - 1) + extent}")


def _weights(layer: ParsedLayer, to: Builder, shape: Sequence[int]) -> list[gs.Constant]:
    p = layer.options
    weight, *bias = layer.weights(shape, *([(p.num_output,)] if p.bias_term else []))
    return [to.const("weight", weight), *(to.const("bias", b) for b in bias)]


def _attributes(layer: ParsedLayer, kernel: Sequence[int]) -> dict[str, Any]:
    p = layer.options
    pads = per_axis(p, "pad", len(kernel), 0)
    strides = per_axis(p, "stride", len(kernel), 1)
    if not all(strides):
        raise UnsupportedError("stride is zero")
    return {
        "kernel_shape": list(kernel),
        "strides": strides,
        "pads": pads + pads,
        "dilations": per_axis(p, "dilation", len(kernel), 1),
        "group": p.group,
    }
