"""What a run tells while it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tvmlayers.tune.cases import Case
from tvmlayers.tune.outcome import Outcome
from tvmlayers.tune.result import WorkloadResult, failures_of
from tvmlayers.workload import Workload


@dataclass
class State:
    """Where the tuning of one workload stands.

    trials: how many there will be; done: how many there are, those of earlier runs counted; limits:
    {"flops", "bytes"} a second of the machine, where they were measured.
    """

    case: Case
    place: str  # such as "2/9"
    trials: int
    done: int = 0
    resumed: int = 0
    best: float = float("inf")  # microseconds
    untuned: float = float("inf")
    limits: Mapping[str, float] | None = None
    causes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count one trial."""
        self.done += 1
        self.best = min(self.best, outcome.time)
        if outcome.cause is not None:
            self.causes.append(outcome.cause)

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Count the trials of earlier runs."""
        for outcome in outcomes:
            self.add(outcome)
        self.resumed = self.done
        self.trials = max(self.trials, self.done)

    @property
    def failures(self) -> dict[str, int]:
        """How many failed, by cause."""
        return failures_of(self.causes)

    @property
    def seconds_left(self) -> float | None:
        """From the pace so far; None before there is one."""
        measured = self.done - self.resumed
        if measured < 1:
            return None
        return (time.monotonic() - self.began) / measured * (self.trials - self.done)

    def rate(self) -> str:
        """The best so far as "350.1 GFLOP/s, 82% of the limit" or "20.3 GB/s"."""
        flops, moved = work_of(self.case.workload)
        unit, amount = ("GFLOP/s", flops) if flops else ("GB/s", moved)
        said = f"{amount / (self.best * 1e-6) / 1e9:.1f} {unit}"
        reached = of_limit(self.case.workload, self.best, self.limits)
        return said if reached is None else f"{said}, {reached:.0%} of the limit"


class Progress(Protocol):
    """Takes the events of a run."""

    def begin(self, state: State) -> None:
        """A workload begins."""

    def trial(self, state: State) -> None:
        """A trial is done and kept."""

    def end(self, state: State, result: WorkloadResult) -> None:
        """A workload is tuned."""


class Silent:
    """Tells nothing."""

    def begin(self, state: State) -> None:
        pass

    def trial(self, state: State) -> None:
        pass

    def end(self, state: State, result: WorkloadResult) -> None:
        pass


def of_limit(
    workload: Workload, microseconds: float, limits: Mapping[str, float] | None
) -> float | None:
    """The fraction of what the machine can do, in multiply-adds or bytes, whichever binds."""
    if limits is None:
        return None
    flops, moved = work_of(workload)
    least = max(flops / limits["flops"], moved / limits["bytes"])
    return least / (microseconds * 1e-6)


def work_of(workload: Workload) -> tuple[int, int]:
    """(floating point operations or 0, bytes that are moved) of one call."""
    size = np.dtype(workload["dtype"]).itemsize
    if workload.kind == "dense":
        m, k, n = (workload[name] for name in ("m", "k", "n"))
        return 2 * m * k * n, (m * k + m * n) * size + workload.weight_bytes
    if workload.kind == "softmax":
        return 0, 2 * workload["m"] * workload["n"] * size
    written = workload["width"] * size if workload.kind == "embedding" else 0
    return 0, workload.batch * (workload.row_bytes + written)
