"""Eltwise, Scale and Bias against numpy in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def weighted_sum(*coeff: float) -> Oracle:
    """The bottoms x, z... times a coefficient each, added up."""
    return lambda inputs, blobs: sum(c * x for c, x in zip(coeff, inputs.values(), strict=True))


def product(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    return np.prod(list(inputs.values()), axis=0)


def maximum(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    return np.max(list(inputs.values()), axis=0)


def laid(factor: Array, x: Array, axis: int) -> Array:
    """``factor`` with its first axis at ``axis`` of x and ones behind."""
    return factor.reshape(factor.shape + (1,) * (x.ndim - axis - factor.ndim))


def scaled(axis: int = 1) -> Oracle:
    """x * factor (+ bias), the factor from the bottom z or the first blob; both begin at ``axis``."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, *factors = *inputs.values(), *blobs
        y = x * laid(factors[0], x, axis)
        return y + laid(factors[1], x, axis) if factors[1:] else y

    return want


def shifted(axis: int = 1) -> Oracle:
    """x + bias, from the bottom z or the blob."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, bias = *inputs.values(), *blobs
        return x + laid(bias, x, axis)

    return want


def scaled_by_sum(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    return inputs["x"] * inputs["z"].sum()


def layer(kind: str, options: str, bottoms: str = "x") -> str:
    named_bottoms = " ".join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "l" type: "{kind}" {named_bottoms} top: "y" {options} }}'


def eltwise(options: str, bottoms: str = "xz") -> str:
    return layer("Eltwise", f"eltwise_param {{ {options} }}", bottoms)


def scale(options: str, bottoms: str = "x") -> str:
    return layer("Scale", f"scale_param {{ {options} }}", bottoms)


def bias(options: str, bottoms: str = "x") -> str:
    return layer("Bias", f"bias_param {{ {options} }}", bottoms)


X = {"x": (2, 3, 4, 5)}
TWO = {**X, "z": (2, 3, 4, 5)}
THREE = {**TWO, "v": (2, 3, 4, 5)}
FLAT = {"x": (4, 6)}
SUM_OF_Z = 'layer { name: "s" type: "Reduction" bottom: "z" top: "s" }'


def by(shape: Sequence[int]) -> dict[str, Sequence[int]]:
    """Bottoms x and z, z of another shape."""
    return {**X, "z": shape}


# fmt: off
ELTWISE = [
    Row("a sum is the default", layer("Eltwise", "", "xz"), TWO, weighted_sum(1, 1)),
    Row("a sum of three", eltwise("operation: SUM", "xzv"), THREE, weighted_sum(1, 1, 1)),
    Row("a coefficient a bottom", eltwise("coeff: 0.5 coeff: -2"), TWO, weighted_sum(0.5, -2)),
    Row("a difference", eltwise("coeff: 1 coeff: -1"), TWO, weighted_sum(1, -1)),
    Row("the other difference", eltwise("coeff: -1 coeff: 1"), TWO, weighted_sum(-1, 1)),
    Row("coefficients of three", eltwise("operation: SUM coeff: 1 coeff: -1 coeff: 0.25", "xzv"), THREE, weighted_sum(1, -1, 0.25)),
    Row("a coefficient of zero", eltwise("coeff: 0 coeff: 1"), TWO, weighted_sum(0, 1)),
    Row("a product", eltwise("operation: PROD"), TWO, product),
    Row("a product of three", eltwise("operation: PROD stable_prod_grad: false", "xzv"), THREE, product),
    Row("a maximum", eltwise("operation: MAX"), TWO, maximum),
    Row("a maximum of three", eltwise("operation: MAX", "xzv"), THREE, maximum),
    Row("coefficients have no effect on a maximum", eltwise("operation: MAX coeff: 3 coeff: -1"), TWO, maximum),
    Row("a blob with itself", eltwise("coeff: 3 coeff: 1", "xx"), X, lambda inputs, blobs: 4 * inputs["x"]),
]

SCALES = [
    Row("a factor a channel", layer("Scale", ""), X, scaled(), [(3,)]),
    Row("a factor and a bias a channel", scale("bias_term: true"), X, scaled(), [(3,), (3,)]),
    Row("fillers change nothing", scale("filler { value: 2 } bias_term: true bias_filler { value: 1 }"), X, scaled(), [(3,), (3,)]),
    Row("over two axes", scale("bias_term: true"), FLAT, scaled(), [(6,), (6,)]),
    Row("axis 0", scale("axis: 0 bias_term: true"), X, scaled(0), [(2,), (2,)]),
    Row("axis 2", scale("axis: 2"), X, scaled(2), [(4,)]),
    Row("the last axis", scale("axis: -1 bias_term: true"), X, scaled(3), [(5,), (5,)]),
    Row("num_axes 2", scale("num_axes: 2 bias_term: true"), X, scaled(), [(3, 4), (3, 4)]),
    Row("num_axes -1 covers all behind", scale("num_axes: -1 bias_term: true"), X, scaled(), [(3, 4, 5), (3, 4, 5)]),
    Row("axis 0 and num_axes -1 cover everything", scale("axis: 0 num_axes: -1"), X, scaled(0), [(2, 3, 4, 5)]),
    Row("num_axes 0 is one number", scale("num_axes: 0"), X, scaled(), [()]),
    Row("num_axes 0 with a bias", scale("num_axes: 0 axis: 3 bias_term: true"), X, scaled(), [(), ()]),
    Row("a second bottom of channels", layer("Scale", "", "xz"), by((3,)), scaled()),
    Row("a second bottom of items and channels, as in SE blocks", scale("axis: 0", "xz"), by((2, 3)), scaled(0)),
    Row("a second bottom from a negative axis on", scale("axis: -2", "xz"), by((4, 5)), scaled(2)),
    Row("a second bottom of x's own shape", scale("axis: 0", "xz"), TWO, scaled(0)),
    Row("num_axes has no effect on a second bottom", scale("axis: 0 num_axes: 3", "xz"), by((2,)), scaled(0)),
    Row("a second bottom and a bias", scale("bias_term: true", "xz"), by((3,)), scaled(), [(3,)]),
    Row("a second bottom of two axes and a bias", scale("axis: 0 bias_term: true", "xz"), by((2, 3)), scaled(0), [(2, 3)]),
    Row("a second bottom of no axes", SUM_OF_Z + scale("axis: 2", "xs"), by((3,)), scaled_by_sum),
]

BIASES = [
    Row("a bias a channel", layer("Bias", ""), X, shifted(), [(3,)]),
    Row("a bias over two axes", bias("filler { value: 3 }"), FLAT, shifted(), [(6,)]),
    Row("a bias on axis 0", bias("axis: 0"), X, shifted(0), [(2,)]),
    Row("a bias on the last axis", bias("axis: -1"), X, shifted(3), [(5,)]),
    Row("a bias with num_axes 2", bias("num_axes: 2"), X, shifted(), [(3, 4)]),
    Row("a bias with num_axes -1", bias("axis: 2 num_axes: -1"), X, shifted(2), [(4, 5)]),
    Row("a bias with num_axes 0", bias("num_axes: 0"), X, shifted(), [()]),
    Row("a bias from a second bottom", layer("Bias", "", "xz"), by((3,)), shifted()),
    Row("a bias from a second bottom on axis 0", bias("axis: 0 num_axes: 4", "xz"), by((2, 3)), shifted(0)),
]

REFUSALS = [
    Refusal("one bottom", eltwise("", "x"), X, r"takes 2 or more bottom\(s\), not 1"),
    Refusal("a product with coefficients", eltwise("operation: PROD coeff: 1 coeff: 2"), TWO, "coeff goes with SUM only"),
    Refusal("fewer coefficients than bottoms", eltwise("coeff: 2"), TWO, "has 1 coeff for 2 bottoms"),
    Refusal("more coefficients than bottoms", eltwise("coeff: 1 coeff: -1 coeff: 1"), TWO, "has 3 coeff for 2 bottoms"),
    Refusal("bottoms of other sizes", eltwise(""), by((2, 3, 4, 6)), "its bottoms differ in shape: 2x3x4x5 and 2x3x4x6"),
    Refusal("a sum that numpy would broadcast", eltwise(""), by((2, 3, 1, 1)), "its bottoms differ in shape: 2x3x4x5 and 2x3x1x1"),
    Refusal("a product that numpy would broadcast", eltwise("operation: PROD"), by((1,)), "its bottoms differ in shape: 2x3x4x5 and 1"),
    Refusal("a third bottom of another shape", eltwise("operation: MAX", "xzv"), {**TWO, "v": (2, 3, 4, 1)}, "differ in shape: .* and 2x3x4x1"),
    Refusal("an operation that is none", eltwise("operation: MIN"), TWO, "no value MIN, only PROD, SUM, MAX"),
    Refusal("weights for Eltwise", eltwise(""), TWO, "takes no weights", [(3,)]),
    Refusal("factors of another number of channels", scale(""), X, "blob 0 is 5 in the weights file, but the net needs 3", [(5,)]),
    Refusal("factors of fewer axes", scale("num_axes: 2"), X, "blob 0 is 3 .* needs 3x4", [(3,)]),
    Refusal("a bias that is not stored", scale("bias_term: true"), X, r"2 blob\(s\) by its prototxt, 1 in the weights file", [(3,)]),
    Refusal("a bias without bias_term", scale(""), X, r"1 blob\(s\) by its prototxt, 2 in the weights file", [(3,), (3,)]),
    Refusal("no factors", scale(""), X, "the weights file has no layer of this name"),
    Refusal("more axes than the bottom has", scale("axis: 3 num_axes: 2"), X, "axis 3 and num_axes 2 reach over the 4 axes", [(5,)]),
    Refusal("num_axes -2", scale("num_axes: -2"), X, "num_axes -2 reach over", [(3,)]),
    Refusal("an axis that is not there", scale("axis: 4"), X, "axis 4 is out of range", [(3,)]),
    Refusal("three bottoms", scale("", "xzv"), THREE, r"takes 1 to 2 bottom\(s\), not 3"),
    Refusal("a second bottom of other sizes", scale("", "xz"), by((3, 5)), "its second bottom, 3x5, does not lie along 2x3x4x5 from axis 1 on"),
    Refusal("a second bottom that numpy would broadcast", scale("axis: 0", "xz"), by((2, 3, 1, 1)), "2x3x1x1, does not lie along 2x3x4x5 from axis 0 on"),
    Refusal("a second bottom beyond the last axis", scale("axis: 3", "xz"), by((5, 1)), "5x1, does not lie along 2x3x4x5 from axis 3 on"),
    Refusal("bottoms in the wrong order", scale("axis: 0", "zx"), by((2, 3)), "2x3x4x5, does not lie along 2x3 from axis 0 on"),
    Refusal("a second bottom and factors too", scale("", "xz"), by((3,)), r"0 blob\(s\) by its prototxt, 1 in the weights file", [(3,)]),
    Refusal("bias of another number of channels", bias(""), X, "blob 0 is 5 .* needs 3", [(5,)]),
    Refusal("two blobs for Bias", bias(""), X, r"1 blob\(s\) by its prototxt, 2 in", [(3,), (3,)]),
    Refusal("no bias", bias(""), X, "the weights file has no layer of this name"),
    Refusal("a bias over more axes than there are", bias("axis: 2 num_axes: 3"), X, "axis 2 and num_axes 3 reach over", [(4, 5)]),
    Refusal("a bias from a bottom of other sizes", bias("", "xz"), by((4,)), "its second bottom, 4, does not lie along 2x3x4x5 from axis 1 on"),
    Refusal("a bias from a bottom and from a blob", bias("", "xz"), by((3,)), "takes no weights", [(3,)]),
]
# fmt: on

ROWS = [*ELTWISE, *SCALES, *BIASES]
AT_OTHER_OPSETS = named(
    ROWS,
    "coefficients of three",
    "a maximum of three",
    "num_axes 2",
    "a second bottom of items and channels, as in SE blocks",
    "a bias a channel",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_elementwise(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
