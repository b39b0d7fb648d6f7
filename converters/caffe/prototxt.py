"""Prototxt text <-> a tree of fields with their lines.

The grammar is protobuf's text format (https://protobuf.dev/reference/protobuf/textformat-spec), read the way
prototxts in the wild are written: byte-order marks, comments in any encoding, ``//`` comments, ``,`` and ``;``
between fields, ``field { }`` with and without a colon, lists in brackets. Nothing is known here about Caffe's
messages: unknown fields are kept, so that ``schema`` can name them with their line.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from converters.errors import FormatError


class Scalar(NamedTuple):
    """A value as it is written: a number, a word, or the content of a quoted string."""

    text: str
    quoted: bool


class Field(NamedTuple):
    """``name: value`` or ``name { ... }``."""

    name: str
    value: Scalar | Fields
    line: int


Fields: TypeAlias = list[Field]

_MAX_DEPTH = 64

_TOKEN = re.compile(
    rb"""(?P<space>[\s]+|\#[^\n]*|//[^\n]*)
       | (?P<word>[-+.\w]+)
       | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
       | (?P<mark>[{}<>\[\]:,;])
       | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_CLOSING = {b"{": b"}", b"<": b">"}


def decode(raw: bytes) -> str:
    """A name from a file of unknown encoding. Old Chinese models carry GBK; whatever else becomes Latin-1."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def parse(text: bytes) -> Fields:
    """The fields of a prototxt. Raises FormatError with the line where the text is not a prototxt."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = text.decode("utf-16", errors="replace").encode()
    return _Parser(text.removeprefix(b"\xef\xbb\xbf")).fields(closing=b"", depth=0)


class _Token(NamedTuple):
    kind: str
    text: bytes
    at: int


class _Parser:
    def __init__(self, text: bytes) -> None:
        self._line_starts = [0, *(match.end() for match in re.finditer(b"\n", text))]
        self._tokens = [
            _Token(str(match.lastgroup), match.group(), match.start())
            for match in _TOKEN.finditer(text)
            if match.lastgroup != "space"
        ]
        self._tokens.append(_Token("end", b"", len(text)))
        self._next = 0

    def fields(self, closing: bytes, depth: int) -> Fields:
        if depth > _MAX_DEPTH:
            raise self._error(self._peek(), f"messages are nested more than {_MAX_DEPTH} deep")
        found: Fields = []
        while True:
            token = self._take()
            if token.kind == "end" or token.text in (b"}", b">"):
                if token.text != closing:
                    raise self._error(token, f"expected {_shown(closing)}, found {_shown(token.text)}")
                return found
            if token.text in (b",", b";"):
                continue
            if token.kind != "word":
                raise self._error(token, f"expected the name of a field, found {_shown(token.text)}")
            line = self._line(token)
            found += [Field(decode(token.text), value, line) for value in self._values(depth)]

    def _values(self, depth: int) -> Sequence[Scalar | Fields]:
        """What stands behind a field's name: one value, or the several of a list in brackets."""
        colon = self._peek().text == b":"
        if colon:
            self._take()
        if self._peek().text == b"[":
            return self._bracketed(depth)
        return [self._value(depth, colon=colon)]

    def _bracketed(self, depth: int) -> Sequence[Scalar | Fields]:
        self._take()
        values: list[Scalar | Fields] = []
        while self._peek().text != b"]":
            values.append(self._value(depth, colon=True))
            if self._peek().text == b",":
                self._take()
        self._take()
        return values

    def _value(self, depth: int, *, colon: bool) -> Scalar | Fields:
        token = self._take()
        if token.text in _CLOSING:
            return self.fields(_CLOSING[token.text], depth + 1)
        if not colon:
            raise self._error(token, f"expected ':' or '{{' behind the field's name, found {_shown(token.text)}")
        if token.kind == "word":
            return Scalar(decode(token.text), quoted=False)
        if token.kind == "string":
            parts = [_unquoted(token.text)]
            while self._peek().kind == "string":
                parts.append(_unquoted(self._take().text))
            return Scalar(decode(b"".join(parts)), quoted=True)
        raise self._error(token, f"expected a value, found {_shown(token.text)}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _line(self, token: _Token) -> int:
        return bisect_right(self._line_starts, token.at)

    def _error(self, token: _Token, message: str) -> FormatError:
        if token.text in (b"$", b"%", b"@"):
            message = "a template with variables in it, not a prototxt: fill the variables in first"
        elif token.text in (b'"', b"'"):
            message = "a string does not end on its line"
        return FormatError(f"line {self._line(token)}: {message}")


def _shown(text: bytes) -> str:
    return f"'{decode(text)}'" if text else "the end of the file"


def _unquoted(text: bytes) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        if code[:1] == b"x" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        if code[:1] in (b"u", b"U") and len(code) > 1:
            point = int(code[1:], 16)
            return chr(point).encode(errors="replace") if point <= sys.maxunicode else b"?"
        if code.isdigit() and code[:1] < b"8":
            return bytes([int(code, 8) & 0xFF])
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(replaced, text[1:-1])
