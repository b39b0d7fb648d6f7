"""A Caffe net and its weights -> gs.Graph: the loop over the layers, and the place in every error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx_graphsurgeon as gs

from converters.builder import OPSET, Builder
from converters.caffe import prototxt as text_format
from converters.caffe import schema
from converters.caffe.blobs import Array, CaffeModel, read_caffemodel
from converters.caffe.deploy import cut, deploy
from converters.caffe.files import find_pair
from converters.caffe.layers.axes import shown
from converters.caffe.layers.families import IMPORTERS
from converters.caffe.layers.register import Importer, ParsedLayer
from converters.caffe.net import Layer, Net, net_from_tree
from converters.caffe.options import Options
from converters.caffe.upgrade import modern
from converters.errors import ConvertError, FormatError, ShapeError, UnsupportedError, WeightsError, place
from converters.filemap import not_a_model
from converters.loading import LoadOptions, Progress
from converters.registry import nearest

_MOST_SHOWN = 6
_LARGEST_TEXT = 64 << 20


class Source(NamedTuple):
    """A deploy net, and the weights by layer name (None: there is no weights file)."""

    net: Net
    weights: Mapping[str, Sequence[Array]] | None
    weights_file: Path | None
    place: str


def load(path: Path, options: LoadOptions) -> gs.Graph:
    """The graph of a Caffe net. ``path`` is the .caffemodel or the prototxt; the other is looked for beside it.

    Takes every option: ``input_shapes`` maps inputs to shapes, '' to that of the only input; ``inputs`` and
    ``outputs`` cut the net at blobs by name. Raises ConvertError.
    """
    source = _read(path, options.prototxt)
    opset = OPSET if options.opset is None else options.opset
    with place(source.place):
        shapes = _named_shapes(source.net, options.input_shapes, options.inputs)
        net = source.net
        if options.inputs or options.outputs:
            shapes |= _shapes_of_cuts(source, shapes, list(dict.fromkeys(options.inputs)), opset)
            net = cut(net, options.inputs, options.outputs)
        graph = _import(net, source.weights, shapes, opset, options.progress)
    graph.metadata_props = {"source": path.name, "source_format": "caffe", **source.net.metadata}
    graph.source_files = [source.weights_file or path]
    return graph


# ---- reading ----


def _read(path: Path, prototxt: Path | None) -> Source:
    pair = find_pair(path, prototxt)
    if pair.net is not None and not pair.net.is_file():
        raise ConvertError(f"{pair.net}: {'is a folder' if pair.net.is_dir() else 'no such file'}")
    model = None
    if pair.weights is not None:
        with place(pair.weights.name):
            model = read_caffemodel(pair.weights)
    where = pair.net or path
    with place(where.name):
        tree = text_format.parse(_text(pair.net)) if pair.net is not None else _stored_tree(model)
        net = net_from_tree(modern(tree))
        if not net.layers:
            raise FormatError("it holds no layers: not a Caffe net")
        for layer in net.layers:
            layer.type = _canonical_type(layer.type)
        deployed = deploy(net, lambda kind: kind == "Input" or kind in IMPORTERS)
        return Source(deployed, _weights(deployed, model), pair.weights, where.name)


def _text(path: Path) -> bytes:
    """Raises FormatError for a file that is plainly something else."""
    if path.stat().st_size > _LARGEST_TEXT:
        raise FormatError(f"{path.stat().st_size:,} bytes are too many for a prototxt: is it the caffemodel?")
    raw = path.read_bytes()
    if not raw.strip():
        raise FormatError("the file is empty")
    what = not_a_model(raw[:64])
    if what and "text" not in what:
        raise FormatError(what)
    return raw


def _stored_tree(model: CaffeModel | None) -> text_format.Fields:
    """The net that stands in the .caffemodel itself. Raises FormatError if it holds weights only."""
    assert model is not None  # find_pair: without a prototxt there are weights
    message = schema.parse_net(model.definition)
    if not any(layer.top for layer in message.layer) and not any(layer.top for layer in message.layers):
        raise FormatError("it holds weights only, and no prototxt lies beside it: give one by --prototxt")
    return schema.tree(message)


def _canonical_type(kind: str) -> str:
    """The type as it is registered; V1 nets of forks shout theirs (BN, UPSAMPLE, ROI_POOLING)."""
    if kind in IMPORTERS or not kind.isupper():
        return kind
    folded = kind.replace("_", "").lower()
    return next((name for name in IMPORTERS if name.lower() == folded), kind)


def _weights(net: Net, model: CaffeModel | None) -> dict[str, Sequence[Array]] | None:
    """Blobs by layer name, those that layers share by ``param { name }`` being one array.

    Net::CopyTrainedLayersFrom copies each stored layer into the first layer of its name, so the last of a file wins.
    """
    if model is None:
        return None
    stored = {layer.name: layer.blobs for layer in model.layers}
    order = {layer.name: index for index, layer in enumerate(model.layers)}
    last: dict[str, tuple[int, Array]] = {}
    for layer in net.layers:
        for spec, blob in zip(layer.message.param, stored.get(layer.name, []), strict=False):
            if spec.name and order[layer.name] >= last.get(spec.name, (-1, blob))[0]:
                last[spec.name] = (order[layer.name], blob)
    weights: dict[str, Sequence[Array]] = dict(stored)
    for layer in net.layers:
        names = [spec.name for spec in layer.message.param]
        if any(name in last for name in names):
            weights[layer.name] = _shared(layer, stored.get(layer.name), last)
    return weights


def _shared(layer: Layer, own: Sequence[Array] | None, last: Mapping[str, tuple[int, Array]]) -> list[Array]:
    """The layer's blobs, the shared ones as stored last, in the layer's own shape if it has one of as many values.

    Whether shapes may differ is for ``share_mode`` to say, where Net::AppendParam asks for it: at the sharing layer.
    """
    blobs: list[Array] = list(own or ())
    for index, spec in enumerate(layer.message.param):
        if spec.name in last:
            blob = last[spec.name][1]
            if index < len(blobs) and blob.size == blobs[index].size:
                blob = blob.reshape(blobs[index].shape)
            blobs[index : index + 1] = [blob]
    return blobs


# ---- inputs ----


def _inputs(net: Net) -> list[str]:
    return [top for layer in net.layers if layer.type == "Input" for top in layer.tops]


def _named_shapes(net: Net, shapes: Mapping[str, Sequence[int]], cut_inputs: Sequence[str]) -> dict[str, Sequence[int]]:
    """``shapes`` with the one for '' under the name of the only input."""
    known = list(dict.fromkeys([*_inputs(net), *cut_inputs]))
    named = dict(shapes)
    if "" in named:
        if len(known) != 1:
            raise ConvertError(
                f"the net has the inputs {', '.join(known)}: say which one by --input-shape NAME:1,3,224,224"
            )
        named[known[0]] = named.pop("")
    for name in named:
        if name not in known:
            hint = nearest(name, known) or f"; the net's inputs are {', '.join(known) or 'none'}"
            raise ConvertError(f"--input-shape: there is no input '{name}'{hint}")
        if any(isinstance(size, int) and size < 1 for size in named[name]):
            raise ConvertError(f"--input-shape: {shown(named[name])} of '{name}': sizes are positive")
    return named


def _shapes_of_cuts(
    source: Source, shapes: Mapping[str, Sequence[int]], inputs: Sequence[str], opset: int
) -> dict[str, Sequence[int]]:
    """Shapes of blobs inside the net that become inputs: what the layers before them make, if it was not said."""
    unknown = [name for name in inputs if name not in shapes and name not in _inputs(source.net)]
    if not unknown:
        return {}
    before = cut(source.net, (), unknown)
    try:
        graph = _import(before, source.weights, shapes, opset, None)
    except ConvertError as error:
        raise ShapeError(
            f"the shape of '{unknown[0]}' is not known ({error}): give it by --input-shape {unknown[0]}:..."
        ) from error
    return dict(zip(unknown, [list(tensor.shape) for tensor in graph.outputs], strict=True))


def _input_shape(layer: Layer, shapes: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """The shape of an Input layer's top. Raises ShapeError where neither the net nor the user tells it."""
    (name,) = layer.tops
    if name in shapes:
        return shapes[name]
    shape = [size for told in layer.message.input_param.shape for size in told.dim]
    if not shape or min(shape) < 1:
        said = f" (it says {shown(shape)})" if shape else ""
        raise ShapeError(
            f"the shape of input '{name}' is not in the net{said}: give it by --input-shape {name}:1,3,224,224"
        )
    return shape


