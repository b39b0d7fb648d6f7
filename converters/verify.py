"""--verify: run two models on the same seeded input and name the first tensor that differs.

onnxruntime runs with its optimisations off: with them on it folds BatchNorm itself, and folded would be compared with
folded. With OpenCV 4 installed (extra ``opencv``), its own reading of the Caffe files is a third witness.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from converters.errors import ConvertError, DifferenceError

Array = npt.NDArray[Any]

# Relative L2 error. Float32 rounding through the 300 layers of a deep ResNet reaches some 1e-5; one wrong channel of a
# thousand is 3e-2.
TOLERANCE = 1e-4

# Ops that turn a small difference into another choice. Where their inputs agree, what they choose is not compared.
_CHOOSING = {
    "ArgMax",
    "ArgMin",
    "TopK",
    "NonMaxSuppression",
    "Greater",
    "Less",
    "Equal",
    "Round",
    "Floor",
    "Ceil",
    "Cast",
}
_DEFAULT_SIZE = 2  # for axes that a model leaves free


def verify_files(reference: Path, candidate: Path, caffe: Path | None, prototxt: Path | None) -> list[str]:
    """Compare two .onnx files on random input, and with OpenCV if ``caffe`` is the source. Returns what was compared.

    Raises DifferenceError with the first tensor that differs, ConvertError if a model does not run.
    """
    reference_model, candidate_model = _Model(reference), _Model(candidate)
    fed_inside = [name for name in candidate_model.inputs if name not in reference_model.inputs]
    feeds = {name: random_input(name, shape, dtype) for name, (shape, dtype) in reference_model.inputs.items()}
    shared = list(candidate_model.outputs)
    expected = reference_model.run(feeds, [*shared, *fed_inside])
    got = candidate_model.run({n: expected.get(n, feeds.get(n)) for n in candidate_model.inputs}, shared)
    if any(not agree(got[name], expected[name]) for name in shared):
        first = _first_difference(reference_model, candidate_model, feeds)
        if first:
            raise DifferenceError(first)
    worst = max((difference(got[name], expected[name]) for name in shared), default=0.0)
    said = [f"equal before and after the passes: {len(shared)} output(s), relative error {worst:.1e}"]
    if caffe is not None:
        from converters.verify_opencv import compare_with_opencv

        said.append(compare_with_opencv(caffe, prototxt, feeds, {name: expected[name] for name in shared}))
    return said


def random_input(name: str, shape: Sequence[int | str | None], dtype: npt.DTypeLike) -> Array:
    """Numbers in (-1, 1), the same for the same name: also valid as indices, which are cut towards zero."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    sizes = [size if isinstance(size, int) and size > 0 else _DEFAULT_SIZE for size in shape]
    return np.asarray(rng.uniform(-1, 1, sizes)).astype(dtype)


def difference(got: Array, want: Array) -> float:
    """Relative L2 error; infinite where shapes, NaNs or infinities are not at the same places."""
    if got.shape != want.shape:
        return float("inf")
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    distance = float(np.linalg.norm(a[finite] - b[finite]))
    return distance / max(float(np.linalg.norm(b[finite])), 1e-12) if distance else 0.0


def agree(got: Array, want: Array) -> bool:
    """Whether two results are the same but for float32 rounding."""
    return difference(got, want) <= TOLERANCE


class _Model:
    """An .onnx file, runnable up to any of its tensors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model = onnx.load(path, load_external_data=False)
        types = {t.name: t for t in self._model.graph.input}
        constants = {t.name for t in self._model.graph.initializer}
        self.inputs = {name: _shape_and_dtype(info) for name, info in types.items() if name not in constants}
        self.outputs = [t.name for t in self._model.graph.output]
        self.nodes = list(self._model.graph.node)
        del self._model.graph.initializer[:]

    def run(self, feeds: Mapping[str, Array | None], names: Sequence[str]) -> dict[str, Array]:
        """The tensors ``names``. Raises ConvertError with onnxruntime's reason."""
        extra = [name for name in dict.fromkeys(names) if name not in self.outputs]
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            source = self._with_outputs(extra) if extra else str(self._path)
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            values = session.run(list(names), dict(feeds)) if names else []
        except Exception as error:  # onnxruntime's own exceptions have no common public base
            raise ConvertError(
                f"cannot verify: onnxruntime does not run the model: {str(error).splitlines()[0]}"
            ) from error
        return dict(zip(names, (np.asarray(value) for value in values), strict=True))

    def _with_outputs(self, names: Sequence[str]) -> bytes:
        model = onnx.load(self._path)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return model.SerializeToString()


def _shape_and_dtype(info: onnx.ValueInfoProto) -> tuple[list[int | str], npt.DTypeLike]:
    tensor = info.type.tensor_type
    shape: list[int | str] = [d.dim_value or d.dim_param for d in tensor.shape.dim]
    return shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)


def _first_difference(reference: _Model, candidate: _Model, feeds: Mapping[str, Array]) -> str:
    """The first tensor, in order of computing, that differs though what it is made of agrees; '' if only choices do."""
    in_candidate = {name for node in candidate.nodes for name in node.output if name}
    common = [name for node in reference.nodes for name in node.output if name in in_candidate]
    missing = [name for name in candidate.inputs if name not in reference.inputs]
    want = reference.run(feeds, [*common, *missing])
    got = candidate.run({n: want.get(n, feeds.get(n)) for n in candidate.inputs}, common)
    bad = {name for name in common if not agree(got[name], want[name])}
    tainted: set[str] = set()
    for node in reference.nodes:
        inherited = any(name in tainted for name in node.input)
        chose = node.op_type in _CHOOSING and not any(name in bad for name in node.input)
        if inherited or (chose and any(name in bad for name in node.output)):
            tainted.update(node.output)
            continue
        for name in node.output:
            if name in bad:
                error = difference(got[name], want[name])
                return f"'{name}' ({node.op_type} '{node.name}') differs: relative error {error:.1e} > {TOLERANCE:.0e}"
    return ""
