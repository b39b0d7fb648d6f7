"""Which prototxt and which caffemodel belong together, and nets that stand in the caffemodel alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from google.protobuf import text_format

import converters
from converters import ConvertError
from converters.caffe.files import find_pair
from converters.caffe.schema import NetParameter
from converters.errors import FormatError
from tests.caffe.nets import net_text, seeded, write_caffemodel, write_net


class Folder(NamedTuple):
    """What lies in a folder, the file that is given, and the one that is found beside it (or none)."""

    says: str
    holds: str
    given: str
    found: str | None


class Ambiguous(NamedTuple):
    """What lies in a folder, the file that is given, and the whole message."""

    says: str
    holds: str
    given: str
    message: str


NETS = [
    Folder("the same name", "net.prototxt other.prototxt deploy.prototxt", "net.caffemodel", "net.prototxt"),
    Folder("the same name, with _deploy", "net_deploy.prototxt net_train.prototxt deploy.prototxt", "net.caffemodel", "net_deploy.prototxt"),
    Folder("_deploy before other ways to say so", "net_deploy.prototxt net-deploy.prototxt", "net.caffemodel", "net_deploy.prototxt"),
    Folder("the same name without its iterations", "net-deploy.prototxt net_train.prototxt", "net_iter_10000.caffemodel", "net-deploy.prototxt"),
    Folder("the same name without its train_val", "a_train_val.prototxt b.prototxt", "a.caffemodel", "a_train_val.prototxt"),
    Folder("deploy.prototxt, whatever the weights are called", "deploy.prototxt train_val.prototxt solver.prototxt", "bvlc_alexnet.caffemodel", "deploy.prototxt"),
    Folder("one that ends in _deploy", "resnet_deploy.prototxt readme.txt", "weights.caffemodel", "resnet_deploy.prototxt"),
    Folder("the train net where there is no other", "net_train.prototxt solver.prototxt", "net.caffemodel", "net_train.prototxt"),
    Folder("a solver is no net", "net_solver.prototxt", "net_solver_iter_5.caffemodel", None),
    Folder("nothing of that name", "other.prototxt", "net.caffemodel", None),
    Folder("dots in the name", "net.v1.2.prototxt net.v1.prototxt", "net.v1.2.caffemodel", "net.v1.2.prototxt"),
    Folder("upper case is the same word", "NET_Train_Val.prototxt", "NET_iter_5.caffemodel", "NET_Train_Val.prototxt"),
]  # fmt: skip

WEIGHTS = [
    Folder("the same name", "net.caffemodel other.caffemodel", "net.prototxt", "net.caffemodel"),
    Folder("the same name without _deploy", "net.caffemodel other.caffemodel", "net_deploy.prototxt", "net.caffemodel"),
    Folder("the same name with its iterations", "net_iter_10.caffemodel other.caffemodel", "net_train_val.prototxt", "net_iter_10.caffemodel"),
    Folder("the only one in the folder", "bvlc_alexnet.caffemodel", "deploy.prototxt", "bvlc_alexnet.caffemodel"),
    Folder("none", "other.prototxt", "net.prototxt", None),
]  # fmt: skip

SEVERAL = [
    Ambiguous("two deploy nets", "a_deploy.prototxt b_deploy.prototxt", "net.caffemodel", "net.caffemodel: several prototxts could belong to it (a_deploy.prototxt, b_deploy.prototxt): say which by --prototxt"),
    Ambiguous("two train nets of one name", "net_test.prototxt net_train.prototxt", "net.caffemodel", "net.caffemodel: several prototxts could belong to it (net_test.prototxt, net_train.prototxt): say which by --prototxt"),
    Ambiguous("two caffemodels of other names", "a.caffemodel b.caffemodel", "net.prototxt", "net.prototxt: several caffemodels could belong to it (a.caffemodel, b.caffemodel): give the caffemodel, and --prototxt"),
    Ambiguous("two iterations", "net_iter_1.caffemodel net_iter_2.caffemodel", "net.prototxt", "net.prototxt: several caffemodels could belong to it (net_iter_1.caffemodel, net_iter_2.caffemodel): give the caffemodel, and --prototxt"),
]  # fmt: skip


def laid(folder: Path, names: str) -> None:
    for name in names.split():
        folder.joinpath(name).touch()


@pytest.mark.parametrize("row", NETS, ids=lambda row: row.says)
def test_the_prototxt_beside_a_caffemodel(row: Folder, tmp_path: Path) -> None:
    laid(tmp_path, row.holds)
    given = tmp_path / row.given
    assert find_pair(given, None) == (tmp_path / row.found if row.found else None, given)


@pytest.mark.parametrize("row", WEIGHTS, ids=lambda row: row.says)
def test_the_caffemodel_beside_a_prototxt(row: Folder, tmp_path: Path) -> None:
    laid(tmp_path, row.holds)
    given = tmp_path / row.given
    assert find_pair(given, None) == (given, tmp_path / row.found if row.found else None)


@pytest.mark.parametrize("row", SEVERAL, ids=lambda row: row.says)
def test_of_several_candidates_none_is_taken(row: Ambiguous, tmp_path: Path) -> None:
    laid(tmp_path, row.holds)
    with pytest.raises(ConvertError) as caught:
        find_pair(tmp_path / row.given, None)
    assert str(caught.value) == row.message


def test_folders_are_no_candidates(tmp_path: Path) -> None:
    tmp_path.joinpath("net.prototxt").mkdir()
    assert find_pair(tmp_path / "net.caffemodel", None).net is None


def test_a_prototxt_that_is_said_is_taken(tmp_path: Path) -> None:
    laid(tmp_path, "net.prototxt a_deploy.prototxt b_deploy.prototxt")
    said, weights = tmp_path / "b_deploy.prototxt", tmp_path / "net.caffemodel"
    assert find_pair(weights, said) == (said, weights)


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    laid(tmp_path, "NET.prototxt")
    given = tmp_path / "NET.CAFFEMODEL"
    assert find_pair(given, None) == (tmp_path / "NET.prototxt", given)


# ---- loading pairs ----

IP = 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 bias_term: false } }'
X = {"x": (1, 4)}
W = seeded("w", (3, 4))


def test_either_file_of_a_pair_loads_both(tmp_path: Path) -> None:
    write_net(tmp_path, IP, X, {"ip": [W]})
    for name in ("net.caffemodel", "net.prototxt"):
        (node,) = converters.load(tmp_path / name).nodes
        np.testing.assert_array_equal(node.inputs[1].values, W)


def test_a_prototxt_in_another_folder(tmp_path: Path) -> None:
    source = write_caffemodel(tmp_path / "weights.caffemodel", {"ip": [W]})
    said = tmp_path / "nets" / "net.txt"
    said.parent.mkdir()
    said.write_text(net_text(IP, X))
    (node,) = converters.load(source, prototxt=said).nodes
    np.testing.assert_array_equal(node.inputs[1].values, W)


def test_a_net_without_weights_needs_no_caffemodel(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net_text('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }', X))
    assert [node.name for node in converters.load(path).nodes] == ["r"]


def stored_net(text: str, blobs: Sequence[Any]) -> bytes:
    """A .caffemodel as Caffe snapshots it: the net's definition, with the blobs in it."""
    net: Any = text_format.Parse(text, NetParameter())
    learned = [
        layer for layer in (*net.layer, *net.layers) if "ip" in (layer.name, getattr(layer, "layer", layer).name)
    ]
    for layer in learned:
        holder = layer.layer if layer in net.layers and layer.HasField("layer") else layer
        for values in blobs:
            holder.blobs.add(data=values.ravel()).shape.dim.extend(values.shape)
    return bytes(net.SerializeToString())


