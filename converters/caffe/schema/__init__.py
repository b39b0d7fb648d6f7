"""Caffe's messages as protobuf classes, and their filling from a prototxt's tree.

The descriptor is loaded in a pool of its own, so that a ``caffe_pb2`` of somebody else can live in the same process.
"""

from converters.caffe.schema.messages import LayerParameter, NetParameter, Problem, fill, parse_net, tree

__all__ = ["LayerParameter", "NetParameter", "Problem", "fill", "parse_net", "tree"]
