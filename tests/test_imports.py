"""A model goes one way through the package: this reads the imports and says so."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from handmade import STRICT

import tvmlayers as tl

PACKAGE = Path(tl.__file__).parent

# A part imports parts of its own line and of lines above it only. A new module takes a place here.
LINES = (
    ("dtypes", "errors", "foreign", "model_config", "numeric", "printing", "userdata"),
    ("files", "lean", "operations", "quantization", "safetensors_file"),
    ("targets", "workload"),
    ("artifact",),
    ("runtime",),
    ("records",),
    ("layers",),
    ("__init__",),
    ("interop",),
    ("expr",),
    ("spaces",),
    ("schedule",),
    ("codegen",),
    ("testing",),
    ("torch",),
    ("tune",),
    ("tables",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
PLACE = {part: place for place, line in enumerate(LINES) for part in line}
# The same inside of the large rooms.
ROOMS = {
    "artifact": (
        *(("arena", "bf16x3"), ("panels",), ("manifest", "weights"), ("file",)),
        ("__init__",),
    ),
    "runtime": (
        ("ffi", "results"),
        ("scratch", "threads"),
        ("signature",),
        ("folding", "tensors"),
        ("bound", "diagnose", "fastcall"),
        ("call",),
        ("cuda",),
        ("compiled",),
        ("__init__",),
    ),
    "codegen": (
        ("fold", "fuse", "link", "partial_sums", "private", "weights"),
        ("emit",),
        ("parallel", "streaming"),
        ("work_stealing", "pipeline"),
        ("cpu",),
        ("addresses", "chain", "entries", "pool"),
        ("graph", "modules"),
        ("description", "forward"),
        ("cuda",),
        ("compiler",),
        ("__init__",),
    ),
}
COMPILER_PARTS = {"layers", "expr", "spaces", "schedule", "codegen"}

# Imports inside functions that point against the line, with the reason for each.
WHEN_CALLED = {
    ("layers", "codegen"),  # a layer called on an array compiles itself
    ("layers", "interop"),  # a model writes itself for other frameworks
}


@dataclass(frozen=True)
class Import:
    """One import of a part of the package, or of another package ("tvm", "torch").

    inner_importer, inner_imported: the modules or folders inside of the parts.
    """

    file: str
    line: int
    importer: str
    imported: str
    inner_importer: str
    inner_imported: str
    is_ours: bool
    when_called: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


@cache
def read_imports() -> tuple[Import, ...]:
    """Every import in the package, those for type checkers left out."""
    found: list[Import] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += _imports_of(path, ast.parse(path.read_text()), when_called=False)
    return tuple(found)


def _imports_of(path: Path, parent: ast.AST, when_called: bool) -> Iterator[Import]:
    file = path.relative_to(PACKAGE)
    importer, inner_importer = _first_two(file.with_suffix("").parts)
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        inside = when_called or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name in _names(node):
            package, *parts = name.split(".")
            is_ours = package == "tvmlayers"
            imported, inner = _first_two(parts) if is_ours else (package, "")
            yield Import(
                str(file), node.lineno, importer, imported, inner_importer, inner, is_ours, inside
            )
        yield from _imports_of(path, node, inside)


def _first_two(parts: Sequence[str]) -> tuple[str, str]:
    first, second, *_ = (*parts, "__init__", "__init__")
    return first, second


def _names(node: ast.AST) -> Iterator[str]:
    """Dotted names of the modules that a node imports; `from tvmlayers import x` may name one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the package in full"
        assert node.module is not None
        if node.module.split(".")[0] != "tvmlayers":
            yield node.module
            return
        folder = PACKAGE.joinpath(*node.module.split(".")[1:])
        for alias in node.names:
            is_module = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").exists()
            yield f"{node.module}.{alias.name}" if is_module else node.module


def closure_of(part: str) -> set[str]:
    """The parts that a part imports, directly or not, at any time."""
    reached, waiting = {part}, [part]
    while waiting:
        importer = waiting.pop()
        for found in read_imports():
            if found.importer == importer and found.is_ours and found.imported not in reached:
                reached.add(found.imported)
                waiting.append(found.imported)
    return reached


