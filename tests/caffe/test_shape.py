"""Layers that move values without changing them, against numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def joined(axis: int) -> Oracle:
    return lambda inputs, blobs: np.concatenate(list(inputs.values()), axis)


def parts(tops: str, at: int | Sequence[int], axis: int = 1) -> Oracle:
    """One part a letter of ``tops``: ``at`` equal ones, or cut before each index of ``at``."""
    return lambda inputs, blobs: dict(zip(tops, np.split(inputs["x"], at, axis), strict=True))


def copies(tops: str) -> Oracle:
    return lambda inputs, blobs: dict.fromkeys(tops, inputs["x"])


def cut(*slices: slice) -> Oracle:
    return lambda inputs, blobs: inputs["x"][slices]


def shaped(*shape: int) -> Oracle:
    return lambda inputs, blobs: inputs["x"].reshape(shape)


def tiled(tiles: int, axis: int) -> Oracle:
    return lambda inputs, blobs: np.concatenate([inputs["x"]] * tiles, axis)


def picked(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
    return inputs["x"][inputs["i"].astype(int)]


def layer(kind: str, options: str = "", bottoms: str = "x", tops: str = "y") -> str:
    """A letter of ``bottoms`` and ``tops`` a blob."""
    blobs = [f'bottom: "{name}"' for name in bottoms] + [f'top: "{name}"' for name in tops]
    return f'layer {{ name: "l" type: "{kind}" {" ".join(blobs)} {options} }}'


def concat(options: str, bottoms: str = "xz") -> str:
    return layer("Concat", f"concat_param {{ {options} }}", bottoms)


def slice_(options: str, tops: str = "yz") -> str:
    return layer("Slice", f"slice_param {{ {options} }}", tops=tops)


def crop(options: str) -> str:
    return layer("Crop", f"crop_param {{ {options} }}", "xr")


def flatten(options: str) -> str:
    return layer("Flatten", f"flatten_param {{ {options} }}")


def reshape(options: str) -> str:
    return layer("Reshape", f"reshape_param {{ {options} }}")


def tile(options: str) -> str:
    return layer("Tile", f"tile_param {{ {options} }}")


def to(*dims: int) -> str:
    return f"shape {{ {' '.join(f'dim: {dim}' for dim in dims)} }}"


X = {"x": (2, 6, 4, 5)}
FLAT = {"x": (4, 6)}
ALL = slice(None)


def with_z(*shape: int) -> dict[str, Sequence[int]]:
    return {**X, "z": shape}


def with_reference(*shape: int) -> dict[str, Sequence[int]]:
    return {**X, "r": shape}


def with_indices(*indices: int) -> dict[str, Sequence[int] | Array]:
    return {**X, "i": np.array(indices)}


# fmt: off
JOINED = [
    Row("channels are joined", layer("Concat", "", "xz"), with_z(2, 3, 4, 5), joined(1)),
    Row("three bottoms", layer("Concat", "", "xzv"), {**with_z(2, 1, 4, 5), "v": (2, 2, 4, 5)}, joined(1)),
    Row("along axis 2", concat("axis: 2"), with_z(2, 6, 1, 5), joined(2)),
    Row("along the last axis", concat("axis: -1"), with_z(2, 6, 4, 2), joined(3)),
    Row("batches are joined", concat("axis: 0"), with_z(3, 6, 4, 5), joined(0)),
    Row("concat_dim is the old word", concat("concat_dim: 0"), with_z(1, 6, 4, 5), joined(0)),
    Row("two axes are joined", concat("axis: 1"), {**FLAT, "z": (4, 1)}, joined(1)),
    Row("one bottom alone", layer("Concat"), X, joined(1)),
    Row("a blob with itself", layer("Concat", "", "xx"), X, tiled(2, 1)),
]

SLICED = [
    Row("two equal parts", layer("Slice", tops="yz"), X, parts("yz", 2)),
    Row("three equal parts", layer("Slice", tops="yzw"), X, parts("yzw", 3)),
    Row("cut at one point", slice_("slice_point: 1"), X, parts("yz", [1])),
    Row("cut at two points", slice_("slice_point: 1 slice_point: 4", "yzw"), X, parts("yzw", [1, 4])),
    Row("cut along axis 2", slice_("axis: 2 slice_point: 3"), X, parts("yz", [3], 2)),
    Row("cut along the last axis", slice_("axis: -1 slice_point: 2"), X, parts("yz", [2], 3)),
    Row("slice_dim is the old word", slice_("slice_dim: 0"), X, parts("yz", 2, 0)),
    Row("one top is the whole", layer("Slice"), X, copies("y")),
    Row("Split gives copies", layer("Split", tops="yzw"), X, copies("yzw")),
    Row("Split into one", layer("Split"), X, copies("y")),
]

CROPPED = [
    Row("Crop begins at axis 2 and offset 0", layer("Crop", "", "xr"), with_reference(2, 6, 3, 2), cut(ALL, ALL, slice(3), slice(2))),
    Row("sizes before the axis do not matter", crop(""), with_reference(9, 1, 3, 2), cut(ALL, ALL, slice(3), slice(2))),
    Row("axes that only the reference has do not matter", crop(""), with_reference(2, 6, 3, 2, 7), cut(ALL, ALL, slice(3), slice(2))),
    Row("one offset for all axes", crop("offset: 1"), with_reference(2, 6, 3, 4), cut(ALL, ALL, slice(1, 4), slice(1, 5))),
    Row("an offset an axis", crop("offset: 1 offset: 2"), with_reference(2, 6, 2, 3), cut(ALL, ALL, slice(1, 3), slice(2, 5))),
    Row("Crop from channels on", crop("axis: 1 offset: 4 offset: 0 offset: 2"), with_reference(2, 2, 4, 1), cut(ALL, slice(4, 6), ALL, slice(2, 3))),
    Row("Crop of everything", crop("axis: 0 offset: 1"), with_reference(1, 5, 2, 3), cut(slice(1, 2), slice(1, 6), slice(1, 3), slice(1, 4))),
    Row("Crop from a negative axis on", crop("axis: -1 offset: 3"), with_reference(2, 6, 4, 2), cut(ALL, ALL, ALL, slice(3, 5))),
    Row("Crop to x's own size", crop(""), with_reference(2, 6, 4, 5), cut()),
]

RESHAPED = [
    Row("Flatten behind the batch", layer("Flatten"), X, shaped(2, 120)),
    Row("Flatten of two axes", layer("Flatten"), FLAT, shaped(4, 6)),
    Row("Flatten of no axes puts an axis of 1 in", flatten("axis: 2 end_axis: 1"), X, shaped(2, 6, 1, 4, 5)),
    Row("Flatten of all axes", flatten("axis: 0"), X, shaped(240)),
    Row("Flatten of the first two axes", flatten("axis: 0 end_axis: 1"), X, shaped(12, 4, 5)),
    Row("Flatten in the middle", flatten("axis: 1 end_axis: 2"), X, shaped(2, 24, 5)),
    Row("Flatten counted from behind", flatten("axis: -3 end_axis: -2"), X, shaped(2, 24, 5)),
    Row("Flatten of one axis", flatten("axis: 2 end_axis: 2"), X, shaped(2, 6, 4, 5)),
    Row("Reshape", reshape(to(4, 60)), X, shaped(4, 60)),
    Row("0 copies, -1 is what is left", reshape(to(0, 0, -1)), X, shaped(2, 6, 20)),
    Row("-1 in front", reshape(to(-1, 0, 2)), X, shaped(20, 6, 2)),
    Row("as many zeros as axes", reshape(to(0, 0, 0, 0)), X, shaped(2, 6, 4, 5)),
    Row("axis and num_axes choose what is replaced", reshape(f"{to(3, 8)} axis: 1 num_axes: 2"), X, shaped(2, 3, 8, 5)),
    Row("fewer axes than were replaced", reshape(f"{to(-1)} axis: 1 num_axes: 2"), X, shaped(2, 24, 5)),
    Row("more axes than were replaced", reshape(f"{to(3, 2)} axis: 1 num_axes: 1"), X, shaped(2, 3, 2, 4, 5)),
    Row("0 copies from the same place of the bottom", reshape(f"{to(3, 0, -1)} axis: 1 num_axes: 2"), X, shaped(2, 3, 4, 2, 5)),
    Row("0 copies though axes behind it move", reshape(f"{to(0, 2, 3)} axis: 0 num_axes: 2"), X, shaped(2, 2, 3, 4, 5)),
    Row("all axes from axis on", reshape(f"{to(-1)} axis: 2"), X, shaped(2, 6, 20)),
    Row("num_axes 0 inserts", reshape(f"{to(1)} axis: 1 num_axes: 0"), X, shaped(2, 1, 6, 4, 5)),
    Row("axis -1 inserts at the end", reshape(f"{to(1, 1)} axis: -1 num_axes: 0"), X, shaped(2, 6, 4, 5, 1, 1)),
    Row("axis -2 replaces the last", reshape(f"{to(5, 1)} axis: -2"), X, shaped(2, 6, 4, 5, 1)),
    Row("no shape removes axes of one", reshape("axis: 1 num_axes: 1"), {"x": (3, 1, 4)}, shaped(3, 4)),
]

REPEATED = [
    Row("channels are tiled", tile("tiles: 3"), X, tiled(3, 1)),
    Row("tiles along the last axis", tile("axis: -1 tiles: 2"), X, tiled(2, 3)),
    Row("tiles along axis 0", tile("axis: 0 tiles: 2"), FLAT, tiled(2, 0)),
    Row("one tile", tile("tiles: 1"), X, tiled(1, 1)),
    Row("items by their index", layer("BatchReindex", "", "xi"), with_indices(1, 0, 0, 1, 1), picked),
    Row("fewer items than the batch has", layer("BatchReindex", "", "xi"), with_indices(1), picked),
]

REFUSALS = [
    Refusal("axis and concat_dim", concat("axis: 1 concat_dim: 1"), with_z(2, 6, 4, 5), "axis or concat_dim, not both"),
    Refusal("bottoms that differ on another axis", concat(""), with_z(2, 6, 4, 4), "Concat of 2x6x4x5 and 2x6x4x4"),
    Refusal("bottoms of fewer axes", concat(""), with_z(2, 6, 4), "Concat of 2x6x4x5 and 2x6x4 "),
    Refusal("Concat along an axis that is not there", concat("axis: 4"), with_z(2, 6, 4, 5), "axis 4 is out of range"),
    Refusal("concat_dim beyond the axes", concat("concat_dim: 4"), with_z(2, 6, 4, 5), "axis 4 is out of range"),
    Refusal("a negative concat_dim", concat("concat_dim: -1"), with_z(2, 6, 4, 5), "'concat_param.concat_dim'.* -1"),
    Refusal("Concat of nothing", concat("", ""), X, r"takes 1 or more bottom\(s\), not 0"),
    Refusal("parts that are not equal", layer("Slice", tops="yzwv"), X, "axis 1 of 6 does not divide into 4 equal parts"),
    Refusal("axis and slice_dim", slice_("axis: 1 slice_dim: 1"), X, "axis or slice_dim, not both"),
    Refusal("a point too few", slice_("slice_point: 1", "yzw"), X, r"slice_point \[1\] does not cut 6 into 3 parts"),
    Refusal("a point too many", slice_("slice_point: 1 slice_point: 2"), X, r"slice_point \[1, 2\] does not cut 6 into 2 parts"),
    Refusal("a point for one top", slice_("slice_point: 1", "y"), X, "does not cut 6 into 1 parts"),
    Refusal("points in the wrong order", slice_("slice_point: 4 slice_point: 1", "yzw"), X, r"slice_point \[4, 1\] does not cut 6"),
    Refusal("a point twice", slice_("slice_point: 3 slice_point: 3", "yzw"), X, r"slice_point \[3, 3\] does not cut 6"),
    Refusal("a point at 0", slice_("slice_point: 0"), X, r"slice_point \[0\] does not cut 6"),
    Refusal("a point at the end", slice_("slice_point: 6"), X, r"slice_point \[6\] does not cut 6"),
    Refusal("Slice along an axis that is not there", slice_("axis: -5"), X, "axis -5 is out of range"),
    Refusal("Split of two bottoms", layer("Split", "", "xz", "yw"), with_z(2, 6, 4, 5), r"takes 1 bottom\(s\), not 2"),
    Refusal("Crop without a reference", layer("Crop"), X, r"takes 2 bottom\(s\), not 1"),
    Refusal("Crop to more than there is", crop(""), with_reference(2, 6, 4, 6), r"4x6 at offset \[0, 0\] lies outside of 4x5"),
    Refusal("an offset that leads outside", crop("offset: 2"), with_reference(2, 6, 3, 3), r"3x3 at offset \[2, 2\] lies outside of 4x5"),
    Refusal("three offsets for two axes", crop("offset: 0 offset: 0 offset: 0"), with_reference(2, 6, 3, 3), r"3 offset\(s\)"),
    Refusal("a reference of fewer axes", crop(""), with_reference(2, 6, 3), "a second bottom of 3 axes do not fit 2x6x4x5"),
    Refusal("Crop from an axis that is not there", crop("axis: 4"), with_reference(2, 6, 4, 5), "axis 4 is out of range"),
    Refusal("end_axis well before axis", flatten("axis: 2 end_axis: 0"), X, "end_axis 0 lies before axis 2"),
    Refusal("end_axis beyond the last", flatten("end_axis: 4"), X, "axis 4 is out of range"),
    Refusal("another number of values", reshape(to(4, 50)), X, "2x6x4x5 does not become 4x50"),
    Refusal("-1 that would be a fraction", reshape(to(7, -1)), X, "2x6x4x5 does not become 7x-1"),
    Refusal("two -1", reshape(to(-1, -1)), X, "at most one -1"),
    Refusal("-2 as a size", reshape(to(-2, 120)), X, "no other negative number"),
    Refusal("a 0 behind the bottom's axes", reshape(to(2, 6, 4, 5, 0)), X, "no axis of the bottom that a 0 could copy"),
    Refusal("Reshape from an axis behind the end", reshape(f"{to(1)} axis: 5"), X, "axis 5 and num_axes -1 reach over the 4 axes"),
    Refusal("Reshape of more axes than there are", reshape(f"{to(-1)} axis: 3 num_axes: 2"), X, "axis 3 and num_axes 2 reach over"),
    Refusal("num_axes -2", reshape(f"{to(-1)} num_axes: -2"), X, "num_axes -2 reach over"),
    Refusal("Reshape without a shape", layer("Reshape"), X, "2x6x4x5 does not become a scalar"),
    Refusal("no number of tiles", tile("axis: 1"), X, "tiles is missing or not positive"),
    Refusal("0 tiles", tile("tiles: 0"), X, "tiles is missing or not positive"),
    Refusal("tiles along an axis that is not there", tile("axis: 4 tiles: 2"), X, "axis 4 is out of range"),
    Refusal("indices of two axes", layer("BatchReindex", "", "xi"), {**X, "i": (3, 1)}, "its second bottom has one axis, not 2"),
    Refusal("BatchReindex without indices", layer("BatchReindex"), X, r"takes 2 bottom\(s\), not 1"),
    Refusal("Filter", layer("Filter", "", "xi"), with_indices(1, 0), "how many items of the batch are kept depends on the data"),
    Refusal("weights for Concat", concat(""), with_z(2, 6, 4, 5), "takes no weights", [(3,)]),
]
# fmt: on

ROWS = [*JOINED, *SLICED, *CROPPED, *RESHAPED, *REPEATED]
AT_OTHER_OPSETS = named(
    ROWS,
    "channels are joined",
    "three equal parts",
    "cut at two points",
    "an offset an axis",
    "0 copies, -1 is what is left",
    "channels are tiled",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_shape(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
