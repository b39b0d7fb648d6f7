"""External data past 2 GB and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

import converters
from converters import ConvertError
from converters.errors import FormatError
from converters.filemap import origin
from converters.onnx_file import writer
from tests.caffe.nets import seeded
from tests.onnx_models import N, files, model_of, run, weights_in, written

TEXT = f"g (float[{N}] x) => (float[{N}] y) {{ a = Add (x, v)  b = Mul (a, s)  y = Sub (b, w) }}"
WEIGHTS = {"v": seeded("v", (N,)), "w": seeded("w", (N,)), "s": seeded("s", (1,))}
X = {"x": seeded("x", (N,))}


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if protobuf's messages ended at 2,000 bytes."""
    monkeypatch.setattr(writer, "MAX_PROTOBUF", 2000)


# ---- writing ----


@pytest.mark.usefixtures("small_limit")
def test_past_the_limit_the_weights_go_beside_the_model(tmp_path: Path) -> None:
    source = written(tmp_path, model_of(TEXT, WEIGHTS))
    graph = converters.load(source)
    graph.nodes[2].inputs[1].values = WEIGHTS["w"] * 2  # one weight is a view, one is not
    assert writer.save(graph, tmp_path / "big.onnx") == [tmp_path / "big.onnx", tmp_path / "big.onnx.data"]
    stored = onnx.load(tmp_path / "big.onnx", load_external_data=False).graph.initializer
    external = {t.name for t in stored if external_data_helper.uses_external_data(t)}
    assert external == {"v", "w"}  # the scalar stays in the model
    want = {name: values * 2 if name == "w" else values for name, values in WEIGHTS.items()}
    assert {t.name: numpy_helper.to_array(t).tolist() for t in onnx.load(tmp_path / "big.onnx").graph.initializer} == {
        name: values.tolist() for name, values in want.items()
    }
    onnx.checker.check_model(str(tmp_path / "big.onnx"), full_check=True)
    np.testing.assert_array_equal(run(tmp_path / "big.onnx", X)[0], (X["x"] + want["v"]) * want["s"] - want["w"])


@pytest.mark.usefixtures("small_limit")
def test_external_data_are_aligned_for_memory_maps(tmp_path: Path) -> None:
    converters.save(converters.load(written(tmp_path, model_of(TEXT, WEIGHTS))), tmp_path / "big.onnx")
    stored = onnx.load(tmp_path / "big.onnx", load_external_data=False).graph.initializer
    offsets = [int(entry.value) for t in stored for entry in t.external_data if entry.key == "offset"]
    assert offsets == [0, writer.EXTERNAL_ALIGNMENT]


