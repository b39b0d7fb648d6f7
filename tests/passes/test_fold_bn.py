"""fold_bn: text before -> text after, equal outputs, and the places that must stay as they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from onnx_passes import fold_bn
from tests.passes.graphs import graph_of, run, text_of

BN = "g_, b_, m_, v_"
BN4 = "float[4] g_, float[4] b_, float[4] m_, float[4] v_"
CONV = f"float[2,3,5,5] x, float[4,3,3,3] w_, {BN4}"


class Fold(NamedTuple):
    """``nodes`` become ``folded``; ``inputs`` declares x and the constants (names that end in ``_``)."""

    says: str
    inputs: str
    nodes: str
    folded: list[str]
    output: str = "float[2,4,3,3] y"


FOLDS = [
    Fold(
        "BatchNormalization behind a Conv without bias",
        CONV,
        f"a = Conv(x, w_) y = BatchNormalization(a, {BN})",
        ["y = Conv(x, w_, w_.bias)"],
    ),
    Fold(
        "BatchNormalization behind a Conv with bias",
        f"{CONV}, float[4] c_",
        f"a = Conv(x, w_, c_) y = BatchNormalization <epsilon = 0.01> (a, {BN})",
        ["y = Conv(x, w_, c_)"],
    ),
    Fold(
        "Caffe's Scale: Mul and Add behind BatchNormalization",
        f"{CONV}, float[4,1,1] s_, float[4,1,1] t_",
        f"a = Conv(x, w_) n = BatchNormalization(a, {BN}) m = Mul(n, s_) y = Add(m, t_)",
        ["y = Conv(x, w_, w_.bias)"],
    ),
    Fold(
        "Scale without BatchNorm",
        f"{CONV}, float[4,1,1] s_",
        "a = Conv(x, w_) y = Mul(s_, a)",
        ["y = Conv(x, w_)"],
    ),
    Fold(
        "a number for all channels",
        f"{CONV}, float s_",
        "a = Conv(x, w_) b = Sub(a, s_) y = Div(b, s_)",
        ["y = Conv(x, w_, w_.bias)"],
    ),
    Fold(
        "the constant minus the Conv",
        f"{CONV}, float[1,4,1,1] s_",
        "a = Conv(x, w_) y = Sub(s_, a)",
        ["y = Conv(x, w_, w_.bias)"],
    ),
    Fold(
        "a grouped Conv",
        f"float[2,4,5,5] x, float[4,2,3,3] w_, {BN4}",
        f"a = Conv <group = 2> (x, w_) y = BatchNormalization(a, {BN})",
        ["y = Conv(x, w_, w_.bias)"],
    ),
    Fold(
        "a ConvTranspose",
        f"float[2,3,3,3] x, float[3,4,2,2] w_, {BN4}",
        f"a = ConvTranspose <strides = [2, 2]> (x, w_) y = BatchNormalization(a, {BN})",
        ["y = ConvTranspose(x, w_, w_.bias)"],
        "float[2,4,6,6] y",
    ),
    Fold(
        "a grouped ConvTranspose",
        f"float[2,6,3,3] x, float[6,2,2,2] w_, {BN4}",
        f"a = ConvTranspose <group = 2> (x, w_) y = BatchNormalization(a, {BN})",
        ["y = ConvTranspose(x, w_, w_.bias)"],
        "float[2,4,4,4] y",
    ),
    Fold(
        "a Gemm, weights turned or not, with alpha and beta",
        f"float[2,3] x, float[4,3] w_, float[4] c_, {BN4}",
        f"a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w_, c_) y = BatchNormalization(a, {BN})",
        ["y = Gemm(x, w_, c_)"],
        "float[2,4] y",
    ),
    Fold(
        "a Gemm without bias",
        f"float[2,3] x, float[3,4] w_, {BN4}",
        f"a = Gemm(x, w_) y = BatchNormalization(a, {BN})",
        ["y = Gemm(x, w_, w_.bias)"],
        "float[2,4] y",
    ),
    Fold(
        "Scale behind a BatchNormalization that has no Conv",
        f"float[2,4,3,3] x, {BN4}, float[4,1,1] s_, float[4,1,1] t_",
        f"n = BatchNormalization(x, {BN}) m = Mul(n, s_) y = Add(m, t_)",
        ["y = BatchNormalization(x, g_, b_, m_, v_)"],
    ),
]


class Stay(NamedTuple):
    """A graph that must not change, and words of the line that says why (none where nobody would expect a fold)."""

    says: str
    inputs: str
    nodes: str
    why: str
    output: str = "float[2,4,3,3] y"


STAYS = [
    Stay(
        "a Conv that somebody else reads, too",
        CONV,
        f"a = Conv(x, w_) n = BatchNormalization(a, {BN}) y = Add(n, a)",
        "'a' before it has 2 readers",
    ),
    Stay(
        "a graph output in between",
        CONV,
        f"a = Conv(x, w_) y = BatchNormalization(a, {BN})",
        "'a' before it is a graph output",
        "float[2,4,3,3] y, float[2,4,3,3] a",
    ),
    Stay(
        "training mode",
        CONV,
        f"a = Conv(x, w_) y, mean, variance = BatchNormalization <training_mode = 1> (a, {BN})",
        "training mode",
    ),
    Stay(
        "parameters that are computed",
        f"{CONV}, float[4] p",
        "a = Conv(x, w_) y = BatchNormalization(a, p, b_, m_, v_)",
        "not constants of 4 channels",
    ),
    Stay("weights that are computed", "float[2,3,5,5] x, float[4,3,3,3] p, float s_", "a = Conv(x, p) y = Mul(a, s_)", ""),
    Stay("a factor along the width", "float[2,3,6,6] x, float[4,3,3,3] w_, float[4] s_", "a = Conv(x, w_) y = Mul(a, s_)", "", "float[2,4,4,4] y"),
    Stay("a factor a batch", f"{CONV}, float[2,1,1,1] s_", "a = Conv(x, w_) y = Mul(a, s_)", ""),
    Stay("a factor that makes the result larger", "float[2,3,5,5] x, float[1,3,3,3] w_, float[1,4,1,1] s_", "a = Conv(x, w_) y = Mul(a, s_)", ""),
    Stay("a constant divided by the Conv", f"{CONV}, float s_", "a = Conv(x, w_) y = Div(s_, a)", ""),
    Stay("the Conv times itself", CONV, "a = Conv(x, w_) y = Mul(a, a)", ""),
    Stay(
        "a bias of the Gemm that is a row an item",
        "float[2,3] x, float[3,4] w_, float[2,4] c_, float[4] s_",
        "a = Gemm(x, w_, c_) y = Mul(a, s_)",
        "bias is not a constant a channel",
        "float[2,4] y",
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", FOLDS, ids=lambda row: row.says)
def test_folds(row: Fold) -> None:
    graph = graph_of(f"net ({row.inputs}) => ({row.output}) {{ {row.nodes} }}")
    before = run(graph)
    lines = fold_bn(graph)
    assert text_of(graph) == row.folded
    assert len(lines) == 1
    after = run(graph)
    # Float32: the folded filters are rounded once, sums of some 30 products differ in their last bits.
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-6)
    assert fold_bn(graph) == []


@pytest.mark.parametrize("row", STAYS, ids=lambda row: row.says)
def test_stays(row: Stay) -> None:
    graph = graph_of(f"net ({row.inputs}) => ({row.output}) {{ {row.nodes} }}")
    before, text = run(graph), text_of(graph)
    lines = fold_bn(graph)
    assert text_of(graph) == text
    assert [row.why in line for line in lines] == [True] * bool(row.why)
    for name, values in run(graph).items():
        np.testing.assert_array_equal(values, before[name])


def test_towers_that_share_weights_and_batch_norm_share_the_folded_weights() -> None:
    graph = graph_of(
        f"net (float[2,3,5,5] x, float[2,3,5,5] z, float[4,3,3,3] w_, {BN4}) => (float[2,4,3,3] y, float[2,4,3,3] u)"
        f"{{ a = Conv(x, w_) y = BatchNormalization(a, {BN}) c = Conv(z, w_) u = BatchNormalization(c, {BN}) }}"
    )
    before = run(graph)
    fold_bn(graph)
    first, second = graph.nodes
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[2] is second.inputs[2]
    for name, values in run(graph).items():
        np.testing.assert_allclose(values, before[name], rtol=1e-5, atol=1e-6)  # as in test_folds


def test_one_tower_with_batch_norm_leaves_the_other_its_weights() -> None:
    graph = graph_of(
        f"net (float[2,3,5,5] x, float[2,3,5,5] z, float[4,3,3,3] w_, {BN4}) => (float[2,4,3,3] y, float[2,4,3,3] u)"
        f"{{ a = Conv(x, w_) y = BatchNormalization(a, {BN}) u = Conv(z, w_) }}"
    )
    before = run(graph)
    fold_bn(graph)
    assert text_of(graph) == ["y = Conv(x, w__1, w_.bias)", "u = Conv(z, w_)"]
    after = run(graph)
    np.testing.assert_array_equal(after["u"], before["u"])
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-6)  # as in test_folds


def test_zero_gamma_leaves_the_bias_alone() -> None:
    graph = graph_of(f"net ({CONV}) => (float[2,4,3,3] y) {{ a = Conv(x, w_) y = BatchNormalization(a, {BN}) }}")
    gamma = graph.nodes[1].inputs[1]
    gamma.values = np.zeros(4, np.float32)
    before = run(graph)
    fold_bn(graph)
    np.testing.assert_allclose(run(graph)["y"], before["y"], rtol=1e-6)  # a constant a channel: one rounding


def test_a_variance_that_eps_does_not_make_positive_stays() -> None:
    graph = graph_of(f"net ({CONV}) => (float[2,4,3,3] y) {{ a = Conv(x, w_) y = BatchNormalization(a, {BN}) }}")
    graph.nodes[1].inputs[4].values = np.full(4, -1, np.float32)
    assert "variance + epsilon is not positive" in fold_bn(graph)[0]
    assert len(graph.nodes) == 2


def test_filters_that_would_overflow_stay() -> None:
    graph = graph_of(
        "net (float[2,3,5,5] x, float[4,3,3,3] w_, float s_) => (float[2,4,3,3] y) { a = Conv(x, w_) y = Mul(a, s_) }"
    )
    graph.nodes[1].inputs[1].values = np.float32(3e38) * np.ones((), np.float32)
    graph.nodes[0].inputs[1].values = np.full((4, 3, 3, 3), 10, np.float32)
    assert "overflow" in fold_bn(graph)[0]
    assert len(graph.nodes) == 2


def test_the_whole_chain_is_rounded_once() -> None:
    """Folded in float64 throughout: equal to the float64 product to half a unit in the last place of float32."""
    graph = graph_of(
        f"net ({CONV}, float[4,1,1] s_) => (float[2,4,3,3] y)"
        f"{{ a = Conv(x, w_) n = BatchNormalization(a, {BN}) y = Mul(n, s_) }}"
    )
    conv, bn, mul = graph.nodes
    w, s = conv.inputs[1].values.astype(np.float64), mul.inputs[1].values.astype(np.float64)
    gamma, _, _, variance = (t.values.astype(np.float64) for t in bn.inputs[1:])
    factor = gamma / np.sqrt(variance + np.float64(np.float32(1e-5))) * s.ravel()
    fold_bn(graph)
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values, (w * factor.reshape(4, 1, 1, 1)).astype(np.float32))


def test_half_precision_stays_half() -> None:
    text = f"net ({CONV}) => (float[2,4,3,3] y) {{ a = Conv(x, w_) y = BatchNormalization(a, {BN}) }}"
    graph = graph_of(text.replace("float[", "float16["), dtype=np.float16)
    fold_bn(graph)
    assert [t.dtype for t in graph.nodes[0].inputs[1:]] == [np.float16] * 2
