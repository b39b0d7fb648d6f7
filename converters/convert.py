"""The one data flow: load, passes in order, save, verify."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.formats import format_named, format_of
from converters.loading import LoadOptions

Stage = Callable[[str], Callable[[int, int], None]]


@dataclass
class Report:
    """What a conversion did: the cost before and after the passes, a line a change by pass, and what was verified."""

    before: Any
    after: Any
    source_bytes: int
    target_bytes: int = 0
    changes: dict[str, list[str]] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)


def convert(
    source: Path,
    target: Path | None,
    *,
    source_format: str = "",
    target_format: str = "",
    prototxt: Path | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    opset: int | None = None,
    fold_bn: bool = False,
    verify: bool = False,
    stage: Stage | None = None,
) -> Report:
    """Convert ``source`` to ``target`` (None: only load and run the passes). Formats are told by suffix unless given.

    ``stage(name)`` gives the progress callback of a stage. Raises ConvertError or onnx_passes.GraphError;
    DifferenceError, with ``target`` written, where ``verify`` finds that the result computes something else.
    """
    reader = format_named(source_format) if source_format else format_of(source)
    writer = None if target is None else format_named(target_format) if target_format else format_of(target)
    progress = stage or (lambda name: lambda done, total: None)

    options = LoadOptions(prototxt, input_shapes or {}, inputs, outputs, opset, progress("reading"))
    graph = reader.load(source, options)
    import onnx_passes  # late, as the loader: onnx and graphsurgeon cost 0.3 s

    before = onnx_passes.cost(graph)
    with tempfile.TemporaryDirectory(prefix="decant-") as folder:
        reference = Path(folder, "before.onnx")
        if verify:
            format_named("onnx").save(graph, reference, None)
        passes: dict[str, Callable[[], list[str]]] = {}
        if (inputs or outputs) and not reader.cuts:
            passes["extract_branch"] = lambda: onnx_passes.extract_branch(graph, inputs=inputs, outputs=outputs)
        if fold_bn:
            passes["fold_bn"] = lambda: onnx_passes.fold_bn(graph)
        report = Report(before, before, _size(graph.source_files), changes=_run(passes, graph, source.name))
        report.after = onnx_passes.cost(graph)
        if writer is not None and target is not None:
            report.target_bytes = _size(writer.save(graph, target, progress("writing")))
            if verify:
                from converters.verify import verify_files

                report.verified = verify_files(reference, target, source if reader.name == "caffe" else None, prototxt)
    return report


def _run(passes: Mapping[str, Callable[[], list[str]]], graph: Any, where: str) -> dict[str, list[str]]:
    """Run passes in their order; what they did goes to the report, and which they were into the model's metadata."""
    from onnx_passes import GraphError

    try:
        changes = {name: run() for name, run in passes.items()}
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    if changes:
        graph.metadata_props["passes"] = ", ".join(changes)
    return changes


def _size(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)
