"""A model goes one way through the package: this reads the imports and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import import_picture
import numpy as np
import pytest
from handmade import STRICT
from imports import PACKAGE, PLACE, ROOMS, WHEN_CALLED, read_imports

import tvmlayers as tl

COMPILER_PARTS = {"layers", "expr", "spaces", "schedule", "codegen"}


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


ALL_ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


@pytest.mark.parametrize("room", ALL_ROOMS)
def test_there_is_no_circle_of_imports_inside_a_room(room: str) -> None:
    inside = {
        (found.inner_importer, found.inner_imported)
        for found in read_imports()
        if found.importer == found.imported == room and not found.when_called
    }
    import_picture.needed(edge for edge in inside if edge[0] != edge[1])


def test_the_picture_shows_the_imports_as_they_are_and_none_upwards() -> None:
    drawn = import_picture.picture()  # ValueError for a circle
    assert import_picture.PICTURE.read_text(encoding="utf-8") == drawn, "make pins"
    assert drawn.count("dashed") == 1
    assert drawn.count("stroke-dasharray") == len(WHEN_CALLED)


def test_a_circle_of_imports_is_found() -> None:
    edges = {("a", "b"), ("b", "c"), ("a", "c")}
    assert import_picture.needed(edges) == {("a", "b"), ("b", "c")}
    with pytest.raises(ValueError, match="a, b, c"):
        import_picture.needed({*edges, ("c", "a")})


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
