"""The stream that a call goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def current_stream(ordinal: int, tensors: Iterable[Any] = ()) -> int:
    """The caller's current stream: CuPy's for CuPy's arrays, else torch's, else the default."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(each, cupy.ndarray) for each in tensors):
        return int(cupy.cuda.get_current_stream(ordinal).ptr)
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # None in a torch that another thread is importing
    if torch is None or cuda is None or not cuda.is_initialized():
        return 0
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # the number without its object
    if raw is not None:
        return int(raw(ordinal))
    return int(cuda.current_stream(ordinal).cuda_stream)
