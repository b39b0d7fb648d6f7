"""Layers that move values and change none: Concat, Slice, Split, Crop, Flatten, Reshape, Tile, BatchReindex, Filter."""

from __future__ import annotations

import math
from itertools import pairwise

import onnx_graphsurgeon as gs
from onnx import TensorProto

from converters.builder import Builder
from converters.caffe.layers.axes import canonical, shown, sizes
from converters.caffe.layers.register import ParsedLayer, Results, importer
from converters.errors import ShapeError, UnsupportedError


@importer("Concat", options="concat_param")
def concat(layer: ParsedLayer, x: gs.Tensor, *more: gs.Tensor, to: Builder) -> Results:
    """Bottoms side by side along an axis; ``concat_dim`` is the old word for it."""
    p = layer.options
    if p.has("axis") and p.has("concat_dim"):
        raise UnsupportedError("axis or concat_dim, not both")
    axis = canonical(p.concat_dim if p.has("concat_dim") else p.axis, len(x.shape))
    return to.node("Concat", [x, *more], axis=axis) if more else x


@importer("Slice", options="slice_param")
def slice_(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Tops cut from the bottom along an axis, at ``slice_point`` or in equal parts; ``slice_dim`` is an old word."""
    p = layer.options
    if p.has("axis") and p.has("slice_dim"):
        raise UnsupportedError("axis or slice_dim, not both")
    axis = canonical(p.slice_dim if p.has("slice_dim") else p.axis, len(x.shape))
    (size,), tops = sizes(x, axis, axis + 1), len(layer.tops)
    if p.slice_point:
        edges = [0, *p.slice_point, size]
        parts = [end - start for start, end in pairwise(edges)]
        if len(parts) != tops or min(parts) <= 0:
            raise ShapeError(f"slice_point {list(p.slice_point)} does not cut {size} into {tops} parts")
    else:
        if size % tops:
            raise ShapeError(f"axis {axis} of {size} does not divide into {tops} equal parts")
        parts = [size // tops] * tops
    return to.nodes("Split", [x, to.ints("parts", parts)], tops, axis=axis) if tops > 1 else [x]


@importer("Split")
def split(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """The same blob under several names: Caffe inserts these itself where a blob is read more than once."""
    return [x] * len(layer.tops)


@importer("Crop", options="crop_param")
def crop(layer: ParsedLayer, x: gs.Tensor, reference: gs.Tensor, *, to: Builder) -> Results:
    """x cut to the sizes of the second bottom from ``axis`` on, at ``offset``: one for all axes, or one an axis."""
    p = layer.options
    axis = canonical(p.axis, len(x.shape))
    count = len(x.shape) - axis
    offsets = list(p.offset) or [0]
    offsets = offsets * count if len(offsets) == 1 else offsets
    if len(offsets) != count or len(reference.shape) < len(x.shape):
        raise ShapeError(
            f"{len(offsets)} offset(s) and a second bottom of {len(reference.shape)} axes do not fit {shown(x.shape)}"
        )
    wanted, have = sizes(reference, axis, len(x.shape)), sizes(x, axis)
    ends = [offset + size for offset, size in zip(offsets, wanted, strict=True)]
    if any(end > size for end, size in zip(ends, have, strict=True)):
        raise ShapeError(f"{shown(wanted)} at offset {offsets} lies outside of {shown(have)}")
    if ends == have and not any(offsets):
        return x
    return to.slice(x, range(axis, len(x.shape)), offsets, ends)


@importer("Flatten", options="flatten_param")
def flatten(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """Axes ``axis`` to ``end_axis`` become one."""
    p = layer.options
    ndim = len(x.shape)
    axis, end = canonical(p.axis, ndim), canonical(p.end_axis, ndim)
    if end < axis - 1:
        raise ShapeError(f"end_axis {p.end_axis} lies before axis {p.axis}")
    if end == axis:
        return x
    if end == axis - 1:  # nothing to flatten: the product of no sizes is an axis of 1
        return to.reshape(x, [0] * axis + [1] + sizes(x, axis))
    if axis == 1 and end == ndim - 1:
        return to.node("Flatten", [x], axis=1)
    return to.reshape(x, [0] * axis + [-1] + sizes(x, end + 1))


@importer("Reshape", options="reshape_param")
def reshape(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """``num_axes`` axes from ``axis`` on become ``shape``: 0 copies the bottom's axis at that place, -1 is inferred."""
    p = layer.options
    ndim = len(x.shape)
    start = p.axis if p.axis >= 0 else ndim + p.axis + 1
    end = ndim if p.num_axes == -1 else start + p.num_axes
    if not 0 <= start <= end <= ndim or p.num_axes < -1:
        raise ShapeError(f"axis {p.axis} and num_axes {p.num_axes} reach over the {ndim} axes of the bottom")
    middle = list(p.shape.dim)
    if middle.count(-1) > 1 or any(d < -1 for d in middle):
        raise ShapeError(f"shape {middle}: at most one -1, and no other negative number")
    if any(d == 0 and start + i >= ndim for i, d in enumerate(middle)):
        raise ShapeError(f"shape {middle}: there is no axis of the bottom that a 0 could copy")
    # ONNX's 0 copies the axis at the same place of the result, which is where Caffe's stands too.
    behind = [0] * (ndim - end) if len(middle) == end - start else sizes(x, end)
    target = [0] * start + middle + behind
    _check_count(x, target)
    return to.reshape(x, target)


def _check_count(x: gs.Tensor, target: list[int]) -> None:
    """Raises ShapeError where a new shape does not hold as many values as the bottom."""
    if not all(isinstance(size, int) for size in x.shape):
        return
    have = math.prod(x.shape)
    known = math.prod(x.shape[i] if size == 0 else size for i, size in enumerate(target) if size != -1)
    if known == 0 or (have % known if -1 in target else have != known):
        raise ShapeError(f"{shown(x.shape)} does not become {shown(target)}")


@importer("Tile", options="tile_param")
def tile(layer: ParsedLayer, x: gs.Tensor, *, to: Builder) -> Results:
    """The bottom ``tiles`` times along an axis."""
    p = layer.options
    if p.tiles < 1:
        raise UnsupportedError("tiles is missing or not positive")
    repeats = [1] * len(x.shape)
    repeats[canonical(p.axis, len(x.shape))] = p.tiles
    return to.node("Tile", [x, to.ints("repeats", repeats)])


@importer("BatchReindex")
def batch_reindex(layer: ParsedLayer, x: gs.Tensor, indices: gs.Tensor, *, to: Builder) -> Results:
    """The items of the batch that the second bottom, one axis of whole numbers, names."""
    if len(indices.shape) != 1:
        raise ShapeError(f"its second bottom has one axis, not {len(indices.shape)}")
    return to.node("Gather", [x, to.node("Cast", [indices], to=TensorProto.INT64)], axis=0)


@importer("Filter")
def filter_(layer: ParsedLayer, x: gs.Tensor, *more: gs.Tensor, to: Builder) -> Results:
    """The items of a batch where the last bottom is not zero."""
    raise UnsupportedError(
        "how many items of the batch are kept depends on the data, so that no blob behind it has a shape;"
        " convert up to it (--outputs), and select the items in your own code"
    )
