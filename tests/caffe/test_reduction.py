"""Reduction and ArgMax against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def reduced(function: Callable[..., Array], axis: int = 0, coeff: float = 1) -> Oracle:
    """``function`` over all axes from ``axis`` on, times coeff."""
    return lambda inputs, blobs: np.asarray(coeff * function(inputs["x"], axis=tuple(range(axis, inputs["x"].ndim))))


def sum_of_magnitudes(x: Array, axis: tuple[int, ...]) -> Array:
    return np.abs(x).sum(axis)


def sum_of_squares(x: Array, axis: tuple[int, ...]) -> Array:
    return (x * x).sum(axis)


def best(values: Array, k: int) -> Array:
    """Places of the k largest of a vector; of equal values the last comes first, as sorted pairs have it."""
    return np.array(sorted(range(len(values)), key=lambda place: (values[place], place), reverse=True)[:k])


def places(axis: int, k: int = 1) -> Oracle:
    return lambda inputs, blobs: np.apply_along_axis(lambda v: best(v, k), axis, inputs["x"])


def maxima(axis: int, k: int = 1) -> Oracle:
    return lambda inputs, blobs: np.apply_along_axis(lambda v: v[best(v, k)], axis, inputs["x"])


def of_items(k: int = 1, *, with_values: bool = False) -> Oracle:
    """(N, 1, k) places in each item, or (N, 2, k) places and values; ones behind to the bottom's number of axes."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        items = inputs["x"].reshape(len(inputs["x"]), -1)
        found = [[best(item, k), item[best(item, k)]][: 1 + with_values] for item in items]
        return np.array(found).reshape(len(items), 1 + with_values, k, *[1] * (inputs["x"].ndim - 3))

    return want


def layer(kind: str, options: str = "", bottoms: str = 'bottom: "x"') -> str:
    return f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {options} }}'


def reduction(options: str) -> str:
    return layer("Reduction", f"reduction_param {{ {options} }}")


def arg_max(options: str) -> str:
    return layer("ArgMax", f"argmax_param {{ {options} }}")


X = {"x": (2, 3, 4, 5)}
FLAT = {"x": (4, 9)}
TIES = {"x": np.array([[1, 3, 2, 3, 0], [2, 2, 2, 2, 2], [-1, -2, -1, -3, -2]])}
PLANES = {"x": np.array([[[[1, 0], [2, 2]], [[1, 5], [2, 0]], [[0, 5], [2, 2]]]])}

# fmt: off
REDUCTIONS = [
    Row("the sum of everything is the default", layer("Reduction"), X, reduced(np.sum)),
    Row("a sum of each item", reduction("axis: 1"), X, reduced(np.sum, 1)),
    Row("a sum from axis 2 on", reduction("operation: SUM axis: 2"), X, reduced(np.sum, 2)),
    Row("a sum along the last axis", reduction("axis: -1"), X, reduced(np.sum, 3)),
    Row("a sum times coeff", reduction("axis: 1 coeff: -0.5"), X, reduced(np.sum, 1, -0.5)),
    Row("magnitudes", reduction("operation: ASUM"), X, reduced(sum_of_magnitudes)),
    Row("magnitudes of each channel times coeff", reduction("operation: ASUM axis: 2 coeff: 3"), X, reduced(sum_of_magnitudes, 2, 3)),
    Row("squares", reduction("operation: SUMSQ"), X, reduced(sum_of_squares)),
    Row("squares from a negative axis on, times coeff", reduction("operation: SUMSQ axis: -2 coeff: 0.5"), X, reduced(sum_of_squares, 2, 0.5)),
    Row("a mean", reduction("operation: MEAN"), X, reduced(np.mean)),
    Row("a mean of each item times coeff", reduction("operation: MEAN axis: 1 coeff: 2"), X, reduced(np.mean, 1, 2)),
    Row("one axis", layer("Reduction"), {"x": (7,)}, reduced(np.sum)),
]

ARG_MAXIMA = [
    Row("the largest of each item, all axes taken together", layer("ArgMax"), X, of_items()),
    Row("the three largest of each item", arg_max("top_k: 3"), X, of_items(3)),
    Row("places before values", arg_max("out_max_val: true"), X, of_items(with_values=True)),
    Row("three places before three values", arg_max("out_max_val: true top_k: 3"), X, of_items(3, with_values=True)),
    Row("two axes give three", layer("ArgMax"), FLAT, of_items()),
    Row("two axes give three, with values", arg_max("top_k: 2 out_max_val: true"), FLAT, of_items(2, with_values=True)),
    Row("three axes stay three", arg_max("top_k: 2"), {"x": (2, 3, 4)}, of_items(2)),
    Row("five axes stay five", arg_max("top_k: 2 out_max_val: true"), {"x": (2, 3, 2, 2, 2)}, of_items(2, with_values=True)),
    Row("all in order", arg_max("top_k: 9"), FLAT, of_items(9)),
    Row("along channels", arg_max("axis: 1"), X, places(1)),
    Row("along axis 0", arg_max("axis: 0"), X, places(0)),
    Row("along the last axis", arg_max("axis: -1"), X, places(3)),
    Row("the two largest along an axis", arg_max("axis: 2 top_k: 2"), X, places(2, 2)),
    Row("along an axis only the values", arg_max("axis: 1 out_max_val: true"), X, maxima(1)),
    Row("the three largest values along an axis", arg_max("axis: 3 top_k: 3 out_max_val: true"), X, maxima(3, 3)),
    Row("of equal values the last", layer("ArgMax"), TIES, of_items()),
    Row("of equal values the last comes first", arg_max("top_k: 4 out_max_val: true"), TIES, of_items(4, with_values=True)),
    Row("of equal values along an axis the last", arg_max("axis: 1"), PLANES, places(1)),
    Row("of equal values along an axis the last comes first", arg_max("axis: 1 top_k: 3"), PLANES, places(1, 3)),
]

REFUSALS = [
    Refusal("a reduction from an axis that is not there", reduction("axis: 4"), X, "axis 4 is out of range: the bottom has 4 axes"),
    Refusal("an operation that is none", reduction("operation: MAX"), X, "no value MAX, only SUM, ASUM, SUMSQ, MEAN"),
    Refusal("a reduction of two bottoms", layer("Reduction", bottoms='bottom: "x" bottom: "x"'), X, r"takes 1 bottom\(s\), not 2"),
    Refusal("weights for Reduction", layer("Reduction"), X, "takes no weights", [(3,)]),
    Refusal("the 0 largest", arg_max("top_k: 0"), X, "top_k 0 of 60 values"),
    Refusal("more than an item holds", arg_max("top_k: 61"), X, "top_k 61 of 60 values"),
    Refusal("more than the axis holds", arg_max("top_k: 4 axis: 1"), X, "top_k 4 of 3 values"),
    Refusal("an axis that is not there", arg_max("axis: -5"), X, "axis -5 is out of range"),
    Refusal("two tops", layer("ArgMax").replace("top:", 'top: "z" top:'), X, r"makes 1 top\(s\), the net names 2"),
]
# fmt: on

ROWS = [*REDUCTIONS, *ARG_MAXIMA]
AT_OTHER_OPSETS = named(
    ROWS,
    "a sum of each item",
    "magnitudes of each channel times coeff",
    "squares",
    "a mean of each item times coeff",
    "along an axis only the values",
    "of equal values the last comes first",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_reduction(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
