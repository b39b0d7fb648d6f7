"""InnerProduct and Embed against numpy in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def product(axis: int = 1, *, transpose: bool = False) -> Oracle:
    """x W^T + b with all axes from ``axis`` on flattened; with ``transpose`` x W + b."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, (weight, *bias) = inputs["x"], blobs
        kept = x.shape[:axis]
        flat = x.reshape(math.prod(kept), -1)
        y = flat @ (weight if transpose else weight.T)
        return sum(bias, y).reshape(*kept, -1)

    return want


def looked_up(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    """A row of the weights for each number, and the bias."""
    weight, *bias = blobs
    return sum(bias, weight[inputs["x"].astype(int)])


def inner_product(options: str) -> str:
    return f'layer {{ name: "l" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ {options} }} }}'


def embed(options: str) -> str:
    return f'layer {{ name: "l" type: "Embed" bottom: "x" top: "y" embed_param {{ {options} }} }}'


X = {"x": (3, 4, 2, 5)}
FLAT = {"x": (3, 6)}
WORDS = {"x": np.array([[0, 4, 2], [6, 6, 1]])}
FILLERS = 'weight_filler { type: "xavier" } bias_filler { value: 1 }'

# fmt: off
PRODUCTS = [
    Row("two axes", inner_product("num_output: 4"), FLAT, product(), [(4, 6), (4,)]),
    Row("four axes are flattened behind the batch", inner_product("num_output: 6"), X, product(), [(6, 40), (6,)]),
    Row("without bias", inner_product("num_output: 6 bias_term: false"), X, product(), [(6, 40)]),
    Row("transposed weights", inner_product("num_output: 6 transpose: true"), X, product(transpose=True), [(40, 6), (6,)]),
    Row("transposed weights as wide as high", inner_product("num_output: 6 transpose: true"), FLAT, product(transpose=True), [(6, 6), (6,)]),
    Row("axis 0 takes the whole bottom as one vector", inner_product("num_output: 3 axis: 0"), X, product(0), [(3, 120), (3,)]),
    Row("axis 0 of one axis", inner_product("num_output: 3 axis: 0"), {"x": (7,)}, product(0), [(3, 7), (3,)]),
    Row("axis 2 keeps two axes", inner_product("num_output: 3 axis: 2"), X, product(2), [(3, 10), (3,)]),
    Row("axis 2, transposed, without bias", inner_product("num_output: 3 axis: 2 transpose: true bias_term: false"), X, product(2, transpose=True), [(10, 3)]),
    Row("axis -1 keeps all but the last", inner_product("num_output: 3 axis: -1"), X, product(3), [(3, 5), (3,)]),
    Row("axis -1 of two axes", inner_product("num_output: 3 axis: -1"), FLAT, product(), [(3, 6), (3,)]),
    Row("one output", inner_product("num_output: 1"), FLAT, product(), [(1, 6), (1,)]),
    Row("fillers change nothing", inner_product(f"num_output: 4 {FILLERS}"), FLAT, product(), [(4, 6), (4,)]),
]

EMBEDDINGS = [
    Row("a row for each number", embed("num_output: 4 input_dim: 7 bias_term: false"), WORDS, looked_up, [(7, 4)]),
    Row("a row for each number, and a bias", embed("num_output: 4 input_dim: 7"), WORDS, looked_up, [(7, 4), (4,)]),
    Row("numbers on one axis", embed("num_output: 4 input_dim: 7"), {"x": np.array([5, 0, 3])}, looked_up, [(7, 4), (4,)]),
    Row("numbers on four axes", embed("num_output: 2 input_dim: 7"), {"x": WORDS["x"].reshape(2, 1, 3, 1)}, looked_up, [(7, 2), (2,)]),
]

REFUSALS = [
    Refusal("an embedding without input_dim", embed("num_output: 4"), WORDS, "num_output or input_dim is missing", [(7, 4), (4,)]),
    Refusal("no num_output", inner_product("bias_term: false"), FLAT, "num_output is missing", [(4, 6)]),
    Refusal("an axis that is not there", inner_product("num_output: 4 axis: 2"), FLAT, "axis 2 is out of range: the bottom has 2 axes", [(4, 6), (4,)]),
    Refusal("an axis too far from behind", inner_product("num_output: 4 axis: -3"), FLAT, "axis -3 is out of range", [(4, 6), (4,)]),
    Refusal("a bottom of another size", inner_product("num_output: 6"), FLAT, "blob 0 is 6x40 in the weights file, but the net needs 6x6", [(6, 40), (6,)]),
    Refusal("transposed weights without transpose", inner_product("num_output: 4"), FLAT, "blob 0 is 6x4 .* needs 4x6", [(6, 4), (4,)]),
    Refusal("plain weights with transpose", inner_product("num_output: 4 transpose: true"), FLAT, "blob 0 is 4x6 .* needs 6x4", [(4, 6), (4,)]),
    Refusal("a bias of another length", inner_product("num_output: 4"), FLAT, "blob 1 is 6 .* needs 4", [(4, 6), (6,)]),
    Refusal("no bias in the weights file", inner_product("num_output: 4"), FLAT, r"2 blob\(s\) by its prototxt, 1 in the weights file", [(4, 6)]),
    Refusal("a bias that the net does not have", inner_product("num_output: 4 bias_term: false"), FLAT, r"1 blob\(s\) by its prototxt, 2 in the weights file", [(4, 6), (4,)]),
    Refusal("no weights", inner_product("num_output: 4"), FLAT, "the weights file has no layer of this name"),
    Refusal("two bottoms", inner_product("num_output: 4").replace("top:", 'bottom: "x" top:'), FLAT, r"takes 1 bottom\(s\), not 2", [(4, 6), (4,)]),
    Refusal("another number of words", embed("num_output: 4 input_dim: 8"), WORDS, "blob 0 is 7x4 .* needs 8x4", [(7, 4), (4,)]),
    Refusal("an embedding without its bias", embed("num_output: 4 input_dim: 7"), WORDS, r"2 blob\(s\) by its prototxt, 1 in", [(7, 4)]),
    Refusal("an embedding without weights", embed("num_output: 4 input_dim: 7"), WORDS, "the weights file has no layer of this name"),
]
# fmt: on

ROWS = [*PRODUCTS, *EMBEDDINGS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_inner_product(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(
    "row",
    named(
        ROWS, "four axes are flattened behind the batch", "axis 2 keeps two axes", "a row for each number, and a bias"
    ),
    ids=lambda row: row.says,
)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_old_files_give_four_axes(row: Row, tmp_path: Path) -> None:
    """(1, 1, N, K) and (1, 1, 1, N)."""
    check_row(row, tmp_path, four_axes=True)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
