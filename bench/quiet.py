"""Whether the machine runs as fast as it can: other guests of a shared one slow it for minutes.

A short loop of Python on each CPU tells. What was measured while it took longer than at its best
says nothing about any side, and is timed again where there is time for it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

LOOP = 20_000
TRIES = 3
# Of the machine's best speed, below which others are at work.
QUIET = 0.87
BEST = 5  # that is: of the shortest times; a core whose neighbours sleep is faster for moments
WAIT_SECONDS = 2.0


class Quiet:
    """The machine's speed beside the best that this run has seen more than once.

    It is told by the seconds of the loop on the CPU that is slowest at it.
    """

    def __init__(self) -> None:
        self._shortest: list[float] = []

    def seconds(self) -> float:
        """Of the loop, now."""
        slowest = max(_loop_times())
        self._shortest = sorted([*self._shortest, slowest])[:BEST]
        return slowest

    def speed(self, seconds: float) -> float:
        """0..1: what `seconds` of the loop tell, by the best until now."""
        return min(1.0, self._shortest[-1] / seconds)

    def wait(self, until: float) -> float:
        """`seconds`, once they tell of quiet or the clock (`time.monotonic`) is past `until`."""
        while self.speed(seconds := self.seconds()) < QUIET and time.monotonic() < until:
            time.sleep(WAIT_SECONDS)
        return seconds


def _loop_times() -> list[float]:
    """Seconds of the loop on each CPU that this process may use."""
    allowed = os.sched_getaffinity(0)
    times = []
    try:
        for cpu in allowed:
            with suppress(OSError):  # it may have gone meanwhile
                os.sched_setaffinity(0, {cpu})
                times.append(min(_loop() for _ in range(TRIES)))
    finally:
        os.sched_setaffinity(0, allowed)
    return times


def _loop() -> float:
    begin = time.perf_counter()
    total = 0
    for number in range(LOOP):
        total += number
    return time.perf_counter() - begin
