"""A Caffe net in OpenCV's own reading, against what the ONNX model computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.caffe.files import find_pair
from converters.errors import DifferenceError

Array = npt.NDArray[Any]

# OpenCV computes convolutions with another algorithm (Winograd) in float32.
TOLERANCE = 1e-3


def compare_with_opencv(
    source: Path, prototxt: Path | None, feeds: Mapping[str, Array], expected: Mapping[str, Array]
) -> str:
    """A sentence about the comparison, or why there was none. Raises DifferenceError if OpenCV's results differ."""
    try:
        import cv2
    except ImportError:
        return "not compared with OpenCV: it is not installed (pip install onnx-decant[opencv])"
    if not hasattr(cv2.dnn, "readNetFromCaffe") or int(cv2.__version__.split(".")[0]) > 4:
        return f"not compared with OpenCV: {cv2.__version__} does not read Caffe, 4.x does"
    pair = find_pair(source, prototxt)
    if pair.net is None or pair.weights is None:
        return "not compared with OpenCV: it needs a prototxt and a caffemodel"
    reason = _known_difference(pair.net.read_text(errors="replace"))
    if reason:
        return f"not compared with OpenCV: {reason}"
    try:
        net = cv2.dnn.readNetFromCaffe(str(pair.net), str(pair.weights))
        for name, value in feeds.items():
            net.setInput(value.astype(np.float32), name)
        names = list(expected)
        got = dict(zip(names, net.forward(names), strict=True))
    except cv2.error as error:
        return f"not compared with OpenCV: it does not run this net ({str(error).strip().splitlines()[0][:100]})"
    for name, want in expected.items():
        if got[name].size != want.size:
            raise DifferenceError(f"'{name}' has {got[name].size} values in OpenCV, {want.size} here")
        distance = float(np.linalg.norm(got[name].ravel() - want.ravel()) / max(float(np.linalg.norm(want)), 1e-12))
        if not distance <= TOLERANCE:
            raise DifferenceError(f"'{name}' differs from OpenCV {cv2.__version__}: relative error {distance:.1e}")
    return f"equal to OpenCV {cv2.__version__}: {len(names)} output(s)"


# What OpenCV is known to compute otherwise than Caffe: words of a prototxt, and what it makes of them.
_KNOWN = {
    "LRN": "it drops LRN's k, and divides alpha in its own way",
    "Swish": "it drops Swish's beta",
    '"Log"': "it drops Log's parameters",
    "transpose: true": "it ignores InnerProduct's transpose",
    "Axpy": "it computes Axpy otherwise",
    "PriorBox": "it clips PriorBox by default",
}


def _known_difference(text: str) -> str:
    return next((why for word, why in _KNOWN.items() if word in text), "")
