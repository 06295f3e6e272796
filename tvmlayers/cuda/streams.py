"""The stream that a call goes on."""

from __future__ import annotations

import sys


def current_stream(ordinal: int) -> int:
    """The stream that calls go on: torch's current one, else the default."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # None in a torch that another thread is importing
    if torch is None or cuda is None or not cuda.is_initialized():
        return 0
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # the number without its object
    if raw is not None:
        return int(raw(ordinal))
    return int(cuda.current_stream(ordinal).cuda_stream)
