"""The loop over the layers: names, shared parameters, shapes of inputs, and the place in every refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import converters
from converters import ConvertError
from converters.caffe.schema import NetParameter
from tests.caffe.nets import Array, Inputs, converted, run_onnx, seeded, write_net

Blobs = Mapping[str, Sequence[Array]]
NONE: Mapping[str, Any] = MappingProxyType({})


class Named(NamedTuple):
    """Layers behind input "x", and the nodes they become: ``name: inputs -> outputs``; the last line lists the outputs."""

    says: str
    layers: str
    lines: Sequence[str]
    blobs: Blobs = NONE


class Refusal(NamedTuple):
    """Layers behind input "x" that are refused, and the whole message behind the file's name."""

    says: str
    layers: str
    message: str
    blobs: Blobs = NONE
    options: Mapping[str, Any] = NONE


def layer(kind: str, name: str, bottoms: str, tops: str, more: str = "") -> str:
    """One layer on a line; ``bottoms`` and ``tops`` are names with spaces between them."""
    blobs = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {more} }}\n'


def conv(name: str, bottom: str, top: str) -> str:
    return layer("Convolution", name, bottom, top, "convolution_param { num_output: 2 kernel_size: 1 }")


def relu(name: str, bottom: str, top: str) -> str:
    return layer("ReLU", name, bottom, top)


X: Inputs = {"x": (1, 3, 4, 4)}
IN_X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }\n'
WEIGHT, BIAS = seeded("weight", (2, 3, 1, 1)), seeded("bias", (2,))
C: Blobs = {"c": [WEIGHT, BIAS]}

# ---- names ----

NAMES = [
    Named("blobs, layers and parameters keep their names", conv("c", "x", "y"), ["c: x c.weight c.bias -> y", "y"], C),
    Named("the last writer in place keeps the blob's name", conv("c", "x", "a") + relu("r", "a", "a") + layer("Sigmoid", "s", "a", "a") + relu("t", "a", "y"), ["c: x c.weight c.bias -> a@c", "r: a@c -> a@r", "s: a@r -> a", "t: a -> y", "y"], C),
    Named("an output that is written in place", relu("r", "x", "y") + layer("Sigmoid", "s", "y", "y"), ["r: x -> y@r", "s: y@r -> y", "y"]),
    Named("in place over an input: the input keeps its name", relu("r", "x", "x") + layer("Sigmoid", "s", "x", "y"), ["r: x -> x@r", "s: x@r -> y", "y"]),
    Named("an output in place over an input", relu("r", "x", "x") + layer("Sigmoid", "s", "x", "x"), ["r: x -> x@r", "s: x@r -> x@s", "x@s"]),
    Named("helper nodes are called after their layer", layer("Scale", "s", "x", "y", "scale_param { bias_term: true }"), ["s/Mul: x s.scale -> s/Mul", "s: s/Mul s.bias -> y", "y"], {"s": [seeded("s", (3,)), seeded("b", (3,))]}),
    Named("two layers of one name", relu("r", "x", "a") + relu("r", "a", "y"), ["r: x -> a", "r_1: a -> y", "y"]),
    Named("a layer without a name", relu("", "x", "y"), [": x -> y", "y"]),
    Named("blobs that are called as versions and parameters would be", conv("c", "x", "a@c") + relu("r", "a@c", "a@r") + relu("s", "a@r", "c.weight"), ["c: x c.weight_1 c.bias -> a@c", "r: a@c -> a@r", "s: a@r -> c.weight", "c.weight"], C),
    Named("a version whose name a blob has", relu("q", "x", "a") + relu("r", "a", "a") + relu("s", "a", "a@q"), ["q: x -> a@q_1", "r: a@q_1 -> a", "s: a -> a@q", "a@q"]),
    Named("a layer that passes its bottom on leaves no node", relu("r", "x", "a") + layer("Dropout", "d", "a", "b") + relu("s", "b", "y"), ["r: x -> a", "s: a -> y", "y"]),
    Named("an output that is passed on keeps its own name", relu("r", "x", "a") + layer("Dropout", "d", "a", "y"), ["r: x -> a", "y: a -> y", "y"]),
    Named("an input that is passed on in place", layer("Dropout", "d", "x", "x"), ["x@output: x -> x@output", "x@output"]),
    Named("the tops of one layer", layer("Slice", "s", "x", "b a c"), ["s: x s.parts -> b a c", "a b c"]),
    Named("layer and blob of one name", relu("y", "x", "y"), ["y: x -> y", "y"]),
]  # fmt: skip


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row.says)
def test_names(row: Named, tmp_path: Path) -> None:
    graph = converters.load(write_net(tmp_path, row.layers, X, row.blobs))
    lines = [f"{node.name}: {words(node.inputs)} -> {words(node.outputs)}" for node in graph.nodes]
    assert [*lines, words(graph.outputs)] == row.lines
    converters.save(graph, tmp_path / "out.onnx")
    assert list(run_onnx(tmp_path / "out.onnx", {"x": seeded("x", X["x"])})) == [t.name for t in graph.outputs]


