from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_sessions import is_bad
from tuning_folders import Folders

from tvmlayers import targets
from tvmlayers.errors import TuneError
from tvmlayers.schedule import analytic
from tvmlayers.tune import tune
from tvmlayers.tune.cases import parse
from tvmlayers.tune.local import LocalMeasurer
from tvmlayers.tune.process import Worker, WorkerFailed

CASE = "embedding 5000x64x320"


def test_a_crash_costs_its_trial_only(pretend: Callable[[str], None], folders: Folders) -> None:
    pretend("Crashing")
    found = tune(CASE, trials=12, threads=1, **folders.named).workloads[0]
    bad = [line for line in folders.trials() if is_bad(line["decisions"])]
    assert found.trials == 12
    assert found.failures == {"crashed: signal 11 (SIGSEGV)": len(bad)}
    assert {line["failure"] for line in bad} == {"crashed: signal 11 (SIGSEGV)"}
    assert 0 < len(bad) < 12
    assert not is_bad(dict(found.decisions))


def test_a_hang_costs_its_trial_only(
    pretend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend("Hanging")
    target = targets.native()
    case = parse("embedding", "5000x64x320")
    good = analytic(case.workload, target)
    measurer = LocalMeasurer(target, 1, timeout=0.5)
    try:
        measurer.open(case, 0, good)
        outcomes = iter(measurer([{**good, "grain_kib": 12}, good]))
        _, hung = next(outcomes)
        monkeypatch.setattr(measurer, "_timeout", 600.0)  # however busy the machine is
        _, fine = next(outcomes)
    finally:
        measurer.close()
    assert hung.cause == "timed out after 0.5 s"
    assert fine.cause is None


def test_failed_trials_are_not_tried_again(
    pretend: Callable[[str], None], folders: Folders
) -> None:
    pretend("Crashing")
    first = tune(CASE, trials=8, threads=1, **folders.named).workloads[0]
    again = tune(CASE, trials=8, threads=1, **folders.named).workloads[0]
    assert again.measured == 0
    assert again.failures == first.failures
    assert len(folders.trials()) == 8


def test_what_a_kernel_gets_wrong_is_a_failure_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tvmlayers.tune import measuring, worker

    case = parse("dense", "4x16x64:relu")
    target = targets.native()
    session = measuring.Session()
    decisions = analytic(case.workload, target)
    data = case.data.describe("dense")
    session.open(case.workload.to_dict(), target.describe(), 1, data, 0, decisions)
    build = session.fixture.builder.build

    def spoiled(decided: Any) -> Any:
        kernel = build(decided)

        def function(x: Any, out: Any, *rest: Any) -> int:
            status = kernel.function(x, out, *rest)
            session.fixture._device.get(out)[3, 5] += 1
            return status

        return type(kernel)(function, kernel.library, kernel.output_shape)

    monkeypatch.setattr(session.fixture.builder, "build", spoiled)
    answer = worker._answer(session.trial, {"decisions": decisions})
    assert answer["cause"].startswith("wrong result: element (3, 5) is")
    monkeypatch.setattr(session.fixture.builder, "build", lambda _: 1 / 0)
    answer = worker._answer(session.trial, {"decisions": decisions})
    assert answer["cause"] == "build failed: division by zero"


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMLAYERS_TUNE_WORKER", "no_such_module:Session")
    with pytest.raises(TuneError, match=r"did not start: ModuleNotFoundError.*no_such_module"):
        Worker(1).ask("limits", 600.0)


def test_a_worker_is_started_again_when_it_is_lost(pretend: Callable[[str], None]) -> None:
    pretend("Crashing")
    worker = Worker(1)
    assert worker.ask("open", 600.0) == {"seconds": 1e-3}
    with pytest.raises(WorkerFailed, match="SIGSEGV"):
        worker.ask("trial", 600.0, decisions={"grain_kib": 12})
    assert not worker.is_alive
    assert worker.ask("open", 600.0) == {"seconds": 1e-3}
    worker.close()
