"""What tuning found, workload by workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers.tune.cases import Case
from tvmlayers.tune.outcome import Outcome

if TYPE_CHECKING:
    from tvmlayers.spaces.choices import Decision


HEAD = ("workload", "untuned us", "tuned us", "speed-up", "trials", "failed", "decisions")


@dataclass(frozen=True)
class WorkloadResult:
    """One workload's best decisions and how they were found.

    microseconds, untuned_microseconds: one call, with these decisions and the analytic ones,
    measured together at the end. trials: in all, those of earlier runs counted; measured: in this
    run. failures: how many, by cause. curve: the best microseconds after each trial. space: where
    the decisions were searched; journal: the file of all trials; record: whether one was written.
    """

    case: Case
    space: str
    decisions: Mapping[str, Decision]
    microseconds: float
    untuned_microseconds: float
    trials: int
    measured: int
    failures: Mapping[str, int] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    journal: Path | None = None
    record: bool = False

    @property
    def speedup(self) -> float:
        """How many times as fast as untuned."""
        return self.untuned_microseconds / self.microseconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "workload": self.case.workload.to_dict(),
            "data": self.case.data.describe(self.case.workload.kind),
            "space": self.space,
            "decisions": dict(self.decisions),
            "microseconds": self.microseconds,
            "untuned_microseconds": self.untuned_microseconds,
            "speedup": round(self.speedup, 4),
            "trials": self.trials,
            "measured": self.measured,
            "failures": dict(self.failures),
            "curve": list(self.curve),
            "journal": None if self.journal is None else str(self.journal),
            "record": self.record,
        }


@dataclass(frozen=True)
class TuneResult:
    """What `tune` found; `str` of it is a table.

    records: the folder where `compile` now finds the decisions; None where none were written.
    """

    target: str
    threads: int
    workloads: tuple[WorkloadResult, ...]
    records: Path | None
    seconds: float
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "target": self.target,
            "threads": self.threads,
            "records": None if self.records is None else str(self.records),
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "workloads": [each.to_dict() for each in self.workloads],
        }

    def __str__(self) -> str:
        rows = [HEAD, *map(_row, self.workloads)]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = ["  ".join(map(_align, row[:6], widths, range(6))) + "  " + row[6] for row in rows]
        return "\n".join([line.rstrip() for line in lines] + [self._footer()])

    def _footer(self) -> str:
        where = "no records written" if self.records is None else f"records in {self.records}"
        stopped = ", stopped early" if self.interrupted else ""
        return f"{self.target}, {self.threads} threads, {self.seconds:.1f} s, {where}{stopped}"


def failures_of(causes: list[str]) -> dict[str, int]:
    """How many failed, by cause without its details: "crashed: signal 11" but "wrong result"."""
    short = [cause if cause.startswith("crashed") else cause.partition(":")[0] for cause in causes]
    return dict(Counter(short).most_common())


def curve_of(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """The best time after each trial; trials before the first good one are left out."""
    best, curve = float("inf"), []
    for outcome in outcomes:
        best = min(best, outcome.time)
        curve.append(best)
    return tuple(time for time in curve if time != float("inf"))


def _row(result: WorkloadResult) -> tuple[str, ...]:
    decided = ", ".join(f"{name}={value}" for name, value in result.decisions.items())
    return (
        str(result.case),
        f"{result.untuned_microseconds:.2f}",
        f"{result.microseconds:.2f}",
        f"{result.speedup:.2f}x",
        str(result.trials),
        str(sum(result.failures.values())),
        decided,
    )


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
