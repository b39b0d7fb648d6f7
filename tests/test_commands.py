r"""commands/*.md: command lines, what they print, how they exit, which files they leave.

A block that begins with ``$ convert`` is run in a folder that holds models/digits; what follows is stdout and stderr.
``...`` stands for anything in its line, and a line of nothing else for any lines. ``exit code: N`` ends the output;
``files: a b`` behind it are the files that the command made or changed, none if it is empty. A block that begins with
```` ```file NAME ```` is written into the folder beforehand, and ```` ```file NAME: first N bytes of OTHER ```` is a
file cut short.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
DIGITS = HERE.parent / "models" / "digits"
DOCUMENTS = sorted(HERE.joinpath("commands").glob("*.md"))

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"\$ (convert[^\n]*)\n(.*?)^exit code: (\d+)\n(?:files:([^\n]*)\n)?", re.MULTILINE | re.DOTALL)
_FIRST_BYTES = re.compile(r"(\S+): first (\d+) bytes of (\S+)")
_SECONDS = 60


class Command(NamedTuple):
    """One command line, and what is expected of it; ``files`` None says nothing about files."""

    line: str
    output: str
    code: int
    files: list[str] | None


class Document(NamedTuple):
    """The files that a document declares, and its commands in order."""

    files: list[tuple[str, str]]
    commands: list[Command]


def read(text: str) -> Document:
    """Raises ValueError for a block that is neither a file nor commands: it would never be run."""
    declared, commands = [], []
    for info, content in _BLOCK.findall(text):
        if info.startswith("file "):
            declared.append((info.removeprefix("file "), content))
            continue
        found = list(_COMMAND.finditer(content))
        if info or "".join(match.group() for match in found) != content or not found:
            raise ValueError(f"neither a file nor commands with their exit codes:\n{content}")
        for match in found:
            line, output, code, files = match.groups()
            commands.append(Command(line, output, int(code), None if files is None else sorted(files.split())))
    return Document(declared, commands)


def declare(folder: Path, name: str, content: str) -> None:
    if cut := _FIRST_BYTES.fullmatch(name):
        name, count, whole = cut.groups()
        folder.joinpath(name).write_bytes(folder.joinpath(whole).read_bytes()[: int(count)])
    else:
        folder.joinpath(name).write_text(content)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file, with what changes when it is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def execute(line: str, folder: Path) -> tuple[str, int, list[str]]:
    """(what the command prints, its exit code, the files that it made or changed)."""
    before = state(folder)
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(HERE.parent), "PATH": os.environ["PATH"]}
    arguments = [sys.executable, "-m", "converters", *shlex.split(line)[1:]]
    done = subprocess.run(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=_SECONDS, check=False,
    )  # fmt: skip
    after = state(folder)
    assert set(before) <= set(after), "a command deleted files"
    return done.stdout, done.returncode, sorted(name for name, what in after.items() if before.get(name) != what)


def pattern(expected: str) -> str:
    """``expected`` as a regular expression in which ``...`` matches anything."""
    lines = [
        "(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected.splitlines()
    ]
    return "".join(lines)


def tidy(output: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_do_what_their_document_says(path: Path, tmp_path: Path) -> None:
    document = read(path.read_text())
    for name in ("digits_lenet.prototxt", "digits_lenet.caffemodel"):
        shutil.copy(DIGITS / name, tmp_path)
    for name, content in document.files:
        declare(tmp_path, name, content)
    assert document.commands
    for command in document.commands:
        output, code, files = execute(command.line, tmp_path)
        told = f"$ {command.line}\n{output}exit code: {code}\nfiles: {' '.join(files)}"
        printed = re.fullmatch(pattern(tidy(command.output)), tidy(output)) is not None
        wrote = command.files is None or files == command.files
        assert (printed, code, wrote) == (True, command.code, True), told


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("a ... c\n", "a b b c\n", True),
        ("a ... c\n", "a b\nc\n", False),
        ("a\n...\nb\n", "a\nx\ny\nb\n", True),
        ("a\n...\n", "a\n", True),
        ("a.b\n", "axb\n", False),
        ("", "a\n", False),
    ],
)
def test_dots_match_anything_in_their_place_alone(expected: str, output: str, same: bool) -> None:
    assert bool(re.fullmatch(pattern(expected), output)) == same


def test_a_block_that_would_not_be_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither a file nor commands"):
        read("```\n$ convert a.onnx\nno exit code\n```\n")
    with pytest.raises(ValueError, match="neither a file nor commands"):
        read("```\nconvert a.onnx\nexit code: 0\n```\n")
