"""A layer's options, and which of them its importer has read: what was set but not read is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from converters.errors import UnsupportedError


class Options:
    """A parameter message of a layer, field by field. An option that nobody gave has Caffe's default."""

    def __init__(self, message: Any, ignored: Collection[str] = ()) -> None:
        self._message = message
        self._read = set(ignored)
        self._nested: dict[str, Options] = {}

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        value = getattr(self._message, name)
        if hasattr(value, "DESCRIPTOR"):
            return self._nested.setdefault(name, Options(value))
        return value

    def has(self, name: str) -> bool:
        """Whether the prototxt gives the option."""
        self._read.add(name)
        return any(field.name == name for field, _ in self._message.ListFields())

    def ignore(self, *names: str) -> None:
        """Options that have no effect here, because of what the others say."""
        self._read.update(names)

    def check_all_read(self) -> None:
        """Raises UnsupportedError for an option that the prototxt sets, not to its default, and that was not read."""
        for field, value in self._message.ListFields():
            if field.name not in self._read and value != field.default_value:
                raise UnsupportedError(f"option '{field.name}' is not supported here")
        for nested in self._nested.values():
            nested.check_all_read()
