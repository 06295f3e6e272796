"""The order of the package's rooms and modules, and the imports between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tvmlayers"

# A part imports parts of its own line and of lines above it only. A new module takes a place here.
LINES = (
    ("dtypes", "errors", "foreign", "model_config", "numeric", "printing", "userdata"),
    ("files", "lean", "operations", "plots", "quantization", "safetensors_file"),
    ("targets", "workload"),
    ("artifact",),
    ("runtime",),
    ("records",),
    ("layers",),
    ("training",),
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
    ("roofline",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
PLACE = {part: place for place, line in enumerate(LINES) for part in line}
# The same inside of the large rooms.
ROOMS = {
    "artifact": (
        *(("arena", "bf16x3"), ("panels",), ("fields", "weights")),
        *(("model_manifest", "step_manifest"), ("manifest",), ("file",)),
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
        ("description", "forward", "running"),
        ("cuda", "training"),
        ("compiler",),
        ("__init__",),
    ),
}

# Imports inside functions that point against the line, with the reason for each.
WHEN_CALLED = {
    ("layers", "codegen"),  # a layer called on an array compiles itself
    ("layers", "training"),  # the verbs of a model
    ("layers", "interop"),  # a model writes itself for other frameworks
    ("training", "codegen"),  # a step compiles its model for inference when asked to
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
