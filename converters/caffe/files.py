"""Which files belong together: a .caffemodel and its prototxt, found beside each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from converters.errors import ConvertError

WEIGHTS_SUFFIX = ".caffemodel"
NET_SUFFIXES = (".prototxt", ".prototext", ".pt", ".txt", ".pbtxt")


class Pair(NamedTuple):
    """The net's text, or None where the .caffemodel's own definition serves; and its weights, or None."""

    net: Path | None
    weights: Path | None


def find_pair(given: Path, prototxt: Path | None) -> Pair:
    """The two files that ``given``, one of them, belongs to. Raises ConvertError where there are several candidates."""
    if given.suffix.lower() == WEIGHTS_SUFFIX:
        return Pair(prototxt or _net_beside(given), given)
    if prototxt is not None:
        return Pair(prototxt, given)
    return Pair(given, _weights_beside(given))


def _stem(path: Path) -> str:
    """The name that both files share: without ``_deploy``, ``_train_val``, ``_iter_1000`` and the like."""
    return re.sub(
        r"([-_.](deploy|train_val|trainval|train_test|train|test|iter_\d+))+$", "", path.stem, flags=re.IGNORECASE
    )


def _net_beside(weights: Path) -> Path | None:
    """Same stem; one that ends in deploy.prototxt; deploy.prototxt."""
    texts = sorted(p for p in weights.parent.glob("*.prototxt") if p.is_file() and "solver" not in p.stem)
    rules = (
        lambda p: p.stem == weights.stem,
        lambda p: p.stem == f"{weights.stem}_deploy",
        lambda p: _stem(p) == _stem(weights) and p.stem.lower().endswith("deploy"),
        lambda p: p.name == "deploy.prototxt",
        lambda p: p.stem.lower().endswith("_deploy"),
        lambda p: _stem(p) == _stem(weights),
    )
    for rule in rules:
        found = [p for p in texts if rule(p)]
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ConvertError(
                f"{weights.name}: several prototxts could belong to it ({names}): say which by --prototxt"
            )
        if found:
            return found[0]
    return None


def _weights_beside(net: Path) -> Path | None:
    files = sorted(p for p in net.parent.glob(f"*{WEIGHTS_SUFFIX}") if p.is_file())
    same = [p for p in files if p.stem == net.stem] or [p for p in files if _stem(p) == _stem(net)] or files
    if len(same) > 1:
        names = ", ".join(p.name for p in same)
        raise ConvertError(
            f"{net.name}: several caffemodels could belong to it ({names}): give the caffemodel, and --prototxt"
        )
    return same[0] if same else None
