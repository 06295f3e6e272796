"""TVM's runtime library: how it is loaded, with what else, and on how many threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import handmade
import pytest
from handmade import IDS, run_python

import tvmlayers as tl
from tvmlayers.runtime import ffi

torch = pytest.importorskip("torch")


FORK = """
import os, sys, warnings, numpy as np, tvmlayers as tl
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
model = tl.load(sys.argv[1], threads=2)
x = np.ones((64, 3), np.float32)
model(x)
child = os.fork()
if child == 0:
    os._exit(0 if model(x).min() == model.threads else 1)
print(os.waitpid(child, 0)[1], model(x).min() == model.threads)
"""


def test_a_forked_child_does_not_wait_for_workers_it_has_not(tmp_path: Path) -> None:
    path = handmade.save(tmp_path / "model.tvml", handmade.spread_manifest())
    assert run_python(FORK, path) == "0 True"


AFFINITY = """
import os, sys, numpy as np, tvmlayers as tl
before = os.sched_getaffinity(0)
model = tl.load(sys.argv[1], threads=2)
model(np.ones((64, 3), np.float32))
print(os.sched_getaffinity(0) == before)
"""


def test_the_affinity_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    path = handmade.save(tmp_path / "model.tvml", handmade.spread_manifest())
    assert run_python(AFFINITY, path) == "True"


def test_libraries_loaded_one_after_another_do_not_answer_for_each_other(tmp_path: Path) -> None:
    import tvm

    def library(constant: int) -> bytes:
        script = f"""
@I.ir_module
class M:
    @T.prim_func(s_tir=True)
    def answer() -> T.int32:
        T.func_attr({{"global_symbol": "answer"}})
        return {constant}
"""
        path = tmp_path / f"lib{constant}.so"
        tvm.compile(tvm.script.from_source(script), target="llvm").export_library(str(path))
        return path.read_bytes()

    first, second = (ffi.load_library(library(constant)) for constant in (1, 2))
    assert (first["answer"](), second["answer"]()) == (1, 2)


def test_bytes_that_are_no_library_are_refused() -> None:
    with pytest.raises(tl.ArtifactError, match="cannot be loaded"):
        ffi.load_library(b"not machine code")


def refuse(number: int) -> Callable[..., NoReturn]:
    """What a system call does that a sandbox refuses with this errno."""

    def refused(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_a_library_loads_from_a_file_where_memory_files_are_not_to_be_had(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number is None:
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", refuse(number))
    assert tl.load(handmade.save(tmp_path / "model.tvml"))(IDS).shape == (3, 10, 4)


def test_a_library_loads_from_a_file_where_memory_files_have_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked = ffi._load_file, []

    def without_proc(path: str) -> object:
        asked.append(path)
        return load(path.replace("/proc/", "/no/proc/"))

    monkeypatch.setattr(ffi, "_load_file", without_proc)
    assert tl.load(handmade.save(tmp_path / "model.tvml"))(IDS).shape == (3, 10, 4)
    assert len(asked) == 2


def test_without_any_place_for_a_library_the_error_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = handmade.save(tmp_path / "model.tvml")
    monkeypatch.setattr(os, "memfd_create", refuse(errno.EPERM))
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
        with pytest.raises(tl.TvmLayersError, match=r"absent.*TMPDIR") as caught:
            tl.load(path)
    assert not isinstance(caught.value, tl.ArtifactError)  # nothing is wrong with the file


def test_a_folder_whose_files_may_not_be_executed_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mounted:
        f_flag = os.ST_NOEXEC

    def cannot_map(path: str) -> NoReturn:
        raise RuntimeError(f"{path}: failed to map segment from shared object")

    path = handmade.save(tmp_path / "model.tvml")
    monkeypatch.setattr(ffi, "_load_file", cannot_map)
    with pytest.raises(tl.ArtifactError, match="failed to map"):
        tl.load(path)
    monkeypatch.setattr(os, "fstatvfs", lambda _: Mounted)
    with pytest.raises(tl.TvmLayersError, match="noexec; set TMPDIR") as caught:
        tl.load(path)
    assert not isinstance(caught.value, tl.ArtifactError)


def test_an_exception_of_a_signal_handler_during_a_load_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> NoReturn:
        raise TimeoutError("too late")  # an OSError, as a handler of SIGALRM raises

    path = handmade.save(tmp_path / "model.tvml")
    monkeypatch.setattr(ffi, "_load_file", interrupted)
    with pytest.raises(TimeoutError, match="too late"):
        tl.load(path)


LOAD = """
import sys
import tvmlayers as tl
before = set(sys.modules)
model = tl.load(sys.argv[1])
maps = open("/proc/self/maps").read()
assert "tvm" not in sys.modules and "torch" not in sys.modules
assert "libtvm_compiler" not in maps and "libtvm_runtime" in maps
print(len(set(sys.modules) - before))
"""


def test_loading_takes_no_compiler_and_few_modules(tmp_path: Path) -> None:
    """They are what a load takes its time for; `python -m bench.startup` shows how long."""
    path = handmade.save(tmp_path / "model.tvml")
    assert int(run_python(LOAD, path)) < 100


ORDERS = {
    "torch_then_load": "import torch; load()",
    "load_then_torch": "load(); import torch; use_torch()",
    "load_then_compiler": "load(); compile_(); use_torch()",
    "compiler_then_load": "compile_(); load(); use_torch()",
    "torch_then_compiler_then_load": "import torch; compile_(); load(); use_torch()",
}
ORDER = """
import sys
import numpy as np
import tvmlayers as tl

ids = np.zeros((2, 10), np.int64)

def load():
    global model
    model = tl.load(sys.argv[1])
    assert model(ids).shape == (2, 10, 4)

def compile_():
    import handmade
    assert handmade.make(handmade.embedding_manifest())(ids).shape == (2, 10, 4)
    handmade.library.cache_clear()
    handmade.library()

def use_torch():
    import torch
    for _ in range(3):
        assert type(model(torch.from_numpy(ids))) is torch.Tensor
"""


@pytest.mark.parametrize("order", ORDERS)
def test_loading_torch_and_the_compiler_go_in_any_order(tmp_path: Path, order: str) -> None:
    path = handmade.save(tmp_path / "model.tvml")
    run_python(f"{ORDER}\n{ORDERS[order]}", path)


def test_what_was_deferred_on_import_is_there_when_asked_for() -> None:
    program = """
import tvmlayers.runtime.ffi, sys
assert "email.message" not in sys.modules
import importlib.metadata, tvm_ffi
assert importlib.metadata.metadata("numpy")["Name"] == "numpy"
assert callable(tvm_ffi.cpp.load_inline)
import inspect
inspect.stack()
assert "torch" not in sys.modules
import tvm_ffi._optional_torch_c_dlpack
print(all(type(finder).__name__ != "_LeanFinder" for finder in sys.meta_path))
"""
    assert run_python(program) == "True"
