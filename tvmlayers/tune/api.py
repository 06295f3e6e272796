"""`tune`: measures candidates for the kernels of a model, and writes the best as records."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers import targets
from tvmlayers.dtypes import is_half
from tvmlayers.errors import ConfigError, DTypeError, TargetError, unknown_name
from tvmlayers.lean import compiler_imports
from tvmlayers.records import user_folder
from tvmlayers.targets import CudaTarget, Target, cuda
from tvmlayers.tune import journal
from tvmlayers.tune.data import Data
from tvmlayers.tune.effort import trials_of
from tvmlayers.tune.progress import Progress, Silent
from tvmlayers.tune.result import TuneResult, WorkloadResult

if TYPE_CHECKING:
    from tvmlayers.tune.cases import Case
    from tvmlayers.tune.measurer import Measurer
    from tvmlayers.tune.session import Plan

BATCHES = (1, 32, 256)
SPACES = ("tvmlayers", "stock")
RUNNERS = ("measure", "static")


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C while tuning. result: what was found until then, records written."""

    def __init__(self, result: TuneResult) -> None:
        super().__init__("tuning was interrupted; what was found until then is kept")
        self.result = result


def tune(
    model: object,
    target: object = "native",
    *,
    trials: int | None = None,
    effort: str = "standard",
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
    seed: int = 0,
    data: Data | Mapping[str, Any] | None = None,
    space: str = "tvmlayers",
    records: str | os.PathLike[str] | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    tracker: str | None = None,
    key: str | None = None,
    runner: str = "measure",
    progress: Progress | None = None,
) -> TuneResult:
    """The fastest decisions found for the kernels of `model`, written where `compile` finds them.

    model: a layer, a model, the path of a saved one or of an artefact, Workloads, or strings such
    as "dense 128x768x3072:gelu:float16", float32 without a dtype, and lists of these. trials: for
    each kernel and batch size, by default those of `effort` ("quick" 16, "standard" 64, "thorough"
    512). batches: sizes to tune a model for. threads: as for compile. data: {"distribution":
    "uniform" or "zipf", "length": of bags, "cold": bool}; a record says which, and takes the place
    of one for the same kernel that was tuned on other data. space: "tvmlayers", or "stock" for
    MetaSchedule's own rules, which are only measured for comparison, on a GPU those for CUDA cores.
    records, work_dir: folders of the results, and of all trials, from which a run that was stopped
    goes on. tracker, key: "HOST:PORT" of a TVM RPC tracker and the name of the devices there.
    runner: "measure", or "static" for what llvm-mca makes of the inner loops of dense layers on an
    ARM core, without such a machine: the records are marked as modelled. progress: told what
    happens. A GPU is tuned on the machine that it is in.

    TuneError where tuning cannot start or go on; TuningInterrupted at Ctrl-C.
    """
    begin = time.monotonic()
    wanted = trials_of(trials, effort)
    if space not in SPACES:
        raise unknown_name("space", space, SPACES)
    if (tracker is None) != (key is None):
        raise ConfigError("a tracker and the key of its devices are given together, or neither")
    if space == "stock" and tracker is not None:
        raise ConfigError("the stock space is measured on this machine; leave the tracker out")
    if runner not in RUNNERS:
        raise unknown_name("runner", runner, RUNNERS)
    is_static = runner == "static"
    if is_static and (tracker is not None or space == "stock"):
        raise ConfigError("the static runner measures nothing: leave tracker, key and space out")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed is a whole number from 0 on, got {seed!r}")
    resolved = targets.resolve(target)
    if isinstance(resolved, CudaTarget):
        if is_static or tracker is not None:
            raise ConfigError(
                f"kernels for {resolved.name} are tuned on the GPU that is here: "
                "leave runner, tracker and key out"
            )
        _check_is_here(resolved)
    elif tracker is None and not is_static:
        _check_runs_here(resolved)
    cases = _cases(model, batches, Data.of(data))
    if isinstance(resolved, Target):
        for case in cases:
            if is_half(case.workload["dtype"]):
                raise DTypeError(
                    f"{case.workload} is {case.workload['dtype']}, which is tuned for CUDA targets "
                    f"only so far; for {resolved.name} the analytic model decides: tune float32 "
                    "cases, or for a GPU such as cuda-sm90"
                )
    plan = _plan(resolved, threads, wanted, seed, work_dir, records, key)
    if is_static:
        plan = _static(plan)
    journal.probe(plan.work_dir, "trials")
    if space == "tvmlayers":
        journal.probe(plan.records, "records")
    measurer = _measurer(plan, tracker, key, space)
    done: list[WorkloadResult] = []
    folder = plan.records if space == "tvmlayers" else None

    def result(interrupted: bool) -> TuneResult:
        seconds = time.monotonic() - begin
        return TuneResult(
            resolved.name, plan.threads, tuple(done), folder, seconds, interrupted=interrupted
        )

    try:
        _tune_all(cases, plan, measurer, progress or Silent(), done)
    except KeyboardInterrupt:
        raise TuningInterrupted(result(interrupted=True)) from None
    finally:
        measurer.close()
    return result(interrupted=False)


