"""Times candidates against a reference, in short alternating rounds.

A machine's speed drifts within minutes by more than what two schedules differ by. The ratio of two
blocks of calls that follow each other does not.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from statistics import median
from typing import Any, Protocol

BLOCK_SECONDS = 1e-3
TRIAL_SECONDS = 0.1
FINAL_SECONDS = 0.25
MIN_ROUNDS, MAX_ROUNDS = 5, 25
# A candidate as slow as this is no winner, and is not looked at any closer.
HOPELESS = 1.3


class Timed(Protocol):
    """What can be timed. turns: how many calls have inputs of their own."""

    turns: int

    def seconds(self, calls: int) -> float:
        """Seconds of one call, on average over a block of `calls`."""


class Call:
    """A function that is called with the arguments of one turn of a rotation after the other."""

    def __init__(self, function: Callable[..., Any], turns: Sequence[tuple[Any, ...]]) -> None:
        self.function, self.turns = function, len(turns)
        self._next = cycle(turns)

    def seconds(self, calls: int) -> float:
        """Seconds of one call, on average over a block of `calls`."""
        function = self.function
        block = list(islice(self._next, calls))
        begin = time.perf_counter_ns()
        for arguments in block:
            function(*arguments)
        return (time.perf_counter_ns() - begin) * 1e-9 / calls


def block_calls(call: Timed) -> int:
    """Calls that take BLOCK_SECONDS together, from a short trial; whole turns of the rotation."""
    call.seconds(1)
    shortest = min(call.seconds(min(call.turns, 8)) for _ in range(3))
    wanted = max(1, math.ceil(BLOCK_SECONDS / max(shortest, 1e-8)))
    return math.ceil(wanted / call.turns) * call.turns if wanted > call.turns else wanted


def ratio(reference: Timed, candidate: Timed, calls: int) -> float:
    """How long a call of `candidate` takes, in calls of `reference`."""
    with _no_collection():
        spent = -time.perf_counter()
        candidate.seconds(calls)
        ratios = [_round(reference, candidate, calls, turn) for turn in range(MIN_ROUNDS)]
        spent += time.perf_counter()
        if median(ratios) > HOPELESS:
            return median(ratios)
        rounds = _rounds(TRIAL_SECONDS, spent / MIN_ROUNDS)
        ratios += [_round(reference, candidate, calls, turn) for turn in range(MIN_ROUNDS, rounds)]
    return median(ratios)


def compare(reference: Timed, candidates: Sequence[Timed], calls: int) -> tuple[float, list[float]]:
    """Seconds of a call of the reference, and of each candidate, measured longer than a trial."""
    times: list[float] = []
    ratios: list[list[float]] = [[] for _ in candidates]
    with _no_collection():
        begin = time.perf_counter()
        for turn in range(MAX_ROUNDS):
            times.append(reference.seconds(calls))
            first = turn % max(len(candidates), 1)
            for place in [*range(first, len(candidates)), *range(first)]:
                ratios[place].append(_round(reference, candidates[place], calls, turn))
            spent = time.perf_counter() - begin
            if turn + 1 >= MIN_ROUNDS and spent > FINAL_SECONDS * max(len(candidates), 1):
                break
    typical = median(times)
    return typical, [median(each) * typical for each in ratios]


def _round(reference: Timed, candidate: Timed, calls: int, turn: int) -> float:
    """The ratio of two blocks; each leads in turn."""
    if turn % 2:
        found = candidate.seconds(calls)
        return found / reference.seconds(calls)
    base = reference.seconds(calls)
    return candidate.seconds(calls) / base


def _rounds(budget: float, seconds: float) -> int:
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(budget / max(seconds, 1e-9))))


@contextmanager
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