# ---- importing ----


def _import(
    net: Net,
    weights: Mapping[str, Sequence[Array]] | None,
    shapes: Mapping[str, Sequence[int]],
    opset: int,
    progress: Progress | None,
) -> gs.Graph:
    importers = _importers(net.layers)
    _refuse_unknown_fields(net.layers)
    names = _Names(net)
    builder = Builder(net.name, opset=opset, reserved=names.reserved)
    blobs: dict[str, gs.Tensor] = {}
    read: dict[str, str] = {}
    seen: set[str] = set()
    for number, layer in enumerate(net.layers):
        with place(str(layer)):
            _check_tops(layer, blobs, read)
            if layer.type == "Input":
                (top,) = layer.tops
                blobs[top] = builder.input(top, _input_shape(layer, shapes))
            else:
                parsed = _parsed(layer, importers[layer.type], weights, seen)
                tops = _run(importers[layer.type], parsed, _bottoms(layer, blobs), builder, names.of(layer))
                blobs.update(zip(layer.tops, tops, strict=True))
        if progress:
            progress(number + 1, len(net.layers))
    names.settle(blobs)
    for name in net.outputs or ():
        builder.output(blobs[name], names.output(name, blobs[name]))
    if not builder.graph.outputs:
        raise ConvertError("the net has no outputs: every blob is read by some layer")
    return builder.graph


