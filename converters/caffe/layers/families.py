"""IMPORTERS with every family in it: importing this module registers all layers."""

from __future__ import annotations

from converters.caffe.layers import (
    activation,
    convolution,
    data,
    elementwise,
    inner_product,
    normalization,
    pooling,
    recurrent,
    reduction,
    shape,
)
from converters.caffe.layers.register import IMPORTERS

FAMILIES = (
    activation,
    convolution,
    data,
    elementwise,
    inner_product,
    normalization,
    pooling,
    recurrent,
    reduction,
    shape,
)

__all__ = ["FAMILIES", "IMPORTERS"]
