"""Small .onnx files for tests: from ONNX text, through our reader and writer, and what onnx and onnxruntime say of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, numpy_helper

import converters
from converters.onnx_file.export import LARGE
from tests.caffe.nets import Array, run_onnx

N = LARGE // 4  # so many floats are streamed


def model_of(
    text: str, weights: Mapping[str, Array] | None = None, head: str = '<ir_version: 8, opset_import: ["" : 18]>'
) -> ModelProto:
    """A model from ONNX text, with ``weights`` as initializers."""
    model = onnx.parser.parse_model(f"{head} {text}")
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in (weights or {}).items())
    return model


def written(folder: Path, model: ModelProto, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def saved(folder: Path, model: ModelProto) -> Path:
    """``model`` through our reader and our writer."""
    target = folder / "saved.onnx"
    converters.save(converters.load(written(folder, model)), target)
    return target


def weights_in(path: Path) -> dict[str, tuple[int, list[int], bytes]]:
    """Type, shape and bytes of each initializer, as onnx.load reads them."""
    found = onnx.load(path).graph.initializer
    return {t.name: (t.data_type, list(t.dims), numpy_helper.to_array(t).tobytes()) for t in found}


def run(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs, in order."""
    return list(run_onnx(path, feeds).values())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
