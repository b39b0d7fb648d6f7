"""Reading and writing .onnx: what goes round, where the weights lie, what happens when writing fails, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

import converters
from converters.filemap import origin
from converters.onnx_file import writer
from converters.onnx_file.export import LARGE
from tests.caffe.nets import Array, seeded
from tests.onnx_models import N, files, model_of, run, saved, weights_in, written

SMALL, BIG = seeded("small", (9,)), seeded("big", (N,))


ADD = f"g (float[{N}] x) => (float[{N}] y) {{ [add] y = Add (x, w) }}"

# ---- there and back ----


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    text = f"""
        net (float[N, {N}] x) => (float[N, {N}] y, int64[2] shape)
        {{
            [first] a = Mul (x, w)
            [second] b = Clip (a, low, high)
            [third] y = Elu <alpha: float = 0.5> (b)
            [fourth] shape = Shape (y)
        }}"""
    scalars = {"low": np.float32(-1), "high": np.float32(1)}
    model = model_of(text, {"w": BIG, **{name: np.array(value) for name, value in scalars.items()}})
    model.producer_name, model.producer_version = "maker", "1.2"
    helper.set_model_props(model, {"licence": "none", "classes": "a\nb"})
    again = onnx.load(saved(tmp_path, model))
    assert again.graph.node == model.graph.node
    assert again.graph.input == model.graph.input
    assert again.graph.output == model.graph.output
    assert again.opset_import == model.opset_import
    assert again.metadata_props == model.metadata_props
    assert (again.ir_version, again.producer_name, again.producer_version) == (8, "maker", "1.2")
    assert weights_in(tmp_path / "saved.onnx") == weights_in(tmp_path / "net.onnx")


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
TYPES = ["float16", "float32", "float64", "bool", "complex64", *INTEGERS]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("typed", [False, True], ids=["raw_data", "data of the type"])
def test_weights_of_every_type(name: str, typed: bool, tmp_path: Path) -> None:
    values = (np.arange(2 * LARGE) % 100).astype(name)
    if typed:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = helper.make_tensor("w", kind, values.shape, values.tolist() if name != "float16" else values)
    else:
        tensor = numpy_helper.from_array(values, "w")
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"], name="i")], "g", [], [], [tensor])
    graph.output.add(name="y").type.CopyFrom(helper.make_tensor_type_proto(tensor.data_type, values.shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    saved(tmp_path, model)
    assert weights_in(tmp_path / "saved.onnx") == {"w": (tensor.data_type, [2 * LARGE], values.tobytes())}


@pytest.mark.parametrize("name", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT4", "FLOAT4E2M1"])
def test_weights_of_types_that_numpy_does_not_have(name: str, tmp_path: Path) -> None:
    kind = getattr(TensorProto, name)
    tensor = helper.make_tensor("w", kind, [2 * LARGE], np.tile(np.float32([0, 1, 2, 1]), LARGE // 2))
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [tensor])
    graph.output.add(name="y").type.CopyFrom(helper.make_tensor_type_proto(kind, [2 * LARGE]))
    saved(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))
    assert weights_in(tmp_path / "saved.onnx") == weights_in(tmp_path / "net.onnx")


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (N,), (2, 3, N)], ids=str)
def test_weights_of_every_size(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = model_of("g () => (float y) { y = Identity (w) }", {"w": seeded("w", shape)})
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, shape))
    saved(tmp_path, model)
    assert weights_in(tmp_path / "saved.onnx") == weights_in(tmp_path / "net.onnx")


def test_strings_come_back(tmp_path: Path) -> None:
    model = model_of("g () => (string[2] y) { y = Identity (w) }")
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], [b"a", "é".encode() * LARGE]))
    (tensor,) = onnx.load(saved(tmp_path, model)).graph.initializer
    assert list(tensor.string_data) == [b"a", "é".encode() * LARGE]


@pytest.mark.parametrize("kind", ["input", "constant"])
def test_an_output_may_be_what_no_node_makes(kind: str, tmp_path: Path) -> None:
    model = model_of(f"g (float[{N}] x) => (float[{N}] y, float[{N}] z) {{ y = Relu (x) }}", {"z": BIG})
    if kind == "input":
        del model.graph.initializer[:]
        model.graph.output[1].name = "x"
    again = onnx.load(saved(tmp_path, model))
    assert again.graph.output == model.graph.output
    feeds = {"x": seeded("x", (N,))}
    np.testing.assert_array_equal(run(tmp_path / "saved.onnx", feeds)[1], feeds["x"] if kind == "input" else BIG)


def test_large_weights_are_views_on_the_file(tmp_path: Path) -> None:
    text = f"g (float[{N}] x) => (float[{N}] y, float[9] z) {{ y = Add (x, big)  z = Identity (small) }}"
    path = written(tmp_path, model_of(text, {"big": BIG, "small": SMALL}))
    graph = converters.load(path)
    constants = {t.name: t.values for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    where = origin(constants["big"])
    assert where is not None
    assert path.read_bytes()[where[1] :][: BIG.nbytes] == BIG.tobytes()
    assert not constants["big"].flags.writeable
    assert origin(constants["small"]) is None


def test_a_view_outlives_the_graph_and_the_files_name(tmp_path: Path) -> None:
    path = written(tmp_path, model_of(ADD, {"w": BIG}))
    values = converters.load(path).nodes[0].inputs[1].values
    path.unlink()
    np.testing.assert_array_equal(values, BIG)


def test_what_is_streamed_is_what_onnx_save_writes(tmp_path: Path) -> None:
    """Views, weights in Fortran order and weights with gaps between their numbers, against onnx's own writer."""
    text = f"g (float[4,{N}] x) => (float[4,{N}] y) {{ a = Add (x, v)  b = Add (a, f)  y = Add (b, s) }}"
    arrays = {name: seeded(name, (4, N)) for name in "vfs"}
    graph = converters.load(written(tmp_path, model_of(text, arrays)))
    _, f, s = (node.inputs[1] for node in graph.nodes)
    f.values = np.asfortranarray(arrays["f"])
    s.values = np.stack([arrays["s"]] * 2, axis=-1)[..., 0]  # every other number of another array
    converters.save(graph, tmp_path / "ours.onnx")
    onnx.save(model_of(text, arrays), tmp_path / "theirs.onnx")
    assert weights_in(tmp_path / "ours.onnx") == weights_in(tmp_path / "theirs.onnx")
    ours = onnx.load(tmp_path / "ours.onnx").graph
    assert [list(node.input) for node in ours.node] == [["x", "v"], ["a", "f"], ["b", "s"]]


