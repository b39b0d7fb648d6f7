"""Public Caffe nets that we did not make, against real Caffe's results."""

from __future__ import annotations

from pathlib import Path

import pytest

import converters
from converters.caffe.layers.families import IMPORTERS
from converters.errors import UnsupportedError
from tests.caffe.nets import run_onnx
from tests.corpus import Case, cases, needs_corpus

# Relative L2 error. Real Caffe adds up in another order; through 270 layers of float32 that was at most 8e-6.
TOLERANCE = 2e-5

pytestmark = needs_corpus


def convert_and_compare(case: Case, folder: Path, *, fold_bn: bool) -> None:
    """A net that holds layers we do not know is refused; any other equals Caffe."""
    source = case.write_weights(folder)
    target = folder / "out.onnx"
    options = case.options()
    if not case.types <= {*IMPORTERS, "Input", "Silence"}:
        with pytest.raises(UnsupportedError, match="unknown layer types"):
            converters.convert(source, target, fold_bn=fold_bn, **options)
        assert not target.exists()
        return
    converters.convert(source, target, fold_bn=fold_bn, **options)
    case.compare(run_onnx(target, _feeds(target, case)), TOLERANCE)


def _feeds(target: Path, case: Case) -> dict[str, object]:
    import onnx

    wanted = {info.name for info in onnx.load(target, load_external_data=False).graph.input}
    feeds = case.feeds()
    assert wanted <= set(feeds)
    return {name: value for name, value in feeds.items() if name in wanted}


@pytest.mark.parametrize("case", cases("caffe_layers"), ids=lambda case: case.name)
def test_one_layer(case: Case, tmp_path: Path) -> None:
    convert_and_compare(case, tmp_path, fold_bn=False)


@pytest.mark.parametrize("case", cases("caffe"), ids=lambda case: case.name)
def test_folded(case: Case, tmp_path: Path) -> None:
    convert_and_compare(case, tmp_path, fold_bn=True)


@pytest.mark.long
@pytest.mark.parametrize("case", cases("caffe"), ids=lambda case: case.name)
def test_as_it_is(case: Case, tmp_path: Path) -> None:
    convert_and_compare(case, tmp_path, fold_bn=False)


@pytest.mark.parametrize("case", cases("caffe_layers"), ids=lambda case: case.name)
@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.long
def test_other_opsets(case: Case, opset: int, tmp_path: Path) -> None:
    try:
        converters.convert(case.write_weights(tmp_path), tmp_path / "out.onnx", opset=opset, **case.options())
    except UnsupportedError:
        return
    case.compare(run_onnx(tmp_path / "out.onnx", _feeds(tmp_path / "out.onnx", case)), TOLERANCE)
