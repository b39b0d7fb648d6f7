"""Pooling and SPP against Caffe's loops in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from converters import ConvertError
from tests.caffe.nets import Array, Refusal, Row, check_row, converted, seeded, write_net

Pair = tuple[int, int]


def pooled(
    x: Array, kind: str, kernel: Pair, stride: Pair = (1, 1), pad: Pair = (0, 0), *, floor: bool = False
) -> tuple[Array, Array]:
    """(top, mask) as pooling_layer.cpp computes them, window by window."""
    n, channels, height, width = x.shape
    rounded = math.floor if floor else math.ceil
    rows = rounded((height + 2 * pad[0] - kernel[0]) / stride[0]) + 1
    columns = rounded((width + 2 * pad[1] - kernel[1]) / stride[1]) + 1
    if any(pad):
        rows -= (rows - 1) * stride[0] >= height + pad[0]
        columns -= (columns - 1) * stride[1] >= width + pad[1]
    top = np.full((n, channels, rows, columns), float(np.finfo(np.float32).min) if kind == "MAX" else 0.0)
    mask = np.full(top.shape, -1.0)
    for i in np.ndindex(top.shape):
        top0, left0 = i[2] * stride[0] - pad[0], i[3] * stride[1] - pad[1]
        bottom, right = min(top0 + kernel[0], height + pad[0]), min(left0 + kernel[1], width + pad[1])
        area = (bottom - top0) * (right - left0)
        window = x[i[0], i[1], max(top0, 0) : min(bottom, height), max(left0, 0) : min(right, width)]
        if kind == "AVE":
            top[i] = window.sum() / area
        elif window.size:
            top[i] = window.max()
            row, column = np.unravel_index(window.argmax(), window.shape)
            mask[i] = (max(top0, 0) + row) * width + max(left0, 0) + column
    return top, mask


def pool(
    kind: str, kernel: Pair, stride: Pair = (1, 1), pad: Pair = (0, 0), *, floor: bool = False
) -> Callable[..., Array]:
    return lambda inputs, blobs: pooled(inputs["x"], kind, kernel, stride, pad, floor=floor)[0]


def layer(options: str) -> str:
    return f'layer {{ name: "l" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {options} }} }}'


def pyramid(kind: str, height: int) -> Callable[..., Array]:
    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x = inputs["x"]
        levels = []
        for level in range(height):
            bins = 2**level
            kernel = (math.ceil(x.shape[2] / bins), math.ceil(x.shape[3] / bins))
            pad = ((kernel[0] * bins - x.shape[2] + 1) // 2, (kernel[1] * bins - x.shape[3] + 1) // 2)
            levels.append(pooled(x, kind, kernel, kernel, pad)[0])
        return levels[0] if height == 1 else np.concatenate([y.reshape(len(x), -1) for y in levels], axis=1)

    return want


def spp(options: str) -> str:
    return f'layer {{ name: "l" type: "SPP" bottom: "x" top: "y" spp_param {{ {options} }} }}'


X = {"x": (2, 3, 7, 8)}

ROWS = [
    Row("max is the default, and stride 1", layer("kernel_size: 2"), X, pool("MAX", (2, 2))),
    Row("the number of windows is rounded up", layer("kernel_size: 2 stride: 2"), X, pool("MAX", (2, 2), (2, 2))),
    Row("an average that hangs over is divided by what is inside", layer("pool: AVE kernel_size: 2 stride: 2"), X, pool("AVE", (2, 2), (2, 2))),
    Row("a last window that starts in the far padding is dropped", layer("kernel_size: 2 stride: 2 pad: 1"), X, pool("MAX", (2, 2), (2, 2), (1, 1))),
    Row("padding counts in an average", layer("pool: AVE kernel_size: 3 stride: 2 pad: 1"), X, pool("AVE", (3, 3), (2, 2), (1, 1))),
    Row("what hangs over the padding does not count", layer("pool: AVE kernel_size: 3 stride: 3 pad: 1"), X, pool("AVE", (3, 3), (3, 3), (1, 1))),
    Row("h and w given apart", layer("kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0"), X, pool("MAX", (3, 1), (2, 3), (1, 0))),
    Row("h and w given apart, average", layer("pool: AVE kernel_h: 1 kernel_w: 4 stride_h: 1 stride_w: 3 pad_h: 0 pad_w: 2"), X, pool("AVE", (1, 4), (1, 3), (0, 2))),
    Row("round_mode FLOOR", layer("kernel_size: 2 stride: 2 round_mode: FLOOR"), X, pool("MAX", (2, 2), (2, 2), floor=True)),
    Row("the forks' ceil_mode: false", layer("pool: AVE kernel_size: 3 stride: 2 ceil_mode: false"), X, pool("AVE", (3, 3), (2, 2), floor=True)),
    Row("FLOOR with padding", layer("pool: AVE kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR"), X, pool("AVE", (3, 3), (2, 2), (1, 1), floor=True)),
    Row("a stride over the kernel leaves an empty window at the end", layer("kernel_size: 1 stride: 2"), {"x": (1, 2, 6, 6)}, pool("MAX", (1, 1), (2, 2))),
    Row("a kernel larger than the bottom", layer("kernel_size: 2 stride: 2"), {"x": (1, 2, 1, 1)}, pool("MAX", (2, 2), (2, 2))),
    Row("global max", layer("global_pooling: true"), X, pool("MAX", (7, 8))),
    Row("global average", layer("pool: AVE global_pooling: true"), X, pool("AVE", (7, 8))),
    Row("a pyramid of maxima", spp("pyramid_height: 3 pool: MAX"), X, pyramid("MAX", 3)),
    Row("a pyramid of averages", spp("pyramid_height: 2 pool: AVE"), X, pyramid("AVE", 2)),
    Row("a pyramid of one level keeps its axes", spp("pyramid_height: 1"), X, pyramid("MAX", 1)),
]  # fmt: skip

REFUSALS = [
    Refusal("STOCHASTIC", layer("pool: STOCHASTIC kernel_size: 2"), X, "STOCHASTIC has no ONNX op"),
    Refusal("an average whose last window is empty", layer("pool: AVE kernel_size: 1 stride: 2"), {"x": (1, 1, 6, 6)}, "divides zero by zero"),
    Refusal("no kernel", layer("stride: 2"), X, "kernel_size is missing"),
    Refusal("kernel_h without kernel_w", layer("kernel_h: 2"), X, "not a mixture"),
    Refusal("padding as large as the kernel", layer("kernel_size: 2 pad: 2"), X, "pad 2 is not smaller"),
    Refusal("three axes", layer("kernel_size: 2"), {"x": (2, 3, 4)}, "4 axes"),
    Refusal("a pyramid higher than the bottom", spp("pyramid_height: 6"), X, "not smaller than kernel_size"),
    Refusal("global pooling with a stride", layer("global_pooling: true stride: 2"), X, "neither kernel nor stride"),
    Refusal("a mask of averages", 'layer { name: "l" type: "Pooling" bottom: "x" top: "y" top: "m" pooling_param { pool: AVE kernel_size: 2 } }', X, "one top"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_pooling(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    source = write_net(tmp_path, row.layer, row.inputs)
    with pytest.raises(ConvertError, match=row.words):
        converted(tmp_path, source, {})


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("kernel_size: 2 stride: 2", ((2, 2), (2, 2))),
        ("kernel_size: 3 stride: 2 pad: 1", ((3, 3), (2, 2), (1, 1))),
        ("global_pooling: true", ((7, 8),)),
    ],
)
def test_second_top_is_the_place_of_each_maximum(options: str, arguments: tuple[Pair, ...], tmp_path: Path) -> None:
    text = layer(options).replace('top: "y"', 'top: "y" top: "mask"')
    x = seeded("x", X["x"])
    got = converted(tmp_path, write_net(tmp_path, text, X), {"x": x})
    top, mask = pooled(x.astype(np.float64), "MAX", *arguments)
    np.testing.assert_allclose(got["y"], top, rtol=1e-7)  # maxima are copies: only the float64 of the oracle differs
    np.testing.assert_array_equal(got["mask"], mask)


def test_the_first_of_equal_maxima_is_told(tmp_path: Path) -> None:
    text = layer("kernel_size: 2 stride: 2").replace('top: "y"', 'top: "y" top: "mask"')
    got = converted(tmp_path, write_net(tmp_path, text, {"x": (1, 1, 4, 4)}), {"x": np.ones((1, 1, 4, 4), np.float32)})
    assert got["mask"].ravel().tolist() == [0, 2, 8, 10]
