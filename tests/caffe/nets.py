"""Small Caffe nets for tests: a prototxt and seeded weights in, what onnxruntime computes out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import converters
from converters import ConvertError
from converters.caffe.schema import NetParameter

Array = npt.NDArray[Any]
# The shape of seeded numbers, or the numbers themselves where it matters which.
Given = Sequence[int] | Array
Inputs = Mapping[str, Given]
Oracle = Callable[[Mapping[str, Array], Sequence[Array]], Array | dict[str, Array]]


class Row(NamedTuple):
    """One line of a family's table.

    ``says`` reads as a sentence; ``layer`` is prototxt with the bottoms that ``inputs`` names and the top "y";
    ``blobs`` are the weights of layer "l"; ``want(inputs, blobs)`` is the oracle, in float64. Where a layer has
    several tops, it tells each by its name.
    """

    says: str
    layer: str
    inputs: Inputs
    want: Oracle
    blobs: Sequence[Given] = ()


class Refusal(NamedTuple):
    """A layer that must not be converted, and words that its message holds."""

    says: str
    layer: str
    inputs: Inputs
    words: str
    blobs: Sequence[Given] = ()


def named(rows: Sequence[Row], *says: str) -> list[Row]:
    """The rows of these names, for a test that runs some of a table."""
    by_name = {row.says: row for row in rows}
    return [by_name[name] for name in says]


def seeded(name: str, shape: Sequence[int], low: float = -1, high: float = 1) -> npt.NDArray[np.float32]:
    """Uniform numbers that depend on ``name`` alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.asarray(rng.uniform(low, high, shape), np.float32)


def numbers(name: str, given: Given, low: float = -1, high: float = 1) -> npt.NDArray[np.float32]:
    """``given`` itself if it is an array, else seeded numbers of that shape."""
    return given.astype(np.float32) if isinstance(given, np.ndarray) else seeded(name, given, low, high)


def weights_of(blobs: Sequence[Given], layer: str = "l") -> list[npt.NDArray[np.float32]]:
    """Seeded blobs between 0.2 and 1.2: valid as variances, too."""
    return [numbers(f"{layer}/{i}", given, 0.2, 1.2) for i, given in enumerate(blobs)]


def feeds_of(inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """What onnxruntime is fed: seeded numbers between -1 and 1."""
    return {name: numbers(name, given) for name, given in inputs.items()}


def net_text(layers: str, inputs: Inputs) -> str:
    """``layers`` with an Input layer for each of ``inputs`` before them."""
    shapes = {name: given.shape if isinstance(given, np.ndarray) else given for name, given in inputs.items()}
    dims = {name: " ".join(f"dim: {size}" for size in shape) for name, shape in shapes.items()}
    heads = (
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dim} }} }} }}\n'
        for name, dim in dims.items()
    )
    return "".join(heads) + layers


def write_caffemodel(path: Path, blobs: Mapping[str, Sequence[Array]], *, four_axes: bool = False) -> Path:
    """A .caffemodel as Caffe writes it: a NetParameter with the blobs of each layer.

    ``four_axes`` as before blobs had any number of axes: num, channels, height and width, with ones in front.
    """
    model = NetParameter(name="test")
    for name, arrays in blobs.items():
        layer = model.layer.add(name=name, type="Any")
        for array in arrays:
            blob = layer.blobs.add()
            blob.data.extend(array.ravel())
            if four_axes:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
            else:
                blob.shape.SetInParent()
                blob.shape.dim.extend(array.shape)
    path.write_bytes(model.SerializeToString())
    return path


def write_net(folder: Path, layers: str, inputs: Inputs, blobs: Mapping[str, Sequence[Array]] | None = None) -> Path:
    """net.prototxt and net.caffemodel in ``folder``; returns the latter."""
    folder.joinpath("net.prototxt").write_text(net_text(layers, inputs))
    return write_caffemodel(folder / "net.caffemodel", blobs or {"nothing": []})


def run_onnx(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs, with onnxruntime's optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def converted(folder: Path, source: Path, feeds: Mapping[str, Array], **options: Any) -> dict[str, Array]:
    """What the conversion of ``source`` computes."""
    target = folder / "out.onnx"
    converters.convert(source, target, **options)
    return run_onnx(target, feeds)


def check_row(row: Row, folder: Path, opset: int | None = None, *, four_axes: bool = False) -> None:
    """Convert the row's layer and hold it against its oracle.

    rtol 2e-5, atol 2e-6: float32 sums of up to a few hundred terms of order one, against float64.
    """
    blobs, feeds = weights_of(row.blobs), feeds_of(row.inputs)
    source = write_net(folder, row.layer, row.inputs, {"l": blobs} if blobs else None)
    if four_axes:
        write_caffemodel(source, {"l": blobs}, four_axes=True)
    got = converted(folder, source, feeds, opset=opset)
    want = row.want({name: x.astype(np.float64) for name, x in feeds.items()}, [b.astype(np.float64) for b in blobs])
    tops = want if isinstance(want, dict) else {"y": want}
    assert got.keys() == tops.keys()
    for name, top in tops.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == top.shape
        np.testing.assert_allclose(got[name], top, rtol=2e-5, atol=2e-6, err_msg=name)


def check_refused(row: Refusal, folder: Path) -> None:
    """The row's layer is not converted; the message names the layer and tells the reason."""
    source = write_net(folder, row.layer, row.inputs, {"l": weights_of(row.blobs)} if row.blobs else None)
    with pytest.raises(ConvertError, match=f"layer 'l' .*{row.words}"):
        converters.convert(source, folder / "out.onnx")
