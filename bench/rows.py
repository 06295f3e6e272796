"""One case from its description to its row: make, check, time, compare with the limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import ours, reference, stats, work
from bench.cases import Case
from bench.conditions import Busyness
from bench.limits import Limits
from bench.ours import Settings
from bench.peers import Peer
from bench.timing import Plan, Side, Times, fastest, measure


@dataclass(frozen=True)
class PeerTimes:
    """A peer's times, and its time over ours: the median of the rounds, and their quartiles."""

    median_us: float
    p99_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    variant: str


@dataclass(frozen=True)
class Row:
    """What is reported of one case; times are microseconds of a call."""

    kind: str
    name: str
    case: str
    data: str
    dtype: str
    threads: int
    target: str
    schedule: list[str]
    prepare_seconds: float  # from arrays to a callable: layers made, weights set, compiled
    ours_us: float
    ours_p99_us: float
    rounds: int
    others: float | None  # of the CPUs' time, that other processes took during the timing
    peers: dict[str, PeerTimes]
    best_peer: str | None
    ratio: float | None  # to the best peer; above 1 we are faster
    limit: str | None
    limit_us: float | None
    fraction: float | None  # of the limit that we reach

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    case: Case,
    layout: str,
    settings: Settings,
    peers: Sequence[Peer],
    plan: Plan,
    limits: Limits | None,
    cache_bytes: int,
) -> Row:
    """The row of a case; WrongResult where any side disagrees with float64."""
    given = work.make(case, layout, settings.dtype, settings.index_dtype, cache_bytes)
    begin = time.perf_counter()
    own, compiled = ours.prepare(given, settings)
    prepare_seconds = time.perf_counter() - begin
    variants = [peer.SIDES[case.kind](given) for peer in peers if case.kind in peer.SIDES]
    variants = [ways for ways in variants if ways]
    reference.check([own, *(way for ways in variants for way in ways)], given)
    sides = [fastest(ways) for ways in variants]
    busyness = Busyness()
    mine, *theirs = measure([own, *sides], plan)
    others = busyness.others()
    compared = {
        side.name: _compare(side, mine, times) for side, times in zip(sides, theirs, strict=True)
    }
    best = min(compared, key=lambda name: compared[name].ratio, default=None)
    limit = limits.of(given) if limits is not None else None
    return Row(
        kind=case.kind,
        name=case.name,
        case=case.spec,
        data=given.data,
        dtype=settings.dtype,
        threads=settings.threads,
        target=settings.target,
        schedule=ours.schedule_sources(compiled),
        prepare_seconds=prepare_seconds,
        ours_us=mine.median * 1e6,
        ours_p99_us=mine.p99 * 1e6,
        rounds=len(mine.rounds),
        others=others,
        peers=compared,
        best_peer=best,
        ratio=compared[best].ratio if best is not None else None,
        limit=limit.name if limit else None,
        limit_us=limit.seconds * 1e6 if limit else None,
        fraction=limit.seconds / mine.median if limit else None,
    )


def _compare(side: Side, mine: Times, times: Times) -> PeerTimes:
    ratios = stats.round_ratios(mine.rounds, times.rounds)
    return PeerTimes(
        median_us=times.median * 1e6,
        p99_us=times.p99 * 1e6,
        ratio=stats.median(ratios),
        ratio_low=stats.percentile(ratios, 25),
        ratio_high=stats.percentile(ratios, 75),
        variant=side.variant,
    )
