"""Importing TVM and its FFI without what they take from their surroundings and do not need."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_CACHES = "XDG_CACHE_HOME"
# What the import of tvm_ffi brings in and running a model does not need: half of its time.
FOR_OLD_TORCH = "tvm_ffi._optional_torch_c_dlpack"
_DEFERRED = {"importlib.metadata._adapters", "tvm_ffi.cpp", FOR_OLD_TORCH}


class Deferred(ModuleType):
    """A module that is executed when something is first asked of it, by one thread alone.

    As by importlib's LazyLoader, which before Python 3.12 lets other threads see what is not there
    yet. One of these modules is the standard library's, and everybody's.
    """

    def __init__(self, name: str, loader: Loader) -> None:
        super().__init__(name)
        # The lock is one that the module may take again: its own code may ask for what it lacks.
        self.__dict__["_loading"] = threading.RLock(), [loader]

    def __getattr__(self, name: str) -> Any:
        lock, loaders = self.__dict__["_loading"]
        # Names with two underscores are what the import system asks for.
        with lock:
            if loaders and not name.startswith("__") and name not in self.__dict__:
                loader = loaders.pop()
                try:
                    loader.exec_module(self)
                except BaseException:
                    loaders.append(loader)
                    raise
                self.__loader__ = loader
        if name not in self.__dict__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return self.__dict__[name]


class _DeferringLoader(Loader):
    """Makes a `Deferred` of the module that another loader would load."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Deferred(spec.name, self._loader)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _LeanFinder:
    """Hides torch from the imports of one thread, and defers some modules to their first use."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if threading.get_ident() != self.thread:
            return None
        if fullname == "torch":
            raise ModuleNotFoundError("torch is left for later", name="torch")
        spec = PathFinder.find_spec(fullname, path) if fullname in _DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferringLoader(spec.loader)
        return spec


_finders = threading.Lock()


@contextmanager
def lean_imports() -> Iterator[None]:
    """What this thread imports inside takes torch for absent, unless it was imported before.

    For packages that import torch where they find it and do as well without: tvm_ffi and tvm.
    """
    finder = _LeanFinder()
    # The list is replaced, not changed: another thread that walks along it would skip a finder.
    with _finders:
        sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        with _finders:
            sys.meta_path = [each for each in sys.meta_path if each is not finder]


@contextmanager
def compiler_imports() -> Iterator[None]:
    """Inside, `import tvm` works without torch, which would take seconds, and without a home.

    tvm.contrib.pickle_memoize asks for the user's folder of caches, and puts nothing into it.
    """
    is_homeless = _CACHES not in os.environ and not _has_home()
    if is_homeless:
        os.environ[_CACHES] = os.devnull
    try:
        with lean_imports():
            yield
    finally:
        if is_homeless:
            os.environ.pop(_CACHES, None)


def _has_home() -> bool:
    try:
        Path.home()
    except RuntimeError:
        return False
    return True