def test_every_part_has_a_place_in_the_line() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name[0] != "."}
    assert parts - {"__pycache__", "py.typed"} <= set(PLACE)


def test_imports_point_along_the_line() -> None:
    against = [
        str(found)
        for found in read_imports()
        if found.is_ours
        and PLACE[found.imported] > PLACE[found.importer]
        and not (found.when_called and (found.importer, found.imported) in WHEN_CALLED)
    ]
    assert against == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_a_room_point_along_its_line(room: str) -> None:
    place = {part: place for place, line in enumerate(ROOMS[room]) for part in line}
    modules = {path.name for path in (PACKAGE / room).iterdir() if path.suffix in ("", ".py")}
    assert {name.removesuffix(".py") for name in modules} - {"__pycache__"} == set(place)
    against = [
        str(found)
        for found in read_imports()
        if found.importer == room
        and found.imported == room
        and place[found.inner_imported] > place[found.inner_importer]
        and not found.when_called
    ]
    assert against == []


def test_runtime_reaches_no_part_of_the_compiler() -> None:
    assert closure_of("runtime") & COMPILER_PARTS == set()


def test_runtime_and_what_it_reaches_never_import_the_compiler_or_torch() -> None:
    parts = closure_of("runtime")
    wrong = [
        str(found)
        for found in read_imports()
        if found.importer in parts
        and found.imported in ("tvm", "torch")
        # targets.to_tvm hands the compiler its own record, and only the compiler calls it.
        and not (found.importer == "targets" and found.when_called)
    ]
    assert wrong == []


def test_layers_know_neither_tvm_nor_torch() -> None:
    wrong = [
        str(f)
        for f in read_imports()
        if f.importer == "layers" and f.imported in ("tvm", "tvm_ffi", "torch")
    ]
    assert wrong == []


def test_only_what_needs_torch_imports_it_with_its_module() -> None:
    importers = {f.file for f in read_imports() if f.imported == "torch" and not f.when_called}
    writing = {"interop/torch/activations.py", "interop/torch/written.py"}
    assert {file.split("/")[0] for file in importers - writing} <= {"demo", "torch"}


def run_python(program: str, *argv: str, **environment: str) -> str:
    """What a fresh interpreter prints; warnings are errors there too."""
    result = subprocess.run(
        [*STRICT, "-c", program, *argv],
        capture_output=True,
        text=True,
        env=environment or None,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


RUN_ARTEFACT = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is not installed here", name=name)

sys.meta_path.insert(0, NoTorch())
import numpy as np
import tvmlayers as tl

loaded = tl.load(sys.argv[1])
np.save(sys.argv[3], loaded(np.load(sys.argv[2])))
try:
    loaded(np.full((1, 6), 20))
except tl.IndexOutOfRangeError as error:
    assert "20" in str(error)
else:
    raise AssertionError("index 20 of 20 rows was taken")
maps = open("/proc/self/maps").read()
print("tvm" in sys.modules, "torch" in sys.modules, "libtvm_compiler" in maps)
"""


def test_saved_artefact_runs_without_torch_compiler_and_toolchain(tmp_path: Path) -> None:
    model = tl.Sequential(
        [tl.Embedding(20, 4, input_length=6), tl.Flatten(), tl.Dense(3, activation="softmax")]
    )
    ids = np.random.default_rng(0).integers(0, 20, size=(5, 6))
    compiled = tl.compile(model)
    artefact, given, made = (tmp_path / name for name in ("model.tvml", "in.npy", "out.npy"))
    compiled.save(artefact)
    np.save(given, ids)

    printed = run_python(RUN_ARTEFACT, str(artefact), str(given), str(made), PATH="")
    assert printed == "False False False"
    np.testing.assert_array_equal(np.load(made), compiled(ids))


@pytest.mark.parametrize("name", tl.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tl, name) is not None
