"""Decant: networks out of the formats they are stuck in, into ONNX and back.

import converters
graph = converters.load("net.caffemodel")
converters.save(graph, "net.onnx")
converters.convert("net.caffemodel", "net.onnx", fold_bn=True)
"""

from converters.api import convert, load, save
from converters.errors import ConvertError

__all__ = ["ConvertError", "convert", "load", "save"]
