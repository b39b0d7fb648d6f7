"""Convolution and Deconvolution against torch in float64, Im2col against numpy's sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def by_torch(function: Callable[..., torch.Tensor]) -> Callable[..., Oracle]:
    """``function``'s options -> what it makes of the bottom x and the blobs."""
    return lambda **options: (
        lambda inputs, blobs: function(*map(torch.from_numpy, [inputs["x"], *blobs]), **options).numpy()
    )


conv1d, conv2d, conv3d = map(by_torch, (functional.conv1d, functional.conv2d, functional.conv3d))
deconv1d, deconv2d, deconv3d = map(
    by_torch, (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
)


def on_x_and_z(oracle: Oracle) -> Oracle:
    """The tops of a layer with the bottoms x and z, each computed by itself."""
    return lambda inputs, blobs: {"y": oracle(inputs, blobs), "w": oracle({"x": inputs["z"]}, blobs)}


def columns(
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    pad: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
) -> Oracle:
    """The values under each kernel position as a channel: c * kernel + position, along any number of spatial axes."""
    ones, zeros = [1] * len(kernel), [0] * len(kernel)

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x = np.pad(inputs["x"], [(0, 0), (0, 0), *((p, p) for p in pad or zeros)])
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation or ones, strict=True)]
        windows = sliding_window_view(x, extent, axis=tuple(range(2, x.ndim)))
        steps = [slice(None, None, step) for step in [*(stride or ones), *(dilation or ones)]]
        taken = windows[(slice(None), slice(None), *steps)]
        behind_channels = np.moveaxis(taken, range(x.ndim, taken.ndim), range(2, 2 + len(kernel)))
        return behind_channels.reshape(len(x), -1, *taken.shape[2 : x.ndim])

    return want


def conv(options: str, kind: str = "Convolution", blobs: str = 'bottom: "x" top: "y"') -> str:
    return f'layer {{ name: "l" type: "{kind}" {blobs} convolution_param {{ {options} }} }}'


def deconv(options: str, blobs: str = 'bottom: "x" top: "y"') -> str:
    return conv(options, "Deconvolution", blobs)


def im2col(options: str) -> str:
    return conv(options, "Im2col")


X = {"x": (2, 6, 7, 8)}
LINE = {"x": (2, 6, 9)}
CUBE = {"x": (1, 2, 5, 4, 6)}
X_AND_Z = {"x": (2, 6, 7, 8), "z": (2, 6, 7, 8)}
TWO = 'bottom: "x" bottom: "z" top: "y" top: "w"'
WITHOUT_EFFECT = 'engine: CUDNN force_nd_im2col: true weight_filler { type: "xavier" } bias_filler { value: 1 }'

