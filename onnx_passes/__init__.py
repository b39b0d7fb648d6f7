"""Passes on an ONNX graph (onnx-graphsurgeon). Usable alone, on any .onnx.

    import onnx, onnx_graphsurgeon as gs
    from onnx_passes import fold_bn

    graph = gs.import_onnx(onnx.load("net.onnx"))
    for line in fold_bn(graph):
        print(line)

A pass changes the graph in place and returns a line a change; nothing to do is an empty list. One that was asked for
and cannot be done right raises GraphError.
"""

from onnx_passes.cost import Cost, cost
from onnx_passes.errors import GraphError
from onnx_passes.extract_branch import extract_branch
from onnx_passes.fold_bn import fold_bn

# In the order in which they run.
PASSES = (
    extract_branch,  # first: nothing below should work on what is thrown away
    fold_bn,
)

__all__ = ["PASSES", "Cost", "GraphError", "cost", "extract_branch", "fold_bn"]
