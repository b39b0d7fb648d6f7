"""DummyData and Parameter: blobs that a net holds itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters import ConvertError
from tests.caffe.nets import Oracle, Refusal, Row, check_refused, check_row, converted, named, seeded, write_net


def plus(value: float) -> Oracle:
    return lambda inputs, blobs: inputs["x"] + value


def followed_by(*shapes_and_values: tuple[tuple[int, ...], float]) -> Oracle:
    """x, and behind it blobs of one number each, joined along the batch."""
    return lambda inputs, blobs: np.concatenate(
        [inputs["x"], *(np.full(shape, value) for shape, value in shapes_and_values)]
    )


def dummy(options: str, tops: str = "d") -> str:
    named_tops = " ".join(f'top: "{name}"' for name in tops.split())
    return f'layer {{ name: "l" type: "DummyData" {named_tops} dummy_data_param {{ {options} }} }}\n'


def parameter(options: str) -> str:
    return f'layer {{ name: "l" type: "Parameter" top: "d" parameter_param {{ {options} }} }}\n'


def value(number: float, kind: str = "constant") -> str:
    return f'data_filler {{ type: "{kind}" value: {number} }}'


X = {"x": (2, 3)}
IMAGE = {"x": (2, 3, 4, 5)}
SHAPE = "shape { dim: 2 dim: 3 }"
OTHER = "shape { dim: 1 dim: 3 }"
OLD = "num: 2 channels: 3 height: 4 width: 5"
ADD = 'layer { name: "add" type: "Eltwise" bottom: "x" bottom: "d" top: "y" }'
SCALE = 'layer { name: "scale" type: "Scale" bottom: "x" bottom: "d" top: "y" }'
JOIN = 'layer { name: "join" type: "Concat" bottom: "x" bottom: "d" bottom: "e" top: "y" concat_param { axis: 0 } }'
LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "label" top: "loss" }'

# fmt: off
ROWS = [
    Row("zeros are the default", dummy(SHAPE) + ADD, X, plus(0)),
    Row("a value", dummy(f"{SHAPE} data_filler {{ value: 2.5 }}") + ADD, X, plus(2.5)),
    Row("a constant, said by name", dummy(SHAPE + value(-1)) + ADD, X, plus(-1)),
    Row("a constant without a value is zero", dummy(SHAPE + 'data_filler { type: "constant" }') + ADD, X, plus(0)),
    Row("num, channels, height and width", dummy(f"{OLD} {value(3)}") + ADD, IMAGE, plus(3)),
    Row("a blob of no axes", dummy("shape { }" + value(4)) + SCALE, X, lambda inputs, blobs: 4 * inputs["x"]),
    Row("one shape and one value for two tops", dummy(SHAPE + value(2), "d e") + JOIN, X, followed_by(((2, 3), 2), ((2, 3), 2))),
    Row("a shape a top", dummy(SHAPE + OTHER + value(2), "d e") + JOIN, X, followed_by(((2, 3), 2), ((1, 3), 2))),
    Row("a value a top", dummy(SHAPE + value(2) + value(3), "d e") + JOIN, X, followed_by(((2, 3), 2), ((2, 3), 3))),
    Row("a num a top, the rest for all", dummy("num: 1 num: 4 channels: 3 height: 4 width: 5", "d e") + JOIN, IMAGE, followed_by(((1, 3, 4, 5), 0), ((4, 3, 4, 5), 0))),
    Row("a constant beside a random blob stays one", dummy(SHAPE + value(4) + value(1, "gaussian"), "d e") + ADD, X, plus(4)),
    Row("a top that nobody reads", dummy(OTHER + SHAPE + value(2) + value(3), "unread d") + ADD, X, plus(3)),
    Row("a top that only a loss reads", dummy(OTHER + SHAPE + value(2) + value(3), "label d") + ADD + LOSS, X, plus(3)),
    Row("Parameter", parameter(SHAPE) + ADD, X, lambda inputs, blobs: inputs["x"] + blobs[0], [(2, 3)]),
    Row("Parameter as a factor", parameter("shape { dim: 3 }") + SCALE, IMAGE, lambda inputs, blobs: inputs["x"] * blobs[0].reshape(3, 1, 1), [(3,)]),
]

REFUSALS = [
    Refusal("DummyData without a shape", dummy(value(1)) + ADD, X, r"0 shape\(s\)"),
    Refusal("two shapes for one top", dummy(SHAPE + SHAPE) + ADD, X, r"2 shape\(s\) for 1 top"),
    Refusal("both ways to give a shape", dummy(SHAPE + OLD) + ADD, X, "shape, or num, channels, height and width"),
    Refusal("a negative size", dummy("shape { dim: -2 dim: 3 }") + ADD, X, "is not positive"),
    Refusal("two channels for three nums", dummy("num: 1 num: 2 num: 3 channels: 3 channels: 4 height: 4 width: 5", "d e f") + JOIN, IMAGE, "3 and 2 and 1 and 1 shape"),
    Refusal("two fillers for one top", dummy(SHAPE + value(1) + value(2)) + ADD, X, "2 data_filler for 1 tops"),
    Refusal("two values for three tops", dummy(SHAPE + value(1) + value(2), "d e f") + JOIN, X, "2 data_filler for 3 tops"),
    Refusal("three nums for two tops", dummy("num: 1 num: 2 num: 3 channels: 3 height: 4 width: 5", "d e") + JOIN, IMAGE, r"3 and 1 and 1 and 1 shape\(s\) for 2 top"),
    Refusal("no width", dummy("num: 2 channels: 3 height: 4") + ADD, IMAGE, r"0 shape\(s\)"),
    Refusal("DummyData with a bottom", dummy(SHAPE).replace("top:", 'bottom: "x" top:') + ADD, X, r"takes 0 bottom\(s\), not 1"),
    Refusal("weights for DummyData", dummy(SHAPE) + ADD, X, "takes no weights", [(2, 3)]),
    Refusal("Parameter without a shape", parameter("") + ADD, X, "shape is missing", [(2, 3)]),
    Refusal("Parameter of another shape", parameter(OTHER) + ADD, X, "blob 0 is 2x3 in the weights file, but the net needs 1x3", [(2, 3)]),
    Refusal("Parameter without weights", parameter(SHAPE) + ADD, X, "the weights file has no layer of this name"),
    Refusal("two blobs for Parameter", parameter(SHAPE) + ADD, X, r"1 blob\(s\) by its prototxt, 2 in the weights file", [(2, 3), (2, 3)]),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_data(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", named(ROWS, "a value a top", "Parameter as a factor"), ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)


@pytest.mark.parametrize("shape", [SHAPE, "num: 2 channels: 3 height: 1 width: 1"])
@pytest.mark.parametrize("kind", ["gaussian", "uniform", "xavier"])
def test_what_is_filled_at_random_becomes_an_input(kind: str, shape: str, tmp_path: Path) -> None:
    net = dummy(f'{shape} data_filler {{ type: "{kind}" }}') + 'layer { type: "AbsVal" bottom: "d" top: "y" }'
    fed = seeded("d", (2, 3) if shape == SHAPE else (2, 3, 1, 1))
    got = converted(tmp_path, write_net(tmp_path, net, {}), {"d": fed})
    np.testing.assert_array_equal(got["y"], np.abs(fed))


def test_an_input_filled_at_random_needs_a_shape(tmp_path: Path) -> None:
    net = dummy('data_filler { type: "gaussian" }') + 'layer { type: "AbsVal" bottom: "d" top: "y" }'
    with pytest.raises(ConvertError, match="the shape of input 'd' is not in the net: give it by --input-shape"):
        converted(tmp_path, write_net(tmp_path, net, {}), {})