@pytest.mark.parametrize(
    ("over", "names"), [(-1, ["net.onnx", "out.onnx"]), (0, ["net.onnx", "out.onnx", "out.onnx.data"])]
)
def test_the_limit_is_that_of_the_whole_file(
    over: int, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 bytes a weight are set aside for tags and lengths: a file just below the limit may go outside, none above inside."""
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    converters.save(graph, tmp_path / "out.onnx")
    size = (tmp_path / "out.onnx").stat().st_size
    monkeypatch.setattr(writer, "MAX_PROTOBUF", size + 64 * 3 if over else size - 1)
    converters.save(graph, tmp_path / "out.onnx")
    assert files(tmp_path) == names


# ---- reading ----


def external(folder: Path, name: str = "net.onnx") -> Path:
    """A model that onnx itself wrote with external data."""
    onnx.save(model_of(TEXT, WEIGHTS), folder / name, save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder / name


def test_external_data_are_read_as_views(tmp_path: Path) -> None:
    graph = converters.load(external(tmp_path))
    found = {node.inputs[1].name: node.inputs[1].values for node in graph.nodes}
    for name, values in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], values)
        where = origin(found[name])
        assert where is not None
        assert where[0].path == tmp_path / "w.bin"
    converters.save(graph, tmp_path / "out.onnx")
    assert weights_in(tmp_path / "out.onnx") == weights_in(tmp_path / "net.onnx")


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    tmp_path.joinpath("data").mkdir()
    path = written(tmp_path, pointing(location="data/w.bin"))
    tmp_path.joinpath("data", "w.bin").write_bytes(WEIGHTS["w"].tobytes())
    np.testing.assert_array_equal(converters.load(path).nodes[0].inputs[1].values, WEIGHTS["w"])


@pytest.mark.usefixtures("small_limit")
def test_a_model_with_external_data_can_be_written_over_itself(tmp_path: Path) -> None:
    converters.save(converters.load(written(tmp_path, model_of(TEXT, WEIGHTS))), tmp_path / "big.onnx")
    before = weights_in(tmp_path / "big.onnx")
    converters.save(converters.load(tmp_path / "big.onnx"), tmp_path / "big.onnx")
    assert weights_in(tmp_path / "big.onnx") == before
    assert files(tmp_path) == ["big.onnx", "big.onnx.data", "net.onnx"]


def pointing(dtype: int = TensorProto.FLOAT, dims: tuple[int, ...] = (N,), **entries: object) -> ModelProto:
    """A model whose weight lies where ``entries`` say."""
    model = model_of(f"g (float[{N}] x) => (float[{N}] y) {{ y = Add (x, w) }}")
    tensor = model.graph.initializer.add(name="w", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


class Refusal(NamedTuple):
    """Where external data are said to lie, and what is wrong with that; ``lays`` puts things into the folder."""

    says: str
    model: ModelProto
    message: str
    lays: Callable[[Path], Any] = lambda folder: folder.joinpath("w.bin").write_bytes(WEIGHTS["w"].tobytes())


OUTSIDE = "initializer 'w': its external data %s lie outside of the model's folder"
REFUSALS = [
    Refusal("a folder above", pointing(location="../w.bin"), OUTSIDE % "'../w.bin'"),
    Refusal("out of the folder and back again", pointing(location="../net/w.bin"), OUTSIDE % "'../net/w.bin'"),
    Refusal("an absolute path", pointing(location="/etc/passwd"), OUTSIDE % "'/etc/passwd'"),
    Refusal("no location", pointing(), OUTSIDE % "''"),
    Refusal("a link out of the folder", pointing(location="w.bin"), OUTSIDE % "'w.bin'", lambda f: f.joinpath("w.bin").symlink_to("/etc/passwd")),
    Refusal("a link inside the folder", pointing(location="w.bin"), OUTSIDE % "'w.bin'", lambda f: (f.joinpath("v.bin").write_bytes(bytes(4 * N)), f.joinpath("w.bin").symlink_to("v.bin"))),
    Refusal("a folder that is a link", pointing(location="etc/passwd"), OUTSIDE % "'etc/passwd'", lambda f: f.joinpath("etc").symlink_to("/etc")),
    Refusal("a file that is not there", pointing(location="v.bin"), "initializer 'w': its external data 'v.bin' are missing"),
    Refusal("a folder", pointing(location="v.bin"), "initializer 'w': its external data 'v.bin' are missing", lambda f: f.joinpath("v.bin").mkdir()),
    Refusal("a device", pointing(location="w.bin"), "initializer 'w': its external data 'w.bin' are missing", lambda f: os.mkfifo(f / "w.bin")),
    Refusal("a file that is too short", pointing(location="w.bin", offset=4), f"truncated: {N} values at byte 4 reach over the end of the file"),
    Refusal("an empty file", pointing(location="w.bin"), "initializer 'w': external data 'w.bin': the file is empty", lambda f: f.joinpath("w.bin").touch()),
    Refusal("a length that is not the shape's", pointing(location="w.bin", length=4 * N - 4), f"initializer 'w': {4 * N - 4} bytes of external data for shape [{N}]"),
    Refusal("a negative offset", pointing(location="w.bin", offset=-4), f"initializer 'w': {4 * N} bytes of external data for shape [{N}]"),
    Refusal("an offset past any file", pointing(location="w.bin", offset=2**70), f"truncated: {N} values at byte {2**70:,} reach over the end of the file"),
    Refusal("an offset that is no number", pointing(location="w.bin", offset="four"), "initializer 'w': its place in the external file is not a number"),
    Refusal("an offset of thousands of digits", pointing(location="w.bin", offset="9" * 5000), "initializer 'w': its place in the external file is not a number"),
    Refusal("a negative size", pointing(dims=(-N,), location="w.bin"), f"initializer 'w': {-4 * N} bytes of external data for shape [{-N}]"),
    Refusal("two negative sizes", pointing(dims=(-N, -1), location="w.bin"), f"initializer 'w': {4 * N} bytes of external data for shape [{-N}, -1]"),
    Refusal("an absurd size", pointing(dims=(2**40, 2**40), location="w.bin"), f"truncated: {2**80:,} values at byte 0 reach over the end of the file"),
    Refusal("a type that numpy does not have", pointing(TensorProto.BFLOAT16, location="w.bin"), "initializer 'w': external data of type BFLOAT16"),
    Refusal("strings", pointing(TensorProto.STRING, location="w.bin"), "initializer 'w': external data of type STRING"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_external_data_are_refused(row: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    row.lays(folder)
    tmp_path.joinpath("w.bin").write_bytes(WEIGHTS["w"].tobytes())  # what must not be read
    with pytest.raises(ConvertError) as caught:
        converters.load(written(folder, row.model))
    assert str(caught.value) == f"net.onnx: {row.message}"


@pytest.mark.parametrize("location", ["w\0.bin", "w" * 5000], ids=["a NUL byte", "too long"])
def test_locations_that_no_system_takes(location: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        converters.load(written(tmp_path, pointing(location=location)))


def test_data_outside_of_the_graphs_own_initializers_are_refused(tmp_path: Path) -> None:
    """A Constant's value, say: onnx.checker refuses those that it cannot find."""
    model = model_of(
        f"g (float[{N}] x) => (float[{N}] y) {{ w = Constant <value: tensor = float {{1}}> ()  y = Add (x, w) }}"
    )
    tensor = model.graph.node[0].attribute[0].t
    tensor.CopyFrom(pointing(location="../w.bin").graph.initializer[0])
    with pytest.raises(FormatError, match="not valid ONNX: Data of TensorProto"):
        converters.load(written(tmp_path, model))


# ---- when writing fails ----


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("failure", [full_disk, no_memory])
@pytest.mark.parametrize("limit", [2000, 2**31], ids=["beside the model", "in the model"])
@pytest.mark.parametrize("number", [0, 1], ids=["at the first weight", "at the last weight"])
def test_a_failure_while_writing_leaves_the_old_files(
    failure: Callable[..., None], limit: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    old = {"out.onnx": b"the old model", "out.onnx.data": b"the old data"}
    for name, content in old.items():
        tmp_path.joinpath(name).write_bytes(content)
    write, calls = writer._write_array, []

    def fail(*args: Any) -> None:
        calls.append(args)
        (failure if len(calls) > number else write)(*args)

    monkeypatch.setattr(writer, "MAX_PROTOBUF", limit)
    monkeypatch.setattr(writer, "_write_array", fail)
    with pytest.raises((OSError, MemoryError)):
        converters.save(graph, tmp_path / "out.onnx")
    assert {name: tmp_path.joinpath(name).read_bytes() for name in old} == old
    assert files(tmp_path) == ["net.onnx", *old]


@pytest.mark.parametrize("limit", [2000, 2**31], ids=["beside the model", "in the model"])
def test_a_failure_leaves_no_new_file(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    monkeypatch.setattr(writer, "MAX_PROTOBUF", limit)
    monkeypatch.setattr(writer, "_write_array", full_disk)
    with pytest.raises(OSError, match="No space left"):
        converters.save(graph, tmp_path / "out.onnx")
    assert files(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(2000, id="beside the model"),
        pytest.param(2**31, id="in the model"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_taken_leaves_nothing(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT is a folder: that shows only when the finished file is to take its name."""
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    tmp_path.joinpath("out.onnx").mkdir()
    monkeypatch.setattr(writer, "MAX_PROTOBUF", limit)
    with pytest.raises((OSError, ConvertError)):
        converters.save(graph, tmp_path / "out.onnx")
    assert files(tmp_path) == ["net.onnx", "out.onnx"]


def test_a_graph_that_is_not_valid_is_not_written(tmp_path: Path) -> None:
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    graph.nodes.reverse()
    tmp_path.joinpath("out.onnx").write_bytes(b"the old model")
    with pytest.raises(
        ConvertError, match="the graph is not valid ONNX: Nodes in a graph must be topologically sorted"
    ):
        converters.save(graph, tmp_path / "out.onnx")
    assert tmp_path.joinpath("out.onnx").read_bytes() == b"the old model"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    graph = converters.load(written(tmp_path, model_of(TEXT, WEIGHTS)))
    with pytest.raises(ConvertError, match=r"missing: no such folder"):
        converters.save(graph, tmp_path / "missing" / "out.onnx")


def test_a_source_that_shrinks_while_it_is_copied_is_told(tmp_path: Path) -> None:
    """Its bytes are gone: better no file than one with zeros in it."""
    path = written(tmp_path, model_of(TEXT, WEIGHTS))
    graph = converters.load(path)
    os.truncate(path, 100)
    with pytest.raises(ConvertError, match="the source file became shorter while it was read"):
        converters.save(graph, tmp_path / "out.onnx")
    assert files(tmp_path) == ["net.onnx"]
