"""What is no .onnx, is damaged, or would lose something on its way through graphsurgeon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, helper, numpy_helper

import converters
from converters import ConvertError
from converters.errors import FormatError, UnsupportedError
from tests.caffe.nets import seeded
from tests.onnx_models import N, model_of, written

BIG = seeded("big", (N,))
RELU = f"g (float[{N}] x) => (float[{N}] y) {{ [relu] y = Relu (x) }}"
ADD = f"g (float[{N}] x) => (float[{N}] y) {{ [add] y = Add (x, w) }}"


class Refusal(NamedTuple):
    """The bytes of a file, and how the message behind its name begins: the rest of it is onnx.checker's."""

    says: str
    raw: bytes
    message: str


def changed(values: Any = BIG, **fields: Any) -> bytes:
    """A model whose weight has other fields than it should."""
    model = model_of(ADD, {"w": np.asarray(values)})
    tensor = model.graph.initializer[0]
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name)[:] = value
        else:
            setattr(tensor, name, value)
    return bytes(model.SerializeToString())


RAW = model_of(ADD, {"w": BIG}).SerializeToString()
LIE = f"damaged: initializer 'w' of [%s] holds {4 * N} bytes"
INVALID = "the graph is not valid ONNX: "
NO_FILE = "damaged: byte 0 is not the start of a protobuf field"

FILES = [
    Refusal("an empty file", b"", "the file is empty"),
    Refusal("an HTML page", b"<!DOCTYPE html><html>404</html>", "an HTML page: the download went wrong"),
    Refusal("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself: run 'git lfs pull' where it came from"),
    Refusal("a zip archive", b"PK\x03\x04" + bytes(60), "a zip archive: unpack it first, if it is one of a model"),
    Refusal("zeros", bytes(100), NO_FILE),
    Refusal("a .caffemodel", b"\x0a\x03net\xa2\x06\x07\x0a\x05conv1", "not an ONNX model: it has no graph, or does not say its opset"),
    Refusal("no opset", RAW.removesuffix(b"\x42\x04\x0a\x00\x10\x12"), "not an ONNX model: it has no graph, or does not say its opset"),
    Refusal("a file cut off in its weights", RAW[:700], f"truncated: a field at byte 2 is {len(RAW) - 11:,} bytes long, 695 are left"),
    Refusal("a weight that is shorter than its shape", changed(raw_data=bytes(4 * N - 4), dims=[N]), f"damaged: initializer 'w' of [{N}] holds {4 * N - 4} bytes"),
    Refusal("a weight that is longer than its shape", changed(dims=[N - 1]), LIE % (N - 1)),
    Refusal("a negative size", changed(dims=[-N]), LIE % -N),
    Refusal("two negative sizes", changed(dims=[-N, -1]), LIE % f"{-N}, -1"),
    Refusal("an absurd size", changed(dims=[2**40, 2**40]), LIE % f"{2**40}, {2**40}"),
    Refusal("a type that ONNX does not have", changed(data_type=99), "damaged: initializer 'w' is of type 99, which ONNX does not have"),
    Refusal("a node that reads what nobody makes", model_of(ADD).SerializeToString(), INVALID + "Nodes in a graph must be topologically sorted, however input 'w' of node"),
    Refusal("an op that the opset does not have", model_of(RELU.replace("Relu", "Rellu")).SerializeToString(), INVALID + "No Op registered for Rellu with domain_version of 18"),
    Refusal("an attribute that the op does not have", model_of(RELU.replace("Relu", "Relu <slope: float = 0.5>")).SerializeToString(), INVALID + "Unrecognized attribute: slope for operator Relu"),
    Refusal("shapes that do not fit", model_of(ADD, {"w": BIG[:-1]}).SerializeToString(), INVALID + "[ShapeInferenceError]"),
    Refusal("two initializers of one name", model_of(ADD.replace("x, w", "w, v"), {"w": BIG, "v": BIG}).SerializeToString().replace(b"\x42\x01v", b"\x42\x01w").replace(b"\x0a\x01v", b"\x0a\x01w"), INVALID + "Graph must be in single static assignment (SSA) form"),
    *(Refusal(f"{what} whose name is not UTF-8", RAW.replace(old, new), "damaged: a name is not UTF-8") for what, old, new in (
        ("a tensor", b"\x0a\x01x\x0a\x01w\x12\x01y", b"\x0a\x01x\x0a\x01w\x12\x01\xff"),
        ("a node", b"\x1a\x03add", b"\x1a\x03ad\xff"),
        ("an op", b"\x22\x03Add", b"\x22\x03Ad\xff"),
        ("an initializer", b"\x42\x01w", b"\x42\x01\xff"),
        ("an input", b"\x5a\x10\x0a\x01x", b"\x5a\x10\x0a\x01\xff"),
    )),
]  # fmt: skip


