"""The trained network of models/: what it reads, before and after folding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import converters
from tests.caffe.nets import run_onnx

DIGITS = Path(__file__).parents[1] / "models" / "digits"


@pytest.mark.parametrize("fold_bn", [False, True])
def test_digits_are_read(fold_bn: bool, tmp_path: Path) -> None:
    test = np.load(DIGITS / "digits_test.npz")
    target = tmp_path / "digits.onnx"
    shape = test["images"].shape
    converters.convert(DIGITS / "digits_lenet.caffemodel", target, input_shape=shape, fold_bn=fold_bn)
    found = run_onnx(target, {"data": test["images"]})["prob"].argmax(axis=1)
    # models/README.md says 357 of 360; a batch in another order of sums may turn over a tie.
    assert (found == test["labels"]).sum() >= 356


def test_every_batch_norm_is_folded(tmp_path: Path) -> None:
    report = converters.convert(DIGITS / "digits_lenet.caffemodel", tmp_path / "digits.onnx", fold_bn=True)
    assert report.before.nodes["BatchNormalization"] == 3
    assert set(report.after.nodes) == {"Conv", "Flatten", "Gemm", "MaxPool", "Relu", "Softmax"}
