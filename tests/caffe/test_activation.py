"""Layers that change each value by itself, and Softmax, against their formulas in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def of_x(formula: Callable[[Array], Array]) -> Oracle:
    return lambda inputs, blobs: formula(inputs["x"])


def leaky(slope: float) -> Oracle:
    return of_x(lambda x: np.where(x > 0, x, slope * x))


def parametric(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    """A slope a channel below zero, or one slope for all."""
    x, (slopes,) = inputs["x"], blobs
    return np.where(x > 0, x, x * slopes.reshape(-1, *[1] * (x.ndim - 2)))


def elu(alpha: float) -> Oracle:
    return of_x(lambda x: np.where(x > 0, x, alpha * (np.exp(x) - 1)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(axis: int) -> Oracle:
    return of_x(lambda x: np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True))


def power(exponent: float = 1, scale: float = 1, shift: float = 0) -> Oracle:
    """(shift + scale x)^exponent; NaN for a root of a negative number."""

    def formula(x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return (shift + scale * x) ** exponent

    return of_x(formula)


def layer(kind: str, options: str = "") -> str:
    return f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {options} }}'


def behind(scale: float, shift: float, text: str) -> str:
    """``text`` reading scale x + shift: numbers between shift - scale and shift + scale."""
    power = f"power_param {{ scale: {scale} shift: {shift} }}"
    return f'layer {{ name: "p" type: "Power" bottom: "x" top: "p" {power} }}' + text.replace('"x"', '"p"')


def far(kind: str, options: str = "") -> str:
    return behind(60, 0, layer(kind, options))


X = {"x": (2, 3, 4, 5)}
FLAT = {"x": (4, 6)}
EDGES = {"x": np.array([[-1, -0.5, -0.25, 0, 0.25, 0.5, 1]])}
SCALAR = np.array(0.3)

# fmt: off
BENT = [
    Row("ReLU", layer("ReLU"), X, leaky(0)),
    Row("negative_slope", layer("ReLU", "relu_param { negative_slope: 0.1 }"), X, leaky(0.1)),
    Row("a negative negative_slope", layer("ReLU", "relu_param { negative_slope: -0.5 }"), X, leaky(-0.5)),
    Row("the engine changes nothing", layer("ReLU", "relu_param { engine: CUDNN negative_slope: 0 }"), FLAT, leaky(0)),
    Row("a slope a channel", layer("PReLU"), X, parametric, [(3,)]),
    Row("a slope for all channels", layer("PReLU", "prelu_param { channel_shared: true }"), X, parametric, [SCALAR]),
    Row("a slope for all, stored with an axis", layer("PReLU", "prelu_param { channel_shared: true }"), X, parametric, [(1,)]),
    Row("a slope for each of two axes", layer("PReLU"), FLAT, parametric, [(6,)]),
    Row("a slope for each of five axes", layer("PReLU"), {"x": (2, 3, 2, 2, 2)}, parametric, [(3,)]),
    Row("negative slopes, their filler ignored", layer("PReLU", "prelu_param { filler { value: 0.1 } }"), X, parametric, [np.array([-0.2, 0, 1.5])]),
    Row("ELU", layer("ELU"), X, elu(1)),
    Row("alpha of ELU", layer("ELU", "elu_param { alpha: 0.3 }"), X, elu(0.3)),
    Row("Threshold at 0 leaves 0 below", layer("Threshold"), EDGES, of_x(lambda x: (x > 0) * 1.0)),
    Row("what equals the threshold lies below", layer("Threshold", "threshold_param { threshold: 0.25 }"), EDGES, of_x(lambda x: (x > 0.25) * 1.0)),
    Row("Clip", layer("Clip", "clip_param { min: -0.25 max: 0.5 }"), EDGES, of_x(lambda x: np.clip(x, -0.25, 0.5))),
    Row("AbsVal", layer("AbsVal"), X, of_x(np.abs)),
    Row("Dropout does nothing", layer("Dropout", "dropout_param { dropout_ratio: 0.9 }"), X, of_x(lambda x: x)),
]

SMOOTH = [
    Row("Sigmoid", layer("Sigmoid"), X, of_x(sigmoid)),
    Row("Sigmoid far from zero", far("Sigmoid"), FLAT, of_x(lambda x: sigmoid(60 * x))),
    Row("TanH", layer("TanH"), X, of_x(np.tanh)),
    Row("BNLL", layer("BNLL"), X, of_x(lambda x: np.log(1 + np.exp(x)))),
    Row("BNLL far from zero", far("BNLL"), FLAT, of_x(lambda x: np.logaddexp(0, 60 * x))),
    Row("BNLL beyond exp's range", behind(1, 200, layer("BNLL")), FLAT, of_x(lambda x: x + 200)),
    Row("Swish", layer("Swish"), X, of_x(lambda x: x * sigmoid(x))),
    Row("beta of Swish", layer("Swish", "swish_param { beta: 2.5 }"), X, of_x(lambda x: x * sigmoid(2.5 * x))),
    Row("beta 0 halves", layer("Swish", "swish_param { beta: 0 }"), X, of_x(lambda x: x / 2)),
    Row("Softmax over channels", layer("Softmax"), X, softmax(1)),
    Row("Softmax of two axes", layer("Softmax"), FLAT, softmax(1)),
    Row("Softmax along axis 2", layer("Softmax", "softmax_param { axis: 2 }"), X, softmax(2)),
    Row("Softmax along axis 0", layer("Softmax", "softmax_param { axis: 0 }"), X, softmax(0)),
    Row("Softmax along the last axis", layer("Softmax", "softmax_param { axis: -1 engine: CAFFE }"), X, softmax(3)),
    Row("Softmax does not overflow", behind(60, 60, layer("Softmax")), FLAT, of_x(lambda x: np.exp(60 * x) / np.exp(60 * x).sum(axis=1, keepdims=True))),
]

POWERS = [
    Row("Power without options does nothing", layer("Power"), X, power()),
    Row("scale and shift", layer("Power", "power_param { scale: 2 shift: -0.5 }"), X, power(1, 2, -0.5)),
    Row("a square of negative numbers", layer("Power", "power_param { power: 2 }"), X, power(2)),
    Row("all three", layer("Power", "power_param { power: 3 scale: 0.5 shift: 1 }"), X, power(3, 0.5, 1)),
    Row("a negative power", layer("Power", "power_param { power: -1.5 shift: 2 }"), X, power(-1.5, 1, 2)),
    Row("a root of a negative number is NaN", layer("Power", "power_param { power: 0.5 }"), X, power(0.5)),
    Row("power 0 gives 1", layer("Power", "power_param { power: 0 shift: 3 }"), X, of_x(np.ones_like)),
    Row("power 0 gives 1 even of 0", layer("Power", "power_param { power: 0 scale: 0 }"), X, of_x(np.ones_like)),
    Row("scale 0 gives the shift, raised", layer("Power", "power_param { power: 2 scale: 0 shift: -3 }"), X, of_x(lambda x: np.full_like(x, 9))),
    Row("scale 0 with a root of a negative number", layer("Power", "power_param { power: 0.5 scale: 0 shift: -3 }"), X, of_x(lambda x: np.full_like(x, np.nan))),
    Row("scale 0 divides by zero", layer("Power", "power_param { power: -1 scale: 0 }"), X, of_x(lambda x: np.full_like(x, np.inf))),
]

EXPONENTIALS = [
    Row("Clip with its limits turned round gives the lower one", layer("Clip", "clip_param { min: 0.5 max: -0.5 }"), X, of_x(lambda x: np.full_like(x, 0.5))),
    Row("Exp", layer("Exp"), X, of_x(np.exp)),
    Row("a factor that float32 does not hold is infinite", layer("Exp", "exp_param { base: 10 shift: 400 }"), X, of_x(lambda x: np.full_like(x, np.inf))),
    Row("base 2", layer("Exp", "exp_param { base: 2 }"), X, of_x(lambda x: 2**x)),
    Row("base e with scale and shift", layer("Exp", "exp_param { scale: 3 shift: -1 }"), X, of_x(lambda x: np.exp(3 * x - 1))),
    Row("base 10 with scale and shift", layer("Exp", "exp_param { base: 10 scale: -2 shift: 0.5 }"), X, of_x(lambda x: 10 ** (0.5 - 2 * x))),
    Row("a base below 1", layer("Exp", "exp_param { base: 0.5 shift: 2 }"), X, of_x(lambda x: 0.5 ** (2 + x))),
    Row("base 1 is 1", layer("Exp", "exp_param { base: 1 scale: 5 shift: 2 }"), X, of_x(np.ones_like)),
    Row("Log", behind(1, 1.5, layer("Log")), X, of_x(lambda x: np.log(x + 1.5))),
    Row("Log with scale and shift", layer("Log", "log_param { scale: 0.5 shift: 2 }"), X, of_x(lambda x: np.log(0.5 * x + 2))),
    Row("Log of base 10", layer("Log", "log_param { base: 10 shift: 3 }"), X, of_x(lambda x: np.log10(x + 3))),
    Row("Log of a base below 1", layer("Log", "log_param { base: 0.5 scale: -1 shift: 3 }"), X, of_x(lambda x: -np.log2(3 - x))),
]

REFUSALS = [
    Refusal("slopes of another number of channels", layer("PReLU"), X, "blob 0 is 4 in the weights file, but the net needs 3", [(4,)]),
    Refusal("a slope a channel where one is shared", layer("PReLU", "prelu_param { channel_shared: true }"), X, "blob 0 is 3 .* needs a scalar", [(3,)]),
    Refusal("one slope where each channel has its own", layer("PReLU"), X, "blob 0 is a scalar .* needs 3", [SCALAR]),
    Refusal("PReLU without weights", layer("PReLU"), X, "the weights file has no layer of this name"),
    Refusal("PReLU of one axis", layer("PReLU"), {"x": (4,)}, "needs a bottom of 2 axes or more", [(4,)]),
    Refusal("weights for ReLU", layer("ReLU"), X, "takes no weights", [(3,)]),
    Refusal("two bottoms", layer("Sigmoid").replace("top:", 'bottom: "x" top:'), X, r"takes 1 bottom\(s\), not 2"),
    Refusal("two tops", layer("TanH").replace("top:", 'top: "z" top:'), X, r"makes 1 top\(s\), the net names 2"),
    Refusal("Clip without max", layer("Clip", "clip_param { min: 0 }"), X, "needs both min and max"),
    Refusal("Clip without anything", layer("Clip"), X, "needs both min and max"),
    Refusal("a negative base", layer("Exp", "exp_param { base: -2 }"), X, "base -2 is not a positive number; -1 stands for e"),
    Refusal("an infinite base", layer("Exp", "exp_param { base: inf }"), X, "base inf is not a positive number"),
    Refusal("Log of a base that is no number", layer("Log", "log_param { base: nan }"), X, "base nan is not a positive number"),
    Refusal("base 0", layer("Exp", "exp_param { base: 0 }"), X, "base 0 is not a positive number"),
    Refusal("Log of base 1", layer("Log", "log_param { base: 1 }"), X, "base 1 has no logarithm"),
    Refusal("Log of a negative base", layer("Log", "log_param { base: -3 }"), X, "base -3 is not a positive number"),
    Refusal("Softmax along an axis that is not there", layer("Softmax", "softmax_param { axis: 4 }"), X, "axis 4 is out of range: the bottom has 4 axes"),
    Refusal("Softmax of one axis, whose default is 1", layer("Softmax"), {"x": (4,)}, "axis 1 is out of range: the bottom has 1 axes"),
    Refusal("an option that the layer does not have", layer("Softmax", "softmax_param { temperature: 2 }"), X, "unknown field 'softmax_param.temperature'"),
]
# fmt: on

ROWS = [*BENT, *SMOOTH, *POWERS, *EXPONENTIALS]
AT_OTHER_OPSETS = named(
    ROWS, "a slope a channel", "Threshold at 0 leaves 0 below", "Clip", "Softmax along axis 2", "power 0 gives 1"
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_activation(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
