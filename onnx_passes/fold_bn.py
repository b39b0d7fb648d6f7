"""y = BN(Conv(x, W, b))  ->  y = Conv(x, W * s, b * s + t)

A BatchNormalization, and any Mul, Add, Sub or Div by one constant a channel, is an affine map a channel:

    y = s x + t        BatchNormalization: s = gamma / sqrt(variance + eps),  t = beta - mean * s

A chain of them behind a Conv, ConvTranspose or Gemm becomes part of its weights; a chain behind a BatchNormalization
becomes part of its gamma and beta. Computed in float64 over the whole chain, rounded once.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnx_passes.graph import (
    Array,
    View,
    drop_nodes,
    float64,
    forget,
    ops,
    set_input,
    take_over,
    value,
)

_LINEAR = ("Conv", "ConvTranspose", "Gemm")


class Affine(NamedTuple):
    """y = scale * x + shift, a number a channel each."""

    scale: Array
    shift: Array

    def then(self, other: Affine) -> Affine:
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)


# What a constant became, by its identity and the numbers applied; the old one is kept so that identities stay unique.
Folded: TypeAlias = dict[tuple[int, bytes], tuple[gs.Constant, gs.Constant]]


class Skipped(Exception):  # noqa: N818 - not an error: a place that stays as it is
    """Why a place stays as it is: the rest of a sentence."""


def fold_bn(graph: gs.Graph) -> list[str]:
    """Fold every affine chain into the weights before it. Returns a line a place, folded or not."""
    view = View(graph)
    lines: list[str] = []
    gone: list[gs.Node] = []
    shared: Folded = {}
    for node in ops(graph, *_LINEAR):
        chain, affine, reason = _chain_behind(node, _channels(node), view)
        if chain:
            try:
                _scale_weights(node, affine, view, shared)
            except Skipped as skip:
                chain, reason = [], str(skip)
        if chain:
            take_over(node, chain[-1], chain)
            gone += chain
            lines.append(f"{_names(chain)} -> {node.name}")
        if reason:
            lines.append(reason)
    for node in ops(graph, "BatchNormalization"):
        if not node.outputs:
            continue
        gone += _merge_into_batch_norm(node, view, lines)
    drop_nodes(graph, gone)
    return lines


def _names(nodes: list[gs.Node]) -> str:
    return " + ".join(node.name for node in nodes)


# ---- what is an affine map ----


def _affine_of(node: gs.Node, x: gs.Tensor, channels: int, rank: int) -> Affine | None:
    """The map a channel that ``node`` applies to ``x`` (channels on axis 1 of ``rank``), or None if it is none.

    Raises Skipped for a BatchNormalization whose map is not known.
    """
    if node.op == "BatchNormalization" and node.inputs[0] is x:
        return batch_norm_affine(node, channels)
    if node.op not in ("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    first = node.inputs[0] is x
    constant = value(node.inputs[1] if first else node.inputs[0])
    if constant is None:
        return None
    c = _per_channel(constant, channels, rank)
    if c is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return Affine(c, zero)
    if node.op == "Add":
        return Affine(one, c)
    if node.op == "Sub":
        return Affine(one, -c) if first else Affine(-one, c)
    return Affine(1 / c, zero) if first and c.all() else None


def batch_norm_affine(node: gs.Node, channels: int) -> Affine:
    """Raises Skipped where the parameters are not constant, or training mode recomputes them."""
    if node.attrs.get("training_mode", 0) or any(extra.outputs for extra in node.outputs[1:]):
        raise Skipped(f"{node.name} stays: it is in training mode")
    parameters = [value(tensor) for tensor in node.inputs[1:5]]
    if any(p is None or p.shape != (channels,) for p in parameters):
        raise Skipped(f"{node.name} stays: its parameters are not constants of {channels} channels")
    gamma, beta, mean, variance = (float64(p) for p in parameters if p is not None)
    radicand = variance + float(np.float32(node.attrs.get("epsilon", 1e-5)))
    if not (radicand > 0).all():
        raise Skipped(f"{node.name} stays: variance + epsilon is not positive in every channel")
    scale = gamma / np.sqrt(radicand)
    return Affine(scale, beta - mean * scale)


def _per_channel(constant: Array, channels: int, rank: int) -> Array | None:
    """``constant`` as a number a channel, if broadcasting lays it along axis 1 of ``rank`` axes and nothing else."""
    if constant.ndim > rank or constant.dtype.kind != "f":
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(float64(constant).reshape(-1), (channels,))


def _chain_behind(node: gs.Node, channels: int, view: View) -> tuple[list[gs.Node], Affine, str]:
    """The affine nodes that follow ``node`` one by one, their map as a whole, and why the chain ends where it does."""
    affine = Affine(np.ones(channels), np.zeros(channels))
    chain: list[gs.Node] = []
    if not channels:
        return chain, affine, ""
    rank = _rank(node)
    tensor = node.outputs[0]
    while True:
        follower = view.sole_consumer(tensor)
        if follower is None:
            return chain, affine, _why_shared(tensor, channels, rank, view)
        try:
            step = _affine_of(follower, tensor, channels, rank)
        except Skipped as skip:
            return chain, affine, str(skip)
        if step is None:
            return chain, affine, ""
        affine = affine.then(step)
        chain.append(follower)
        tensor = follower.outputs[0]


def _why_shared(tensor: gs.Tensor, channels: int, rank: int, view: View) -> str:
    """A sentence for a BatchNormalization that reads a tensor which something else reads too."""
    followers = [node for node in tensor.outputs if node.op == "BatchNormalization"]
    if not followers:
        return ""
    other = "is a graph output" if view.is_output(tensor) else f"has {view.readers(tensor)} readers"
    return f"{_names(followers)} stays: '{tensor.name}' before it {other}"


# ---- where it goes ----


def _channels(node: gs.Node) -> int:
    """The channels that a linear node makes, 0 where its weights are not constant."""
    weight = value(node.inputs[1])
    if weight is None:
        return 0
    if node.op == "Conv":
        return int(weight.shape[0])
    if node.op == "ConvTranspose":
        return int(weight.shape[1]) * int(node.attrs.get("group", 1))
    return int(weight.shape[0 if node.attrs.get("transB", 0) else 1])


def _rank(node: gs.Node) -> int:
    weight = value(node.inputs[1])
    return 2 if node.op == "Gemm" or weight is None else weight.ndim


def _scale_weights(node: gs.Node, affine: Affine, view: View, shared: Folded) -> None:
    """W -> W * s, b -> b * s + t, under fresh names where others read them. Raises Skipped if b is not a constant.

    ``shared`` remembers what became of a constant: towers that share weights and BatchNorm share the result too.
    """
    weight = node.inputs[1]
    old_bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    bias = _bias(node, len(affine.scale)) * affine.scale + affine.shift
    node.attrs.pop("beta", None)
    if not (affine.scale == 1).all():
        key = (id(weight), affine.scale.tobytes())
        if key not in shared:
            shared[key] = weight, view.replaced(weight, _scaled(node, weight.values, affine.scale))
            forget(weight.values)
        set_input(node, 1, shared[key][1])
    if old_bias is None and not bias.any():
        return
    anchor = weight if old_bias is None else old_bias
    key = (id(anchor), bias.tobytes())
    if key not in shared:
        values = bias.astype(weight.values.dtype)
        named = view.constant(_bias_name(weight), values) if old_bias is None else view.replaced(old_bias, values)
        shared[key] = anchor, named
    set_input(node, 2, shared[key][1])


def _bias_name(weight: gs.Constant) -> str:
    return f"{weight.name.removesuffix('.weight')}.bias"


def _bias(node: gs.Node, channels: int) -> Array:
    """The bias a channel; zero if there is none. Raises Skipped where it is not a constant a channel."""
    if len(node.inputs) < 3 or node.inputs[2].name == "":
        return np.zeros(channels)
    bias = value(node.inputs[2])
    per_channel = None
    if bias is not None and (node.op == "Gemm" or bias.shape == (channels,)):
        per_channel = _per_channel(bias, channels, 2) if node.op == "Gemm" else float64(bias)
    if per_channel is None:
        raise Skipped(f"{node.name} keeps what follows: its bias is not a constant a channel")
    return per_channel * float(node.attrs.get("beta", 1.0))


def _scaled(node: gs.Node, weight: Array, scale: Array) -> Array:
    """``weight`` times ``scale`` along its output channels: float64 within, rounded once, without a float64 copy.

    Raises Skipped if the products are too large for the weight's type.
    """
    result = np.empty(weight.shape, weight.dtype)
    if node.op == "ConvTranspose":
        group = int(node.attrs.get("group", 1))
        split = (group, weight.shape[0] // group, *weight.shape[1:])
        factors = weight.reshape(split), scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        out = result.reshape(split)
    else:
        out_axis = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
        factors = weight, scale.reshape([-1 if axis == out_axis else 1 for axis in range(weight.ndim)])
        out = result
    try:
        with np.errstate(over="raise", invalid="ignore"):
            np.multiply(*factors, out=out, casting="same_kind")
    except FloatingPointError:
        raise Skipped(f"{node.name} keeps what follows: its weights would overflow {weight.dtype}") from None
    return result


def _merge_into_batch_norm(node: gs.Node, view: View, lines: list[str]) -> list[gs.Node]:
    """BN(x) * c + d  ->  BN(x) with gamma * c and beta * c + d. Returns the nodes that fell out."""
    gamma = value(node.inputs[1])
    shape = node.inputs[0].shape
    if gamma is None or shape is None or len(shape) < 2:
        return []
    channels, rank = len(gamma), len(shape)
    affine, chain, tensor = Affine(np.ones(channels), np.zeros(channels)), [], node.outputs[0]
    while (follower := view.sole_consumer(tensor)) is not None and follower.op != "BatchNormalization":
        step = _affine_of(follower, tensor, channels, rank)
        if step is None:
            break
        affine = affine.then(step)
        chain.append(follower)
        tensor = follower.outputs[0]
    beta = value(node.inputs[2])
    if not chain or beta is None:
        return []
    set_input(node, 1, view.replaced(node.inputs[1], (float64(gamma) * affine.scale).astype(gamma.dtype)))
    set_input(node, 2, view.replaced(node.inputs[2], (float64(beta) * affine.scale + affine.shift).astype(beta.dtype)))
    take_over(node, chain[-1], chain)
    lines.append(f"{_names(chain)} -> {node.name}")
    return chain
