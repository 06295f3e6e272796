"""Measures on this machine, in one worker process that is started again when it is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import TuneError
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import Target
from tvmlayers.tune.cases import Case
from tvmlayers.tune.inputs import held_bytes
from tvmlayers.tune.measurer import OneByOne
from tvmlayers.tune.outcome import Outcome
from tvmlayers.tune.process import Worker, WorkerFailed

TRIAL_SECONDS = 10.0
OPEN_SECONDS = 180.0
# What a trial of a slow kernel may take, in calls of the reference.
TRIAL_CALLS = 200


def opening_of(
    case: Case, target: Target, threads: int, seed: int, reference: Decisions
) -> dict[str, Any]:
    """The arguments with which a worker opens a workload."""
    return {
        "workload": case.workload.to_dict(),
        "target": target.describe(),
        "threads": threads,
        "data": case.data.describe(case.workload.kind),
        "seed": seed,
        "decisions": dict(reference),
    }


class LocalMeasurer(OneByOne):
    """The measurer of this machine."""

    def __init__(self, target: Target, threads: int, timeout: float = TRIAL_SECONDS) -> None:
        self._target, self._threads, self._timeout = target, threads, timeout
        self._worker = Worker(threads)
        self._opening: dict[str, Any] = {}
        self._limits: dict[tuple[str, int], dict[str, float]] = {}

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        self._opening = opening_of(case, self._target, self._threads, seed, reference)
        self._microseconds = self._open()
        return self._microseconds

    def compare(self, finalists: Sequence[Decisions]) -> list[float]:
        if not self._worker.is_alive:
            self._open()
        timeout = self._trial_timeout() * (1 + len(finalists))
        try:
            found = self._worker.ask("compare", timeout, finalists=[dict(d) for d in finalists])
        except WorkerFailed as error:
            raise TuneError(f"the fastest candidates cannot be compared: {error}") from error
        if "cause" in found:
            raise TuneError(f"the fastest candidates cannot be compared: {found['cause']}")
        return [1e6 * seconds for seconds in found["seconds"]]

    def limits(self, case: Case) -> dict[str, float] | None:
        dtype, held = case.workload["dtype"], held_bytes(case)
        level = held.bit_length()  # sizes share a measurement within a power of two
        if (dtype, level) not in self._limits:
            try:
                found = self._worker.ask(
                    "limits", OPEN_SECONDS, dtype=dtype, threads=self._threads, held=held
                )
            except WorkerFailed:
                return None
            if "cause" in found:
                return None
            self._limits[dtype, level] = found
        return self._limits[dtype, level]

    def close(self) -> None:
        self._worker.close()

    def request(self, decisions: Decisions) -> dict[str, Any]:
        """What the worker is asked for one trial."""
        return {"op": "trial", "decisions": dict(decisions)}

    def _trial(self, decisions: Decisions) -> Outcome:
        begin = time.monotonic()
        try:
            if not self._worker.is_alive:
                self._open()
                begin = time.monotonic()
            found = self._worker.ask(timeout=self._trial_timeout(), **self.request(decisions))
        except WorkerFailed as error:
            return Outcome(None, str(error), time.monotonic() - begin)
        spent = time.monotonic() - begin
        if "cause" in found:
            return Outcome(None, found["cause"], spent)
        return Outcome(found["ratio"] * self._microseconds, None, spent)

    def _open(self) -> float:
        """Microseconds of the reference in a worker where the workload is open."""
        name = self._opening["workload"]
        try:
            found = self._worker.ask("open", OPEN_SECONDS, **self._opening)
        except WorkerFailed as error:
            raise TuneError(f"the untuned kernel of {name} cannot be measured: {error}") from error
        if "cause" in found:
            raise TuneError(f"the untuned kernel of {name} cannot be measured: {found['cause']}")
        return 1e6 * float(found["seconds"])

    def _trial_timeout(self) -> float:
        return max(self._timeout, TRIAL_CALLS * self._microseconds * 1e-6)
