"""LSTM and RNN -> Scan over the time steps.

ONNX's own LSTM has no markers that begin a new sequence in the middle; Caffe's ``cont`` bottom is just that, so the
step is written out (lstm_layer.cpp, rnn_layer.cpp: FillUnrolledNet; lstm_unit_layer.cpp). Bottoms are time-major:
x (T, N, ...), cont (T, N). The state before the first step is zero, or comes and goes by ``expose_hidden``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from converters.builder import Builder
from converters.caffe.blobs import Array
from converters.caffe.layers.axes import shown, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError


@importer("LSTM", options="recurrent_param", ignored=["debug_info"])
def lstm(layer: ParsedLayer, x: gs.Tensor, cont: gs.Tensor, *more: gs.Tensor, to: Builder) -> Results:
    """Gates in the order i, f, o, g from W_x x + b + W_h (cont h); c = cont f c + i g; h = o tanh(c).

    Blobs: W_x (4H, D), b (4H), W_x of the static bottom (4H, S) if there is one, W_h (4H, H).
    """
    hidden = layer.options.num_output
    static, states = _bottoms(layer, x, more, states=2)
    from_x, (w_h,) = _input_transform(layer, x, static, 4 * hidden, [(4 * hidden, hidden)], to)

    def step(h: gs.Tensor, c: gs.Tensor, gates: gs.Tensor, go_on: gs.Tensor, body: Builder) -> list[gs.Tensor]:
        kept = body.node("Mul", [h, go_on])
        gates = body.node("Add", [body.node("Gemm", [kept, body.const("W_h", w_h)], transB=1), gates])
        parts = body.nodes("Split", [gates, body.ints("gates", [hidden] * 4)], 4, axis=1)
        i, f, o = (body.node("Sigmoid", [part]) for part in parts[:3])
        old = body.node("Mul", [body.node("Mul", [go_on, f]), c])
        new_c = body.node("Add", [old, body.node("Mul", [i, body.node("Tanh", [parts[3]])])])
        new_h = body.node("Mul", [o, body.node("Tanh", [new_c])])
        return [new_h, new_c, body.node("Identity", [new_h])]

    h_last, c_last, h = _scan(from_x, cont, states or _zero_states(x, hidden, 2, to), step, to)
    return [h, *_with_time_axis([h_last, c_last], to)] if states else h


@importer("RNN", options="recurrent_param", ignored=["debug_info"])
def rnn(layer: ParsedLayer, x: gs.Tensor, cont: gs.Tensor, *more: gs.Tensor, to: Builder) -> Results:
    """h = tanh(W_x x + b + W_h (cont h)); the top is tanh(W_o h + b_o).

    Blobs: W_x (H, D), b (H), W_x of the static bottom (H, S) if there is one, W_h (H, H), W_o (H, H), b_o (H).
    """
    hidden = layer.options.num_output
    static, states = _bottoms(layer, x, more, states=1)
    square = (hidden, hidden)
    from_x, (w_h, w_o, b_o) = _input_transform(layer, x, static, hidden, [square, square, (hidden,)], to)

    def step(h: gs.Tensor, new: gs.Tensor, go_on: gs.Tensor, body: Builder) -> list[gs.Tensor]:
        kept = body.node("Mul", [h, go_on])
        total = body.node("Add", [body.node("Gemm", [kept, body.const("W_h", w_h)], transB=1), new])
        new_h = body.node("Tanh", [total])
        out = body.node("Gemm", [new_h, body.const("W_o", w_o), body.const("b_o", b_o)], transB=1)
        return [new_h, body.node("Tanh", [out])]

    h_last, y = _scan(from_x, cont, states or _zero_states(x, hidden, 1, to), step, to)
    return [y, *_with_time_axis([h_last], to)] if states else y


def _bottoms(
    layer: ParsedLayer, x: gs.Tensor, more: Sequence[gs.Tensor], states: int
) -> tuple[gs.Tensor | None, list[gs.Tensor]]:
    """(the static bottom or None, the states that come from outside) behind x and cont, in the shapes Caffe wants."""
    if not layer.options.num_output:
        raise UnsupportedError("num_output is missing or zero")
    if len(x.shape) < 3:
        raise ShapeError(f"x is (T, N, ...), not {shown(x.shape)}")
    exposed = states if layer.options.expose_hidden else 0
    if len(more) not in (exposed, exposed + 1):
        raise UnsupportedError(f"takes {2 + exposed} or {3 + exposed} bottoms, not {2 + len(more)}")
    static = more[0] if len(more) > exposed else None
    if static is not None and (len(static.shape) < 2 or static.shape[0] != x.shape[1]):
        raise ShapeError(f"its static bottom is (N, ...) = {x.shape[1]}x..., not {shown(static.shape)}")
    state_shape = [1, x.shape[1], layer.options.num_output]
    for state in more[len(more) - exposed :]:
        if list(state.shape) != state_shape:
            raise ShapeError(f"a state is (1, N, num_output) = {shown(state_shape)}, not {shown(state.shape)}")
    return static, list(more[len(more) - exposed :])


def _input_transform(
    layer: ParsedLayer,
    x: gs.Tensor,
    static: gs.Tensor | None,
    width: int,
    rest: Sequence[Sequence[int]],
    to: Builder,
) -> tuple[gs.Variable, list[Array]]:
    """(W_x x + b of all steps at once: (T, N, width), the weights of the step)."""
    steps, streams = sizes(x, 0, 2)
    inputs = math.prod(sizes(x, 2))
    static_shape = [(width, math.prod(sizes(static, 1)))] if static is not None else []
    w_x, b, *others = layer.weights((width, inputs), (width,), *static_shape, *rest)
    flat = to.node("Flatten", [x], axis=2)
    gates = to.node("Gemm", [flat, to.const("W_x", w_x), to.const("b", b)], transB=1)
    gates = to.reshape(gates, [steps, streams, width])
    if static is not None:
        flat = to.node("Flatten", [static], axis=1)
        gates = to.node("Add", [gates, to.node("Gemm", [flat, to.const("W_static", others.pop(0))], transB=1)])
    return gates, others


def _zero_states(x: gs.Tensor, hidden: int, count: int, to: Builder) -> list[gs.Variable]:
    zeros = to.node("Expand", [to.scalar("zero", 0), to.ints("state", [sizes(x, 1, 2)[0], hidden])])
    return [zeros] * count


def _scan(
    from_x: gs.Tensor,
    cont: gs.Tensor,
    states: Sequence[gs.Tensor],
    step: Callable[..., list[gs.Tensor]],
    to: Builder,
) -> list[gs.Variable]:
    """``step(*states, from_x of the step, cont of the step)`` over the first axis: (last states..., the outputs)."""
    steps, streams, width = sizes(from_x)
    if list(cont.shape) != [steps, streams]:
        raise ShapeError(f"cont is {shown(cont.shape)}, not (T, N) = {steps}x{streams}")
    hidden = sizes(states[0])[-1]
    body = to.subgraph("step")
    inner = [body.input(f"state{number}", [streams, hidden]) for number in range(len(states))]
    now, mark = body.input("x", [streams, width]), body.input("cont", [streams])
    results = step(*inner, now, body.reshape(mark, [-1, 1]), body)
    body.close(results)
    start = [state if len(state.shape) == 2 else to.reshape(state, [streams, hidden]) for state in states]
    outputs = len(results)
    return to.nodes("Scan", [*start, from_x, cont], outputs, body=body.graph, num_scan_inputs=2)


def _with_time_axis(states: Sequence[gs.Tensor], to: Builder) -> list[gs.Variable]:
    """States as Caffe shows them: (1, N, H)."""
    return [to.reshape(state, [1, *sizes(state)]) for state in states]