# fmt: off
CONVOLUTIONS = [
    Row("stride 1 and no padding are the defaults", conv("num_output: 4 kernel_size: 3"), X, conv2d(), [(4, 6, 3, 3), (4,)]),
    Row("a kernel of one", conv("num_output: 4 kernel_size: 1"), X, conv2d(), [(4, 6, 1, 1), (4,)]),
    Row("without bias", conv("num_output: 4 kernel_size: 3 bias_term: false"), X, conv2d(), [(4, 6, 3, 3)]),
    Row("the number of windows is rounded down", conv("num_output: 4 kernel_size: 3 stride: 2"), X, conv2d(stride=2), [(4, 6, 3, 3), (4,)]),
    Row("padding on all sides", conv("num_output: 4 kernel_size: 3 pad: 2"), X, conv2d(padding=2), [(4, 6, 3, 3), (4,)]),
    Row("dilation", conv("num_output: 4 kernel_size: 3 dilation: 2 pad: 1"), X, conv2d(dilation=2, padding=1), [(4, 6, 3, 3), (4,)]),
    Row("kernel_h and kernel_w", conv("num_output: 4 kernel_h: 3 kernel_w: 2"), X, conv2d(), [(4, 6, 3, 2), (4,)]),
    Row("everything by h and w", conv("num_output: 4 kernel_h: 1 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2"), X, conv2d(stride=(2, 3), padding=(1, 2)), [(4, 6, 1, 5), (4,)]),
    Row("pad_h alone leaves the width without padding", conv("num_output: 4 kernel_size: 3 pad_h: 1"), X, conv2d(padding=(1, 0)), [(4, 6, 3, 3), (4,)]),
    Row("all options once an axis", conv("num_output: 4 kernel_size: 3 kernel_size: 2 stride: 1 stride: 2 pad: 0 pad: 1 dilation: 2 dilation: 1"), X, conv2d(stride=(1, 2), padding=(0, 1), dilation=(2, 1)), [(4, 6, 3, 2), (4,)]),
    Row("two groups", conv("num_output: 4 kernel_size: 3 group: 2"), X, conv2d(groups=2), [(4, 3, 3, 3), (4,)]),
    Row("a group a channel", conv("num_output: 12 kernel_size: 3 group: 6 bias_term: false"), X, conv2d(groups=6), [(12, 1, 3, 3)]),
    Row("channels counted from behind", conv("num_output: 4 kernel_size: 3 axis: -3"), X, conv2d(), [(4, 6, 3, 3), (4,)]),
    Row("fillers and engine change nothing", conv(f"num_output: 4 kernel_size: 3 {WITHOUT_EFFECT}"), X, conv2d(), [(4, 6, 3, 3), (4,)]),
    Row("one spatial axis", conv("num_output: 4 kernel_size: 3 stride: 2 pad: 1"), LINE, conv1d(stride=2, padding=1), [(4, 6, 3), (4,)]),
    Row("three spatial axes", conv("num_output: 3 kernel_size: 2 pad: 1 dilation: 2"), CUBE, conv3d(padding=1, dilation=2), [(3, 2, 2, 2, 2), (3,)]),
    Row("three spatial axes, each told", conv("num_output: 3 kernel_size: 3 kernel_size: 1 kernel_size: 2 stride: 1 stride: 2 stride: 3"), CUBE, conv3d(stride=(1, 2, 3)), [(3, 2, 3, 1, 2), (3,)]),
    Row("two bottoms share the weights", conv("num_output: 4 kernel_size: 3 stride: 2", blobs=TWO), X_AND_Z, on_x_and_z(conv2d(stride=2)), [(4, 6, 3, 3), (4,)]),
]

DECONVOLUTIONS = [
    Row("deconvolution, stride 1 and no padding", deconv("num_output: 4 kernel_size: 3"), X, deconv2d(), [(6, 4, 3, 3), (4,)]),
    Row("deconvolution with a stride", deconv("num_output: 4 kernel_size: 3 stride: 2"), X, deconv2d(stride=2), [(6, 4, 3, 3), (4,)]),
    Row("padding of a deconvolution is cut off", deconv("num_output: 4 kernel_size: 4 stride: 2 pad: 1"), X, deconv2d(stride=2, padding=1), [(6, 4, 4, 4), (4,)]),
    Row("deconvolution with dilation", deconv("num_output: 4 kernel_size: 3 dilation: 2 pad: 2"), X, deconv2d(dilation=2, padding=2), [(6, 4, 3, 3), (4,)]),
    Row("deconvolution in two groups", deconv("num_output: 4 kernel_size: 3 group: 2"), X, deconv2d(groups=2), [(6, 2, 3, 3), (4,)]),
    Row("upsampling, a group a channel", deconv("num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 6 bias_term: false"), X, deconv2d(stride=2, padding=1, groups=6), [(6, 1, 4, 4)]),
    Row("deconvolution by h and w", deconv("num_output: 4 kernel_h: 1 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 0 pad_w: 2"), X, deconv2d(stride=(2, 3), padding=(0, 2)), [(6, 4, 1, 5), (4,)]),
    Row("deconvolution along one axis", deconv("num_output: 4 kernel_size: 3 stride: 2"), LINE, deconv1d(stride=2), [(6, 4, 3), (4,)]),
    Row("deconvolution along three axes", deconv("num_output: 3 kernel_size: 2 stride: 2"), CUBE, deconv3d(stride=2), [(2, 3, 2, 2, 2), (3,)]),
    Row("two bottoms share the weights of a deconvolution", deconv("num_output: 4 kernel_size: 3", TWO), X_AND_Z, on_x_and_z(deconv2d()), [(6, 4, 3, 3), (4,)]),
]

