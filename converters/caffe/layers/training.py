"""Layers that only train, dropped on purpose: losses, accuracies, data layers, and what they say about input shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from converters.caffe.net import Layer
from converters.errors import ShapeError

# Layers whose name does not say by itself that they only train or only measure.
_TRAINING = frozenset(
    {
        "DetectionEvaluate",
        "EvalDetection",
        "HDF5Output",
        "LabelSpecificAdd",
        "LabelSpecificMargin",
        "LabelSpecificRescale",
        "SegmentationEvaluate",
        "Silence",
        "SoftmaxWithLoss",
        "YoloSeg",
    }
)

# Layers that read nothing and make what a training set would give.
_DATA = frozenset({"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"})

# Layers with weights. What they make is a prediction, wherever a loss reads it.
LEARNED_TYPES = frozenset(
    {
        "Convolution",
        "ConvolutionDepthwise",
        "Deconvolution",
        "DepthwiseConvolution",
        "Embed",
        "InnerProduct",
        "LSTM",
        "Lstm",
        "RNN",
    }
)


def is_training(layer: Layer) -> bool:
    """Whether a layer only trains or measures.

    Caffe's forks name theirs as Caffe does (SmoothL1Loss, SegAccuracy), and a Python layer that is a loss says so by
    its loss_weight.
    """
    if layer.type in _TRAINING or layer.type.endswith(("Loss", "Accuracy")):
        return True
    return layer.type == "Python" and any(layer.message.loss_weight)


def makes_softmax(layer: Layer) -> bool:
    """A SoftmaxWithLoss whose second top, the probabilities, is named: for inference it is a Softmax."""
    return layer.type == "SoftmaxWithLoss" and len(layer.tops) > 1


def is_data(layer: Layer, is_known: Callable[[str], bool]) -> bool:
    """Whether a layer stands for a data set: it reads nothing, and no layer type that computes is known by its name."""
    if layer.bottoms or not layer.tops:
        return False
    return layer.type in _DATA or not is_known(layer.type)


def random_tops(layer: Layer) -> list[str]:
    """Tops of a DummyData layer that are not filled with a constant: they stand for data."""
    if layer.type != "DummyData":
        return []
    fillers = list(layer.message.dummy_data_param.data_filler)
    fillers = fillers * len(layer.message.top) if len(fillers) == 1 else fillers
    tops = zip(layer.message.top, fillers, strict=False)
    return [top for top, filler in tops if filler.type != "constant" and top in layer.tops]


def data_shapes(layer: Layer) -> dict[str, Sequence[int] | None]:
    """The shape of each top of a data layer, as far as its prototxt tells; None where only the data set knows."""
    tops = list(layer.message.top)
    p = layer.message.dummy_data_param
    if layer.type == "DummyData" and (p.shape or p.num):
        return dict(zip(tops, dummy_shapes(p, len(tops)), strict=True))
    first = _IMAGE_SHAPES[layer.type](layer.message) if layer.type in _IMAGE_SHAPES else None
    return {**dict.fromkeys(tops), tops[0]: first if first and all(first) else None}


def dummy_shapes(p: Any, tops: int) -> list[list[int]]:
    """Shapes of a DummyData layer: ``shape`` or the old num / channels / height / width, each once or once a top.

    Raises ShapeError for another number of them, or for a size that is not positive.
    """
    old = [list(dim) for dim in (p.num, p.channels, p.height, p.width)]
    if any(old) and p.shape:
        raise ShapeError("shape, or num, channels, height and width: not both")
    columns = old if any(old) else [[list(shape.dim) for shape in p.shape]]
    if any(len(column) not in (1, tops) for column in columns):
        given = " and ".join(str(len(column)) for column in columns)
        raise ShapeError(f"{given} shape(s) for {tops} top(s): one, or one a top")
    rows = zip(*(column * tops if len(column) == 1 else column for column in columns), strict=True)
    shapes = [list(row) if any(old) else row[0] for row in rows]
    if any(size < 1 for shape in shapes for size in shape):
        raise ShapeError(f"a size of {shapes} is not positive")
    return shapes


def _memory(message: Any) -> list[int]:
    p = message.memory_data_param
    return [p.batch_size, p.channels, p.height, p.width]


def _image(message: Any) -> list[int]:
    p, crop = message.image_data_param, message.transform_param.crop_size or message.image_data_param.crop_size
    return [p.batch_size, 3 if p.is_color else 1, crop or p.new_height, crop or p.new_width]


def _window(message: Any) -> list[int]:
    p, crop = message.window_data_param, message.transform_param.crop_size or message.window_data_param.crop_size
    return [p.batch_size, 3, crop, crop]


def _database(message: Any) -> list[int]:
    """A database knows the channels; as many mean values as channels, or a forced colour, tell them too."""
    p, t = message.data_param, message.transform_param
    crop = t.crop_size or p.crop_size
    channels = 3 if t.force_color else 1 if t.force_gray else len(t.mean_value) if len(t.mean_value) > 1 else 0
    return [p.batch_size, channels, crop, crop]


_IMAGE_SHAPES: dict[str, Callable[[Any], list[int]]] = {
    "Data": _database,
    "ImageData": _image,
    "MemoryData": _memory,
    "WindowData": _window,
}
