"""The corpora of real models that lie beside the project: other people's data, read where they lie."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
CORPUS = SHARED / "corpus"

Array = npt.NDArray[Any]

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpora lie in ../shared, which is not here")


def tool(name: str) -> ModuleType:
    """A module of the corpora's own tools."""
    spec = importlib.util.spec_from_file_location(name, SHARED / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Case:
    """One net of a Caffe corpus, with what real Caffe computes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.record = json.loads((folder / "case.json").read_text())
        self._notes = {k: v for note in self.record["notes"] if isinstance(note, dict) for k, v in note.items()}

    @property
    def types(self) -> set[str]:
        """Layer types of the net that was run."""
        return {layer["type"] for layer in self.record["layers"]}

    def write_weights(self, folder: Path) -> Path:
        """The .caffemodel: the net's own, or made from seeds."""
        if self.record["weights"] != "generated":
            return self.folder / self.record["weights"]
        weights = tool("caffe_weights")
        path = folder / f"{self.name}.caffemodel"
        weights.write_caffemodel(weights.make_weights(self.record), path, self.name)
        return path

    def feeds(self) -> dict[str, Array]:
        """The inputs that the golden results belong to."""
        made: dict[str, Array] = tool("caffe_weights").make_inputs(self.record)
        return made

    def options(self) -> dict[str, Any]:
        """How the net is converted: where it lies, its input shapes, where it is cut."""
        options: dict[str, Any] = {
            "prototxt": self.folder / "net.prototxt",
            "input_shape": {name: value.shape for name, value in self.feeds().items()},
        }
        if "python_layers_replaced_by_inputs" in self._notes:
            options["inputs"] = list(self.feeds())
        if {"python_layers_replaced_by_inputs", "unsupported_terminal_layers_removed"} & set(self._notes):
            options["outputs"] = [name for name, _ in self.golden()]
        return options

    def golden(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, record) of each output that real Caffe computed; not constants, and not inputs that nobody reads."""
        constant = set(self._notes.get("constant_outputs", []))
        inputs = {i["name"] for i in self.record["inputs"]}
        for output in self.record["outputs"]:
            passed_on = output["name"] in inputs and len(self.record["outputs"]) > 1
            if output["name"] not in constant and not passed_on:
                yield output["name"], output

    def compare(self, got: dict[str, Array], tolerance: float) -> None:
        """Hold outputs against real Caffe's: relative L2 error, on the values that were stored."""
        stored = np.load(self.folder / "golden.npz")
        sample = tool("caffe_weights").sample_index
        for name, record in self.golden():
            value = got[name] if name in got else next(iter(got.values()))  # in place over the input itself
            assert list(value.shape) == record["shape"], name
            want = stored[record["key"]].astype(np.float64).ravel()
            flat = value.astype(np.float64).ravel()
            flat = flat[sample(flat.size, name)] if record["sampled"] else flat
            error = np.linalg.norm(flat - want) / max(float(np.linalg.norm(want)), 1e-12)
            assert error <= tolerance, f"{name}: relative error {error:.1e}"


def cases(corpus: str, only: Sequence[str] = ()) -> list[Case]:
    """The cases of a corpus in ``../shared/corpus``, none where it is absent."""
    folder = CORPUS / corpus
    if not folder.is_dir():
        return []
    found = [Case(path) for path in sorted(folder.iterdir()) if (path / "case.json").is_file()]
    return [case for case in found if not only or case.name in only]
