"""Names -> handlers. A name is given once; a name that nobody knows gets the nearest known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """What a format can handle, by the source's own name for it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Register ``entry``. A second entry for a name is a programming error."""
        if name in self._entries:
            raise KeyError(f"{self._what} {name!r} is registered twice")
        self._entries[name] = entry

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def nearest(self, name: str) -> str:
        return nearest(name, self._entries)


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'Convolution'?" where a known name looks like ``name``, else nothing."""
    by_folded = {_folded(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_folded(name), by_folded, n=1, cutoff=0.75)
    return f", did you mean '{by_folded[close[0]]}'?" if close else ""


def _folded(name: str) -> str:
    """Without what many names have in common, which would make any two of them look alike."""
    return name.lower().removesuffix("_param").replace("_", "").replace("-", "")
