"""The stream that a call goes on."""

from __future__ import annotations

import sys
from contextlib import suppress


def current_stream(ordinal: int) -> int:
    """The stream that calls go on: torch's current one, else the default."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        with suppress(RuntimeError):
            return int(torch.cuda.current_stream(ordinal).cuda_stream)
    return 0
