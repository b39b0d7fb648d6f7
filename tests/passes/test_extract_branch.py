"""extract_branch: what lies between named tensors, and the names that cannot be cut at."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_passes import GraphError, extract_branch
from tests.passes.graphs import graph_of, random_input, run, text_of

TOWERS = (
    "net (float[2,3,5,5] x, float[2,3,5,5] z, float[4,3,3,3] w_, float[4,1,1] s_) => (float[2,4,3,3] y)"
    "{ a = Conv(x, w_) b = Relu(a) c = Conv(z, w_) d = Mul(c, s_) y = Add(b, d) }"
)


def test_one_tower_of_two() -> None:
    graph = graph_of(TOWERS)
    whole = run(graph_of(TOWERS.replace("(float[2,4,3,3] y)", "(float[2,4,3,3] b)")))
    lines = extract_branch(graph, inputs=["x"], outputs=["b"])
    assert text_of(graph) == ["a = Conv(x, w_)", "b = Relu(a)"]
    assert [t.name for t in graph.inputs] == ["x"]
    assert lines == ["x -> b: 3 nodes dropped"]
    np.testing.assert_array_equal(run(graph)["b"], whole["b"])


def test_a_tensor_inside_becomes_an_input_with_its_shape() -> None:
    graph = graph_of(TOWERS)
    extract_branch(graph, inputs=["b", "z"], outputs=["y"])
    assert [(t.name, t.shape) for t in graph.inputs] == [("b", [2, 4, 3, 3]), ("z", [2, 3, 5, 5])]
    feeds = {t.name: random_input(t) for t in graph.inputs}
    whole = graph_of(TOWERS)
    second = run(whole, {"x": np.zeros((2, 3, 5, 5), np.float32), "z": feeds["z"]})["y"]  # relu(conv(0)) is 0
    np.testing.assert_array_equal(run(graph, feeds)["y"], second + feeds["b"])


def test_only_outputs_named_keeps_the_inputs_that_they_need() -> None:
    graph = graph_of(TOWERS)
    extract_branch(graph, outputs=["d"])
    assert [t.name for t in graph.inputs] == ["z"]


def test_nothing_to_do() -> None:
    graph = graph_of(TOWERS)
    assert extract_branch(graph, inputs=["x", "z"], outputs=["y"]) == []
    assert len(graph.nodes) == 5


def test_an_input_that_is_needed_and_not_named() -> None:
    with pytest.raises(GraphError, match=r"output 'y' depends on input 'z', not among \['x'\]"):
        extract_branch(graph_of(TOWERS), inputs=["x"], outputs=["y"])


def test_a_misspelt_name_gets_the_nearest() -> None:
    graph = graph_of(TOWERS.replace(" d ", " score ").replace(", d)", ", score)"))
    with pytest.raises(GraphError, match="there is no tensor 'scor', did you mean 'score'"):
        extract_branch(graph, outputs=["scor"])


def test_a_tensor_without_a_known_shape_cannot_become_an_input() -> None:
    graph = graph_of(TOWERS)
    graph.nodes[0].outputs[0].shape = None
    with pytest.raises(GraphError, match="the shape of 'a' is not known"):
        extract_branch(graph, inputs=["a"], outputs=["b"])
