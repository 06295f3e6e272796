"""Times two callables against each other, so that neither profits from the machine's mood."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Call = Callable[[], object]

# Both thread pools go on spinning after a call and slow down what runs next: TVM's for up to
# 60 ms (300,000 turns of its loop), which would make PyTorch look slower than it is.
PAUSE_SECONDS = 0.100
SLICE_SECONDS = 0.004


@dataclass(frozen=True)
class Duel:
    """Median time per call of both sides, and the median over rounds of theirs / ours."""

    ours_us: float
    theirs_us: float
    speedup: float
    rounds: int


class OtherWork:
    """How many cores other programs kept busy while the `with` block ran, on average."""

    cores = 0.0

    def __enter__(self) -> OtherWork:
        self._start = time.perf_counter()
        self._before = _busy_seconds_elsewhere()
        return self

    def __exit__(self, *_: object) -> None:
        busy = _busy_seconds_elsewhere() - self._before
        self.cores = max(0.0, busy / (time.perf_counter() - self._start))


def _busy_seconds_elsewhere() -> float:
    """CPU seconds of the whole machine since it started, less those of this process."""
    with open("/proc/stat") as file:
        # user, nice, system, idle, iowait, irq, softirq, steal: all but the two that are waiting
        ticks = [int(field) for field in file.readline().split()[1:9]]
    machine = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return machine - time.process_time()


def duel(ours: Call, theirs: Call, rounds: int) -> Duel:
    """Both sides timed in turn, `rounds` times each."""
    calls = {side: _calls_per_slice(side) for side in (ours, theirs)}
    our_times, their_times = [], []
    for _ in range(rounds):
        our_times.append(_time_slice(ours, calls[ours]))
        their_times.append(_time_slice(theirs, calls[theirs]))
    ratios = [theirs / ours for ours, theirs in zip(our_times, their_times, strict=True)]
    return Duel(median(our_times) * 1e6, median(their_times) * 1e6, median(ratios), rounds)


def _calls_per_slice(call: Call) -> int:
    """How many calls fill a slice, so that the clock's own cost vanishes in it."""
    call()
    seconds = _time_slice(call, 3)
    return max(1, round(SLICE_SECONDS / seconds))


def _time_slice(call: Call, count: int) -> float:
    """Seconds per call over `count` calls, after a pause and one call that is not timed."""
    time.sleep(PAUSE_SECONDS)
    call()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
