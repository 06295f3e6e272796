"""A clock for tests of what measures time: none of them goes by the machine's own."""

from __future__ import annotations


class Clock:
    """In place of the module `time`: it goes on only where somebody sleeps.

    busy_until: up to then the process uses a whole CPU.
    """

    def __init__(self, busy_until: float = 0.0) -> None:
        self.now, self._busy_until = 0.0, busy_until

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e9)

    def process_time(self) -> float:
        return min(self.now, self._busy_until)
