"""One case from its description to its row: make, check, time, compare with the limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import ours, reference, stats, work
from bench.cases import Case
from bench.conditions import Busyness
from bench.limits import Limits
from bench.peers import Peer, Unsupported
from bench.settings import Settings
from bench.timing import Plan, Side, Times, fastest, measure


@dataclass(frozen=True)
class PeerTimes:
    """A peer's times, and its time over ours: the median of the rounds, and their quartiles."""

    median_us: float
    p99_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    variant: str  # the way that it took, the fastest of those it had
    version: str = ""
    prepare_seconds: float | None = None  # from arrays to callables, all of its ways
    device_us: float | None = None  # of a GPU's kernels alone, without their launches
    device_ratio: float | None = None


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
    skipped: dict[str, str] = field(default_factory=dict)  # a peer, and why it has no time here
    device_us: float | None = None  # of a GPU's kernels alone, without their launches
    rate: float | None = None  # that ours reaches
    rate_unit: str = ""
    speed: float | None = None  # of the machine, the least around the row, of its best in the run
    ours_call_us: float | None = None  # from arrays to arrays; ours_us has its buffers bound

    @property
    def label(self) -> str:
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{self.case}, {self.data}{dtype}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        """The row that `as_json` wrote, by this version of the benchmark or an earlier one."""
        peers = {name: PeerTimes(**times) for name, times in row["peers"].items()}
        return cls(**{**row, "peers": peers})


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
    own = ours.prepare(given, settings)
    prepare_seconds = time.perf_counter() - begin
    contenders, skipped = _contenders(case, given, peers)
    ways = [way for contender in contenders for way in contender.ways]
    reference.check([own.bound, own.call, *ways], given)
    sides = [fastest(contender.ways) for contender in contenders]
    beside = limits.beside(given, own.weights()) if limits is not None else []
    busyness = Busyness()
    mine, called, *theirs = measure([own.bound, own.call, *sides, *beside], plan)
    others = busyness.others()
    least = theirs.pop().median if beside else 0.0
    compared = {
        side.name: _compare(contender, side, mine, times)
        for contender, side, times in zip(contenders, sides, theirs, strict=True)
    }
    best = min(compared, key=lambda name: compared[name].ratio, default=None)
    limit = limits.of(given, least) if limits is not None else None
    return Row(
        kind=case.kind,
        name=case.name,
        case=case.spec,
        data=given.data,
        dtype=settings.dtype,
        threads=settings.threads,
        target=settings.target,
        schedule=ours.schedule_sources(own.compiled),
        prepare_seconds=prepare_seconds,
        ours_us=mine.median * 1e6,
        ours_p99_us=mine.p99 * 1e6,
        ours_call_us=called.median * 1e6,
        rounds=len(mine.rounds),
        others=others,
        peers=compared,
        best_peer=best,
        ratio=compared[best].ratio if best is not None else None,
        limit=limit.name if limit else None,
        limit_us=limit.seconds * 1e6 if limit else None,
        fraction=limit.seconds / mine.median if limit else None,
        skipped=skipped,
    )


@dataclass(frozen=True)
class _Contender:
    """A peer with the ways that it could do a case, and the seconds that it took to have them."""

    ways: list[Side]
    version: str
    seconds: float


def _contenders(
    case: Case, given: work.Work, peers: Sequence[Peer]
) -> tuple[list[_Contender], dict[str, str]]:
    """The peers that do the case, ready; of those that leave it out, the reasons."""
    found: list[_Contender] = []
    skipped: dict[str, str] = {}
    for peer in peers:
        if case.kind not in peer.SIDES:
            continue
        begin = time.perf_counter()
        try:
            ways = peer.SIDES[case.kind](given)
        except Unsupported as error:
            skipped[peer.NAME] = str(error)
            continue
        found.append(_Contender(ways, peer.version(), time.perf_counter() - begin))
    return found, skipped


def _compare(contender: _Contender, side: Side, mine: Times, times: Times) -> PeerTimes:
    ratios = stats.round_ratios(mine.rounds, times.rounds)
    return PeerTimes(
        median_us=times.median * 1e6,
        p99_us=times.p99 * 1e6,
        ratio=stats.median(ratios),
        ratio_low=stats.percentile(ratios, 25),
        ratio_high=stats.percentile(ratios, 75),
        variant=side.variant,
        version=contender.version,
        prepare_seconds=contender.seconds,
    )
