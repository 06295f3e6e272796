"""Tuning for a GPU, end to end on the emulated one, whose times mean nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest
from agreement import fill, normal
from emulator import driver, emulated_images

import tvmlayers as tl
from tvmlayers.build.cuda.compiler import compile_cuda
from tvmlayers.layers import as_model
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.targets import GPUS

pytest.importorskip("xgboost")

from tvmlayers.tune.cases import Case
from tvmlayers.tune.gpu import GpuMeasurer
from tvmlayers.tune.progress import Silent
from tvmlayers.tune.result import WorkloadResult
from tvmlayers.tune.session import Plan, tune_workload
from tvmlayers.tune.workloads import cases_of
from tvmlayers.workload import Workload

SM80 = GPUS["cuda-sm80"]
SCRIPT = Path(__file__).parents[2] / "schedules" / "tune_cuda.py"


def tuned(what: str | Workload, folder: Path, toolchain: Any = emulated_images) -> WorkloadResult:
    (case,) = cases_of(what, (1,), tl.tune.Data())
    assert isinstance(case, Case)
    plan = Plan(SM80, 1, 4, 0, folder / "trials", folder / "records")
    return tune_workload(case, plan, GpuMeasurer(SM80, toolchain, driver()), Silent(), "1/1")


@pytest.mark.parametrize(
    "what",
    [
        "dense 40x24x32:relu",
        "embedding 50x8x20:uniform",
        "bag 50x8x4x5:mean:uniform",
        Workload.make("dense", m=40, k=24, n=32, dtype="float16", activation="relu"),
        Workload.make("bag", indices=20, rows=50, width=8, dtype="bfloat16", mode="mean"),
    ],
    ids=str,
)
def test_a_kernel_is_tuned_and_its_record_served(
    what: str | Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tuned(what, tmp_path)
    assert result.trials == 4
    assert not result.failures
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(tmp_path / "records"))
    found = CudaSelector(SM80).decide(result.case.workload)
    assert (found.source, found.decisions) == ("record", result.decisions)


def test_a_record_serves_its_batch_when_the_model_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned("dense 33x24x32:relu", tmp_path)
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(tmp_path / "records"))
    model = as_model(tl.Dense(32, "relu", input_dim=24))
    fill(model, 0)
    compiled = compile_cuda(model, CudaSelector(SM80), emulated_images, driver())
    (row,) = compiled.report()
    assert "record" in {regime["source"] for regime in row["regimes"]}
    x = normal(33, 24)
    weight, bias = model.get_weights()
    np.testing.assert_allclose(compiled(x), np.maximum(x @ weight + bias, 0), rtol=1e-5, atol=1e-5)


def test_a_candidate_that_computes_something_else_is_no_candidate(tmp_path: Path) -> None:
    def toolchain(source: str, kernels: Sequence[Any], target: Any) -> Any:
        broken = source.replace("tvmlayers_wait_1();", "").replace("tvmlayers_wait_0();", "")
        return emulated_images(broken, kernels, target)

    result = tuned("dense 20x24x32:relu", tmp_path, toolchain)  # the untuned one has no waits
    assert all("wrong result" in cause for cause in result.failures)


def test_without_a_gpu_tuning_says_so() -> None:
    for target in ("cuda", "cuda-sm90"):
        for space in ("tvmlayers", "stock"):
            with pytest.raises(tl.TargetError, match="driver does not load"):
                tl.tune("dense 4x8x8:relu", target, space=space)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--target", "cuda-sm80"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "tuning for cuda-sm80 measures on such a GPU, and there is none" in done.stderr


def test_what_is_for_cpus_is_refused() -> None:
    for given in ({"runner": "static"}, {"tracker": "a:1", "key": "b"}):
        with pytest.raises(tl.ConfigError, match="tuned on the GPU that is here"):
            tl.tune("dense 4x8x8:relu", "cuda-sm80", **given)


def test_a_gpu_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvmlayers.targets import cuda

    monkeypatch.setattr(cuda.present, "__defaults__", (emulator.library(),))
    with pytest.raises(tl.TargetError, match="the one here is cuda-sm80"):
        tl.tune("dense 4x8x8:relu", "cuda-sm90")
