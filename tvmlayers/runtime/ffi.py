"""TVM's runtime library, loaded without the compiler and without torch.

`tvm_ffi` is imported here, once, and only here. By itself it imports torch when it can, which
takes seconds; torch that comes later works all the same, through DLPack.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import Any

from tvmlayers.errors import ArtifactError, MissingDependencyError, TvmLayersError
from tvmlayers.foreign import is_interruption
from tvmlayers.lean import FOR_OLD_TORCH, Deferred, lean_imports

_loads = itertools.count()


def _import_tvm_ffi() -> Any:
    try:
        with lean_imports():
            import tvm_ffi
    except ModuleNotFoundError as error:
        if error.name != "tvm_ffi":
            raise
        raise MissingDependencyError(
            "running a compiled model needs the packages apache-tvm and apache-tvm-ffi; "
            "pip install tvmlayers brings both"
        ) from error
    # Deferred, it would import torch when something walks through all modules, as inspect does.
    # It does nothing without torch, so it is removed; the next import loads it anew.
    if isinstance(sys.modules.get(FOR_OLD_TORCH), Deferred):
        del sys.modules[FOR_OLD_TORCH]
        del tvm_ffi._optional_torch_c_dlpack
    return tvm_ffi


ffi: Any = _import_tvm_ffi()
Tensor: Any = ffi.Tensor


def from_array(array: Any) -> Any:
    """A `tvm_ffi.Tensor` over the memory of a writable array; it keeps the array alive."""
    return ffi.from_dlpack(array)


@functools.cache
def load_runtime() -> ctypes.CDLL:
    """libtvm_runtime, loaded once. `import tvm` finds it loaded, before or after this."""
    spec = importlib.util.find_spec("tvm")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "running a compiled model needs TVM's runtime library: pip install apache-tvm"
        )
    path = os.path.join(os.path.dirname(spec.origin), "lib", "libtvm_runtime.so")
    try:
        return ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError as error:
        if is_interruption(error):
            raise
        raise MissingDependencyError(
            f"TVM's runtime library does not load ({error}); reinstall apache-tvm"
        ) from error


def load_library(library: bytes) -> Any:
    """The `tvm_ffi.Module` in the bytes of a shared library, without a file where possible.

    Raises ArtifactError where it does not load, and TvmLayersError where no folder for temporary
    files can be written and its files executed.
    """
    load_runtime()
    with _memory_file(library) as path:
        if path is not None:
            with suppress(RuntimeError):  # no /proc here, or it may not be executed
                return _load_file(path)
    advice = "; set TMPDIR to a folder that can be written and whose files can be executed"
    with ExitStack() as opened:
        try:
            file = opened.enter_context(NamedTemporaryFile(prefix="tvmlayers-", suffix=".so"))
            file.write(library)
            file.flush()
        except OSError as error:
            raise TvmLayersError(f"compiled code needs a file to load: {error}{advice}") from error
        try:
            return _load_file(file.name)
        except RuntimeError as error:
            if os.fstatvfs(file.fileno()).f_flag & os.ST_NOEXEC:
                folder = os.path.dirname(file.name)
                raise TvmLayersError(f"{folder} is mounted with noexec{advice}") from error
            raise ArtifactError(f"the compiled library cannot be loaded: {error}") from error


@contextmanager
def _memory_file(content: bytes) -> Iterator[str | None]:
    """The path of a file that is in memory alone; None where the system refuses one."""
    try:
        descriptor = os.memfd_create("tvmlayers", os.MFD_CLOEXEC)
    except (OSError, AttributeError):  # a sandbox; a Python built for an old C library
        yield None
        return
    with open(descriptor, "wb") as file:
        path: str | None = f"/proc/self/fd/{_unique_prefix()}{descriptor}"
        try:
            file.write(content)
            file.flush()
        except OSError:
            path = None
        yield path


def _unique_prefix() -> str:
    """Slashes that mean nothing to the kernel, other ones for each load.

    dlopen answers a path it has seen with the library it has, and descriptors are reused.
    """
    return format(next(_loads), "b").replace("0", "./").replace("1", "/")


def _load_file(path: str) -> Any:
    load = ffi.get_global_func("ffi.Module.load_from_file.so")  # asks for no ".so" in the name
    return load(path, "so")
