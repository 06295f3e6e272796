"""The threads that calls share: one pool for the process, of at most the CPUs that it may use.

The first library that the process loads becomes the pool (see `codegen.pool`); its workers are
started by the first call that shares out work. A forked child begins with a pool without workers.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from contextlib import suppress
from typing import Any

from tvmlayers import targets
from tvmlayers.errors import ArtifactError
from tvmlayers.numeric import positive
from tvmlayers.runtime import ffi

MOST = 256  # tasks of one parallel loop in compiled code
_USER_THREADS = os.environ.get("TVM_NUM_THREADS")


def count(wanted: int | None) -> int:
    """How many threads a call may use, where the caller wants so many.

    None takes TVM_NUM_THREADS, else OMP_NUM_THREADS, else the physical cores. There are never more
    than the CPUs that this process may use, nor than a TVM_NUM_THREADS that the user has set.
    """
    if wanted is not None:
        wanted = positive("a compiled model", "threads", wanted)
    limit = _positive(_USER_THREADS) or MOST
    preferred = wanted or _positive(_USER_THREADS) or _positive(os.environ.get("OMP_NUM_THREADS"))
    return min(preferred or targets.physical_cores(), limit, targets.usable_cpus(), MOST)


def join(library: Any) -> int:
    """Send the parallel loops of a library to the process's pool, and give where it is."""
    with _pool.lock:
        if _pool.library is None:
            _pool.launch = library["new_pool"](targets.usable_cpus())
            _pool.library = library
            os.register_at_fork(after_in_child=_forget_workers)
            atexit.register(_park_daemon_threads)
    library["use_pool"](_pool.launch)
    return _pool.launch


def load_library(library: bytes) -> Any:
    """The `tvm_ffi.Module` in the bytes of a shared library, its loops sent to the pool.

    ArtifactError where the library has no pool.
    """
    module = ffi.load_library(library)
    try:
        join(module)
    except AttributeError as error:
        raise ArtifactError(
            "the machine code has no pool of threads, as an earlier tvmlayers wrote it; "
            "compile the model again with this one"
        ) from error
    return module


class _Pool:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.library: Any = None  # stays loaded as long as its workers, which is for good
        self.launch = 0


_pool = _Pool()


def _forget_workers() -> None:
    """A forked child has the pool's memory but not its workers, nor the calls of other threads."""
    _pool.lock = threading.Lock()
    if _pool.library is not None:
        _pool.library["new_pool"](targets.usable_cpus())


def _park_daemon_threads() -> None:
    """Python ends with daemon threads inside of calls, whose C++ would then end the process.

    Up to version 3.13 a daemon thread that asks for Python's lock after the end is unwound, which
    C++ takes for an error where it has a frame on the stack. It stays where it is instead.
    """
    main = threading.main_thread().ident
    with suppress(AttributeError):  # another C++ library than GNU's
        set_terminate = ffi.load_runtime()["_ZSt13set_terminatePFvvE"]
        set_terminate(ctypes.c_void_p(_pool.library["parking"](main)))


def _positive(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
