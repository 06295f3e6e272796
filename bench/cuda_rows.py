"""A case made ready for the GPU, and the row and the line of what was measured of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from bench import ours, stats
from bench.cases import BagCase, DenseCase, EmbeddingCase
from bench.cuda_limits import GpuLimits
from bench.cuda_timing import GpuTimes, measure
from bench.rows import PeerTimes, Row

OURS = "ours"
Calls = list[Callable[[], Any]]  # on one set of inputs each


@dataclass(frozen=True)
class Prepared:
    """The calls of every side, ours first; every result was compared already."""

    case: DenseCase | EmbeddingCase | BagCase
    dtype: str
    data: str
    compiled: Any
    prepare_seconds: float
    ways: dict[str, Calls]
    moved: int  # bytes that a call has to move
    flops: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def rotation(calls: Calls) -> Callable[[], Any]:
    """What makes the next of the calls each time, the first after the last."""
    turns = cycle(calls)
    return lambda: next(turns)()


def row(prepared: Prepared, target: str, limits: GpuLimits, device: str = "cuda") -> Row:
    """The times of all sides, their ratios, and the part of the limit that ours reaches."""
    times = measure({name: rotation(calls) for name, calls in prepared.ways.items()}, device)
    mine = times.pop(OURS)
    peers = {name: _compare(mine, theirs) for name, theirs in times.items()}
    best = min(peers, key=lambda name: peers[name].ratio, default=None)
    case = prepared.case
    limit = limits.of(prepared.moved, prepared.flops, prepared.dtype)
    return Row(
        kind=case.kind,
        name=case.name,
        case=case.spec,
        data=prepared.data,
        dtype=prepared.dtype,
        threads=1,
        target=target,
        schedule=ours.schedule_sources(prepared.compiled),
        prepare_seconds=prepared.prepare_seconds,
        ours_us=mine.median * 1e6,
        ours_p99_us=mine.p99 * 1e6,
        rounds=len(mine.rounds),
        others=None,
        peers=peers,
        best_peer=best,
        ratio=peers[best].ratio if best is not None else None,
        limit=limit.name,
        limit_us=limit.seconds * 1e6,
        fraction=limit.seconds / mine.median,
        skipped=prepared.skipped,
        device_us=_microseconds(mine.device),
        **_rate(prepared, mine.median),
    )


def line_of(row: Row) -> str:
    """A row as it is printed: of a peer the ratio of calls, and that of kernels alone."""
    said = [f"{row.ours_us:.1f} us{_on_device(row.device_us, '.1f', ' us')}"]
    for name, peer in row.peers.items():
        said.append(f"{name} {peer.ratio:.2f}x{_on_device(peer.device_ratio, '.2f', 'x')}")
    if row.best_peer is not None and len(row.peers) > 1:
        said.append(f"best {row.best_peer}")
    if row.rate is not None:
        said.append(f"{row.rate:.4g} {row.rate_unit}")
    if row.fraction is not None and row.limit_us is not None:
        kernels = row.limit_us / row.device_us if row.device_us else None
        said.append(f"{row.fraction:.0%}{_on_device(kernels, '.0%', '')} of {row.limit}")
    said += [f"without {name}: {reason}" for name, reason in row.skipped.items()]
    return f"{row.case} {row.dtype}: {', '.join(said)}"


def geometric_means(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """By kind, then peer or "best peer": geometric means of the ratios of calls and of kernels."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        listed = [row.peers for row in rows if row.kind == kind and row.peers]
        names = dict.fromkeys(name for peers in listed for name in peers)
        sides = {name: [[peers[name]] for peers in listed if name in peers] for name in names}
        sides["best peer"] = [list(peers.values()) for peers in listed]
        found[kind] = {name: _means(each) for name, each in sides.items() if each}
    return found


def _means(listed: Sequence[Sequence[PeerTimes]]) -> dict[str, float]:
    """Over cases; of several peers in one the least ratio counts."""
    calls = [min(peer.ratio for peer in peers) for peers in listed]
    kernels = [
        min(peer.device_ratio for peer in peers if peer.device_ratio is not None)
        for peers in listed
        if any(peer.device_ratio is not None for peer in peers)
    ]
    means = {"cases": len(calls), "call": stats.geometric_mean(calls)}
    return means | ({"device": stats.geometric_mean(kernels)} if kernels else {})


def _compare(mine: GpuTimes, theirs: GpuTimes) -> PeerTimes:
    ratios = stats.round_ratios(mine.rounds, theirs.rounds)
    device_ratio = None
    if mine.device is not None and theirs.device is not None:
        device_ratio = theirs.device / mine.device
    return PeerTimes(
        median_us=theirs.median * 1e6,
        p99_us=theirs.p99 * 1e6,
        ratio=stats.median(ratios),
        ratio_low=stats.percentile(ratios, 25),
        ratio_high=stats.percentile(ratios, 75),
        variant="",
        device_us=_microseconds(theirs.device),
        device_ratio=device_ratio,
    )


def _rate(prepared: Prepared, seconds: float) -> dict[str, Any]:
    if prepared.flops:
        return {"rate": prepared.flops / seconds / 1e12, "rate_unit": "TFLOP/s"}
    return {"rate": prepared.moved / seconds / 1e9, "rate_unit": "GB/s"}


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _on_device(value: float | None, form: str, unit: str) -> str:
    return "" if value is None else f" (kernels {value:{form}}{unit})"
