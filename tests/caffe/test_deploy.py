"""Train and test nets: what is left of them for inference, what becomes an input, what an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import onnx_graphsurgeon as gs
import pytest

import converters
from converters import ConvertError
from tests.caffe.nets import Array, seeded, write_caffemodel

Shapes = Mapping[str, Sequence[int]]
NONE: Mapping[str, Any] = MappingProxyType({})


class Net(NamedTuple):
    """A net, and what is left of it: inputs with their shapes, layers that became nodes, outputs in their order."""

    says: str
    text: str
    inputs: Shapes
    nodes: Sequence[str]
    outputs: Sequence[str]
    options: Mapping[str, Any] = NONE


class Refusal(NamedTuple):
    """A net that cannot be deployed, and words that the message holds."""

    says: str
    text: str
    words: str
    options: Mapping[str, Any] = NONE


def layer(kind: str, name: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    """One layer; ``bottoms`` and ``tops`` are names with spaces between them."""
    blobs = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {more} }}\n'


def ip(name: str, bottom: str, top: str) -> str:
    return layer("InnerProduct", name, bottom, top, "inner_product_param { num_output: 2 bias_term: false }")


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return layer("ReLU", name, bottom, top, more)


# Weights for every InnerProduct of this file: all of their bottoms have 12 numbers an image, or the 2 of another one.
WEIGHTS: dict[str, list[Array]] = {
    **{name: [seeded("w", (2, 12))] for name in ("ip", "ip2", "tower1", "tower2")},
    "last": [seeded("w", (2, 2))],
}

X = (1, 3, 2, 2)
IN_X = layer("Input", "x", "", "x", "input_param { shape { dim: [1, 3, 2, 2] } }")
MEMORY = "memory_data_param { batch_size: 1 channels: 3 height: 2 width: 2 }"
DATA = layer("MemoryData", "data", "", "x label", MEMORY)
LABEL = "bottom: 'label'"

# ---- which layers belong to phase TEST ----


def rule(words: str, state: str = "") -> str:
    return f"state {{ {state} }}" + IN_X + relu("l", "x", "y", words) + relu("m", "x", "z")


KEPT = [
    ("no rule", rule("")),
    ("include in TEST", rule("include { phase: TEST }")),
    ("exclude in TRAIN", rule("exclude { phase: TRAIN }")),
    ("an empty include rule is always met", rule("include { }")),
    ("one of several include rules", rule("include { phase: TRAIN } include { phase: TEST }")),
    ("a stage that the net states", rule("include { stage: 'deploy' }", "stage: 'deploy'")),
    ("all stages of a rule", rule("include { stage: 'a' stage: 'b' }", "stage: 'b' stage: 'a' stage: 'c'")),
    ("a not_stage that the net does not state", rule("include { not_stage: 'deploy' }", "stage: 'fast'")),
    ("excluded from a stage that is not the net's", rule("exclude { stage: 'deploy' }")),
    ("min_level reached", rule("include { min_level: 2 }", "level: 2")),
    ("max_level not passed", rule("include { max_level: 2 }", "level: 2")),
    ("level is 0 by default", rule("include { min_level: 0 max_level: 0 }")),
    ("the net's own phase is no matter", rule("include { phase: TEST }", "phase: TRAIN")),
]
LEFT_OUT = [
    ("include in TRAIN", rule("include { phase: TRAIN }")),
    ("exclude in TEST", rule("exclude { phase: TEST }")),
    ("an empty exclude rule is always met", rule("exclude { }")),
    ("one of several exclude rules", rule("exclude { phase: TRAIN } exclude { phase: TEST }")),
    ("a stage that the net does not state", rule("include { stage: 'deploy' }")),
    ("one of two stages", rule("include { stage: 'a' stage: 'b' }", "stage: 'a'")),
    ("TEST, but the wrong stage", rule("include { phase: TEST stage: 'deploy' }")),
    ("a not_stage that the net states", rule("include { not_stage: 'deploy' }", "stage: 'deploy'")),
    ("below min_level", rule("include { min_level: 1 }")),
    ("above max_level", rule("include { max_level: 1 }", "level: 2")),
]


@pytest.mark.parametrize(
    ("text", "nodes"),
    [pytest.param(text, ["l", "m"], id=f"kept: {says}") for says, text in KEPT]
    + [pytest.param(text, ["m"], id=f"left out: {says}") for says, text in LEFT_OUT],
)
def test_rules_of_phase_stage_and_level(text: str, nodes: list[str], tmp_path: Path) -> None:
    assert [node.name for node in loaded(tmp_path, text).nodes] == nodes


def loaded(folder: Path, text: str, **options: Any) -> gs.Graph:
    folder.joinpath("net.prototxt").write_text(text)
    return converters.load(write_caffemodel(folder / "net.caffemodel", WEIGHTS), **options)


# ---- data layers ----


def data(kind: str, options: str, tops: str = "x") -> str:
    return layer(kind, "data", "", tops, options) + relu("r", "x", "y")


ASKED = {"input_shape": (5, 3, 4, 4)}
DATA_LAYERS = [
    Net("MemoryData tells its shape", data("MemoryData", "memory_data_param { batch_size: 4 channels: 1 height: 5 width: 6 }"), {"x": (4, 1, 5, 6)}, ["r"], ["y"]),
    Net("ImageData has three channels", data("ImageData", "image_data_param { batch_size: 2 new_height: 5 new_width: 6 }"), {"x": (2, 3, 5, 6)}, ["r"], ["y"]),
    Net("ImageData without colour has one", data("ImageData", "image_data_param { new_height: 5 new_width: 6 is_color: false }"), {"x": (1, 1, 5, 6)}, ["r"], ["y"]),
    Net("a crop comes after ImageData's new size", data("ImageData", "image_data_param { new_height: 5 new_width: 6 } transform_param { crop_size: 4 }"), {"x": (1, 3, 4, 4)}, ["r"], ["y"]),
    Net("WindowData is cropped", data("WindowData", "window_data_param { batch_size: 2 } transform_param { crop_size: 4 }"), {"x": (2, 3, 4, 4)}, ["r"], ["y"]),
    Net("WindowData with the crop in its own options", data("WindowData", "window_data_param { batch_size: 2 crop_size: 4 }"), {"x": (2, 3, 4, 4)}, ["r"], ["y"]),
    Net("Data with a crop and a mean value a channel", data("Data", "data_param { batch_size: 2 } transform_param { crop_size: 4 mean_value: 1 mean_value: 2 mean_value: 3 mean_value: 4 }"), {"x": (2, 4, 4, 4)}, ["r"], ["y"]),
    Net("Data with a crop and forced colour", data("Data", "data_param { batch_size: 2 } transform_param { crop_size: 4 force_color: true }"), {"x": (2, 3, 4, 4)}, ["r"], ["y"]),
    Net("Data with a crop and forced gray", data("Data", "data_param { batch_size: 2 crop_size: 4 } transform_param { force_gray: true }"), {"x": (2, 1, 4, 4)}, ["r"], ["y"]),
    Net("Data without a crop takes the user's shape", data("Data", "data_param { batch_size: 2 }"), {"x": (5, 3, 4, 4)}, ["r"], ["y"], ASKED),
    Net("HDF5Data takes the user's shape", data("HDF5Data", "hdf5_data_param { batch_size: 2 }"), {"x": (5, 3, 4, 4)}, ["r"], ["y"], ASKED),
    Net("the user's shape wins over the data layer's", data("MemoryData", MEMORY), {"x": (5, 3, 4, 4)}, ["r"], ["y"], ASKED),
    Net("DummyData that is random stands for data", data("DummyData", "dummy_data_param { shape { dim: [2, 3] } data_filler { type: 'gaussian' } }"), {"x": (2, 3)}, ["r"], ["y"]),
    Net("DummyData of old dimensions", data("DummyData", "dummy_data_param { num: 2 channels: 3 height: 4 width: 5 data_filler { type: 'uniform' } }"), {"x": (2, 3, 4, 5)}, ["r"], ["y"]),
    Net("DummyData that is constant is a constant", data("DummyData", "dummy_data_param { shape { dim: [2, 3] } data_filler { value: 1 } }"), {}, ["data", "r"], ["y"]),
    Net("an unknown layer without bottoms brings data", data("DenseImageData", "image_data_param { batch_size: 1 }"), {"x": (5, 3, 4, 4)}, ["r"], ["y"], ASKED),
    Net("a Python layer without bottoms brings data", data("Python", "python_param { module: 'data' layer: 'Data' }"), {"x": (5, 3, 4, 4)}, ["r"], ["y"], ASKED),
    Net("each top that is read is an input", layer("MemoryData", "data", "", "x label", MEMORY) + relu("r", "x", "y") + relu("s", "label", "z"), {"x": X, "label": (2, 1)}, ["r", "s"], ["y", "z"], {"input_shape": {"label": (2, 1)}}),
    Net("a data layer of TRAIN serves where TEST has none", layer("MemoryData", "data", "", "x label", f"include {{ phase: TRAIN }} {MEMORY}") + relu("r", "x", "y"), {"x": X}, ["r"], ["y"]),
    Net("the data layer of TEST comes before that of TRAIN", layer("MemoryData", "data", "", "x", f"include {{ phase: TRAIN }} {MEMORY.replace('height: 2', 'height: 9')}") + layer("MemoryData", "data", "", "x", f"include {{ phase: TEST }} {MEMORY}") + relu("r", "x", "y"), {"x": X}, ["r"], ["y"]),
    Net("a data layer beside input:", 'input: "x" input_dim: [1, 3, 2, 2] ' + data("MemoryData", MEMORY.replace("2", "9")), {"x": X}, ["r"], ["y"]),
    Net("a data layer beside an Input layer", IN_X + data("Data", "data_param { batch_size: 9 }", "x label"), {"x": X}, ["r"], ["y"]),
]  # fmt: skip

# ---- losses and labels ----

BOTH = IN_X + relu("r", "x", "b") + relu("s", "x", "a")
EUCLIDEAN = layer("EuclideanLoss", "loss", "p q", "loss")
LOSSES = [
    Net("a loss falls away, and its prediction is the output", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("loss and accuracy of one prediction", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss") + layer("Accuracy", "accuracy", "p label", "accuracy"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("losses without a label", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p", "loss") + layer("Accuracy", "accuracy", "p"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("a fork's loss, by its name", DATA + ip("ip", "x", "p") + layer("SmoothL1Loss", "loss", "p label", "loss"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("a Python layer with a loss_weight is a loss", DATA + ip("ip", "x", "p") + layer("Python", "loss", "p label", "loss", "loss_weight: 1"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("SoftmaxWithLoss of two tops is a Softmax", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss prob"), {"x": X}, ["ip/Flatten", "ip", "loss"], ["prob"]),
    Net("a loss between two learned towers keeps both", DATA + ip("tower1", "x", "p") + ip("tower2", "x", "q") + EUCLIDEAN, {"x": X}, ["tower1/Flatten", "tower1", "tower2/Flatten", "tower2"], ["p", "q"]),
    Net("a learned tower on data of its own is kept too", layer("MemoryData", "data", "", "x x2", MEMORY) + ip("tower1", "x", "p") + ip("tower2", "x2", "q") + EUCLIDEAN, {"x": X, "x2": X}, ["tower1/Flatten", "tower1", "tower2/Flatten", "tower2"], ["p", "q"], {"input_shape": {"x2": X}}),
    Net("what another loss compares with a label is a prediction", layer("MemoryData", "data", "", "x x2 label", MEMORY) + ip("ip", "x", "p") + layer("Flatten", "f", "x2", "q") + EUCLIDEAN + layer("HingeLoss", "hinge", "q label", "hinge"), {"x": X, "x2": X}, ["ip/Flatten", "ip", "f"], ["p", "q"], {"input_shape": {"x2": X}}),
    Net("a label of constants falls away", IN_X + layer("DummyData", "zeros", "", "label", "dummy_data_param { shape { dim: 1 } }") + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("an autoencoder keeps what it is compared with", DATA + ip("ip", "x", "p") + layer("Flatten", "f", "x", "q") + EUCLIDEAN, {"x": X}, ["ip/Flatten", "ip", "f"], ["p", "q"]),
    Net("sums of losses fall away with them", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss") + layer("HingeLoss", "hinge", "p label", "hinge") + layer("Eltwise", "sum", "loss hinge", "sum") + layer("Power", "half", "sum", "half"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("what is computed from the label falls away", DATA + ip("ip", "x", "p") + layer("Power", "l2", "label", "double") + layer("Flatten", "f", "double", "flat") + layer("EuclideanLoss", "loss", "p flat", "loss"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("a label that is split for two losses", DATA + ip("ip", "x", "p") + ip("ip2", "x", "q") + layer("Slice", "slice", "label", "l1 l2") + layer("SoftmaxWithLoss", "a", "p l1", "a") + layer("SoftmaxWithLoss", "b", "q l2", "b"), {"x": X}, ["ip/Flatten", "ip", "ip2/Flatten", "ip2"], ["p", "q"]),
    Net("a silenced label is no input", DATA + ip("ip", "x", "p") + layer("Silence", "s", "label"), {"x": X}, ["ip/Flatten", "ip"], ["p"]),
    Net("a silenced blob is no output", BOTH + layer("Silence", "s", "b"), {"x": X}, ["r", "s"], ["a"]),
    Net("a blob that is silenced and read", BOTH + relu("t", "b", "c") + layer("Silence", "s2", "b"), {"x": X}, ["r", "s", "t"], ["a", "c"]),
    Net("outputs stand in the order of the alphabet", BOTH + relu("t", "x", "B"), {"x": X}, ["r", "s", "t"], ["B", "a", "b"]),
    Net("a net without losses is left as it is", BOTH, {"x": X}, ["r", "s"], ["a", "b"]),
    Net("an input that nobody reads is no output", layer("Input", "in", "", "x im_info", "input_param { shape { dim: [1, 3, 2, 2] } shape { dim: 3 } }") + relu("r", "x", "y"), {"x": X, "im_info": (3,)}, ["r"], ["y"]),
]  # fmt: skip

# ---- cuts ----

UNKNOWN = layer("Warp", "warp", "b", "c")
CHAIN = IN_X + relu("r", "x", "a") + relu("s", "a", "b")
CUTS = [
    Net("an output inside", CHAIN, {"x": X}, ["r"], ["a"], {"outputs": ["a"]}),
    Net("several outputs, in the order that was asked for", CHAIN, {"x": X}, ["r", "s"], ["b", "a"], {"outputs": ["b", "a"]}),
    Net("an unknown layer behind the output", CHAIN + UNKNOWN, {"x": X}, ["r", "s"], ["b"], {"outputs": ["b"]}),
    Net("an unknown layer beside the output", CHAIN + layer("Warp", "warp", "a", "c"), {"x": X}, ["r", "s"], ["b"], {"outputs": ["b"]}),
    Net("an input inside has the shape that the layers before it make", IN_X + layer("Pooling", "p", "x", "a", "pooling_param { kernel_size: 2 }") + relu("s", "a", "b"), {"a": (1, 3, 1, 1)}, ["s"], ["b"], {"inputs": ["a"]}),
    Net("an input inside with the user's shape", CHAIN, {"a": (7,)}, ["s"], ["b"], {"inputs": ["a"], "input_shape": {"a": (7,)}}),
    Net("an input inside, its shape without its name", layer("Input", "x", "", "x") + relu("r", "x", "a") + relu("s", "a", "b"), {"a": (7,)}, ["s"], ["b"], {"inputs": ["a"], "input_shape": {"a": (7,)}}),
    Net("an input behind an unknown layer", CHAIN + UNKNOWN + relu("t", "c", "y"), {"c": (7,)}, ["t"], ["y"], {"inputs": ["c"], "input_shape": {"c": (7,)}}),
    Net("what two inputs need", CHAIN + layer("Eltwise", "e", "a b", "y"), {"a": (7,), "b": (7,)}, ["e"], ["y"], {"inputs": ["a", "b"], "input_shape": {"a": (7,), "b": (7,)}}),
    Net("the net's own input stays where it is needed", CHAIN + layer("Eltwise", "e", "x b", "y"), {"x": X, "b": X}, ["e"], ["y"], {"inputs": ["b", "x"]}),
    Net("an input and an output that are asked for twice", CHAIN, {"a": X}, ["s"], ["b"], {"inputs": ["a", "a"], "outputs": ["b", "b"]}),
    Net("one of two tops is fed", IN_X + layer("Slice", "slice", "x", "a b", "slice_param { axis: 1 slice_point: 1 }") + layer("Concat", "cat", "a b", "y"), {"a": (1, 5, 2, 2), "x": X}, ["slice", "cat"], ["y"], {"inputs": ["a", "x"], "input_shape": {"a": (1, 5, 2, 2)}}),
    Net("inputs and outputs", CHAIN + relu("t", "b", "c"), {"a": X}, ["s"], ["b"], {"inputs": ["a"], "outputs": ["b"]}),
    Net("a blob that nobody makes can be fed", relu("r", "rois", "y"), {"rois": (5,)}, ["r"], ["y"], {"inputs": ["rois"], "input_shape": {"rois": (5,)}}),
    Net("an output in place means the last of its versions", IN_X + relu("r", "x", "a") + layer("Sigmoid", "s", "a", "a") + relu("t", "a", "b"), {"x": X}, ["r", "s"], ["a"], {"outputs": ["a"]}),
    Net("an input in place means all of its versions", IN_X + relu("r", "x", "a") + layer("Sigmoid", "s", "a", "a") + relu("t", "a", "b"), {"a": X}, ["t"], ["b"], {"inputs": ["a"]}),
]  # fmt: skip

REFUSALS = [
    Refusal("include and exclude in one layer", rule("include { phase: TEST } exclude { stage: 'a' }"), "layer 'l' (ReLU): has include and exclude rules"),
    Refusal("a layer that reads a loss and a prediction", DATA + ip("ip", "x", "p") + layer("SoftmaxWithLoss", "loss", "p label", "loss") + layer("Eltwise", "e", "p loss", "y"), "layer 'e' (Eltwise): reads 'loss', which only a layer that trains computes"),
    Refusal("a data layer that does not tell its shape", data("Data", "data_param { batch_size: 2 }"), "the shape of input 'x' is not in the net: give it by --input-shape x:1,3,224,224"),
    Refusal("Data whose mean does not tell the channels", data("Data", "data_param { batch_size: 2 } transform_param { crop_size: 4 mean_value: 104 }"), "the shape of input 'x' is not in the net"),
    Refusal("a Python layer that is no loss", DATA + ip("ip", "x", "p") + layer("Python", "py", "p label", "y"), "unknown layer types: 'Python' (py)"),
    Refusal("only losses", layer("MemoryData", "data", "", "x label", MEMORY) + layer("SoftmaxWithLoss", "loss", "x label", "loss"), "the net has no outputs"),
    Refusal("an output that nobody makes, with the nearest", CHAIN + relu("t", "b", "conv5_3"), "no layer makes a blob 'conv53', did you mean 'conv5_3'?", {"outputs": ["conv53"]}),
    Refusal("an output that looks like no other", CHAIN, "no layer makes a blob 'prob'", {"outputs": ["prob"]}),
    Refusal("an input that nobody makes, with the nearest", CHAIN + relu("t", "b", "conv5_3") + relu("u", "conv5_3", "y"), "no layer makes a blob 'conv53', did you mean 'conv5_3'?", {"inputs": ["conv53"]}),
    Refusal("an unknown layer before an input inside", CHAIN + UNKNOWN + relu("t", "c", "y"), "the shape of 'c' is not known (unknown layer types: 'Warp' (warp)", {"inputs": ["c"]}),
    Refusal("an unknown layer between input and output", CHAIN + UNKNOWN + relu("t", "c", "y"), "unknown layer types: 'Warp' (warp)", {"inputs": ["a"], "outputs": ["y"]}),
    Refusal("what only training computes, as an output", DATA + ip("ip", "x", "p") + layer("EuclideanLoss", "loss", "p label", "loss"), "blob 'loss' is what only training computes", {"outputs": ["loss"]}),
    Refusal("a misspelt input with a shape, which nobody makes and nobody reads", CHAIN, "no layer makes a blob 'conv53'", {"inputs": ["conv53"], "input_shape": {"conv53": (1,)}}),
    Refusal("an input that is needed and not named", CHAIN + layer("Eltwise", "e", "x b", "y"), "output 'y' depends on input 'x', not among ['b']", {"inputs": ["b"], "outputs": ["y"]}),
]  # fmt: skip


def named(rows: Sequence[Any]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.says)


@named([*DATA_LAYERS, *LOSSES, *CUTS])
def test_what_is_left_for_inference(row: Net, tmp_path: Path) -> None:
    graph = loaded(tmp_path, row.text, **row.options)
    assert {tensor.name: tuple(tensor.shape) for tensor in graph.inputs} == row.inputs
    assert [node.name for node in graph.nodes] == list(row.nodes)
    assert [tensor.name for tensor in graph.outputs] == list(row.outputs)


@named(REFUSALS)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        loaded(tmp_path, row.text, **row.options)
    assert row.words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "metadata"),
    [
        ("transform_param { scale: 0.5 mean_value: 104 mean_value: 117 }", {"mean_value": "[104.0, 117.0]", "scale": "0.5"}),
        ("transform_param { mean_file: 'mean.binaryproto' mirror: true }", {"mean_file": "mean.binaryproto"}),
        ("", {}),
    ],
    ids=["mean values and scale", "a mean file", "nothing"],
)  # fmt: skip
def test_preprocessing_is_kept_as_metadata(options: str, metadata: Mapping[str, str], tmp_path: Path) -> None:
    graph = loaded(tmp_path, data("MemoryData", f"{MEMORY} {options}"))
    found = {key: value for key, value in graph.metadata_props.items() if key.startswith("preprocessing.")}
    assert found == {f"preprocessing.{key}": value for key, value in metadata.items()}
