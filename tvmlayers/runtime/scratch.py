"""Memory for what passes between the kernels of a model: kept, so that calls find it mapped.

TVM's own workspaces go back to the system after each call and cost a page fault for each page at
the next one, which can double the time of a model.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.runtime import ffi

SMALLEST = 64 << 10
MOST_KEPT = 256 << 20  # bytes of all that is kept together

Scratch = tuple[Any, int]  # as compiled code takes it, and its bytes

# One for each call that runs at the same time, whatever the model; the last one used comes first.
_free: deque[Scratch] = deque()
# The bytes of the largest scratch that was made for each function that is still there. Operations
# on it and on _free are single ones: they hold between threads, and when a function ends anywhere.
_made_for: dict[int, int] = {}


def with_scratch(function: Callable[..., int]) -> Callable[..., int]:
    """`function(*arguments, scratch)` as a function of the arguments alone.

    Compiled code that is given too little scratch does nothing and answers with minus the bytes
    that it needs. When the result ends, what was made for it and is larger than what others had
    made goes back to the system.
    """

    def call(*arguments: Any) -> int:
        try:
            kept = _free.pop()
        except IndexError:
            kept = _new_scratch(SMALLEST)
        status = function(*arguments, kept[0])
        if status < 0:
            kept = _new_scratch(_with_room(-status))
            _made_for[name] = max(_made_for.get(name, 0), kept[1])
            status = function(*arguments, kept[0])
        _free.append(kept)
        if kept[1] > SMALLEST:
            _drop_until(MOST_KEPT)
        return status

    name = id(call)
    weakref.finalize(call, _end_of, name).atexit = False
    return call


class OwnScratch:
    """Scratch that no other function uses, so that what a call left there can be read.

    array: its bytes; one call of the function runs at a time.
    """

    def __init__(self) -> None:
        self._make(SMALLEST)

    def _make(self, nbytes: int) -> None:
        self.array = allocate_arena(nbytes)
        self._tensor = ffi.from_array(self.array)

    def given_to(self, function: Callable[..., int]) -> Callable[..., int]:
        """`function(*arguments, scratch)` as a function of the arguments alone."""

        def call(*arguments: Any) -> int:
            status = function(*arguments, self._tensor)
            if status < 0:
                self._make(_with_room(-status))
                status = function(*arguments, self._tensor)
            return status

        return call


def bound_to(function: Callable[..., int], arguments: tuple[Any, ...]) -> Callable[[], int]:
    """`function(*arguments, scratch)` as a function of nothing, one call of which runs at a time.

    How much scratch it needs depends on the shapes of the arguments alone: one call is made here to
    find out. A little is its own, which saves the time to take it and give it back. More is what
    all calls share, so that many bound inputs are not spread over the caches.
    """
    scratch, _ = _new_scratch(SMALLEST)
    status = function(*arguments, scratch)
    if status < 0:
        return partial(with_scratch(function), *arguments)
    return partial(function, *arguments, scratch)


def _with_room(needed: int) -> int:
    """The bytes to make where so many are needed: larger batches often follow."""
    return max(needed, min(needed + needed // 2, MOST_KEPT))


def _new_scratch(nbytes: int) -> Scratch:
    nbytes = max(nbytes, SMALLEST)
    return ffi.from_array(allocate_arena(nbytes)), nbytes


def _drop_until(most: int) -> None:
    """Drop scratch that was not used for longest, until no more than `most` bytes are kept."""
    left = sum(nbytes for _, nbytes in _free.copy())
    while left > most:
        try:
            left -= _free.popleft()[1]
        except IndexError:  # another thread has taken it
            return


def _end_of(name: int) -> None:
    """Drop what is larger than what was made for any function that is still there."""
    if _made_for.pop(name, None) is None:
        return
    largest = max([SMALLEST, *_made_for.copy().values()])
    for _ in range(len(_free)):
        try:
            kept = _free.popleft()
        except IndexError:
            return
        if kept[1] <= largest:
            _free.append(kept)
