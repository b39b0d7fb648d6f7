"""What a loader may be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadOptions:
    """``opset`` None is the loader's own choice; ``progress(done, total)`` is called now and then. See each loader."""

    prototxt: Path | None = None
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    opset: int | None = None
    progress: Progress | None = None