def words(tensors: Sequence[gs.Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)


def test_several_inputs_stand_in_the_order_of_the_net(tmp_path: Path) -> None:
    source = write_net(tmp_path, layer("Eltwise", "e", "a b", "y"), {"b": (2,), "a": (2,)})
    assert words(converters.load(source).inputs) == "b a"


def test_the_source_is_told_as_metadata(tmp_path: Path) -> None:
    graph = converters.load(write_net(tmp_path, relu("r", "x", "y"), X))
    assert graph.metadata_props == {"source": "net.caffemodel", "source_format": "caffe"}


# ---- weights ----


def ip(name: str, bottom: str, top: str, params: str, more: str = "") -> str:
    options = f"inner_product_param {{ num_output: 3 bias_term: false {more} }} {params}"
    return layer("InnerProduct", name, bottom, top, options)


def weights_read(folder: Path, layers: str, blobs: Blobs, inputs: Inputs) -> dict[str, Array]:
    """The second input of each node: the weights, by the node's name."""
    graph = converters.load(write_net(folder, layers, inputs, blobs))
    return {node.name: node.inputs[1] for node in graph.nodes if len(node.inputs) > 1}


SHARED = "param { name: 'w' }"
TOWERS = ip("l", "x", "a", SHARED) + ip("m", "x", "b", SHARED)
ONE, TWO = seeded("one", (3, 4)), seeded("two", (3, 4))


def test_layers_that_share_a_parameter_read_one_constant(tmp_path: Path) -> None:
    read = weights_read(tmp_path, TOWERS, {"l": [ONE], "m": [ONE]}, {"x": (1, 4)})
    assert read["l"] is read["m"]
    assert read["l"].name == "l.weight"


@pytest.mark.parametrize("order", ["l m", "m l"])
def test_of_shared_parameters_the_last_one_in_the_file_wins(order: str, tmp_path: Path) -> None:
    """Net::CopyTrainedLayersFrom goes through the file; the layers' blobs are one memory."""
    stored = dict(zip(order.split(), [[ONE], [TWO]], strict=True))
    read = weights_read(tmp_path, TOWERS, stored, {"x": (1, 4)})
    assert read["l"] is read["m"]
    np.testing.assert_array_equal(read["l"].values, TWO)


def test_a_shared_parameter_that_is_stored_once(tmp_path: Path) -> None:
    read = weights_read(tmp_path, TOWERS, {"m": [ONE]}, {"x": (1, 4)})
    np.testing.assert_array_equal(read["l"].values, ONE)


def test_parameters_of_other_names_are_not_shared(tmp_path: Path) -> None:
    layers = ip("l", "x", "a", "param { name: 'w' }") + ip("m", "x", "b", "param { name: 'v' }") + ip("n", "x", "c", "")
    stored = {"l": [ONE], "m": [TWO], "n": [ONE]}
    read = weights_read(tmp_path, layers, stored, {"x": (1, 4)})
    assert len({id(constant) for constant in read.values()}) == 3
    for name, (values,) in stored.items():
        np.testing.assert_array_equal(read[name].values, values)


@pytest.mark.parametrize(
    "first",
    [
        "PERMISSIVE",
        "STRICT",
    ],
)
def test_permissive_sharing_keeps_the_shape_of_each_layer(first: str, tmp_path: Path) -> None:
    """Only the counts have to agree: an encoder's 3x4 weights are a decoder's 4x3 ones, number by number."""
    permissive = "param { name: 'w' share_mode: PERMISSIVE }"
    layers = ip("l", "x", "a", permissive.replace("PERMISSIVE", first)) + ip(
        "m", "x", "b", permissive, "transpose: true"
    )
    feeds = {"x": seeded("x", (1, 4))}
    source = write_net(tmp_path, layers, {"x": (1, 4)}, {"l": [ONE], "m": [TWO.reshape(4, 3)]})
    got = converted(tmp_path, source, feeds)
    # rtol: a float32 sum of four products
    np.testing.assert_allclose(got["a"], feeds["x"] @ TWO.T, rtol=1e-5)
    np.testing.assert_allclose(got["b"], feeds["x"] @ TWO.reshape(4, 3), rtol=1e-5)


def test_of_two_stored_layers_of_one_name_the_last_wins(tmp_path: Path) -> None:
    source = write_net(tmp_path, conv("c", "x", "y"), X)
    model: Any = NetParameter()
    for weight in (WEIGHT * 2, WEIGHT):
        stored = model.layer.add(name="c", type="Convolution")
        for blob in (weight, BIAS):
            stored.blobs.add(data=blob.ravel()).shape.dim.extend(blob.shape)
    source.write_bytes(model.SerializeToString())
    (node,) = converters.load(source).nodes
    np.testing.assert_array_equal(node.inputs[1].values, WEIGHT)


def test_weights_of_layers_that_the_net_does_not_have_are_passed_over(tmp_path: Path) -> None:
    source = write_net(tmp_path, conv("c", "x", "y"), X, {**C, "loss3/classifier": [seeded("w", (7, 7))]})
    assert [node.name for node in converters.load(source).nodes] == ["c"]


def test_two_layers_of_one_name_where_only_the_first_has_weights(tmp_path: Path) -> None:
    """As in nets whose ReLUs are all called "relu"."""
    graph = converters.load(write_net(tmp_path, conv("c", "x", "a") + relu("r", "a", "b") + relu("r", "b", "y"), X, C))
    assert [node.name for node in graph.nodes] == ["c", "r", "r_1"]


# ---- shapes of inputs ----

TWO_INPUTS = {"a": (2, 3), "b": (2, 3)}


@pytest.mark.parametrize(
    ("inputs", "given", "shapes"),
    [
        (X, None, [[1, 3, 4, 4]]),
        (X, (2, 3, 8, 8), [[2, 3, 8, 8]]),
        (X, {"x": (2, 3, 8, 8)}, [[2, 3, 8, 8]]),
        (X, ("N", 3, 4, 4), [["N", 3, 4, 4]]),
        ({"x": (0,)}, (5,), [[5]]),
        ({"x": ()}, (5,), [[5]]),
        (TWO_INPUTS, {"b": (2, 1)}, [[2, 3], [2, 1]]),
        (TWO_INPUTS, {"b": (2, 1), "a": (1, 3)}, [[1, 3], [2, 1]]),
    ],
    ids=["the net's", "unnamed", "named", "a free axis", "instead of a zero", "instead of none", "one of two", "both"],
)
def test_input_shapes(inputs: Inputs, given: Any, shapes: list[list[int]], tmp_path: Path) -> None:
    text = "".join(relu(f"r{name}", name, f"y{name}") for name in inputs)
    graph = converters.load(write_net(tmp_path, text, inputs), input_shape=given)
    assert [list(tensor.shape) for tensor in graph.inputs] == shapes
    assert [list(tensor.shape) for tensor in graph.outputs] == shapes


# ---- refusals ----


CUT_HINT = ". --outputs BLOB stops before a layer, --inputs BLOB begins behind it"
REFUSALS = [
    Refusal("a bottom that nobody makes", relu("r", "conv5", "y"), "layer 'r' (ReLU): no layer before it makes its bottom 'conv5'"),
    Refusal("a misspelt bottom, with the nearest", conv("c", "x", "conv5_3") + relu("r", "conv53", "y"), "layer 'r' (ReLU): no layer before it makes its bottom 'conv53', did you mean 'conv5_3'?", C),
    Refusal("a bottom that a later layer makes", relu("r", "a", "y") + relu("s", "x", "a"), "layer 'r' (ReLU): no layer before it makes its bottom 'a'"),
    Refusal("all unknown types in one message, with the nearest", layer("Convolutoin", "c", "x", "a") + layer("Warp", "w", "a", "b") + relu("r", "b", "c") + layer("Warp", "v", "c", "y"), "unknown layer types: 'Convolutoin' (c), did you mean 'Convolution'?; 'Warp' (w, v)" + CUT_HINT),
    Refusal("unknown types of many layers", "".join(layer("Warp", f"w{i}", "x", f"y{i}") for i in range(9)), "unknown layer types: 'Warp' (w0, w1, w2, w3, w4, w5 and 3 more)" + CUT_HINT),
    Refusal("unknown types are told before missing weights", conv("c", "x", "a") + layer("Warp", "w", "a", "b"), "unknown layer types: 'Warp' (w)" + CUT_HINT),
    Refusal("unknown options, each with its line", layer("Pooling", "p", "x", "y", "pooling_param {\nkernel_size: 2 kernel_sise: 2 }") + layer("ReLU", "r", "y", "z", "colour: 3"), "layer 'p' (Pooling): line 3: unknown field 'pooling_param.kernel_sise', did you mean 'kernel_size'?; layer 'r' (ReLU): line 4: unknown field 'colour'"),
    Refusal("more unknown options than a message should hold", "".join(layer("ReLU", f"r{i}", "x", f"y{i}", f"colour{i}: 1") for i in range(8)), "; ".join(f"layer 'r{i}' (ReLU): line {i + 2}: unknown field 'colour{i}'" for i in range(6)) + "; and 2 more"),
    Refusal("an option that the layer does not have, in a message that it does not read", layer("ReLU", "r", "x", "y", "relu_param { slope: 3 }"), "layer 'r' (ReLU): line 2: unknown field 'relu_param.slope'"),
    Refusal("too many bottoms", layer("ReLU", "r", "x x", "y"), "layer 'r' (ReLU): takes 1 bottom(s), not 2"),
    Refusal("too few bottoms", layer("Eltwise", "e", "x", "y"), "layer 'e' (Eltwise): takes 2 or more bottom(s), not 1"),
    Refusal("no bottom at all", layer("ReLU", "r", "", "y") + relu("s", "x", "z"), "layer 'r' (ReLU): takes 1 bottom(s), not 0"),
    Refusal("three bottoms of one or two", layer("Scale", "s", "x x x", "y"), "layer 's' (Scale): takes 1 to 2 bottom(s), not 3"),
    Refusal("too many tops", layer("ReLU", "r", "x", "y z"), "layer 'r' (ReLU): makes 1 top(s), the net names 2"),
    Refusal("no tops", layer("ReLU", "r", "x", "") + relu("s", "x", "y"), "layer 'r' (ReLU): makes 1 top(s), the net names 0"),
    Refusal("weights for a layer that takes none", relu("c", "x", "y"), "layer 'c' (ReLU): takes no weights, but the weights file has 2 blob(s) for it", C),
    Refusal("no weights for a layer that needs some", conv("conv1", "x", "y"), "layer 'conv1' (Convolution): the weights file has no layer of this name: do prototxt and caffemodel belong together?", C),
    Refusal("a stored layer without blobs", conv("c", "x", "y"), "layer 'c' (Convolution): has 2 blob(s) by its prototxt, 0 in the weights file", {"c": []}),
    Refusal("a blob too few", conv("c", "x", "y"), "layer 'c' (Convolution): has 2 blob(s) by its prototxt, 1 in the weights file", {"c": [WEIGHT]}),
    Refusal("a blob too many", conv("c", "x", "y"), "layer 'c' (Convolution): has 2 blob(s) by its prototxt, 3 in the weights file", {"c": [WEIGHT, BIAS, BIAS]}),
    Refusal("a blob of another shape", conv("c", "x", "y"), "layer 'c' (Convolution): blob 1 is 5 in the weights file, but the net needs 2: another input size, or files that do not belong together", {"c": [WEIGHT, seeded("b", (5,))]}),
    Refusal("weights for a second layer of one name", conv("c", "x", "a") + conv("c", "x", "y"), "layer 'c' (Convolution): a layer of this name comes before it; Caffe loads weights into the first one only: rename one", C),
    Refusal("shared parameters of different shapes", ip("l", "x", "a", SHARED) + ip("m", "a", "b", SHARED), "layer 'l' (InnerProduct): blob 0 is 3x3 in the weights file, but the net needs 3x48: another input size, or files that do not belong together", {"l": [seeded("l", (3, 48))], "m": [seeded("m", (3, 3))]}),
    Refusal("a blob that two layers make", relu("r", "x", "y") + relu("s", "x", "y"), "layer 's' (ReLU): makes blob 'y', which a layer before it makes already: rename one of the two"),
    Refusal("a blob changed in place behind a layer that reads it", relu("r", "x", "a") + relu("s", "a", "b") + relu("t", "a", "a"), "layer 't' (ReLU): changes blob 'a' in place, which layer 's' reads before: rename its top"),
    Refusal("a shape for an input that the net does not have", relu("r", "x", "y"), "--input-shape: there is no input 'data'; the net's inputs are x", {}, {"input_shape": {"data": (1,)}}),
    Refusal("a shape for a misspelt input", layer("Input", "i", "", "image", "input_param { shape { dim: 1 } }") + relu("r", "image", "y"), "--input-shape: there is no input 'images', did you mean 'image'?", {}, {"input_shape": {"images": (1,)}}),
    Refusal("one shape for two inputs", layer("Input", "i", "", "im_info", "input_param { shape { dim: 1 } }") + relu("r", "x", "y"), "the net has the inputs x, im_info: say which one by --input-shape NAME:1,3,224,224", {}, {"input_shape": (1,)}),
    Refusal("fewer shapes than tops", layer("Input", "i", "", "a b c", "input_param { shape { dim: 1 } shape { dim: 2 } }") + relu("r", "a", "y"), "layer 'i' (Input): 2 shapes for 3 tops: none, one, or one a top"),
    Refusal("an opset before the oldest", relu("r", "x", "y"), "opset 12 cannot be written; 13 to ", {}, {"opset": 12}),
    Refusal("an opset of the future", relu("r", "x", "y"), "opset 99 cannot be written; 13 to ", {}, {"opset": 99}),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        converters.load(write_net(tmp_path, row.layers, X, row.blobs), **row.options)
    message = str(caught.value).removeprefix("net.prototxt: ")
    assert message.startswith(row.message) if row.message.endswith("to ") else message == row.message