def test_big_endian_weights_are_turned_round(tmp_path: Path) -> None:
    graph = converters.load(written(tmp_path, model_of(ADD, {"w": BIG})))
    graph.nodes[0].inputs[1].values = BIG.astype(">f4")
    converters.save(graph, tmp_path / "out.onnx")
    assert weights_in(tmp_path / "out.onnx") == weights_in(tmp_path / "net.onnx")


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path, model_of(ADD, {"w": BIG}))
    converters.save(converters.load(path), tmp_path / "twice.onnx")
    assert (tmp_path / "twice.onnx").read_bytes() == path.read_bytes()


def test_a_file_can_be_written_over_itself(tmp_path: Path) -> None:
    """The weights are still views on the old file while the new one takes its name."""
    path = written(tmp_path, model_of(ADD, {"w": BIG}))
    before = weights_in(path)
    graph = converters.load(path)
    graph.nodes[0].name = "renamed"
    converters.save(graph, path)
    assert weights_in(path) == before
    assert onnx.load(path).graph.node[0].name == "renamed"
    assert files(tmp_path) == ["net.onnx"]


def test_progress_counts_the_bytes(tmp_path: Path) -> None:
    text = f"g (float[{N}] x) => (float[{N}] y) {{ a = Add (x, v)  y = Add (a, w) }}"
    graph = converters.load(written(tmp_path, model_of(text, {"v": BIG, "w": BIG + 1})))
    graph.nodes[1].inputs[1].values = graph.nodes[1].inputs[1].values * 2
    seen: list[tuple[int, int]] = []
    writer.save(graph, tmp_path / "out.onnx", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(BIG.nbytes, 2 * BIG.nbytes), (2 * BIG.nbytes, 2 * BIG.nbytes)]


# ---- graphs in graphs ----

INNER = f"""
    g (float[{N}] x, bool c) => (float[{N}] y)
    {{ y = If (c) <
        then_branch = yes () => (float[{N}] t) {{ t = Add (x, v) }},
        else_branch = no () => (float[{N}] e) {{ a = Mul (x, w)  e = Sub (a, v) }}> }}"""