def _tune_all(
    cases: Sequence[Case],
    plan: Plan,
    measurer: Measurer,
    progress: Progress,
    done: list[WorkloadResult],
) -> None:
    """Append the result of each case to `done`."""
    from tvmlayers.tune.session import Stopped, tune_workload
    from tvmlayers.tune.stock import TriesModules, tune_stock

    for number, case in enumerate(cases, 1):
        place = f"{number}/{len(cases)}"
        try:
            if isinstance(measurer, TriesModules):
                done.append(tune_stock(case, plan, measurer, progress, place))
            else:
                done.append(tune_workload(case, plan, measurer, progress, place))
        except Stopped as stopped:
            if stopped.result is not None:
                done.append(stopped.result)
            raise KeyboardInterrupt from None


def _cases(model: object, batches: Sequence[int], data: Data) -> list[Case]:
    with compiler_imports():
        from tvmlayers.tune.workloads import cases_of
    return cases_of(model, batches, data)


def _plan(
    target: Target | CudaTarget,
    threads: int | None,
    trials: int,
    seed: int,
    work_dir: str | os.PathLike[str] | None,
    records: str | os.PathLike[str] | None,
    key: str | None,
) -> Plan:
    with compiler_imports():
        from tvmlayers.tune.session import Plan

    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"threads is a whole number from 1 up, or None, got {threads!r}")
    return Plan(
        target,
        _threads(target, threads, key),
        trials,
        seed,
        journal.default_folder() if work_dir is None else Path(work_dir).expanduser(),
        user_folder() if records is None else Path(records).expanduser(),
        "local" if key is None else key,
    )


def _threads(target: Target | CudaTarget, threads: int | None, key: str | None) -> int:
    if isinstance(target, CudaTarget):
        return 1  # of the host, which only launches
    return threads or (target.cores if key else targets.physical_cores())


def _static(plan: Plan) -> Plan:
    """The plan for the static measure; TuneError where it has no model of the target."""
    from tvmlayers.tune import mca, static

    assert isinstance(plan.target, Target)
    static.check_target(plan.target)
    return replace(plan, threads=1, device="static", free=static.FREE, modelled=mca.version())


def _measurer(plan: Plan, tracker: str | None, key: str | None, space: str) -> Measurer:
    from tvmlayers.tune.fleet import Fleet
    from tvmlayers.tune.local import LocalMeasurer
    from tvmlayers.tune.stock import StockMeasurer

    if isinstance(plan.target, CudaTarget):
        from tvmlayers.tune.gpu import GpuMeasurer
        from tvmlayers.tune.stock_gpu import StockGpuMeasurer

        return (StockGpuMeasurer if space == "stock" else GpuMeasurer)(plan.target)
    if plan.modelled:
        from tvmlayers.tune.static import StaticMeasurer

        return StaticMeasurer(plan.target)
    if space == "stock":
        return StockMeasurer(plan.target, plan.threads)
    if tracker is not None and key is not None:
        return Fleet(plan.target, plan.threads, tracker, key)
    return LocalMeasurer(plan.target, plan.threads)


def _check_is_here(target: CudaTarget) -> None:
    try:
        found = cuda.present()
    except TargetError as error:
        raise TargetError(
            f"tuning for {target.name} measures on such a GPU, and there is none: {error}"
        ) from error
    if found.name != target.name:
        raise TargetError(
            f"tuning for {target.name} measures on such a GPU, and the one here is {found.name}; "
            f"tune for {found.name}, or on another machine"
        )


def _check_runs_here(target: Target) -> None:
    why = targets.obstacle(target.triple, target.cpu_flags)
    if why:
        raise TargetError(
            f"what is compiled for {target.name} {why}; "
            "tune on such a machine, or on one behind an RPC tracker with --tracker and --key"
        )
