"""What other libraries raise: which of it is about what they were given, and which is not.

The one place that decides so. Where a library is called, its refusals become errors of ours;
whatever else comes, as from a signal handler that runs in between, goes on to the caller.
"""

from __future__ import annotations

import functools
import signal
from types import CodeType
from typing import Any

REFUSALS = (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What C code raises for arguments that it does not take. A class derived from one of these has a
meaning of its own."""


def is_refusal(error: BaseException) -> bool:
    """Whether a library, the FFI or compiled code did not take what it was given."""
    if hasattr(error, "__tvm_ffi_error__"):  # made of an error of C++
        return not isinstance(error, MemoryError)
    return type(error) in REFUSALS and not is_interruption(error)


def is_interruption(error: BaseException) -> bool:
    """Whether a signal handler raised the error, of whatever class, while something else ran."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """The code of a handler that is written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)
