"""Damaged files: whatever a mutant of a good file is, it is converted or refused in words, and nothing is left written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from google.protobuf import text_format

import converters
from converters import ConvertError
from converters.caffe.schema import NetParameter
from onnx_passes import GraphError
from tests.caffe.nets import seeded, write_caffemodel
from tests.corpus import SHARED, tool
from tests.onnx_models import N, model_of

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the mutator lies in ../shared, which is not here")

MUTANTS, MANY = 60, 1000

MODERN = """
name: "modern"  # one of each: a comment, a list, a nested message
input: "data" input_shape { dim: [1, 3, 8, 8] }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 1e-4 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
OLD = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers { layer { name: "conv" type: "conv" num_output: 4 kernelsize: 3 } bottom: "pad" top: "conv" }
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "lrn" type: "lrn" local_size: 3 } bottom: "conv" top: "lrn" }
layers { layer { name: "ip" type: "innerproduct" num_output: 5 } bottom: "lrn" top: "ip" }
"""
TRAIN = """
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
        image_data_param { batch_size: 1 new_height: 8 new_width: 8 } transform_param { mean_value: [104, 117, 123] } }
layer { name: "slice" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }
layer { name: "up" type: "Concat" bottom: "b" bottom: "a" top: "both" }
layer { name: "flat" type: "Reshape" bottom: "both" top: "flat" reshape_param { shape { dim: 0 dim: -1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip" param { name: "w" } inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" top: "prob" }
"""
CONV = [seeded("conv/w", (4, 3, 3, 3)), seeded("conv/b", (4,))]
WEIGHTS = {
    "modern": {
        "conv": CONV,
        "bn": [seeded("bn/m", (4,)), seeded("bn/v", (4,), 0.2, 1.2), np.ones(1, np.float32)],
        "ip": [seeded("ip/w", (5, 64)), seeded("ip/b", (5,))],
    },
    "old": {"conv": CONV, "ip": [seeded("ip/w", (5, 256)), seeded("ip/b", (5,))]},
    "train": {"ip": [seeded("ip/w", (5, 192)), seeded("ip/b", (5,))]},
}
TEXTS = {"modern": MODERN, "old": OLD, "train": TRAIN}

# ONNX: a chain with large and small weights, a body with weights of its own, weights as typed data.
CHAIN = f"""chain (float[1, {N}] x) => (float[1, 4] y)
    {{ a = Mul (x, m)  b = Clip (a, low)  c = Gemm <transB: int = 1> (b, w, k)  y = Softmax (c) }}"""
BODY = f"""body (float[{N}] x, bool c) => (float[{N}] y)
    {{ y = If (c) < then_branch = yes () => (float[{N}] t) {{ t = Add (x, v) }},
                    else_branch = no () => (float[{N}] e) {{ e = Mul (x, w) }}> }}"""
TYPED = "typed (float[4] x) => (float[2, 2] y) <float[4] w = {1, 2, 3, 4}, int64[2] s = {2, 2}> { a = Add (x, w)  y = Reshape (a, s) }"


# Each writes good files and returns the one to damage and the one to convert.
Build: TypeAlias = Callable[[str, Path], tuple[Path, Path]]


def prototxt(name: str, folder: Path) -> tuple[Path, Path]:
    source = write_caffemodel(folder / "net.caffemodel", WEIGHTS[name])
    folder.joinpath("net.prototxt").write_text(TEXTS[name])
    return folder / "net.prototxt", source


def caffemodel(name: str, folder: Path) -> tuple[Path, Path]:
    source = prototxt(name, folder)[1]
    return source, source


def caffemodel_alone(name: str, folder: Path) -> tuple[Path, Path]:
    """The net's definition stands in the file itself."""
    source = folder / "net.caffemodel"
    stored: Any = NetParameter.FromString(write_caffemodel(source, WEIGHTS[name]).read_bytes())
    net: Any = text_format.Parse(TEXTS[name], NetParameter())
    for layer in (*net.layer, *net.layers):
        inner = layer.layer if name == "old" else layer
        inner.blobs.extend(blob for other in stored.layer if other.name == inner.name for blob in other.blobs)
    source.write_bytes(net.SerializeToString())
    return source, source


def onnx_file(name: str, folder: Path) -> tuple[Path, Path]:
    big = {key: seeded(key, (N,)) for key in "vw"}
    chain = {"m": seeded("m", (1, N)), "low": np.float32(0), "w": seeded("w", (4, N)), "k": seeded("k", (4,))}
    text, weights = {"chain": (CHAIN, chain), "body": (BODY, big), "typed": (TYPED, {})}[name]
    path = folder / "net.onnx"
    path.write_bytes(model_of(text, {key: np.asarray(values) for key, values in weights.items()}).SerializeToString())
    return path, path


GOOD = [
    *((prototxt, name) for name in TEXTS),
    *((caffemodel, name) for name in TEXTS),
    *((caffemodel_alone, name) for name in TEXTS),
    *((onnx_file, name) for name in ("chain", "body", "typed")),
]


def untyped_errors(build: Build, name: str, folder: Path, seeds: Iterable[int]) -> list[str]:
    """What was raised beside our own errors, by mutant; a refusal must not leave a file."""
    mutator = tool("mutate")
    damaged, source = build(name, folder)
    good, text, target = damaged.read_bytes(), build is prototxt, folder / "out.onnx"
    converters.convert(source, target, fold_bn=True)  # else its mutants would say nothing
    found = []
    for seed in seeds:
        damaged.unlink()  # a new file: views on the one before may still be alive
        damaged.write_bytes(mutator.mutate(good, seed, text))
        target.unlink(missing_ok=True)
        try:
            converters.convert(source, target, fold_bn=True)
        except (ConvertError, GraphError):
            assert not target.exists()
        except Exception as error:  # noqa: BLE001
            found.append(f"seed {seed} ({mutator.kind_name(seed, text)}): {type(error).__name__}: {error}")
    return found


@pytest.mark.parametrize(("build", "name"), GOOD)
def test_mutants_are_converted_or_refused(build: Build, name: str, tmp_path: Path) -> None:
    assert untyped_errors(build, name, tmp_path, range(MUTANTS)) == []


@pytest.mark.long
@pytest.mark.parametrize(("build", "name"), GOOD)
def test_many_mutants_are_converted_or_refused(build: Build, name: str, tmp_path: Path) -> None:
    assert untyped_errors(build, name, tmp_path, range(MUTANTS, MANY)) == []
