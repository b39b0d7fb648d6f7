"""--verify finds the first tensor that differs, lets choices between equals pass, and asks OpenCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import converters
from converters import verify
from converters.errors import ConvertError, DifferenceError
from tests.caffe.nets import seeded, write_net

DIGITS = Path(__file__).parents[1] / "models" / "digits" / "digits_lenet.caffemodel"


def change(path: Path, name: str, factor: float) -> None:
    """Multiply the initializer ``name`` of a file."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, path)


def test_equal_models_agree(tmp_path: Path) -> None:
    report = converters.convert(DIGITS, tmp_path / "digits.onnx", fold_bn=True, verify=True)
    assert report.verified[0].startswith("equal before and after the passes: 1 output(s)")
    assert report.verified[1].startswith("equal to OpenCV 4.")


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    for path in (one, other):
        converters.convert(DIGITS, path)
    change(other, "conv2.weight", 1.01)
    with pytest.raises(DifferenceError, match=r"'conv2@conv2' \(Conv 'conv2'\) differs: relative error 1.*e-02"):
        verify.verify_files(one, other, None, None)


def test_a_fold_that_went_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_passes

    def wrong(graph: object) -> list[str]:
        lines = fold(graph)
        graph.nodes[0].inputs[1].values = graph.nodes[0].inputs[1].values * np.float32(1.001)  # type: ignore[attr-defined]
        return lines

    fold = onnx_passes.fold_bn
    monkeypatch.setattr(onnx_passes, "fold_bn", wrong)
    with pytest.raises(DifferenceError, match="differs: relative error"):
        converters.convert(DIGITS, tmp_path / "digits.onnx", fold_bn=True, verify=True)


def test_ties_between_equals_are_no_difference(tmp_path: Path) -> None:
    """ArgMax over values that differ by rounding alone may choose another place; what it chose from agrees."""
    text = 'layer { name: "l" type: "ArgMax" bottom: "x" top: "y" argmax_param { axis: 1 } }'
    scale = 'layer { name: "s" type: "Scale" bottom: "in" top: "x" }'
    folder = tmp_path
    source = write_net(folder, scale + text, {"in": (1, 4, 8, 8)}, {"s": [np.zeros(4, np.float32)]})
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    converters.convert(source, one)
    converters.convert(source, other)
    model = onnx.load(other)
    tensor = next(t for t in model.graph.initializer if t.name == "s.scale")
    # Zero everywhere, but for one channel that is a rounding error above it.
    tiny = np.array([1e-30, 0, 0, 0], np.float32).reshape(4, 1, 1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(tiny, "s.scale"))
    onnx.save(model, other)
    assert verify.verify_files(one, other, None, None)


def test_a_model_that_does_not_run_is_told(tmp_path: Path) -> None:
    embed = 'layer { name: "l" type: "Embed" bottom: "x" top: "y" embed_param { num_output: 2 input_dim: 3 } }'
    source = write_net(tmp_path, embed, {"x": (4,)}, {"l": [seeded("w", (3, 2)), seeded("b", (2,))]})
    target = tmp_path / "out.onnx"
    converters.convert(source, target)
    change(target, "l.bias", 1)
    model = onnx.load(target)
    model.graph.node[0].op_type = "NoSuchOp"
    onnx.save(model, target)
    with pytest.raises(ConvertError, match="onnxruntime does not run the model"):
        verify.verify_files(target, target, None, None)


def test_opencv_is_not_asked_about_what_it_gets_wrong(tmp_path: Path) -> None:
    lrn = 'layer { name: "l" type: "LRN" bottom: "x" top: "y" lrn_param { k: 2 alpha: 0.5 } }'
    source = write_net(tmp_path, lrn, {"x": (1, 7, 4, 4)})
    report = converters.convert(source, tmp_path / "out.onnx", verify=True)
    assert "not compared with OpenCV: it drops LRN's k" in report.verified[1]


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([3.0, 4.0], [3.0, 5.0], 1 / np.sqrt(34)),
    ],
)
def test_difference(got: list[float], want: list[float], error: float) -> None:
    assert verify.difference(np.array(got), np.array(want)) == pytest.approx(error)


def test_shapes_that_differ_are_infinitely_far() -> None:
    assert verify.difference(np.zeros((2, 3)), np.zeros((3, 2))) == np.inf
