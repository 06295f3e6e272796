"""Tensors of other libraries, kept until the GPU has read them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from ctypes import c_void_p
from typing import Any

from tvmlayers.errors import TvmLayersError
from tvmlayers.runtime.cuda.driver import Driver

MOST = 64  # calls whose tensors are held; then the oldest is waited for


class Held:
    """What calls read that another library may use again as soon as nothing refers to it.

    Its allocator knows its own streams, not the one that a call went on. Used in the context of
    the tensors' GPU.
    """

    def __init__(self, driver: Driver, ordinal: int) -> None:
        self._driver = driver
        self._calls: deque[tuple[c_void_p, Sequence[Any]]] = deque()
        ended = weakref.finalize(self, _wait_for_all, driver, ordinal, self._calls)
        ended.atexit = False  # the driver is gone by then

    def keep(self, tensors: Sequence[Any], stream: int) -> None:
        """Hold tensors until all that is on the stream by now is done."""
        if tensors:
            self._calls.append((self._driver.mark(stream), tensors))
        self._release()

    def _release(self) -> None:
        """Let go what the GPU has read."""
        while self._calls:
            event, _ = self._calls[0]
            if len(self._calls) > MOST:
                self._driver.wait_for(event)
            elif not self._driver.is_past(event):
                return
            self._calls.popleft()
            self._driver.forget(event)


def _wait_for_all(
    driver: Driver, ordinal: int, calls: deque[tuple[c_void_p, Sequence[Any]]]
) -> None:
    # Nothing raises: after an error that ended the context nothing is read any more.
    with suppress(TvmLayersError), driver.context(ordinal):
        for event, _ in calls:
            driver.wait_for(event)
            driver.forget(event)
