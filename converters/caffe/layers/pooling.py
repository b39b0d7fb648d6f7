"""Pooling <-> MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool; SPP -> several of them side by side.

Caffe rounds the number of windows up and lets the last one hang over the end (pooling_layer.cpp, Reshape):

    windows = ceil((size + 2 pad - kernel) / stride) + 1       (floor with round_mode: FLOOR)
    with padding, a last window that starts at or behind size + pad is dropped

ONNX floors, so the end padding is chosen such that its rule gives the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from converters.builder import Builder
from converters.caffe.layers.axes import hw, needs_axes, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError

MAX, AVE = 0, 1
FLOOR = 1
_LOWEST = float(np.finfo(np.float32).min)


class Windows(NamedTuple):
    """The windows along one axis. ``end`` is how far the last one reaches behind the input."""

    size: int
    kernel: int
    stride: int
    pad: int
    number: int

    @property
    def end(self) -> int:
        return max(0, (self.number - 1) * self.stride + self.kernel - self.size - self.pad)

    @property
    def last_is_empty(self) -> bool:
        """Without padding nothing drops a last window that starts behind the input (stride > kernel)."""
        return (self.number - 1) * self.stride - self.pad >= self.size


@importer("Pooling", options="pooling_param")
def pooling(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """MAX or AVE over windows of (N, C, H, W). A second top is the place of each maximum, h * W + w in its channel."""
    p = layer.options
    needs_axes(x, 4)
    if p.pool not in (MAX, AVE):
        raise UnsupportedError("pool method STOCHASTIC has no ONNX op; MAX and AVE do")
    kernel, stride, pad = hw(p, "kernel"), hw(p, "stride"), hw(p, "pad")
    if p.global_pooling:
        if kernel != (0, 0) or stride != (1, 1) or pad != (0, 0):
            raise UnsupportedError("global_pooling takes neither kernel nor stride nor pad")
        p.ignore("round_mode", "ceil_mode")
        if len(layer.tops) == 1:
            return to.node("GlobalMaxPool" if p.pool == MAX else "GlobalAveragePool", [x])
        kernel = (sizes(x, 2)[0], sizes(x, 2)[1])
    if p.pool == AVE and len(layer.tops) > 1:
        raise UnsupportedError("average pooling has one top, not 2")
    floor = p.round_mode == FLOOR or not p.ceil_mode
    axes = windows(sizes(x, 2), kernel, stride, pad, floor=floor)
    if p.pool == AVE:
        return average_pool(x, axes, to)
    return max_pool_with_mask(x, axes, to) if len(layer.tops) == 2 else max_pool(x, axes, to)


@importer("SPP", options="spp_param")
def spp(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """A pyramid of poolings with 1, 4, 16... windows, flattened and joined (spp_layer.cpp, GetPoolingParam)."""
    p = layer.options
    needs_axes(x, 4)
    if p.pool not in (MAX, AVE):
        raise UnsupportedError("pool method STOCHASTIC has no ONNX op; MAX and AVE do")
    if not p.pyramid_height:
        raise UnsupportedError("pyramid_height is missing")
    size = sizes(x, 2)
    pool = max_pool if p.pool == MAX else average_pool
    levels = []
    for level in range(p.pyramid_height):
        bins = 2**level
        kernel = [-(-s // bins) for s in size]
        pad = [(k * bins - s + 1) // 2 for k, s in zip(kernel, size, strict=True)]
        levels.append(pool(x, windows(size, kernel, kernel, pad, floor=False), to))
    if len(levels) == 1:
        return levels[0]
    return to.node("Concat", [to.node("Flatten", [pooled], axis=1) for pooled in levels], axis=1)


def windows(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], *, floor: bool
) -> list[Windows]:
    """How Caffe lays its windows along each axis. Raises ShapeError where Caffe would refuse."""
    found = []
    for n, k, s, p in zip(size, kernel, stride, pad, strict=True):
        if not k or not s:
            raise UnsupportedError("kernel_size is missing or zero" if not k else "stride is zero")
        if p >= k:
            raise ShapeError(f"pad {p} is not smaller than kernel_size {k}")
        room = n + 2 * p - k
        count = (room // s if floor else -(-room // s)) + 1
        if any(pad) and (count - 1) * s >= n + p:
            count -= 1
        if count < 1:
            raise ShapeError(f"kernel_size {k} does not fit in a bottom of {n}")
        found.append(Windows(n, k, s, p, count))
    return found


def max_pool(x: gs.Tensor, axes: Sequence[Windows], to: Builder) -> gs.Variable:
    """Maxima over what of each window lies in the input; an empty window gives the lowest float, as in Caffe."""
    if any(w.last_is_empty for w in axes):
        ends = [w.end for w in axes]
        x = _pad(x, [w.pad for w in axes], ends, _LOWEST, to)
        return to.node("MaxPool", [x], **_attributes(axes, [0] * len(axes), [0] * len(axes)))
    return to.node("MaxPool", [x], **_attributes(axes, [w.pad for w in axes], [w.end for w in axes]))


def max_pool_with_mask(x: gs.Tensor, axes: Sequence[Windows], to: Builder) -> Sequence[gs.Variable]:
    """Maxima and their places. ONNX counts places through the whole tensor, Caffe within each channel."""
    if any(w.last_is_empty for w in axes):
        raise UnsupportedError("the last window lies behind the bottom: it has no maximum whose place could be told")
    attributes = _attributes(axes, [w.pad for w in axes], [w.end for w in axes])
    pooled, places = to.nodes("MaxPool", [x], 2, **attributes)
    plane = to.ints("plane", [axes[0].size * axes[1].size])
    return pooled, to.node("Cast", [to.node("Mod", [places, plane])], to=1)


def average_pool(x: gs.Tensor, axes: Sequence[Windows], to: Builder) -> gs.Variable:
    """Sums divided by the window's area, clipped at size + pad: padding counts, what hangs over behind it does not."""
    if any(w.last_is_empty for w in axes):
        raise UnsupportedError("the last window lies behind the bottom: Caffe divides zero by zero there")
    pads, ends = [w.pad for w in axes], [w.end for w in axes]
    if all(end <= pad for pad, end in zip(pads, ends, strict=True)):
        return to.node("AveragePool", [x], **_attributes(axes, pads, ends), count_include_pad=int(any(pads)) or None)
    if any(pads):
        x = _pad(x, pads, pads, 0.0, to)
        ends = [max(0, end - pad) for pad, end in zip(pads, ends, strict=True)]
    return to.node("AveragePool", [x], **_attributes(axes, [0] * len(axes), ends))


def _attributes(axes: Sequence[Windows], begins: list[int], ends: list[int]) -> dict[str, list[int]]:
    return {"kernel_shape": [w.kernel for w in axes], "strides": [w.stride for w in axes], "pads": begins + ends}


def _pad(x: gs.Tensor, begins: Sequence[int], ends: Sequence[int], value: float, to: Builder) -> gs.Variable:
    """``x`` with ``value`` around its spatial axes."""
    pads = to.ints("pads", [0, 0, *begins, 0, 0, *ends])
    return to.node("Pad", [x, pads, to.scalar("padding", value)])
