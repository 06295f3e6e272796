"""Tunes one workload: searches with the journal as memory, compares the best, writes the record."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tvmlayers import records
from tvmlayers.errors import TuneError, TvmLayersError
from tvmlayers.records import Record
from tvmlayers.schedule import analytic, cuda
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.tune.cases import Case
from tvmlayers.tune.journal import Conditions, Journal
from tvmlayers.tune.measurer import Measurer
from tvmlayers.tune.outcome import Outcome, key_of
from tvmlayers.tune.progress import Progress, State, of_limit
from tvmlayers.tune.result import WorkloadResult, curve_of, failures_of
from tvmlayers.tune.search import Search, explore
from tvmlayers.tune.space import Space
from tvmlayers.workload import Workload

FINALISTS = 4
# What tuned decisions must gain to be preferred to the analytic ones.
LEAST_GAIN = 1.02


@dataclass(frozen=True)
class Plan:
    """What all workloads of a run share. device: where it is measured, as journals name it.

    free: the choices that are explored while the analytic choice decides the others; None for all.
    modelled: what gives the times where nothing is measured; see `Record.modelled`.
    """

    target: Target | CudaTarget
    threads: int
    trials: int
    seed: int
    work_dir: Path
    records: Path
    device: str = "local"
    free: tuple[str, ...] | None = None
    modelled: str = ""


class Stopped(Exception):
    """Ctrl-C: the workload has the result of the trials so far, or none."""

    def __init__(self, result: WorkloadResult | None) -> None:
        super().__init__("interrupted")
        self.result = result


def tune_workload(
    case: Case, plan: Plan, measurer: Measurer, progress: Progress, place: str
) -> WorkloadResult:
    """The best decisions for `case`, written as a record.

    TuneError where that cannot go on, Stopped at Ctrl-C; the trials so far are in the journal.
    """
    workload, target = case.workload, plan.target
    space = Space.of(workload, target)
    if plan.free is not None:
        space = space.around(untuned(workload, target), plan.free)
    conditions = Conditions(
        space.name,
        records.installed_tvm(),
        plan.threads,
        case.data.describe(workload.kind),
        plan.device,
    )
    journal = Journal(plan.work_dir, target, workload, conditions)
    try:
        return _Tuning(case, plan, space, journal).run(measurer, progress, place)
    finally:
        journal.close()


def untuned(workload: Workload, target: Target | CudaTarget) -> Decisions:
    """The decisions that nothing was measured for."""
    if isinstance(target, CudaTarget):
        return cuda.analytic(workload, target)
    return analytic(workload, target)


class _Tuning:
    def __init__(self, case: Case, plan: Plan, space: Space, journal: Journal) -> None:
        self.case, self.plan, self.space, self.journal = case, plan, space, journal
        self.untuned = untuned(case.workload, plan.target)
        self.resumed = len(journal.known)
        self.untuned_microseconds = float("inf")  # until the reference is measured
        self.limits: Mapping[str, float] | None = None

    def run(self, measurer: Measurer, progress: Progress, place: str) -> WorkloadResult:
        state = State(self.case, place, min(self.plan.trials, self.space.size))
        state.take(self.journal.known.values())
        self.limits = state.limits = measurer.limits(self.case)
        try:
            state.untuned = measurer.open(self.case, self.plan.seed, self.untuned)
            if self.journal.reference is None:
                self.journal.reference = state.untuned
            else:
                state.untuned = self.journal.reference
                measurer.relate(state.untuned)
            self.untuned_microseconds = state.untuned
            progress.begin(state)
            self._explore(measurer, progress, state)
            result = self._conclude(*self._compared(measurer))
        except KeyboardInterrupt:
            raise Stopped(self._so_far()) from None
        except BaseException:
            with suppress(TvmLayersError):  # the one that came first is the one to tell
                self._so_far()
            raise
        progress.end(state, result)
        return result

    def _explore(self, measurer: Measurer, progress: Progress, state: State) -> None:
        def tell(decisions: Decisions, outcome: Outcome) -> None:
            self.journal.add(decisions, outcome)
            state.add(outcome)
            progress.trial(state)

        search = Search(self.space, self.plan.target, self.untuned, self.plan.seed)
        state.began = time.monotonic()
        known = dict(self.journal.known)
        explore(search, measurer, trials=self.plan.trials, known=known, tell=tell)

    def _compared(self, measurer: Measurer) -> tuple[list[Decisions], list[float]]:
        """The untuned decisions and the fastest ones, with times measured together."""
        finalists = [self.untuned, *self._finalists()]
        try:
            return finalists, measurer.compare(finalists)
        except TuneError:  # one of them crashes now, or the last device went: the trials decide
            return self._by_trials()

    def _by_trials(self) -> tuple[list[Decisions], list[float]]:
        finalists = self._finalists()
        times = [self.journal.known[key_of(each)].time for each in finalists]
        return [self.untuned, *finalists], [self.untuned_microseconds, *times]

    def _finalists(self) -> list[Decisions]:
        """The fastest by their trials, the untuned decisions left out."""
        ranked = sorted(self.journal.known.items(), key=lambda item: item[1].time)
        good = [
            self.journal.decisions[key]
            for key, outcome in ranked
            if outcome.cause is None and key != key_of(self.untuned)
        ]
        return good[:FINALISTS]

    def _so_far(self) -> WorkloadResult | None:
        """The result by the trials alone, written; None where there is nothing to compare."""
        if self.untuned_microseconds == float("inf"):
            return None
        return self._conclude(*self._by_trials())

    def _conclude(self, finalists: Sequence[Decisions], times: Sequence[float]) -> WorkloadResult:
        """The fastest wins; the first, untuned, unless another gains enough."""
        untuned = times[0]
        time, place = min((time, place) for place, time in enumerate(times))
        if untuned / time < LEAST_GAIN:
            time, place = untuned, 0
        known = self.journal.known
        reached = of_limit(self.case.workload, time, self.limits)
        record = Record(
            workload=self.case.workload,
            target=self.plan.target.name,
            space=self.space.name,
            decisions=finalists[place],
            microseconds=round(time, 4),
            untuned_microseconds=round(untuned, 4),
            trials=len(known),
            threads=self.plan.threads,
            tvm=records.installed_tvm(),
            date=datetime.date.today().isoformat(),
            data=self.case.data.describe(self.case.workload.kind),
            of_limit=None if reached is None else round(reached, 3) or None,
            modelled=self.plan.modelled,
        )
        records.add([record], self.plan.records)
        return WorkloadResult(
            case=self.case,
            space=self.space.name,
            decisions=finalists[place],
            microseconds=record.microseconds,
            untuned_microseconds=record.untuned_microseconds,
            trials=len(known),
            measured=len(known) - self.resumed,
            failures=failures_of([o.cause for o in known.values() if o.cause is not None]),
            curve=curve_of(list(known.values())),
            journal=self.journal.path,
            record=True,
        )
