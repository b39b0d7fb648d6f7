"""Everything that can stop a conversion.

ConvertError            where it happened, what is wrong, what would work
├── FormatError         the bytes are not the format they claim to be, or they are damaged
├── UnsupportedError    a layer or an option that has no exact counterpart on the other side
├── ShapeError          shapes that contradict each other, or that the source does not tell
├── WeightsError        weights that are missing or do not fit the net
└── DifferenceError     --verify: two models that should compute the same do not

The passes raise ``onnx_passes.errors.GraphError``. Nothing else is meant to leave this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConvertError(Exception):
    """One clear message. Handlers raise it without a place; the loops above them add the place."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.places: list[str] = []

    def __str__(self) -> str:
        return ": ".join([*self.places, self.message])


class FormatError(ConvertError):
    """The file is not what its name says, or it is damaged."""


class UnsupportedError(ConvertError):
    """Well-formed, but without an exact counterpart."""


class ShapeError(ConvertError):
    """Shapes that do not fit together."""


class WeightsError(ConvertError):
    """Weights that are missing, or that belong to another net."""


class DifferenceError(ConvertError):
    """The written model does not compute what its source computes."""


@contextmanager
def place(where: str) -> Iterator[None]:
    """Put ``where`` in front of any ConvertError that passes: "net.prototxt: layer 'pool5' (Pooling): ..."."""
    try:
        yield
    except ConvertError as error:
        error.places.insert(0, where)
        raise
