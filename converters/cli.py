"""argv -> calls. The only place that prints, picks an exit code or draws a progress bar.

Exit codes: 0 done, 1 cannot (one message), 2 usage, 3 the result differs from its source.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converters.errors import ConvertError, DifferenceError
from converters.version import __version__

if TYPE_CHECKING:
    from converters.convert import Report

EXIT_CANNOT, EXIT_DIFFERS = 1, 3


class InputShape(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """``1,3,224,224`` or ``data:1,3,224,224``."""

    name = "[NAME:]N,C,H,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[int]]:
        name, _, numbers = str(value).rpartition(":")
        try:
            shape = [int(number) for number in numbers.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not of the form 1,3,224,224 or data:1,3,224,224", param, ctx)
        if min(shape) < 1:
            self.fail(f"{value!r}: sizes are positive", param, ctx)
        return name, shape


def _names(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> list[str]:
    return [name for part in value for name in part.split(",") if name]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("source", type=click.Path(path_type=Path), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="[OUT]", required=False)
@click.option(
    "-o", "output", type=click.Path(path_type=Path), help="The same as OUT. Default: IN with the suffix .onnx."
)
@click.option(
    "-f", "--from", "source_format", metavar="FORMAT", default="", help="Format of IN (default: by its suffix)."
)
@click.option(
    "-t", "--to", "target_format", metavar="FORMAT", default="", help="Format of OUT (default: by its suffix)."
)
@click.option("--prototxt", type=click.Path(path_type=Path), help="Caffe's other file, if it does not lie beside IN.")
@click.option("--input-shape", "input_shapes", type=InputShape(), multiple=True, help="Shape of an input. Repeatable.")
@click.option(
    "--inputs", callback=_names, multiple=True, metavar="A,B", help="Begin at these blobs: they become the inputs."
)
@click.option(
    "--outputs", callback=_names, multiple=True, metavar="A,B", help="Stop at these blobs: they become the outputs."
)
@click.option("--opset", type=int, help="ONNX opset to write (default 18).")
@click.option("--fold-bn", is_flag=True, help="Fold BatchNorm and Scale into the layers before them.")
@click.option(
    "--verify", is_flag=True, help="Run the result against its source on random input; exit 3 if they differ."
)
@click.option("-n", "--no-clobber", is_flag=True, help="Do not overwrite OUT.")
@click.option("-v", "--verbose", is_flag=True, help="Tell every change that a pass made.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="decant")
def main(
    source: Path,
    target: Path | None,
    output: Path | None,
    input_shapes: Sequence[tuple[str, list[int]]],
    no_clobber: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Convert a neural network to ONNX and make it lean.

    IN is a .caffemodel (its prototxt is found beside it) or an .onnx file; OUT is an .onnx file.

    \b
      convert net.caffemodel net.onnx --fold-bn
      convert net.caffemodel --input-shape 1,3,224,224 --verify
    """
    if target and output:
        raise click.UsageError("give OUT or -o, not both")
    if len({name for name, _ in input_shapes}) < len(input_shapes):
        raise click.UsageError("--input-shape: an input is named twice")
    target = target or output or _default_target(source)
    if no_clobber and target.exists():
        raise SystemExit(_fail(f"{target}: exists already (--no-clobber)"))
    started = time.perf_counter()
    try:
        with _ProgressBar(enabled=not quiet and sys.stderr.isatty()) as bar:
            report = _convert(source, target, input_shapes=dict(input_shapes), stage=bar.stage, **options)
    except Exception as error:
        if debug:
            raise
        raise SystemExit(
            _fail(_message(error), EXIT_DIFFERS if isinstance(error, DifferenceError) else EXIT_CANNOT)
        ) from None
    if as_json:
        click.echo(json.dumps(_as_dict(report, source, target, time.perf_counter() - started)))
    elif not quiet:
        _print_report(report, source, target, verbose=verbose)


def _default_target(source: Path) -> Path:
    if not source.name:
        raise click.UsageError(f"IN is a file, not '{source}'")
    if source.suffix.lower() == ".onnx":
        raise click.UsageError("give OUT: without it IN would be overwritten")
    return source.with_suffix(".onnx")


def _convert(source: Path, target: Path, **options: Any) -> Report:
    from converters.convert import convert  # late: --help needs nothing of it

    return convert(source, target, **options)


def _fail(message: str, code: int = EXIT_CANNOT) -> int:
    click.echo(f"error: {message}", err=True)
    return code


def _message(error: Exception) -> str:
    """One line for people. Whatever is not ours is a bug, and says so."""
    passes = sys.modules.get("onnx_passes.errors")  # heavy, and imported only if a pass can have raised
    if isinstance(error, ConvertError) or (passes is not None and isinstance(error, passes.GraphError)):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror or error}"
    return f"internal error, a bug in decant ({type(error).__name__}: {error}); --debug shows where"


class _ProgressBar:
    """A bar on stderr for each stage that takes over a second."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._started = time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str) -> Callable[[int, int], None]:
        """The callback of a stage: (done, total)."""
        task: Any = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if not self._enabled or time.perf_counter() - self._started < 1:
                return
            if self._bar is None:
                from rich.console import Console
                from rich.progress import Progress

                self._bar = Progress(console=Console(stderr=True), transient=True)
                self._bar.start()
            if task is None:
                task = self._bar.add_task(name, total=total)
            self._bar.update(task, completed=done)

        return advance


def _as_dict(report: Report, source: Path, target: Path, seconds: float) -> dict[str, Any]:
    def side(cost: Any, path: Path, size: int) -> dict[str, Any]:
        nodes = dict(sorted(cost.nodes.items()))
        return {"file": str(path), "bytes": size, "nodes": nodes, "parameters": cost.parameters, "macs": cost.macs}

    return {
        "before": side(report.before, source, report.source_bytes),
        "after": side(report.after, target, report.target_bytes),
        "passes": report.changes,
        "verified": report.verified,
        "seconds": round(seconds, 3),
    }


def _print_report(report: Report, source: Path, target: Path, *, verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    click.echo(f"{source} -> {target}")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for op in sorted(set(report.before.nodes) | set(report.after.nodes)):
        table.add_row(op, *_counts(report.before.nodes[op], report.after.nodes[op]))
    table.add_section()
    table.add_row("nodes", *_counts(report.before.nodes.total(), report.after.nodes.total()))
    table.add_row("parameters", *_counts(report.before.parameters, report.after.parameters))
    table.add_row("MACs", *_counts(report.before.macs, report.after.macs))
    table.add_row("bytes", *_counts(report.source_bytes, report.target_bytes))
    Console(markup=False, emoji=False, highlight=False).print(table)
    for name, lines in report.changes.items():
        if verbose:
            for line in lines:
                click.echo(f"{name}: {line}")
    for line in report.verified:
        click.echo(line)


def _counts(*numbers: int | None) -> list[str]:
    return ["?" if number is None else f"{number:,}" for number in numbers]
