"""What a large conversion costs, beside ``cp`` of the same file: wall and CPU seconds, peak memory.

    python benchmarks/convert_large.py [--runs 5]

Makes VGG-16 (553 MB) and ResNet-50 (102 MB) with seeded weights in a temporary folder and converts them by the command
line, ResNet-50 with BatchNorm folded. Figures are medians of whole processes, imports included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAKE = Path(__file__).with_name("caffe_nets.py")


class Run(NamedTuple):
    """One run of a command, or the medians of several."""

    wall: float
    cpu: float
    peak_mb: float


def timed(command: Sequence[str]) -> Run:
    """One run of a command as a whole process."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def medians(command: Sequence[str], runs: int) -> Run:
    """The median of each figure over ``runs`` runs, after one that is not counted."""
    timed(command)
    return Run(*map(statistics.median, zip(*(timed(command) for _ in range(runs)), strict=True)))


def measure(name: str, options: Sequence[str], folder: Path, runs: int) -> None:
    """Make a net, convert it, copy it, print both."""
    # Made by another process: a child's peak memory is at least that of the process that started it.
    subprocess.run([sys.executable, str(MAKE), name, str(folder)], check=True)
    source = folder / f"{name}.caffemodel"
    convert = [sys.executable, "-m", "converters", str(source), str(folder / f"{name}.onnx"), "--quiet", *options]
    ours, copied = medians(convert, runs), medians(["cp", str(source), str(folder / "copy")], runs)
    size = source.stat().st_size / 1e6
    print(f"{name} ({size:.0f} MB) {' '.join(options)}".rstrip())
    print(f"  {'':8} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    for label, run in (("convert", ours), ("cp", copied)):
        print(f"  {label:8} {run.wall:8.2f} {run.cpu:8.2f} {run.peak_mb:8.0f}")
    print(f"  {'ratio':8} {ours.wall / copied.wall:8.1f} {ours.cpu / copied.cpu:8.1f}\n")


def main() -> None:
    """Both nets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="decant-bench-") as folder:
        measure("vgg16", [], Path(folder), runs)
        measure("resnet50", ["--fold-bn"], Path(folder), runs)


if __name__ == "__main__":
    main()
