"""What a pass raises when it was asked for something that cannot be done right."""

from __future__ import annotations


class GraphError(Exception):
    """The graph cannot be changed as asked, or it is not a valid graph. One clear message with the node's name."""
