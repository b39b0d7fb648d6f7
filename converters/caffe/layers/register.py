"""Caffe layer type -> importer, and what an importer is given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs

from converters.caffe.blobs import Array
from converters.caffe.layers.axes import shown
from converters.caffe.options import Options
from converters.errors import UnsupportedError, WeightsError
from converters.registry import Registry

Results: TypeAlias = gs.Tensor | Sequence[gs.Tensor]
ImportFunction: TypeAlias = Callable[..., Results]

# Options that choose how something is computed or trained, never what: read by no importer, refused by none.
NEUTRAL_OPTIONS = frozenset({"engine", "weight_filler", "bias_filler", "filler"})


@dataclass(frozen=True)
class Importer:
    """How a layer type becomes ONNX. ``options`` is its parameter message; ``ignored`` are options without effect."""

    function: ImportFunction
    options: str
    ignored: frozenset[str]
    fewest_bottoms: int
    most_bottoms: int | None

    def check_bottoms(self, count: int) -> None:
        """Raises UnsupportedError for a number of bottoms that the layer type does not take."""
        most = math.inf if self.most_bottoms is None else self.most_bottoms
        if not self.fewest_bottoms <= count <= most:
            wanted = str(self.fewest_bottoms)
            wanted += " or more" if self.most_bottoms is None else f" to {most}" if most != self.fewest_bottoms else ""
            raise UnsupportedError(f"takes {wanted} bottom(s), not {count}")


IMPORTERS: Registry[Importer] = Registry("importer of Caffe layer")


def importer(
    *types: str, options: str = "", ignored: Collection[str] = ()
) -> Callable[[ImportFunction], ImportFunction]:
    """Register ``function(layer, *bottoms, to)`` for layer ``types``; its positional parameters are the bottoms."""

    def register(function: ImportFunction) -> ImportFunction:
        bottoms = list(inspect.signature(function).parameters.values())[1:]
        single = [p for p in bottoms if p.kind is p.POSITIONAL_OR_KEYWORD]
        fewest = sum(p.default is p.empty for p in single)
        most = None if any(p.kind is p.VAR_POSITIONAL for p in bottoms) else len(single)
        for name in types:
            IMPORTERS.add(name, Importer(function, options, NEUTRAL_OPTIONS | set(ignored), fewest, most))
        return function

    return register


class ParsedLayer:
    """A layer as its importer sees it: options, weights, and its tops.

    ``tops`` are wanted, ``all_tops`` are those that the prototxt gives; only layers without bottoms may lose some.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        tops: Sequence[str],
        all_tops: Sequence[str],
        options: Options | None,
        blobs: Sequence[Array] | None,
        why_no_blobs: str = "",
    ) -> None:
        self.name = name
        self.type = kind
        self.tops = tops
        self.all_tops = all_tops
        self.options: Any = options
        self._blobs = blobs
        self._why_no_blobs = why_no_blobs
        self._weights_read = False

    def weights(self, *shapes: Sequence[int]) -> list[Array]:
        """The layer's blobs, each in the shape that the layer expects of it.

        Old files write every blob with four axes: leading ones are no difference (Blob::ShapeEquals).
        Raises WeightsError if there are none, more or fewer, or if one has another shape.
        """
        self._weights_read = True
        if not shapes and not self._blobs:
            return []
        if self._blobs is None:
            raise WeightsError(self._why_no_blobs)
        if len(self._blobs) != len(shapes):
            raise WeightsError(f"has {len(shapes)} blob(s) by its prototxt, {len(self._blobs)} in the weights file")
        return [_fitted(blob, shape, i) for i, (blob, shape) in enumerate(zip(self._blobs, shapes, strict=True))]

    @property
    def blob_count(self) -> int:
        """How many blobs the weights file has for the layer."""
        return len(self._blobs or ())

    def check_weights_read(self) -> None:
        """Raises WeightsError if the file has weights for a layer that takes none, as Caffe does."""
        if self._blobs and not self._weights_read:
            raise WeightsError(f"takes no weights, but the weights file has {len(self._blobs)} blob(s) for it")


def _fitted(blob: Array, shape: Sequence[int], index: int) -> Array:
    wanted = tuple(shape)
    stripped = tuple(blob.shape)
    while len(stripped) > len(wanted) and stripped[0] == 1 and (len(blob.shape) == 4 or blob.size == 1):
        stripped = stripped[1:]
    if stripped != wanted:
        raise WeightsError(
            f"blob {index} is {shown(blob.shape)} in the weights file, but the net needs {shown(wanted)}:"
            " another input size, or files that do not belong together"
        )
    return blob.reshape(wanted)
