"""cost: MACs as torch counts them (two operations each), and parameters."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from onnx_passes import cost
from tests.passes.graphs import graph_of


class Counted(NamedTuple):
    """ONNX and torch for the same computation."""

    says: str
    text: str
    module: torch.nn.Module
    shape: tuple[int, ...]


ROWS = [
    Counted(
        "a grouped, strided Conv",
        "net (float[2,4,9,9] x, float[6,2,3,3] w_) => (float[2,6,4,4] y) { y = Conv <group = 2, strides = [2, 2]> (x, w_) }",
        torch.nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        (2, 4, 9, 9),
    ),
    Counted(
        "a ConvTranspose",
        "net (float[2,4,5,5] x, float[4,6,2,2] w_) => (float[2,6,10,10] y) { y = ConvTranspose <strides = [2, 2]> (x, w_) }",
        torch.nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False),
        (2, 4, 5, 5),
    ),
    Counted(
        "a Gemm",
        "net (float[5,7] x, float[3,7] w_, float[3] c_) => (float[5,3] y) { y = Gemm <transB = 1> (x, w_, c_) }",
        torch.nn.Linear(7, 3),
        (5, 7),
    ),
    Counted(
        "a MatMul of several axes",
        "net (float[2,5,7] x, float[7,3] w_) => (float[2,5,3] y) { y = MatMul(x, w_) }",
        torch.nn.Linear(7, 3, bias=False),
        (2, 5, 7),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_macs_and_parameters(row: Counted) -> None:
    found = cost(graph_of(row.text))
    with FlopCounterMode(display=False) as counter:
        row.module(torch.zeros(row.shape))
    assert found.macs == counter.get_total_flops() // 2
    assert found.parameters == sum(p.numel() for p in row.module.parameters())


def test_shared_weights_count_once() -> None:
    graph = graph_of("net (float[2,3] x, float[3,3] w_) => (float[2,3] y) { a = MatMul(x, w_) y = MatMul(a, w_) }")
    assert cost(graph).parameters == 9
    assert cost(graph).nodes == {"MatMul": 2}


def test_free_sizes_have_no_macs() -> None:
    graph = graph_of("net (float[N,3] x, float[3,3] w_) => (float[N,3] y) { y = MatMul(x, w_) }")
    assert cost(graph).macs is None
