"""The stream that a call goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def is_cupy(value: Any) -> bool:
    """Whether a value is one of CuPy's arrays."""
    # What another thread is importing may have nothing in it yet.
    array = getattr(sys.modules.get("cupy"), "ndarray", None)
    return array is not None and isinstance(value, array)


def current_stream(ordinal: int, tensors: Iterable[Any] = ()) -> int:
    """The caller's current stream: CuPy's for CuPy's arrays, else torch's, else the default."""
    if any(map(is_cupy, tensors)):
        return int(sys.modules["cupy"].cuda.get_current_stream(ordinal).ptr)
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if torch is None or cuda is None or not cuda.is_initialized():
        return 0
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # the number without its object
    if raw is not None:
        return int(raw(ordinal))
    return int(cuda.current_stream(ordinal).cuda_stream)