@pytest.mark.parametrize("row", FILES, ids=lambda row: row.says)
def test_files_are_refused(row: Refusal, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(row.raw)
    with pytest.raises(FormatError) as caught:
        converters.load(path)
    assert str(caught.value).startswith(f"net.onnx: {row.message}")


def test_the_checkers_reason_names_the_node(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"No Op registered for Rellu with domain_version of 18 .* Name: relu OpType: Rellu"
    ):
        converters.load(written(tmp_path, model_of(RELU.replace("Relu", "Rellu"))))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Every length of the head, some inside the weights, every length of the tail."""
    path = tmp_path / "net.onnx"
    for length in (*range(1, 90), *range(90, len(RAW) - 60, 97), *range(len(RAW) - 60, len(RAW))):
        path.write_bytes(RAW[:length])
        with pytest.raises(FormatError):
            converters.load(path)


# ---- what graphsurgeon would lose ----


def with_attribute(attribute: AttributeProto) -> ModelProto:
    model = model_of(
        f"g (float[{N}] x) => (float[{N}] y) {{ [mine] y = own.Op (x) }}",
        head='<ir_version: 8, opset_import: ["" : 18, "own" : 1]>',
    )
    model.graph.node[0].attribute.append(attribute)
    return model


GRAPH = model_of(RELU).graph
TENSOR = numpy_helper.from_array(BIG, "t")
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(BIG[:2], "v"), numpy_helper.from_array(np.array([0, 3]), "i"), [4]
)
LOST = {
    "TENSORS": helper.make_attribute("a", [TENSOR, TENSOR]),
    "GRAPHS": helper.make_attribute("a", [GRAPH, GRAPH]),
    "SPARSE_TENSOR": helper.make_attribute("a", SPARSE),
    "SPARSE_TENSORS": helper.make_attribute("a", [SPARSE, SPARSE]),
    "TYPE_PROTO": helper.make_attribute("a", helper.make_tensor_type_proto(1, [2])),
    "TYPE_PROTOS": helper.make_attribute("a", [helper.make_tensor_type_proto(1, [2])] * 2),
}


@pytest.mark.parametrize("kind", LOST)
def test_attributes_that_would_get_lost_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        converters.load(written(tmp_path, with_attribute(LOST[kind])))
    assert str(caught.value) == f"net.onnx: node 'mine' (Op): attribute 'a' of type {kind}"


def test_attributes_in_a_body_are_looked_at_too(tmp_path: Path) -> None:
    model = model_of(
        f"""g (float[{N}] x, bool c) => (float[{N}] y) {{ y = If (c) <
            then_branch = yes () => (float[{N}] t) {{ [mine] t = own.Op (x) }},
            else_branch = no () => (float[{N}] e) {{ e = Relu (x) }}> }}""",
        head='<ir_version: 8, opset_import: ["" : 18, "own" : 1]>',
    )
    model.graph.node[0].attribute[0].g.node[0].attribute.append(LOST["TYPE_PROTO"])
    with pytest.raises(UnsupportedError, match=r"node 'mine' \(Op\): attribute 'a' of type TYPE_PROTO"):
        converters.load(written(tmp_path, model))


KEPT = {
    "FLOAT": 0.5,
    "FLOATS": [0.5, 0.25],
    "INT": -3,
    "INTS": [1, 2**40],
    "STRING": "é",
    "STRINGS": ["a", "b"],
    "TENSOR": TENSOR,
}


@pytest.mark.parametrize("kind", KEPT)
def test_other_attributes_come_back(kind: str, tmp_path: Path) -> None:
    model = with_attribute(helper.make_attribute("a", KEPT[kind]))
    graph = converters.load(written(tmp_path, model))
    converters.save(graph, tmp_path / "out.onnx")
    again = ModelProto.FromString((tmp_path / "out.onnx").read_bytes())
    (got,), (want,) = again.graph.node[0].attribute, model.graph.node[0].attribute
    if kind == "TENSOR":
        np.testing.assert_array_equal(numpy_helper.to_array(got.t), numpy_helper.to_array(want.t))
    else:
        assert got == want


@pytest.mark.parametrize(
    "options",
    [{"prototxt": "net.prototxt"}, {"input_shape": (1, 3)}, {"opset": 18}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_an_onnx_does_not_take_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, model_of(RELU))
    with pytest.raises(ConvertError, match="an ONNX model says its shapes and its opset itself"):
        converters.load(path, **options)
