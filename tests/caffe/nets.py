"""Small Caffe nets for tests: a prototxt and seeded weights in, what onnxruntime computes out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

import converters
from converters.caffe.schema import NetParameter

Array = npt.NDArray[Any]
Inputs = Mapping[str, Sequence[int]]


class Row(NamedTuple):
    """One line of a family's table.

    ``says`` reads as a sentence; ``layer`` is prototxt with the bottoms that ``inputs`` names and the top "y";
    ``blobs`` are the shapes of the weights of layer "l"; ``want(inputs, blobs)`` is the oracle, in float64.
    """

    says: str
    layer: str
    inputs: Inputs
    want: Callable[[Mapping[str, Array], Sequence[Array]], Array]
    blobs: Sequence[Sequence[int]] = ()


class Refusal(NamedTuple):
    """A layer that must not be converted, and words that its message holds."""

    says: str
    layer: str
    inputs: Inputs
    words: str
    blobs: Sequence[Sequence[int]] = ()


def seeded(name: str, shape: Sequence[int], low: float = -1, high: float = 1) -> npt.NDArray[np.float32]:
    """Uniform numbers that depend on ``name`` alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.asarray(rng.uniform(low, high, shape), np.float32)


def weights_of(shapes: Sequence[Sequence[int]], layer: str = "l") -> list[npt.NDArray[np.float32]]:
    """Seeded blobs between 0.2 and 1.2: valid as variances, too."""
    return [seeded(f"{layer}/{i}", shape, 0.2, 1.2) for i, shape in enumerate(shapes)]


def net_text(layers: str, inputs: Inputs) -> str:
    """``layers`` with an Input layer for each of ``inputs`` before them."""
    dims = {name: " ".join(f"dim: {size}" for size in shape) for name, shape in inputs.items()}
    heads = (
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dim} }} }} }}\n'
        for name, dim in dims.items()
    )
    return "".join(heads) + layers


def write_caffemodel(path: Path, blobs: Mapping[str, Sequence[Array]]) -> Path:
    """A .caffemodel as Caffe writes it: a NetParameter with the blobs of each layer."""
    model = NetParameter(name="test")
    for name, arrays in blobs.items():
        layer = model.layer.add(name=name, type="Any")
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.SetInParent()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel())
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


def check_row(row: Row, folder: Path, opset: int | None = None) -> None:
    """Convert the row's layer and hold it against its oracle.

    rtol 2e-5, atol 2e-6: float32 sums of up to a few hundred terms of order one, against float64.
    """
    blobs = weights_of(row.blobs)
    feeds = {name: seeded(name, shape) for name, shape in row.inputs.items()}
    source = write_net(folder, row.layer, row.inputs, {"l": blobs} if blobs else None)
    got = converted(folder, source, feeds, opset=opset)["y"]
    want = row.want({name: x.astype(np.float64) for name, x in feeds.items()}, [b.astype(np.float64) for b in blobs])
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
