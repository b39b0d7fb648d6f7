"""The house: imports run down only, formats do not know each other, help costs nothing, __all__ tells the truth."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("converters", "onnx_passes")

# From the top floor down, by the longest prefix of a module's name: a module imports from its own floor or from below.
FLOORS = (
    ("converters.__main__", "converters.cli"),
    ("converters", "converters.api", "converters.convert"),
    ("converters.verify", "converters.verify_opencv"),
    ("converters.formats",),
    ("converters.caffe.reader", "converters.onnx_file.reader", "converters.onnx_file.writer"),
    ("converters.caffe.deploy", "converters.caffe.upgrade", "converters.caffe.files"),
    ("converters.caffe.layers",),
    ("converters.caffe",),
    ("converters.onnx_file", "converters.onnx_file.export"),
    ("converters.builder", "converters.layout", "converters.registry", "converters.filemap", "converters.wire"),
    ("converters.loading",),
    ("onnx_passes",),
    ("onnx_passes.graph",),
    ("onnx_passes.errors", "converters.errors", "converters.version"),
)

HEAVY = {
    "numpy",
    "onnx",
    "onnx_graphsurgeon",
    "onnxruntime",
    "google.protobuf",
    "scipy",
    "h5py",
    "torch",
    "rich",
    "cv2",
}


class Import(NamedTuple):
    """A line that imports a module of ours."""

    importer: str
    imported: str
    line: int
    late: bool


def modules() -> dict[str, Path]:
    """Every module of the two packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[Import]:
    """What a module imports of our own packages, inside functions too (``late``), and for type checking."""
    tree = ast.parse(MODULES[name].read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: a relative import"
            base = node.module or ""
            inner = [f"{base}.{alias.name}" for alias in node.names]
            found = [child if child in MODULES else base for child in inner]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        for imported in dict.fromkeys(found):
            if imported.split(".")[0] in PACKAGES:
                yield Import(name, imported, node.lineno, id(node) not in top)


IMPORTS = [found for name in MODULES for found in imports(name)]


def floor(name: str) -> int:
    """The number of a module's floor; the longest prefix decides."""
    places = {prefix: number for number, prefixes in enumerate(FLOORS) for prefix in prefixes}
    while name not in places:
        name = name.rpartition(".")[0]
        assert name, "a module that is on no floor"
    return places[name]


def formats() -> set[str]:
    """The folders of formats: packages in converters that hold a reader or a writer."""
    return {path.parent.name for path in ROOT.glob("converters/*/*er.py") if path.stem in ("reader", "writer")}


def test_imports_run_down_only() -> None:
    upwards = {(i.importer, i.imported) for i in IMPORTS if floor(i.imported) < floor(i.importer)}
    assert upwards == set()


def test_no_modules_import_each_other() -> None:
    """At import time: a circle works or not by who comes first."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        if not found.late and found.imported != found.importer:
            graph[found.importer].add(found.imported)
    while leaves := {name for name, used in graph.items() if not used}:
        graph = {name: used - leaves for name, used in graph.items() if name not in leaves}
    assert graph == {}


def test_passes_do_not_know_the_converters() -> None:
    assert [i for i in IMPORTS if i.importer.startswith("onnx_passes") and i.imported.startswith("converters")] == []


def test_formats_do_not_know_each_other() -> None:
    assert "caffe" in formats()
    prefixes = tuple(f"converters.{name}" for name in formats())
    crossing = [
        found
        for found in IMPORTS
        if found.importer.startswith(prefixes)
        and found.imported.startswith(prefixes)
        and found.importer.split(".")[1] != found.imported.split(".")[1]
    ]
    assert crossing == []


def test_only_the_table_of_formats_and_opencv_reach_into_a_format() -> None:
    """The table does so by name, at first use; --verify with OpenCV asks which Caffe files belong together."""
    prefixes = tuple(f"converters.{name}" for name in formats())
    inward = {i.importer for i in IMPORTS if i.imported.startswith(prefixes) and not i.importer.startswith(prefixes)}
    assert inward == {"converters.verify_opencv"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    assert ast.get_docstring(tree) or not tree.body


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if "__all__" in path.read_text()])
def test_all_is_what_can_be_imported(name: str) -> None:
    """Each name of __all__ exists, and each public name that the module hands on stands in it."""
    module = import_module(name)
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert missing == []
    assert len(set(module.__all__)) == len(module.__all__)
    tree = ast.parse(MODULES[name].read_text())
    bound = {
        a.asname or a.name
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.module != "__future__"
        for a in n.names
    }
    bound |= {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    bound |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    if MODULES[name].stem == "__init__":
        assert {public for public in bound if not public.startswith("_")} == set(module.__all__)


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``code``."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import converters",
        "import converters.cli",
        "from converters import load, save, convert",
        "from converters.cli import main; main(['--help'])",
        "from converters.cli import main; main(['--version'])",
        "from converters.cli import main; main(['--no-such-option'])",
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(code: str) -> None:
    """Measured by what is imported, not by the clock: each of these libraries costs 0.1 s and more."""
    assert loaded_by(code) & HEAVY == set()


def test_help_is_quick() -> None:
    """The aim is 0.2 s. The best of five runs, against half a second: a busy machine slows some of them, not all."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "converters", "--help"], capture_output=True, check=True, cwd=ROOT)
        return time.perf_counter() - started

    assert min(once() for _ in range(5)) < 0.5


def test_passes_can_be_used_without_the_converters() -> None:
    assert not any(name.split(".")[0] == "converters" for name in loaded_by("import onnx_passes"))