COLUMNS = [
    Row("columns", im2col("kernel_size: 3"), X, columns((3, 3))),
    Row("columns with stride and padding", im2col("kernel_size: 3 stride: 2 pad: 1"), X, columns((3, 3), (2, 2), (1, 1))),
    Row("columns with dilation", im2col("kernel_size: 2 dilation: 3"), X, columns((2, 2), dilation=(3, 3))),
    Row("columns by h and w", im2col("kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2"), X, columns((2, 3), (3, 1), (0, 2))),
    Row("columns along one axis", im2col("kernel_size: 4 stride: 2"), LINE, columns((4,), (2,))),
    Row("columns along three axes", im2col("kernel_size: 2 kernel_size: 1 kernel_size: 3"), CUBE, columns((2, 1, 3))),
    Row("columns ignore num_output and group", im2col("kernel_size: 2 num_output: 5 group: 2 bias_term: false"), X, columns((2, 2))),
]

W = [(4, 6, 3, 3), (4,)]
BIG = {"x": (1, 5, 64, 64)}
REFUSALS = [
    Refusal("no kernel", conv("num_output: 4"), X, "kernel_size is missing", W),
    Refusal("a kernel larger than the padded bottom", conv("num_output: 4 kernel_size: 9 pad: 0"), X, "a kernel of 9 does not fit in a bottom of 7 with 0 of padding", [(4, 6, 9, 9), (4,)]),
    Refusal("a dilated kernel larger than the bottom", conv("num_output: 4 kernel_size: 3 dilation: 4 stride: 2"), X, "a kernel of 9 does not fit", [(4, 6, 3, 3), (4,)]),
    Refusal("columns of a kernel larger than the bottom", im2col("kernel_size: 8"), X, "a kernel of 8 does not fit in a bottom of 7"),
    Refusal("padding that leaves nothing of a deconvolution", deconv("num_output: 4 kernel_size: 3 pad: 5"), X, "5 of padding leaves nothing of a top of 9", [(6, 4, 3, 3), (4,)]),
    Refusal("a kernel of zero", conv("num_output: 4 kernel_size: 0"), X, "kernel_size is missing or zero", W),
    Refusal("kernel_h without kernel_w", conv("num_output: 4 kernel_h: 3"), X, "kernel_size is missing or zero", W),
    Refusal("kernel_h and kernel_w with kernel_size", conv("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3"), X, "kernel_h and kernel_w stand instead of kernel_size", W),
    Refusal("stride_h with stride", conv("num_output: 4 kernel_size: 3 stride: 2 stride_h: 2"), X, "stand instead of stride", W),
    Refusal("pad_w with pad", conv("num_output: 4 kernel_size: 3 pad: 1 pad_w: 1"), X, "stand instead of pad", W),
    Refusal("kernel_h for three spatial axes", conv("num_output: 4 kernel_h: 3 kernel_w: 3"), CUBE, "for two spatial axes only", W),
    Refusal("three kernel sizes for two axes", conv("num_output: 4 kernel_size: 3 kernel_size: 3 kernel_size: 3"), X, "kernel_size is given 3 times for 2 spatial axes", W),
    Refusal("two dilations for three axes", conv("num_output: 3 kernel_size: 2 dilation: 1 dilation: 2"), CUBE, "dilation is given 2 times for 3", [(3, 2, 2, 2, 2), (3,)]),
    Refusal("stride 0", conv("num_output: 4 kernel_size: 3 stride: 0"), X, "stride is zero", W),
    Refusal("stride_h without stride_w", conv("num_output: 4 kernel_size: 3 stride_h: 2"), X, "stride is zero", W),
    Refusal("dilation 0", conv("num_output: 4 kernel_size: 3 dilation: 0"), X, "dilations must only contain positive values", W),
    Refusal("no num_output", conv("kernel_size: 3"), X, "num_output or group is missing", W),
    Refusal("groups that do not divide the channels", conv("num_output: 4 kernel_size: 3 group: 4"), X, "6 channels to num_output 4 do not divide into 4", W),
    Refusal("groups that do not divide num_output", conv("num_output: 4 kernel_size: 3 group: 3"), X, "6 channels to num_output 4 do not divide into 3", W),
    Refusal("group 0", conv("num_output: 4 kernel_size: 3 group: 0"), X, "num_output or group is missing", W),
    Refusal("weights of another kernel", conv("num_output: 4 kernel_size: 5"), X, "blob 0 is 4x6x3x3 in the weights file, but the net needs 4x6x5x5", W),
    Refusal("as many weights in another shape", conv("num_output: 6 kernel_size: 3"), {"x": (2, 4, 7, 8)}, "blob 0 is 4x6x3x3 .* needs 6x4x3x3", W),
    Refusal("a bias of another length", conv("num_output: 4 kernel_size: 3"), X, "blob 1 is 5 in the weights file, but the net needs 4", [(4, 6, 3, 3), (5,)]),
    Refusal("a bias that the net does not have", conv("num_output: 4 kernel_size: 3 bias_term: false"), X, r"1 blob\(s\) by its prototxt, 2 in the weights file", W),
    Refusal("no bias in the weights file", conv("num_output: 4 kernel_size: 3"), X, r"2 blob\(s\) by its prototxt, 1 in the weights file", W[:1]),
    Refusal("no weights", conv("num_output: 4 kernel_size: 3"), X, "the weights file has no layer of this name"),
    Refusal("channels on another axis", conv("num_output: 4 kernel_size: 3 axis: 2"), X, "channels on axis 2 of 4", W),
    Refusal("an axis that is not there", conv("num_output: 4 kernel_size: 3 axis: 4"), X, "axis 4 is out of range", W),
    Refusal("no spatial axes", conv("num_output: 4 kernel_size: 1"), {"x": (2, 6)}, "only axis 1 before spatial axes", W),
    Refusal("bottoms of two shapes", conv("num_output: 4 kernel_size: 3", blobs=TWO), {**X, "z": (2, 6, 7, 9)}, "its bottoms differ in shape: 2x6x7x8 and 2x6x7x9", W),
    Refusal("two bottoms for one top", conv("num_output: 4 kernel_size: 3", blobs='bottom: "x" bottom: "z" top: "y"'), X_AND_Z, r"makes 2 top\(s\), the net names 1", W),
    Refusal("no bottom", conv("num_output: 4 kernel_size: 3", blobs='top: "y"'), X, r"takes 1 or more bottom\(s\), not 0", W),
    Refusal("deconvolution with the filters of a convolution", deconv("num_output: 4 kernel_size: 3"), X, "blob 0 is 4x6x3x3 .* needs 6x4x3x3", W),
    Refusal("deconvolution whose groups do not divide", deconv("num_output: 4 kernel_size: 3 group: 6"), X, "do not divide into 6", W),
    Refusal("deconvolution without a kernel", deconv("num_output: 4"), X, "kernel_size is missing", W),
    Refusal("columns without a kernel", im2col("stride: 2"), X, "kernel_size is missing"),
    Refusal("columns of too large a kernel", im2col("kernel_size: 64"), BIG, "kernel 64x64 over 5 channels is too large"),
    Refusal("columns with weights", im2col("kernel_size: 3"), X, r"takes no weights, but the weights file has 2 blob\(s\)", W),
    Refusal("columns of two bottoms", conv("kernel_size: 3", "Im2col", TWO), X_AND_Z, r"takes 1 bottom\(s\), not 2"),
]
# fmt: on

ROWS = [*CONVOLUTIONS, *DECONVOLUTIONS, *COLUMNS]
AT_OTHER_OPSETS = named(ROWS, "everything by h and w", "two groups", "three spatial axes", "upsampling, a group a channel", "columns with stride and padding")  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_convolution(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", named(ROWS, "two groups", "upsampling, a group a channel"), ids=lambda row: row.says)
def test_old_files_give_four_axes(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path, four_axes=True)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
