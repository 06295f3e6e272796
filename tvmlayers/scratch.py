"""Memory for what passes between the kernels of a model: kept, so that calls find it mapped.

TVM's own workspaces go back to the system after each call and cost a page fault for each page at
the next one, which can double the time of a model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from tvmlayers import _ffi
from tvmlayers.arena import allocate_arena

SMALLEST = 64 << 10
MOST_KEPT = 256 << 20  # bytes; a larger scratch goes with its call

# One for each call that runs at the same time, whatever the model; the last one used comes first.
_free: deque[Any] = deque()


def with_scratch(function: Callable[..., int]) -> Callable[..., int]:
    """`function(*arguments, scratch)` as a function of the arguments alone.

    Compiled code that is given too little scratch does nothing and answers with minus the bytes
    that it needs.
    """

    def call(*arguments: Any) -> int:
        try:
            scratch = _free.pop()
        except IndexError:
            scratch = _new_scratch(SMALLEST)
        status = function(*arguments, scratch)
        if status < 0:
            needed = -status
            scratch = _new_scratch(needed + needed // 2)
            status = function(*arguments, scratch)
            if needed > MOST_KEPT:
                return status
        _free.append(scratch)
        return status

    return call


def bound_to(function: Callable[..., int], arguments: tuple[Any, ...]) -> Callable[[], int]:
    """`function(*arguments, scratch)` as a function of nothing, one call of which runs at a time.

    How much scratch it needs hangs on the shapes of the arguments alone: one call is made here to
    find out. A little is its own, which saves the time to take it and give it back. More is what
    all calls share, so that whoever binds many inputs does not spread them over the caches.
    """
    scratch = _new_scratch(SMALLEST)
    status = function(*arguments, scratch)
    if status < 0:
        return partial(with_scratch(function), *arguments)
    return partial(function, *arguments, scratch)


def _new_scratch(nbytes: int) -> Any:
    return _ffi.from_array(allocate_arena(max(nbytes, SMALLEST)))
