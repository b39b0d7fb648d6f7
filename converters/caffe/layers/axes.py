"""Caffe's way of naming axes and spatial options, shared by the layer families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from converters.caffe.options import Options
from converters.errors import ShapeError, UnsupportedError


def canonical(axis: int, ndim: int) -> int:
    """``axis`` counted from the front (Blob::CanonicalAxisIndex). Raises ShapeError if the blob has no such axis."""
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {axis} is out of range: the bottom has {ndim} axes")
    return axis % ndim


def sizes(x: gs.Tensor, start: int = 0, end: int | None = None) -> list[int]:
    """The sizes of axes ``start`` to ``end`` of ``x``. Raises ShapeError where one of them is free."""
    found = list(x.shape)[start:end]
    for number, size in enumerate(found, start):
        if not isinstance(size, int):
            raise ShapeError(f"needs the size of axis {number} of its bottom, which is free ({size}): give it a number")
    return found


def needs_axes(x: gs.Tensor, ndim: int) -> None:
    """Raises ShapeError unless ``x`` has ``ndim`` axes."""
    if len(x.shape) != ndim:
        raise ShapeError(f"needs a bottom of {ndim} axes, not {shown(x.shape)}")


def shown(shape: Sequence[object]) -> str:
    """A shape for people: 1x3x224x224."""
    return "x".join(map(str, shape)) or "a scalar"


def per_axis(p: Options, name: str, ndim: int, default: int) -> list[int]:
    """A convolution's kernel_size, stride, pad or dilation for each spatial axis.

    Given once for all axes, once an axis, or for two axes as ``name_h`` and ``name_w`` (base_conv_layer.cpp).
    """
    stem = name.removesuffix("_size")
    values = list(getattr(p, name))
    has_hw = name != "dilation" and (p.has(f"{stem}_h") or p.has(f"{stem}_w"))
    if has_hw:
        if values or ndim != 2:
            raise UnsupportedError(f"{stem}_h and {stem}_w stand instead of {name}, and for two spatial axes only")
        return [getattr(p, f"{stem}_h"), getattr(p, f"{stem}_w")]
    if len(values) not in (0, 1, ndim):
        raise UnsupportedError(f"{name} is given {len(values)} times for {ndim} spatial axes: once, or once an axis")
    if not values:
        return [default] * ndim
    return values * ndim if len(values) == 1 else values


def hw(p: Any, name: str) -> tuple[int, int]:
    """A pooling's kernel, stride or pad: one number for both axes, or ``name_h`` and ``name_w`` (pooling_layer.cpp)."""
    both = "kernel_size" if name == "kernel" else name
    if p.has(f"{name}_h") or p.has(f"{name}_w"):
        if p.has(both) or not (p.has(f"{name}_h") and p.has(f"{name}_w")):
            raise UnsupportedError(f"{both}, or {name}_h and {name}_w together: not a mixture")
        return getattr(p, f"{name}_h"), getattr(p, f"{name}_w")
    return getattr(p, both), getattr(p, both)