def _importers(layers: Sequence[Layer]) -> dict[str, Importer]:
    """The importer of each type. Raises UnsupportedError that names every layer nobody can import."""
    unknown: dict[str, list[str]] = {}
    found = {}
    for layer in layers:
        if layer.type == "Input":
            continue
        importer = IMPORTERS.get(layer.type)
        if importer is None:
            unknown.setdefault(layer.type, []).append(layer.name)
        else:
            found[layer.type] = importer
    if unknown:
        listed = "; ".join(f"'{kind}' ({_few(names)}){IMPORTERS.nearest(kind)}" for kind, names in unknown.items())
        raise UnsupportedError(
            f"unknown layer types: {listed}. --outputs BLOB stops before a layer, --inputs BLOB begins behind it"
        )
    return found


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def _refuse_unknown_fields(layers: Sequence[Layer]) -> None:
    found = [f"{layer}: line {p.line}: {p.text}" for layer in layers for p in layer.problems]
    if found:
        more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise UnsupportedError("; ".join(found[:_MOST_SHOWN]) + more)


def _check_tops(layer: Layer, blobs: Mapping[str, gs.Tensor], read: dict[str, str]) -> None:
    """Raises ConvertError where Caffe sees a "top blob produced by multiple sources" (Net::AppendTop, InsertSplits).

    A layer may write a blob that exists only in place, and only if no layer before it reads the blob. ``read`` is kept
    up to date: which layer read a blob since it was written.
    """
    for index, top in enumerate(layer.tops):
        in_place = index < len(layer.bottoms) and layer.bottoms[index] == top
        if top in blobs and not in_place:
            raise ConvertError(f"makes blob '{top}', which a layer before it makes already: rename one of the two")
        if in_place and top in read:
            raise ConvertError(f"changes blob '{top}' in place, which layer '{read[top]}' reads before: rename its top")
    read.update(dict.fromkeys(layer.bottoms, layer.name))
    for top in layer.tops:
        read.pop(top, None)


def _bottoms(layer: Layer, blobs: Mapping[str, gs.Tensor]) -> list[gs.Tensor]:
    for name in layer.bottoms:
        if name not in blobs:
            raise ConvertError(f"no layer before it makes its bottom '{name}'{nearest(name, blobs)}")
    return [blobs[name] for name in layer.bottoms]


def _parsed(
    layer: Layer, importer: Importer, weights: Mapping[str, Sequence[Array]] | None, seen: set[str]
) -> ParsedLayer:
    options = Options(getattr(layer.message, importer.options), importer.ignored) if importer.options else None
    blobs = None if weights is None else weights.get(layer.name)
    if layer.name in seen and blobs:
        raise WeightsError(
            "a layer of this name comes before it; Caffe loads weights into the first one only: rename one"
        )
    seen.add(layer.name)
    why_not = "the weights file has no layer of this name: do prototxt and caffemodel belong together?"
    if weights is None:
        why_not = "needs weights, and no caffemodel lies beside the prototxt: give the caffemodel, and --prototxt"
    return ParsedLayer(layer.name, layer.type, layer.tops, list(layer.message.top), options, blobs, why_not)


def _run(
    importer: Importer, layer: ParsedLayer, bottoms: Sequence[gs.Tensor], builder: Builder, names: Sequence[str]
) -> list[gs.Tensor]:
    """The tensors that a layer makes, one a top."""
    importer.check_bottoms(len(bottoms))
    builder.begin(layer.name)
    results = importer.function(layer, *bottoms, to=builder)
    tops = list(results) if isinstance(results, Sequence) else [results]
    if layer.options is not None:
        layer.options.check_all_read()
    layer.check_weights_read()
    if len(tops) != len(layer.tops):
        raise UnsupportedError(f"makes {len(tops)} top(s), the net names {len(layer.tops)}")
    builder.finish(tops, names)
    return tops


class _Names:
    """Blob names as tensor names. The last writer of a blob keeps its name; what was in it before is ``blob@layer``."""

    def __init__(self, net: Net) -> None:
        self._inputs = set(_inputs(net))
        self._made: dict[int, list[str]] = {}
        self._blob_of: dict[str, str] = {}
        self.reserved = {top for layer in net.layers for top in layer.tops}
        for layer in net.layers:
            self._made[id(layer)] = [self._version(top, layer) for top in layer.tops]

    def _version(self, top: str, layer: Layer) -> str:
        name, number = f"{top}@{layer.name}", 0
        while name in self.reserved:
            number += 1
            name = f"{top}@{layer.name}_{number}"
        self.reserved.add(name)
        self._blob_of[name] = top
        return name

    def of(self, layer: Layer) -> list[str]:
        return self._made[id(layer)]

    def settle(self, blobs: Mapping[str, gs.Tensor]) -> None:
        """Give each blob's last tensor the blob's name, unless a graph input has it."""
        for name, tensor in blobs.items():
            if name not in self._inputs and self._blob_of.get(tensor.name) == name:
                tensor.name = name

    def output(self, name: str, tensor: gs.Tensor) -> str:
        """An output's name: the blob's; for a blob that is written in place over an input, that of its last version."""
        if name not in self._inputs:
            return name
        return tensor.name if tensor.inputs else f"{name}@output"