HEAD = 'input: "x" input_dim: 1 input_dim: 4 input_dim: 1 input_dim: 1 '
STORED = {
    "V2": HEAD + IP,
    "V1": HEAD + 'layers { name: "ip" type: INNER_PRODUCT bottom: "x" top: "y" inner_product_param { num_output: 3 bias_term: false } }',
    "V0": HEAD + 'layers { layer { name: "ip" type: "innerproduct" num_output: 3 biasterm: false } bottom: "x" top: "y" }',
    "a train net": 'layer { name: "data" type: "MemoryData" top: "x" top: "label" memory_data_param { batch_size: 1 channels: 4 height: 1 width: 1 } } '
    + IP
    + ' layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" include { phase: TRAIN } }',
}  # fmt: skip


@pytest.mark.parametrize("text", STORED.values(), ids=STORED.keys())
def test_the_net_may_stand_in_the_caffemodel_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(stored_net(text, [W]))
    graph = converters.load(path)
    assert [(tensor.name, tensor.shape) for tensor in graph.inputs] == [("x", [1, 4, 1, 1])]
    assert [(tensor.name, tensor.shape) for tensor in graph.outputs] == [("y", [1, 3])]
    np.testing.assert_array_equal(graph.nodes[-1].inputs[1].values, W)


