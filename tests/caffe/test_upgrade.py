"""V0 nets, V1 nets and old input heads: the same net in any of Caffe's three syntaxes becomes the same file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import converters
from converters.errors import ConvertError, FormatError, UnsupportedError
from tests.caffe.nets import Array, seeded, write_caffemodel


class Same(NamedTuple):
    """Two spellings of the layers behind blob "x"; ``blobs`` are the shapes of the weights of layer "l"."""

    says: str
    old: str
    modern: str
    blobs: tuple[tuple[int, ...], ...] = ()


class Refusal(NamedTuple):
    """A net that Caffe would not read either, and words that the message holds."""

    says: str
    text: str
    words: str


X = 'input: "x" input_dim: 2 input_dim: 6 input_dim: 8 input_dim: 8\n'
MODERN_X = 'layer { name: "input" type: "Input" top: "x" input_param { shape { dim: [2, 6, 8, 8] } } }\n'

CONV = "num_output: 4 kernel_size: 3"
CONV_BLOBS = ((4, 6, 3, 3), (4,))


def v0(kind: str, options: str = "", bottom: str = "x", top: str = "y") -> str:
    return f'layers {{ layer {{ name: "l" type: "{kind}" {options} }} bottom: "{bottom}" top: "{top}" }}\n'


def v1(kind: str, options: str = "", bottoms: str = 'bottom: "x"', tops: str = 'top: "y"') -> str:
    return f'layers {{ name: "l" type: {kind} {bottoms} {tops} {options} }}\n'


def v2(kind: str, options: str = "", bottoms: str = 'bottom: "x"', tops: str = 'top: "y"') -> str:
    return f'layer {{ name: "l" type: "{kind}" {bottoms} {tops} {options} }}\n'


def written(folder: Path, text: str, blobs: dict[str, list[Array]] | None = None, **options: object) -> bytes:
    """The .onnx that ``text`` becomes, byte for byte."""
    folder.mkdir(exist_ok=True)
    folder.joinpath("net.prototxt").write_text(text)
    source = write_caffemodel(folder / "net.caffemodel", blobs or {"nothing": []})
    converters.convert(source, folder / "net.onnx", **options)
    return folder.joinpath("net.onnx").read_bytes()


# The types of V1LayerParameter that compute something, with options that are not the defaults.
V1_TYPES = {
    ("ABSVAL", "AbsVal"): "",
    ("ARGMAX", "ArgMax"): "argmax_param { top_k: 2 }",
    ("BNLL", "BNLL"): "",
    ("CONVOLUTION", "Convolution"): f"convolution_param {{ {CONV} pad: 1 stride: 2 }}",
    ("DECONVOLUTION", "Deconvolution"): "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }",
    ("DROPOUT", "Dropout"): "dropout_param { dropout_ratio: 0.2 }",
    ("EXP", "Exp"): "exp_param { base: 2 scale: 0.5 shift: 1 }",
    ("FLATTEN", "Flatten"): "",
    ("IM2COL", "Im2col"): "convolution_param { kernel_size: 3 }",
    ("INNER_PRODUCT", "InnerProduct"): "inner_product_param { num_output: 5 }",
    ("LRN", "LRN"): "lrn_param { local_size: 3 alpha: 0.5 k: 2 }",
    ("MVN", "MVN"): "mvn_param { across_channels: true }",
    ("POOLING", "Pooling"): "pooling_param { pool: AVE kernel_size: 3 stride: 2 }",
    ("POWER", "Power"): "power_param { power: 2 shift: 3 }",
    ("RELU", "ReLU"): "relu_param { negative_slope: 0.1 }",
    ("SIGMOID", "Sigmoid"): "",
    ("SOFTMAX", "Softmax"): "",
    ("SPLIT", "Split"): "",
    ("TANH", "TanH"): "",
    ("THRESHOLD", "Threshold"): "threshold_param { threshold: 0.5 }",
}
BLOBS = {"CONVOLUTION": CONV_BLOBS, "DECONVOLUTION": ((6, 4, 3, 3),), "INNER_PRODUCT": ((5, 384), (5,))}

# Types that only train or bring data: a prediction is left, and what they read is an output.
V1_DROPPED = {
    ("ACCURACY", "Accuracy"): 2,
    ("CONTRASTIVE_LOSS", "ContrastiveLoss"): 3,
    ("EUCLIDEAN_LOSS", "EuclideanLoss"): 2,
    ("HDF5_OUTPUT", "HDF5Output"): 2,
    ("HINGE_LOSS", "HingeLoss"): 2,
    ("INFOGAIN_LOSS", "InfogainLoss"): 2,
    ("MULTINOMIAL_LOGISTIC_LOSS", "MultinomialLogisticLoss"): 2,
    ("SIGMOID_CROSS_ENTROPY_LOSS", "SigmoidCrossEntropyLoss"): 2,
    ("SOFTMAX_LOSS", "SoftmaxWithLoss"): 2,
}
V1_DATA = {
    ("DATA", "Data"): "data_param { batch_size: 2 }",
    (
        "DUMMY_DATA",
        "DummyData",
    ): "dummy_data_param { num: 2 channels: 3 height: 4 width: 4 data_filler { type: 'gaussian' } }",
    ("HDF5_DATA", "HDF5Data"): "hdf5_data_param { batch_size: 2 }",
    ("IMAGE_DATA", "ImageData"): "image_data_param { batch_size: 2 new_height: 8 new_width: 8 }",
    ("MEMORY_DATA", "MemoryData"): "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 4 }",
    ("WINDOW_DATA", "WindowData"): "window_data_param { batch_size: 2 } transform_param { crop_size: 4 }",
}

TWO_BOTTOMS = 'bottom: "x" bottom: "x"'
SAME = [
    *(Same(f"V1 {old}", v1(old, options), v2(new, options), BLOBS.get(old, ())) for (old, new), options in V1_TYPES.items()),
    Same("V1 CONCAT", v1("CONCAT", "concat_param { concat_dim: 1 }", TWO_BOTTOMS), v2("Concat", "", TWO_BOTTOMS)),
    Same("V1 ELTWISE", v1("ELTWISE", "eltwise_param { operation: PROD }", TWO_BOTTOMS), v2("Eltwise", "eltwise_param { operation: PROD }", TWO_BOTTOMS)),
    Same("V1 SLICE", v1("SLICE", "slice_param { slice_dim: 1 }", tops='top: "a" top: "b"'), v2("Slice", "", tops='top: "a" top: "b"')),
    Same("V1 SILENCE", v1("RELU") + v1("SILENCE", "", tops=""), v2("ReLU") + v2("Silence", "", tops="")),
    Same("V1 with a type in quotes", v1('"RELU"'), v2("ReLU")),
    Same("V1 with a type of V2", v1('"Sigmoid"'), v2("Sigmoid")),
    Same("V1 with a type that came after it", v1('"ELU"', "elu_param { alpha: 0.5 }"), v2("ELU", "elu_param { alpha: 0.5 }")),
    Same("V2 with a type of V1", v2("INNER_PRODUCT", V1_TYPES["INNER_PRODUCT", "InnerProduct"]), v2("InnerProduct", V1_TYPES["INNER_PRODUCT", "InnerProduct"]), BLOBS["INNER_PRODUCT"]),
    Same("a type that a fork shouts", v1("PRELU"), v2("PReLU"), ((6,),)),
    Same("a type of two words that a fork shouts", v1("BATCH_NORM"), v2("BatchNorm"), ((6,), (6,), (1,))),
    Same("rates and decays of V1 are for training", v1("CONVOLUTION", f"blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 convolution_param {{ {CONV} }}"), v2("Convolution", f"convolution_param {{ {CONV} }}"), CONV_BLOBS),
    Same("V0 bnll", v0("bnll"), v2("BNLL")),
    Same("V0 conv", v0("conv", "num_output: 4 kernelsize: 3 pad: 1 stride: 2 group: 2 biasterm: false"), v2("Convolution", f"convolution_param {{ {CONV} pad: 1 stride: 2 group: 2 bias_term: false }}"), ((4, 3, 3, 3),)),
    Same("V0 conv with fillers and rates", v0("conv", "num_output: 4 kernelsize: 3 weight_filler { type: 'xavier' } bias_filler { value: 1 } blobs_lr: 1. blobs_lr: 2. weight_decay: 0"), v2("Convolution", f"convolution_param {{ {CONV} }}"), CONV_BLOBS),
    Same("V0 dropout", v0("dropout", "dropout_ratio: 0.7"), v2("Dropout")),
    Same("V0 flatten", v0("flatten"), v2("Flatten")),
    Same("V0 innerproduct", v0("innerproduct", "num_output: 5"), v2("InnerProduct", "inner_product_param { num_output: 5 }"), ((5, 384), (5,))),
    Same("V0 innerproduct without a bias", v0("innerproduct", "num_output: 5 biasterm: false"), v2("InnerProduct", "inner_product_param { num_output: 5 bias_term: false }"), ((5, 384),)),
    Same("V0 lrn", v0("lrn", "local_size: 3 alpha: 0.5 beta: 0.5 k: 2"), v2("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.5 k: 2 }")),
    Same("V0 pool", v0("pool", "pool: AVE kernelsize: 3 stride: 2 pad: 1"), v2("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")),
    Same("V0 relu", v0("relu"), v2("ReLU")),
    Same("V0 sigmoid", v0("sigmoid"), v2("Sigmoid")),
    Same("V0 softmax", v0("softmax"), v2("Softmax")),
    Same("V0 tanh", v0("tanh"), v2("TanH")),
    Same("an option that a V0 type does not use", v0("relu", "kernelsize: 3 group: 2"), v2("ReLU")),
    Same("V0 concat", 'layers { layer { name: "l" type: "concat" concat_dim: 0 } bottom: "x" bottom: "x" top: "y" }', v2("Concat", "concat_param { axis: 0 }", TWO_BOTTOMS)),
    Same("V0 padding goes into the conv behind it", v0("padding", "pad: 2", top="p") + v0("conv", "num_output: 4 kernelsize: 3", bottom="p"), v2("Convolution", f"convolution_param {{ {CONV} pad: 2 }}"), CONV_BLOBS),
    Same("V0 padding goes into the pool behind it", v0("padding", "pad: 1", top="p") + v0("pool", "kernelsize: 3 stride: 2", bottom="p"), v2("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }")),
    Same("V0 padding in place of the pad that a conv has", v0("padding", "pad: 2", top="p") + v0("conv", "num_output: 4 kernelsize: 3 pad: 1", bottom="p"), v2("Convolution", f"convolution_param {{ {CONV} pad: 2 }}"), CONV_BLOBS),
    Same("V0 padding without a pad", v0("padding", top="p") + v0("conv", "num_output: 4 kernelsize: 3", bottom="p"), v2("Convolution", f"convolution_param {{ {CONV} }}"), CONV_BLOBS),
    Same("V0 padding in place", v0("padding", "pad: 2", top="x") + v0("conv", "num_output: 4 kernelsize: 3"), v2("Convolution", f"convolution_param {{ {CONV} pad: 2 }}"), CONV_BLOBS),
]  # fmt: skip

REFUSALS = [
    Refusal("layer and layers in one net", X + v1("RELU") + v2("ReLU", "", 'bottom: "y"', 'top: "z"'), "line 2: the net has both 'layer' and 'layers' fields"),
    Refusal("V0 padding read by something else", X + v0("padding", "pad: 2", top="p") + v0("relu", bottom="p"), "line 3: a padding layer is read by 'relu'"),
    Refusal("V0 padding read together with another blob", X + v0("padding", "pad: 2", top="p") + 'layers { layer { name: "l" type: "conv" num_output: 4 kernelsize: 3 } bottom: "p" bottom: "x" top: "y" top: "z" }', "line 3: a padding layer is read by 'conv'"),
    Refusal("V0 padding of two blobs", X + 'layers { layer { name: "l" type: "padding" pad: 1 } bottom: "x" bottom: "x" top: "p" }', "line 2: a padding layer has one bottom, not itself padded, and one top"),
    Refusal("a V0 field that nobody knows", X + v0("conv", "num_output: 4 kernel_size: 3"), "line 2: unknown field 'kernel_size'"),
    Refusal("layers that are no message", "layers: 3", "line 1: 'layers' is a message"),
    Refusal("an unknown V1 type", X + v1("WARP"), "unknown layer types: 'WARP' (l)"),
    Refusal("a V0 type of V2's name is as unknown as in Caffe", X + v0("innerproducts", "num_output: 4"), "unknown layer types: 'innerproducts' (l)"),
]  # fmt: skip


def blobs_of(row: Same) -> dict[str, list[Array]]:
    return {"l": [seeded(f"l/{i}", shape, 0.2, 1.2) for i, shape in enumerate(row.blobs)]} if row.blobs else {}


@pytest.mark.parametrize("row", SAME, ids=lambda row: row.says)
def test_old_layers_are_modern_ones(row: Same, tmp_path: Path) -> None:
    blobs = blobs_of(row)
    modern = written(tmp_path / "modern", MODERN_X + row.modern, blobs)
    assert written(tmp_path / "old", X + row.old, blobs) == modern


@pytest.mark.parametrize(("types", "bottoms"), V1_DROPPED.items(), ids=lambda item: str(item))
def test_old_layers_that_train_fall_away(types: tuple[str, str], bottoms: int, tmp_path: Path) -> None:
    more = 'bottom: "label" ' * (bottoms - 1)
    relu = v1("RELU")
    old = X.replace('input: "x"', 'input: "x" input: "label"').replace(
        "\n", " input_dim: 2" + " input_dim: 1" * 3 + "\n"
    )
    got = written(tmp_path / "old", old + relu + v1(types[0], "", f'bottom: "y" {more}', 'top: "l"'))
    assert got == written(tmp_path / "bare", old + relu)


@pytest.mark.parametrize(("types", "options"), V1_DATA.items(), ids=lambda item: str(item))
def test_old_data_layers_are_modern_ones(types: tuple[str, str], options: str, tmp_path: Path) -> None:
    shape = {"input_shape": (2, 3, 4, 4)}
    relu = "layer%s { name: 'r' type: %s bottom: 'x' top: 'y' }"
    old = written(tmp_path / "old", v1(types[0], options, "", 'top: "x"') + relu % ("s", "RELU"), **shape)
    assert old == written(tmp_path / "new", v2(types[1], options, "", 'top: "x"') + relu % ("", "'ReLU'"), **shape)


def test_parameters_shared_in_v1(tmp_path: Path) -> None:
    """``param: "name"`` and ``blob_share_mode`` became the name and share_mode of a message each."""
    ip = "inner_product_param { num_output: 4 bias_term: %s }"
    old = f"""
        layers {{ name: "l" type: INNER_PRODUCT bottom: "x" top: "a" param: "w" param: "b" blob_share_mode: PERMISSIVE {ip % "true"} }}
        layers {{ name: "m" type: INNER_PRODUCT bottom: "x" top: "b" param: "w" blob_share_mode: PERMISSIVE
                 inner_product_param {{ num_output: 4 bias_term: false transpose: true }} }}"""
    modern = f"""
        layer {{ name: "l" type: "InnerProduct" bottom: "x" top: "a" param {{ name: "w" share_mode: PERMISSIVE }} param {{ name: "b" }} {ip % "true"} }}
        layer {{ name: "m" type: "InnerProduct" bottom: "x" top: "b" param {{ name: "w" share_mode: PERMISSIVE }}
                inner_product_param {{ num_output: 4 bias_term: false transpose: true }} }}"""
    blobs: dict[str, list[Array]] = {
        "l": [seeded("w", (4, 384)), seeded("b", (4,))],
        "m": [np.zeros((384, 4), np.float32)],
    }
    got = written(tmp_path / "old", X + old, blobs)
    assert got == written(tmp_path / "new", MODERN_X + modern, blobs)
    assert got != written(tmp_path / "apart", MODERN_X + modern.replace('name: "w"', ""), blobs)


NET = {
    "V0": """
        layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "x" top: "pad1" }
        layers { layer { name: "conv1" type: "conv" num_output: 8 kernelsize: 3 stride: 2 biasterm: true } bottom: "pad1" top: "conv1" }
        layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
        layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.0001 beta: 0.75 } bottom: "conv1" top: "norm1" }
        layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 3 stride: 2 } bottom: "norm1" top: "pool1" }
        layers { layer { name: "fc2" type: "innerproduct" num_output: 5 blobs_lr: 1 } bottom: "pool1" top: "fc2" }
        layers { layer { name: "drop2" type: "dropout" dropout_ratio: 0.5 } bottom: "fc2" top: "fc2" }
        layers { layer { name: "prob" type: "softmax" } bottom: "fc2" top: "prob" }""",
    "V1": """
        layers { name: "conv1" type: CONVOLUTION bottom: "x" top: "conv1" convolution_param { num_output: 8 kernel_size: 3 stride: 2 pad: 1 } }
        layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
        layers { name: "norm1" type: LRN bottom: "conv1" top: "norm1" lrn_param { local_size: 3 alpha: 0.0001 beta: 0.75 } }
        layers { name: "pool1" type: POOLING bottom: "norm1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
        layers { name: "fc2" type: INNER_PRODUCT bottom: "pool1" top: "fc2" blobs_lr: 1 inner_product_param { num_output: 5 } }
        layers { name: "drop2" type: DROPOUT bottom: "fc2" top: "fc2" dropout_param { dropout_ratio: 0.5 } }
        layers { name: "prob" type: SOFTMAX bottom: "fc2" top: "prob" }""",
    "V2": """
        layer { name: "conv1" type: "Convolution" bottom: "x" top: "conv1" convolution_param { num_output: 8 kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
        layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { local_size: 3 alpha: 0.0001 beta: 0.75 } }
        layer { name: "pool1" type: "Pooling" bottom: "norm1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
        layer { name: "fc2" type: "InnerProduct" bottom: "pool1" top: "fc2" param { lr_mult: 1 } inner_product_param { num_output: 5 } }
        layer { name: "drop2" type: "Dropout" bottom: "fc2" top: "fc2" dropout_param { dropout_ratio: 0.5 } }
        layer { name: "prob" type: "Softmax" bottom: "fc2" top: "prob" }""",
}  # fmt: skip


@pytest.mark.parametrize("syntax", ["V0", "V1"])
def test_a_whole_net_is_the_same_in_any_syntax(syntax: str, tmp_path: Path) -> None:
    blobs = {
        "conv1": [seeded("conv1/w", (8, 6, 3, 3)), seeded("conv1/b", (8,))],
        "fc2": [seeded("fc2/w", (5, 32)), seeded("fc2/b", (5,))],
    }
    modern = written(tmp_path / "V2", MODERN_X + NET["V2"], blobs)
    assert written(tmp_path / syntax, X + NET[syntax], blobs) == modern


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        written(tmp_path, row.text)
    assert row.words in str(caught.value)


# ---- old input heads ----

RELUS = 'layer { name: "r" type: "ReLU" bottom: "a" top: "y" }\nlayer { name: "s" type: "ReLU" bottom: "b" top: "z" }'
TWO = 'layer { name: "input" type: "Input" top: "a" top: "b" input_param { shape { dim: [2, 3] } shape { dim: [4] } } }'
HEADS = [
    ("input_shape once an input", 'input: "a" input_shape { dim: 2 dim: 3 } input: "b" input_shape { dim: 4 }', TWO),
    ("input_dim four times an input", 'input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8]', TWO.replace("[2, 3]", "[1, 2, 3, 4]").replace("[4]", "[5, 6, 7, 8]")),
    ("input_shape wins over input_dim", 'input: "a" input: "b" input_dim: 9 input_shape { dim: [2, 3] } input_shape { dim: 4 }', TWO),
    ("a head behind the layers", "", TWO),
]  # fmt: skip


@pytest.mark.parametrize(("says", "old", "modern"), HEADS, ids=[head[0] for head in HEADS])
def test_old_heads_are_input_layers(says: str, old: str, modern: str, tmp_path: Path) -> None:
    text = old + RELUS if old else RELUS + '\ninput: ["a", "b"] input_shape { dim: [2, 3] } input_shape { dim: 4 }'
    assert written(tmp_path / "old", text) == written(tmp_path / "new", modern + RELUS)


def test_an_input_layer_takes_the_place_of_the_same_name_in_the_head(tmp_path: Path) -> None:
    head = 'input: "a" input: "b" input_shape { dim: 9 } input_shape { dim: 9 }'
    assert written(tmp_path / "old", head + TWO + RELUS) == written(tmp_path / "new", TWO + RELUS)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ('input: "x" input_dim: [1, 3, 8]', "line 1: input_dim stands 3 times for 1 input(s); each takes 4"),
        ('input: "x"\ninput: "b"\ninput_dim: [1, 3, 8, 8]', "line 3: input_dim stands 4 times for 2 input(s)"),
        ('input: "x" input_dim: [1, 3, 8, 8, 8]', "line 1: input_dim stands 5 times for 1 input(s)"),
        ('input: "x"', "the shape of input 'x' is not in the net: give it by --input-shape x:1,3,224,224"),
        ('input: "x" input_dim: [0, 3, 8, 8]', "the shape of input 'x' is not in the net (it says 0x3x8x8)"),
    ],
    ids=["three", "four for two", "five", "none", "a zero among them"],
)
def test_heads_without_shapes_are_refused(head: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        written(tmp_path, f"{head}\n{v2('ReLU')}")
    assert words in str(caught.value)


def test_a_head_without_shapes_takes_the_users(tmp_path: Path) -> None:
    got = written(tmp_path / "old", 'input: "x"\n' + v2("ReLU"), input_shape=(2, 6, 8, 8))
    assert got == written(tmp_path / "new", MODERN_X + v2("ReLU"))
