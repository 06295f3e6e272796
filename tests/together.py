"""Several threads that do the same at once, and all that went wrong in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def together(work: Callable[[T], object], each: Iterable[T]) -> None:
    """Run `work` on each of these, on a thread of its own, and wait for all."""
    threads = [threading.Thread(target=work, args=(one,)) for one in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
