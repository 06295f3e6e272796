"""Brings TVM with its compiler, which takes more from its surroundings than it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CACHES = "XDG_CACHE_HOME"


@contextmanager
def compiler_imports() -> Iterator[None]:
    """Inside, `import tvm` works without torch, which would take seconds, and without a home.

    tvm.contrib.pickle_memoize asks for the user's folder of caches, and puts nothing into it.
    """
    from tvmlayers._ffi import lean_imports  # brings tvm_ffi, which most imports do without

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
