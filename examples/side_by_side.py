"""Times of several ways to compute the same, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDS, SECONDS = 9, 0.02


@dataclass(frozen=True)
class Side:
    """One way: its name and what is timed."""

    name: str
    call: Callable[[], Any]


def medians(sides: Sequence[Side]) -> list[float]:
    """Microseconds of a call of each, the median of rounds in which all take their turns."""
    counts = []
    for side in sides:
        side.call()
        begin = time.perf_counter()
        side.call()
        counts.append(max(1, int(SECONDS / max(time.perf_counter() - begin, 1e-7))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, count, taken in zip(sides, counts, times, strict=True):
            begin = time.perf_counter()
            for _ in range(count):
                side.call()
            taken.append((time.perf_counter() - begin) / count * 1e6)
    return [statistics.median(each) for each in times]


def print_table(rows: Iterable[tuple[str, Sequence[Side]]]) -> None:
    """A line for each row: the times of its sides, and how many times ours the others take."""
    for name, sides in rows:
        ours, *others = medians(sides)
        told = [f"{sides[0].name} {ours:.1f} us"]
        for side, taken in zip(sides[1:], others, strict=True):
            told.append(f"{side.name} {taken:.1f} us ({taken / ours:.1f}x)")
        print(f"{name}: {', '.join(told)}")
