"""LSTM and RNN against a loop over the steps in plain numpy, written from their formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Refusal, Row, check_refused, check_row, named, seeded

HIDDEN = 3


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def inputs_of_steps(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> tuple[Array, list[Array]]:
    """(W_x x + b + W_static static, step by step; the other blobs)."""
    x, (w_x, b, *others) = inputs["x"], blobs
    from_x = x.reshape(*x.shape[:2], -1) @ w_x.T + b
    if "static" in inputs:
        static, w_static = inputs["static"], others.pop(0)
        from_x = from_x + static.reshape(len(static), -1) @ w_static.T
    return from_x, others


def lstm(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array | dict[str, Array]:
    """Gates i, f, o, g = W_h (cont h) + W_x x + b;  c = cont f c + i g;  h = o tanh(c)."""
    from_x, (w_h,) = inputs_of_steps(inputs, blobs)
    h, c = (inputs[name][0] if name in inputs else np.zeros((from_x.shape[1], HIDDEN)) for name in ("h0", "c0"))
    tops = []
    for gates, cont in zip(from_x, inputs["cont"], strict=True):
        go_on = cont[:, np.newaxis]
        i, f, o, g = np.split(gates + (go_on * h) @ w_h.T, 4, axis=1)
        c = go_on * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        tops.append(h)
    y = np.stack(tops)
    return {"y": y, "h_last": h[np.newaxis], "c_last": c[np.newaxis]} if "h0" in inputs else y


def rnn(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array | dict[str, Array]:
    """h = tanh(W_h (cont h) + W_x x + b);  y = tanh(W_o h + b_o)."""
    from_x, (w_h, w_o, b_o) = inputs_of_steps(inputs, blobs)
    h = inputs["h0"][0] if "h0" in inputs else np.zeros((from_x.shape[1], HIDDEN))
    tops = []
    for new, cont in zip(from_x, inputs["cont"], strict=True):
        h = np.tanh(new + (cont[:, np.newaxis] * h) @ w_h.T)
        tops.append(np.tanh(h @ w_o.T + b_o))
    y = np.stack(tops)
    return {"y": y, "h_last": h[np.newaxis]} if "h0" in inputs else y


def layer(kind: str, bottoms: str = "x cont", tops: str = "y", options: str = "") -> str:
    blobs = [f'bottom: "{name}"' for name in bottoms.split()] + [f'top: "{name}"' for name in tops.split()]
    return (
        f'layer {{ name: "l" type: "{kind}" {" ".join(blobs)} recurrent_param {{ num_output: {HIDDEN} {options} }} }}'
    )


EXPOSED = "expose_hidden: true"
FILLERS = 'weight_filler { type: "uniform" min: -0.1 max: 0.1 } bias_filler { value: 0 } debug_info: true'
LSTM_EXPOSED = layer("LSTM", "x cont h0 c0", "y h_last c_last", EXPOSED)
LSTM_ALL = layer("LSTM", "x cont static h0 c0", "y h_last c_last", EXPOSED)
RNN_EXPOSED = layer("RNN", "x cont h0", "y h_last", EXPOSED)
RNN_ALL = layer("RNN", "x cont static h0", "y h_last", EXPOSED)

# Four steps of two streams. The first stream begins anew at step 2, the second goes on from before step 0.
CONT = np.array([[0, 1], [1, 1], [0, 1], [1, 1]])
X = {"x": (4, 2, 5), "cont": CONT}
FADING = {**X, "cont": np.array([[0, 0.5], [0.25, 1], [0.5, 0.75], [2, 1]])}
STATIC = {**X, "static": (2, 4)}
H0 = {"h0": (1, 2, 3)}
H0_C0 = {**H0, "c0": (1, 2, 3)}

# Weights of both signs: positive ones alone push every gate to its end.
W_X, B, W_STATIC, W_H = seeded("W_x", (12, 5)), seeded("b", (12,)), seeded("W_static", (12, 4)), seeded("W_h", (12, 3))
W_O, B_O = seeded("W_o", (3, 3)), seeded("b_o", (3,))
W_LSTM = [W_X, B, W_H]
W_LSTM_STATIC = [W_X, B, W_STATIC, W_H]
W_RNN = [W_X[:3], B[:3], W_H[:3], W_O, B_O]
W_RNN_STATIC = [W_X[:3], B[:3], W_STATIC[:3], W_H[:3], W_O, B_O]

# fmt: off
ROWS = [
    Row("LSTM", layer("LSTM"), X, lstm, W_LSTM),
    Row("LSTM, markers that are neither 0 nor 1", layer("LSTM"), FADING, lstm, W_LSTM),
    Row("LSTM, x of four axes", layer("LSTM"), {**X, "x": (4, 2, 1, 5)}, lstm, W_LSTM),
    Row("LSTM, one step of one stream", layer("LSTM"), {"x": (1, 1, 5), "cont": (1, 1)}, lstm, W_LSTM),
    Row("LSTM with a static bottom", layer("LSTM", "x cont static"), STATIC, lstm, W_LSTM_STATIC),
    Row("LSTM with a static bottom of three axes", layer("LSTM", "x cont static"), {**X, "static": (2, 2, 2)}, lstm, W_LSTM_STATIC),
    Row("LSTM whose states come and go", LSTM_EXPOSED, {**X, **H0_C0}, lstm, W_LSTM),
    Row("LSTM with a static bottom, whose states come and go", LSTM_ALL, {**STATIC, **H0_C0}, lstm, W_LSTM_STATIC),
    Row("LSTM, fillers and debug_info change nothing", layer("LSTM", options=FILLERS), X, lstm, W_LSTM),
    Row("RNN", layer("RNN"), X, rnn, W_RNN),
    Row("RNN, markers that are neither 0 nor 1", layer("RNN"), FADING, rnn, W_RNN),
    Row("RNN, x of four axes", layer("RNN"), {**X, "x": (4, 2, 5, 1)}, rnn, W_RNN),
    Row("RNN, one step of one stream", layer("RNN"), {"x": (1, 1, 5), "cont": (1, 1)}, rnn, W_RNN),
    Row("RNN with a static bottom", layer("RNN", "x cont static"), STATIC, rnn, W_RNN_STATIC),
    Row("RNN whose state comes and goes", RNN_EXPOSED, {**X, **H0}, rnn, W_RNN),
    Row("RNN with a static bottom, whose state comes and goes", RNN_ALL, {**STATIC, **H0}, rnn, W_RNN_STATIC),
]

REFUSALS = [
    Refusal("no num_output", layer("LSTM").replace(f"num_output: {HIDDEN}", ""), X, "num_output is missing or zero", W_LSTM),
    Refusal("RNN without num_output", layer("RNN").replace(f"num_output: {HIDDEN}", ""), X, "num_output is missing or zero", W_RNN),
    Refusal("a state of another width", LSTM_EXPOSED, {**X, "h0": (1, 2, 3), "c0": (1, 2, 4)}, r"a state is \(1, N, num_output\) = 1x2x3, not 1x2x4", W_LSTM),
    Refusal("a state of another number of streams", RNN_EXPOSED, {**X, "h0": (1, 3, 3)}, "= 1x2x3, not 1x3x3", W_RNN),
    Refusal("a state without the axis of time", RNN_EXPOSED, {**X, "h0": (2, 3)}, "= 1x2x3, not 2x3", W_RNN),
    Refusal("a static bottom of another number of streams", layer("LSTM", "x cont static"), {**X, "static": (1, 4)}, r"its static bottom is \(N, ...\) = 2x..., not 1x4", W_LSTM_STATIC),
    Refusal("a static bottom of one axis", layer("RNN", "x cont static"), {**X, "static": (2,)}, "its static bottom is", W_RNN_STATIC),
    Refusal("x of two axes", layer("LSTM"), {**X, "x": (4, 2)}, r"x is \(T, N, ...\), not 4x2", W_LSTM),
    Refusal("no markers", layer("LSTM", "x"), X, r"takes 2 or more bottom\(s\), not 1", W_LSTM),
    Refusal("markers of another number of streams", layer("LSTM"), {**X, "cont": (4, 3)}, r"cont is 4x3, not \(T, N\) = 4x2", W_LSTM),
    Refusal("markers of another number of steps", layer("RNN"), {**X, "cont": (3, 2)}, r"cont is 3x2, not \(T, N\) = 4x2", W_RNN),
    Refusal("markers of three axes", layer("LSTM"), {**X, "cont": (4, 2, 1)}, "cont is 4x2x1, not", W_LSTM),
    Refusal("x of one axis", layer("LSTM"), {**X, "x": (4,)}, r"x is \(T, N, ...\), not 4", W_LSTM),
    Refusal("too many bottoms", layer("LSTM", "x cont static static"), STATIC, "takes 2 or 3 bottoms, not 4", W_LSTM_STATIC),
    Refusal("states without expose_hidden", layer("RNN", "x cont static h0"), {**STATIC, **H0}, "takes 2 or 3 bottoms, not 4", W_RNN_STATIC),
    Refusal("expose_hidden without states", layer("LSTM", tops="y h_last c_last", options=EXPOSED), X, "takes 4 or 5 bottoms, not 2", W_LSTM),
    Refusal("expose_hidden without the cell's state", layer("LSTM", "x cont h0", "y h_last c_last", EXPOSED), {**X, **H0}, "takes 4 or 5 bottoms, not 3", W_LSTM),
    Refusal("RNN with a cell's state", layer("RNN", "x cont static h0 c0", "y h_last", EXPOSED), {**STATIC, **H0_C0}, "takes 3 or 4 bottoms, not 5", W_RNN_STATIC),
    Refusal("expose_hidden with one top", layer("LSTM", "x cont h0 c0", "y", EXPOSED), {**X, **H0_C0}, r"makes 3 top\(s\), the net names 1", W_LSTM),
    Refusal("tops of states without expose_hidden", layer("LSTM", tops="y h_last c_last"), X, r"makes 1 top\(s\), the net names 3", W_LSTM),
    Refusal("a static bottom without its weights", layer("LSTM", "x cont static"), STATIC, r"has 4 blob\(s\) by its prototxt, 3 in the weights file", W_LSTM),
    Refusal("a static bottom of another size", layer("RNN", "x cont static"), {**X, "static": (2, 5)}, "blob 2 is 3x4 .* needs 3x5", W_RNN_STATIC),
    Refusal("weights of another x", layer("LSTM"), {**X, "x": (4, 2, 6)}, "blob 0 is 12x5 .* needs 12x6", W_LSTM),
    Refusal("weights of another num_output", layer("LSTM").replace("num_output: 3", "num_output: 4"), X, "blob 0 is 12x5 .* needs 16x5", W_LSTM),
    Refusal("an RNN's weights for an LSTM", layer("LSTM"), X, r"3 blob\(s\) by its prototxt, 5 in", W_RNN),
    Refusal("an LSTM's weights for an RNN", layer("RNN"), X, r"5 blob\(s\) by its prototxt, 3 in", W_LSTM),
    Refusal("no weights", layer("LSTM"), X, "the weights file has no layer of this name"),
    Refusal("RNN without weights", layer("RNN"), X, "the weights file has no layer of this name"),
]
# fmt: on

AT_OTHER_OPSETS = named(ROWS, "LSTM", "LSTM with a static bottom, whose states come and go", "RNN whose state comes and goes")  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_recurrent(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
