"""Old forms of a net -> modern layers: V0, V1, and ``input:`` fields in the head.

    V0    layers { layer { name: "conv1" type: "conv" num_output: 20 } bottom: "data" top: "conv1" }
    V1    layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" convolution_param { num_output: 20 } }

Works on the tree of a prototxt; a binary net becomes such a tree first, so that each dialect is handled once.
The rules are Caffe's own: util/upgrade_proto.cpp.
"""

from __future__ import annotations

from collections.abc import Collection

from converters.caffe.prototxt import Field, Fields, Scalar
from converters.errors import FormatError

V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}

# Where a V0 layer's flat fields went: (V0 type, V0 field) -> (parameter message, field).
# A field that its type does not use stands in no row; Caffe passes over those with a warning, and so do we.
_V0_FIELDS = {
    ("conv", "num_output"): ("convolution_param", "num_output"),
    ("conv", "biasterm"): ("convolution_param", "bias_term"),
    ("conv", "pad"): ("convolution_param", "pad"),
    ("conv", "kernelsize"): ("convolution_param", "kernel_size"),
    ("conv", "group"): ("convolution_param", "group"),
    ("conv", "stride"): ("convolution_param", "stride"),
    ("innerproduct", "num_output"): ("inner_product_param", "num_output"),
    ("innerproduct", "biasterm"): ("inner_product_param", "bias_term"),
    ("pool", "pool"): ("pooling_param", "pool"),
    ("pool", "pad"): ("pooling_param", "pad"),
    ("pool", "kernelsize"): ("pooling_param", "kernel_size"),
    ("pool", "stride"): ("pooling_param", "stride"),
    ("dropout", "dropout_ratio"): ("dropout_param", "dropout_ratio"),
    ("lrn", "local_size"): ("lrn_param", "local_size"),
    ("lrn", "alpha"): ("lrn_param", "alpha"),
    ("lrn", "beta"): ("lrn_param", "beta"),
    ("lrn", "k"): ("lrn_param", "k"),
    ("concat", "concat_dim"): ("concat_param", "concat_dim"),
    ("data", "source"): ("data_param", "source"),
    ("data", "batchsize"): ("data_param", "batch_size"),
    ("hdf5_data", "source"): ("hdf5_data_param", "source"),
    ("hdf5_data", "batchsize"): ("hdf5_data_param", "batch_size"),
    ("images", "source"): ("image_data_param", "source"),
    ("images", "batchsize"): ("image_data_param", "batch_size"),
    ("images", "new_height"): ("image_data_param", "new_height"),
    ("images", "new_width"): ("image_data_param", "new_width"),
    ("window_data", "source"): ("window_data_param", "source"),
    ("window_data", "batchsize"): ("window_data_param", "batch_size"),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_V0_IGNORED = {
    *("blobs", "blobs_lr", "weight_decay", "weight_filler", "bias_filler", "rand_skip", "shuffle_images"),
    *("new_num", "new_channels", "det_fg_threshold", "det_bg_threshold", "det_fg_fraction", "det_context_pad"),
    "det_crop_mode",
}
_V0_KNOWN = (
    {field for _, field in _V0_FIELDS} | set(_V0_TRANSFORM) | _V0_IGNORED | {"name", "type", "hdf5_output_param"}
)


def modern(tree: Fields) -> Fields:
    """A net's fields with every layer as ``layer { type: "Convolution" ... }`` and every input as an Input layer.

    Raises FormatError where Caffe itself would not read the net.
    """
    old = [f for f in tree if f.name == "layers"]
    if old and any(f.name == "layer" for f in tree):
        raise FormatError(
            f"line {old[0].line}: the net has both 'layer' and 'layers' fields: Caffe reads one form at a time"
        )
    layers = [_layer_fields(f) for f in tree if f.name in ("layer", "layers")]
    if any(_is_v0(fields) for _, fields in layers):
        layers = _v0_net(layers)
    layers = [(line, _modern_layer(fields)) for line, fields in layers]
    declared = {top for _, fields in layers if _word(fields, "type") == "Input" for top in _words(fields, "top")}
    head = [f for f in tree if f.name not in ("layer", "layers", "input", "input_dim", "input_shape")]
    return [*head, *_input_layer(tree, declared), *(Field("layer", fields, line) for line, fields in layers)]


def _layer_fields(field: Field) -> tuple[int, Fields]:
    if isinstance(field.value, Scalar):
        raise FormatError(f"line {field.line}: '{field.name}' is a message, not a single value")
    return field.line, field.value


def _word(fields: Fields, name: str) -> str:
    """The value of the scalar field ``name``, or nothing."""
    return next((f.value.text for f in fields if f.name == name and isinstance(f.value, Scalar)), "")


def _words(fields: Fields, name: str) -> list[str]:
    return [f.value.text for f in fields if f.name == name and isinstance(f.value, Scalar)]


def _string(name: str, text: str, line: int = 0) -> Field:
    return Field(name, Scalar(text, quoted=True), line)


def _input_layer(tree: Fields, declared: Collection[str]) -> Fields:
    """One Input layer for the ``input:`` fields of a net's head, without those that an Input layer declares already."""
    names = _words(tree, "input")
    if not set(names) - set(declared):
        return []
    shapes = [f.value for f in tree if f.name == "input_shape"]
    dims = [f for f in tree if f.name == "input_dim"]
    if not shapes and dims:
        if len(dims) != 4 * len(names):
            raise FormatError(
                f"line {dims[0].line}: input_dim stands {len(dims)} times for {len(names)} input(s); each takes 4"
            )
        shapes = [[f._replace(name="dim") for f in dims[i : i + 4]] for i in range(0, len(dims), 4)]
    line = next(f.line for f in tree if f.name == "input")
    if shapes and len(shapes) != len(names):
        raise FormatError(f"line {line}: input_shape stands {len(shapes)} times for {len(names)} input(s)")
    fields = [_string("name", "input"), _string("type", "Input"), *(_string("top", name) for name in names)]
    fields.append(Field("input_param", [Field("shape", shape, line) for shape in shapes], line))
    return [Field("layer", fields, line)]


def _modern_layer(fields: Fields) -> Fields:
    """A V1 layer's fields in the modern form; a modern layer passes through."""
    names, modes = [], []
    result: Fields = []
    for f in fields:
        if f.name == "type" and isinstance(f.value, Scalar):
            result.append(_string("type", V1_TYPES.get(f.value.text, f.value.text), f.line))
        elif f.name == "param" and isinstance(f.value, Scalar):
            names.append(f.value.text)
        elif f.name == "blob_share_mode" and isinstance(f.value, Scalar):
            modes.append(f.value.text)
        elif f.name not in ("blobs_lr", "weight_decay"):
            result.append(f)
    for index in range(max(len(names), len(modes))):
        spec = [_string("name", names[index])] if index < len(names) else []
        spec += [Field("share_mode", Scalar(modes[index], quoted=False), 0)] if index < len(modes) else []
        result.append(Field("param", spec, 0))
    return result


def _is_v0(fields: Fields) -> bool:
    return any(f.name == "layer" and not isinstance(f.value, Scalar) for f in fields)


def _v0_net(layers: list[tuple[int, Fields]]) -> list[tuple[int, Fields]]:
    """V0 layers as modern ones; padding layers disappear in the convolution or pooling that reads them."""
    paddings: dict[str, tuple[str, Field]] = {}
    result = []
    for line, fields in layers:
        inner = next((f.value for f in fields if f.name == "layer" and not isinstance(f.value, Scalar)), [])
        kind, bottoms, tops = _word(inner, "type"), _words(fields, "bottom"), _words(fields, "top")
        if kind == "padding":
            pad = next((f for f in inner if f.name == "pad"), Field("pad", Scalar("0", quoted=False), line))
            if len(bottoms) != 1 or len(tops) != 1 or bottoms[0] in paddings:
                raise FormatError(f"line {line}: a padding layer has one bottom, not itself padded, and one top")
            paddings[tops[0]] = (bottoms[0], pad)
            continue
        padded = [name for name in bottoms if name in paddings]
        if padded and (kind not in ("conv", "pool") or len(bottoms) != 1):
            raise FormatError(
                f"line {line}: a padding layer is read by '{kind}': only a conv or pool with one bottom can"
            )
        if padded:
            source, pad = paddings[padded[0]]
            inner = [*(f for f in inner if f.name != "pad"), pad]
            bottoms = [source]
        for top in tops:
            paddings.pop(top, None)
        result.append((line, _v0_layer(kind, inner, bottoms, tops, line)))
    return result


def _v0_layer(kind: str, inner: Fields, bottoms: list[str], tops: list[str], line: int) -> Fields:
    messages: dict[str, Fields] = {}
    others: Fields = []
    for f in inner:
        if (kind, f.name) in _V0_FIELDS:
            message, name = _V0_FIELDS[kind, f.name]
            messages.setdefault(message, []).append(f._replace(name=name))
        elif f.name in _V0_TRANSFORM:
            messages.setdefault("transform_param", []).append(f._replace(name=_V0_TRANSFORM[f.name]))
        elif f.name not in _V0_KNOWN:
            others.append(f)
    return [
        _string("name", _word(inner, "name"), line),
        _string("type", V0_TYPES.get(kind, kind), line),
        *(_string("bottom", name, line) for name in bottoms),
        *(_string("top", name, line) for name in tops),
        *(Field(message, content, line) for message, content in messages.items()),
        *others,
    ]