def test_a_prototxt_wins_over_the_net_in_the_caffemodel(tmp_path: Path) -> None:
    tmp_path.joinpath("net.caffemodel").write_bytes(stored_net(STORED["V2"], [W]))
    tmp_path.joinpath("net.prototxt").write_text(net_text(IP.replace('"y"', '"other"'), X))
    assert [tensor.name for tensor in converters.load(tmp_path / "net.caffemodel").outputs] == ["other"]


def test_a_caffemodel_of_weights_alone_needs_a_prototxt(tmp_path: Path) -> None:
    path = write_caffemodel(tmp_path / "net.caffemodel", {"ip": [W]})
    with pytest.raises(FormatError) as caught:
        converters.load(path)
    assert str(caught.value) == (
        "net.caffemodel: it holds weights only, and no prototxt lies beside it: give one by --prototxt"
    )


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    """The layer, what the file has and what the net needs."""
    source = write_net(tmp_path, IP, {"x": (1, 5)}, {"ip": [W]})
    with pytest.raises(ConvertError) as caught:
        converters.load(source)
    assert str(caught.value) == (
        "net.prototxt: layer 'ip' (InnerProduct): blob 0 is 3x4 in the weights file, but the net needs 3x5:"
        " another input size, or files that do not belong together"
    )


def test_a_prototxt_without_any_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net_text(IP, X))
    with pytest.raises(ConvertError) as caught:
        converters.load(path)
    assert str(caught.value) == (
        "net.prototxt: layer 'ip' (InnerProduct): needs weights, and no caffemodel lies beside the prototxt:"
        " give the caffemodel, and --prototxt"
    )


NO_PROTOTXTS = [
    ("an empty file", b" \n", "the file is empty"),
    ("an HTML page", b"<!DOCTYPE html>\n<html>", "an HTML page: the download went wrong"),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
    ("no layers", b'name: "net"\n', "it holds no layers: not a Caffe net"),
    ("a solver", b'net: "train.prototxt"\nbase_lr: 0.01\n', "it holds no layers: not a Caffe net"),
    ("layers under a misspelt name", b'\nlayr { name: "r" type: "ReLU" }', "line 2: unknown field 'layr', did you mean 'layer'?"),
    ("a value that does not fit the net", b'layer { name: "r" }\nforce_backward: maybe', "line 2: 'force_backward' is true or false, not maybe"),
    ("a caffemodel", b"\x0a\x03net\xa2\x06\x02\x0a\x00", "line 2: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("says", "raw", "words"), NO_PROTOTXTS, ids=[row[0] for row in NO_PROTOTXTS])
def test_what_is_no_prototxt_is_refused(says: str, raw: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(raw)
    with pytest.raises(ConvertError, match=re.escape(f"net.prototxt: {words}")):
        converters.load(path)


def test_unknown_fields_of_the_net_itself_do_not_matter(tmp_path: Path) -> None:
    """Forks put engines and solver settings there."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'engine: "MKL2017" compile_net_state { is_init: true }\n'
        + net_text("layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }", X)
    )
    assert [node.name for node in converters.load(path).nodes] == ["r"]


@pytest.mark.parametrize("said", ["missing.prototxt", "."], ids=["missing", "a folder"])
def test_a_prototxt_that_is_not_there(said: str, tmp_path: Path) -> None:
    source = write_net(tmp_path, IP, X, {"ip": [W]})
    with pytest.raises(ConvertError, match="prototxt"):
        converters.load(source, prototxt=tmp_path / said)