LOOP = f"""
    g (float[{N}] x, int64 n, bool c) => (float[{N}] y)
    {{ y = Loop (n, c, x) <
        body = step (int64 i, bool go, float[{N}] s) => (bool on, float[{N}] r) {{ on = Identity (go)  r = Add (s, w) }}> }}"""
NESTED = f"""
    g (float[{N}] x, int64 n, bool c) => (float[{N}] y)
    {{ y = Loop (n, c, x) <
        body = step (int64 i, bool go, float[{N}] s) => (bool on, float[{N}] r)
        {{ on = Identity (go)
           r = If (go) <
            then_branch = yes () => (float[{N}] t) {{ t = Add (s, v) }},
            else_branch = no () => (float[{N}] e) {{ e = Mul (s, w) }}> }}> }}"""
TRUE, FALSE, THREE = np.array(True), np.array(False), np.array(3)
VW = {"v": BIG, "w": BIG * 2}


@pytest.mark.parametrize(
    ("text", "weights", "feeds"),
    [
        (INNER, VW, {"c": TRUE}),
        (INNER, VW, {"c": FALSE}),
        (INNER, {name: values[:1] for name, values in VW.items()}, {"c": FALSE}),
        (LOOP, VW, {"n": THREE, "c": TRUE}),
        (NESTED, VW, {"n": THREE, "c": TRUE}),
    ],
    ids=["If, then", "If, else", "small weights", "Loop", "If in a Loop"],
)
def test_weights_that_only_a_body_uses(
    text: str, weights: Mapping[str, Array], feeds: Mapping[str, Array], tmp_path: Path
) -> None:
    model = model_of(text, weights)
    target = saved(tmp_path, model)
    feeds = {"x": seeded("x", (N,)), **feeds}
    np.testing.assert_array_equal(run(target, feeds)[0], run(tmp_path / "net.onnx", feeds)[0])


@pytest.mark.parametrize("field", ["type", "shape"])
def test_outputs_of_a_body_need_not_say_what_they_are(field: str, tmp_path: Path) -> None:
    """onnx.checker and onnxruntime take them; only the outputs of the whole graph have to."""
    model = model_of(INNER, VW)
    for attribute in model.graph.node[0].attribute:
        output = attribute.g.output[0]
        (output if field == "type" else output.type.tensor_type).ClearField(field)
    feeds = {"x": seeded("x", (N,)), "c": TRUE}
    np.testing.assert_array_equal(run(saved(tmp_path, model), feeds)[0], feeds["x"] + BIG)


@pytest.mark.parametrize("size", [1, N], ids=["small", "large"])
@pytest.mark.parametrize("condition", [TRUE, FALSE], ids=["then", "else"])
def test_branches_with_constants_of_one_name(size: int, condition: Array, tmp_path: Path) -> None:
    """Each branch has a 'w' of its own: exported as one, both would compute the same."""
    model = model_of(INNER.replace("v)", "w)"))
    for attribute, values in zip(model.graph.node[0].attribute, (BIG[:size], BIG[:size] * 3), strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(values, "w"))
    target = saved(tmp_path, model)
    feeds = {"x": seeded("x", (N,)), "c": condition}
    np.testing.assert_array_equal(run(target, feeds)[0], run(tmp_path / "net.onnx", feeds)[0])


@pytest.mark.parametrize(
    ("ir", "opset", "size"),
    [
        pytest.param(3, 8, 1, id="IR 3, where they must be, small"),
        pytest.param(3, 8, N, id="IR 3, where they must be, large"),
        pytest.param(8, 18, 1, id="IR 8, where they may be, small"),
        pytest.param(8, 18, N, id="IR 8, where they may be, large"),
    ],
)
def test_initializers_that_are_inputs_too(ir: int, opset: int, size: int, tmp_path: Path) -> None:
    model = model_of(ADD, {"w": BIG[:size]}, f'<ir_version: {ir}, opset_import: ["" : {opset}]>')
    model.graph.input.add(name="w").type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [size]))
    feeds = {"x": seeded("x", (N,))}
    np.testing.assert_array_equal(run(saved(tmp_path, model), feeds)[0], feeds["x"] + BIG[:size])
