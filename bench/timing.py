"""Times several sides of one case against each other: interleaved, in many short rounds.

A peer's thread pool goes on spinning after a call and slows what is timed next, so each change of
side pauses until none spins, then makes untimed calls. A call shorter than `BLOCK_SECONDS` is timed
in blocks of calls. Machines drift within minutes: only the ratios within a round mean anything.
With patience, a side's slice of a round is made again where other guests of the machine slowed it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from bench import stats
from bench.quiet import Patience

# A pause is made of such slices. CPU time is counted in ticks of some ms: a slice spans a few.
SLICE_OF_PAUSE = 0.01
MIN_SLICES, MAX_SLICES = 2, 20
# Of a CPU, that this process may use in a slice and still count as asleep.
ASLEEP = 0.1
BLOCK_SECONDS = 200e-6
# Of untimed calls at a change of side: threads that slept may wake on one core and must spread.
UNTIMED_SECONDS = 2e-3
# What a side is timed for in one round. A long call is made MIN_BLOCKS times however long it takes;
# once, where a slice has to be quiet.
SLICE_SECONDS = 0.012
MIN_BLOCKS = 3
WARM_SECONDS = 0.03
WARM_CALLS = 5  # at least
MAX_ROUNDS = 40

Call = Callable[[], Any]


@dataclass(frozen=True)
class Side:
    """One contender of a case, ready to be called.

    calls: one for each set of inputs, made in turn; each allocates and returns its own result.
    context: entered around every call, outside the clock (torch.inference_mode).
    variant: which way the contender took, where it has several ("2-D", "offsets").
    """

    name: str
    calls: Sequence[Call]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    variant: str = ""


@dataclass(frozen=True)
class Plan:
    """How long to time: about `seconds` for a case, or exactly `rounds`; where others disturb it,
    for as long as `patience` has."""

    seconds: float = 1.5
    rounds: int | None = None
    min_rounds: int = 5
    patience: Patience | None = None


@dataclass(frozen=True)
class Times:
    """Seconds of one call of a side: a median for each round, and every block's mean."""

    rounds: list[float]
    blocks: list[float]

    @property
    def median(self) -> float:
        return stats.median(self.blocks)

    @property
    def p99(self) -> float:
        return stats.percentile(self.blocks, 99)


class _Runner:
    """A side with its place in the rotation and the size of its blocks."""

    def __init__(self, side: Side, min_blocks: int) -> None:
        self.side = side
        self._turn = cycle(side.calls)
        with side.context():
            seconds = self._warm()
        self.calls = max(1, math.ceil(BLOCK_SECONDS / seconds))
        block = self.calls * seconds
        self.blocks = max(min_blocks, int(SLICE_SECONDS / block))
        self.untimed = max(self.calls, math.ceil(UNTIMED_SECONDS / seconds))
        self.round_seconds = (
            MIN_SLICES * SLICE_OF_PAUSE + self.untimed * seconds + self.blocks * block
        )

    def _warm(self) -> float:
        """Seconds of a call, the shortest of some, once warm.

        The first one may take a thousand times as long: of memory that was never touched.
        """
        shortest, spent, calls = self._time(1), 0.0, 1
        while calls < WARM_CALLS or spent < WARM_SECONDS:
            seconds = max(self._time(1), 1e-7)
            shortest, spent, calls = min(shortest, seconds), spent + seconds, calls + 1
        return max(shortest, 1e-7)

    def _time(self, calls: int) -> float:
        block = list(islice(self._turn, calls))
        begin = time.perf_counter_ns()
        for call in block:
            call()
        return (time.perf_counter_ns() - begin) * 1e-9

    def round(self, patience: Patience | None) -> list[float]:
        """Seconds of a call in each block of one round."""
        pause()
        with self.side.context():
            return self._slice() if patience is None else patience.slice(self._slice)

    def _slice(self) -> list[float]:
        self._time(self.untimed)
        return [self._time(self.calls) / self.calls for _ in range(self.blocks)]


def pause() -> None:
    """Sleeps until the thread pools of this process sleep too: some spin for 30 ms after a call."""
    for turn in range(1, MAX_SLICES + 1):
        begin, used = time.perf_counter(), time.process_time()
        time.sleep(SLICE_OF_PAUSE)
        used, seconds = time.process_time() - used, time.perf_counter() - begin
        if turn >= MIN_SLICES and used < ASLEEP * seconds:
            return


def measure(sides: Sequence[Side], plan: Plan) -> list[Times]:
    """The times of each side, in order: all of them in every round, each leading in turn."""
    # The shorter a slice, the likelier that it is quiet: there are more rounds then.
    min_blocks = MIN_BLOCKS if plan.patience is None else 1
    runners = [_Runner(side, min_blocks) for side in sides]
    rounds = plan.rounds
    if rounds is None:
        one_round = sum(runner.round_seconds for runner in runners)
        rounds = min(max(plan.min_rounds, int(plan.seconds / one_round)), MAX_ROUNDS)
    times = [Times([], []) for _ in sides]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(runners)
            for place in [*range(first, len(runners)), *range(first)]:
                blocks = runners[place].round(plan.patience)
                times[place].blocks.extend(blocks)
                times[place].rounds.append(stats.median(blocks))
    finally:
        if collecting:
            gc.enable()
    return times


def fastest(variants: Sequence[Side]) -> Side:
    """The variant of one contender that is fastest here, by a short trial."""
    if len(variants) == 1:
        return variants[0]
    times = measure(variants, Plan(seconds=0.2, min_rounds=3))
    return min(zip(times, variants, strict=True), key=lambda pair: pair[0].median)[1]
