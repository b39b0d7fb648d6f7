"""FORMATS: what can be read and written, by name and by suffix. A format's code is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from converters.errors import ConvertError
from converters.loading import LoadOptions, Progress
from converters.registry import nearest


class Format(NamedTuple):
    """``loader`` and ``saver`` are "module:function": loader(path, LoadOptions) and saver(graph, path, progress=).

    ``cuts`` says that the loader itself keeps only what lies between inputs and outputs, so that layers outside need
    not be known; elsewhere the pass extract_branch cuts.
    """

    name: str
    suffixes: tuple[str, ...]
    loader: str = ""
    saver: str = ""
    cuts: bool = False

    def load(self, path: Path, options: LoadOptions) -> Any:
        """The gs.Graph of a file, with the attributes ``metadata_props`` and ``source_files``."""
        if not path.is_file():
            raise ConvertError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        if not self.loader:
            raise ConvertError(f"format '{self.name}' cannot be read")
        return _function(self.loader)(path, options)

    def save(self, graph: Any, path: Path, progress: Progress | None) -> list[Path]:
        """Write a graph; returns the files that it became."""
        if not self.saver:
            raise ConvertError(f"format '{self.name}' cannot be written yet")
        if path.is_dir() or not path.parent.is_dir():
            raise ConvertError(f"{path}: is a folder" if path.is_dir() else f"{path.parent}: no such folder")
        files: list[Path] = _function(self.saver)(graph, path, progress=progress)
        return files


FORMATS = (
    Format("caffe", (".caffemodel", ".prototxt"), loader="converters.caffe.reader:load", cuts=True),
    Format("onnx", (".onnx",), loader="converters.onnx_file.reader:load", saver="converters.onnx_file.writer:save"),
)


def format_named(name: str) -> Format:
    """Raises ConvertError for a name that is in no row."""
    for row in FORMATS:
        if row.name == name:
            return row
    known = [row.name for row in FORMATS]
    raise ConvertError(f"unknown format '{name}'{nearest(name, known)}; known are {', '.join(known)}")


def format_of(path: Path) -> Format:
    """The format of a file by its suffix. Raises ConvertError where the suffix is in no row."""
    for row in FORMATS:
        if path.suffix.lower() in row.suffixes:
            return row
    known = ", ".join(suffix for row in FORMATS for suffix in row.suffixes)
    raise ConvertError(
        f"{path.name}: the suffix '{path.suffix}' tells no format (known: {known}): say it by --from or --to"
    )


def _function(spec: str) -> Callable[..., Any]:
    module, _, name = spec.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
