"""Whether the machine runs as fast as it can: other guests of a shared one slow it.

They do so for minutes, or for some 50 ms at a time. A short loop of Python tells. What was measured
while it took longer than at its best says nothing about any side, and is timed again where there is
patience for it.
"""

from __future__ import annotations

import os
import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from bench import stats

LOOP = 20_000
TRIES = 3
# Of the machine's best speed, below which others are at work.
QUIET = 0.83
# That best is the fifth of the shortest times, or a twentieth of many: a core whose neighbours
# sleep is faster for moments.
BEST, BEST_SHARE = 5, 0.05
# Of a slice of timing: how long it may wait for quiet and be made again.
SLICE_PATIENCE, SLICE_WAIT = 1.0, 0.005
# Of the slices of a measurement, that have to be quiet for the whole to count as such: medians bear
# the others.
QUIET_SHARE = 75

T = TypeVar("T")


class Quiet:
    """The machine's speed beside the best that this run has seen more than once.

    It is told by the seconds of the loop on the CPU that is slowest at it.
    """

    def __init__(self) -> None:
        self._seen: list[float] = []

    def seconds(self) -> float:
        """Of the loop, now, on the slowest CPU."""
        slowest = max(_loop_times())
        insort(self._seen, slowest)
        return slowest

    def here(self) -> float:
        """Seconds of the loop on the CPU of this thread: threads may spin on the others."""
        return _loop_time()

    def speed(self, seconds: float) -> float:
        """0..1: what `seconds` of the loop tell, by the best until now."""
        best = max(BEST - 1, int(BEST_SHARE * len(self._seen)))
        return min(1.0, self._seen[min(best, len(self._seen) - 1)] / seconds)


class Patience:
    """For one measurement: makes each slice of it in quiet, as long as the clock is before `until`.

    After that a slice is made once, whatever the machine does.
    """

    def __init__(self, quiet: Quiet, until: float) -> None:
        self._quiet = quiet
        self._until = until
        self._loops: list[float] = []

    def slice(self, make: Callable[[], T]) -> T:
        """What `make` gives, of its tries the one that others disturbed least."""
        until = min(self._until, time.monotonic() + SLICE_PATIENCE)
        loop, made = min(self._tries(make, until), key=lambda each: each[0])
        self._loops.append(loop)
        return made

    def _tries(self, make: Callable[[], T], until: float) -> Iterator[tuple[float, T]]:
        """Seconds of the loop around each try, with what it gave; the last is in quiet or late."""
        while True:
            while self._slow(loop := self._quiet.seconds()) and time.monotonic() < until:
                time.sleep(SLICE_WAIT)
            made = make()
            loop = max(loop, self._quiet.here())
            yield loop, made
            if not self._slow(loop) or time.monotonic() >= until:
                return

    def _slow(self, loop: float) -> bool:
        return self._quiet.speed(loop) < QUIET

    def loop(self) -> float:
        """Seconds of the loop that QUIET_SHARE percent of the slices kept within."""
        return stats.percentile(self._loops, QUIET_SHARE)


def _loop_times() -> list[float]:
    """Seconds of the loop on each CPU that this process may use."""
    allowed = os.sched_getaffinity(0)
    times = []
    try:
        for cpu in allowed:
            with suppress(OSError):  # it may have gone meanwhile
                os.sched_setaffinity(0, {cpu})
                times.append(_loop_time())
    finally:
        os.sched_setaffinity(0, allowed)
    return times


def _loop_time() -> float:
    return min(_loop() for _ in range(TRIES))


def _loop() -> float:
    begin = time.perf_counter()
    total = 0
    for number in range(LOOP):
        total += number
    return time.perf_counter() - begin
