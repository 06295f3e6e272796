"""Tuning for a GPU, end to end on the emulated one, whose times mean nothing."""

from __future__ import annotations

import re
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
from tvmlayers.codegen.cuda.compiler import compile_cuda
from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.layers import as_model
from tvmlayers.runtime.cuda import Driver
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.targets import GPUS

pytest.importorskip("xgboost")

from tvmlayers.tune.cases import Case
from tvmlayers.tune.gpu import GpuMeasurer
from tvmlayers.tune.progress import Silent
from tvmlayers.tune.result import WorkloadResult
from tvmlayers.tune.session import Plan, tune_workload
from tvmlayers.tune.workloads import cases_of
from tvmlayers.workload import KINDS, Workload

SM80 = GPUS["cuda-sm80"]
SCRIPT = Path(__file__).parents[2] / "schedules" / "tune_cuda.py"


def tuned(what: str | Workload, folder: Path, toolchain: Any = emulated_images) -> WorkloadResult:
    measurer = GpuMeasurer(SM80, toolchain, driver())
    return tune_workload(case_of(what), plan_in(folder), measurer, Silent(), "1/1")


def case_of(what: str | Workload) -> Case:
    (case,) = cases_of(what, (1,), tl.tune.Data())
    assert isinstance(case, Case)
    return case


def plan_in(folder: Path) -> Plan:
    return Plan(SM80, 1, 4, 0, folder / "trials", folder / "records")


@pytest.mark.parametrize(
    "what",
    [
        "dense 40x24x32:relu",
        "embedding 50x8x20:uniform",
        "bag 50x8x4x5:mean:uniform",
        "dense 40x24x32:relu:float16",
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


def compiled_with_records(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(folder / "records"))
    return compile_cuda(as_model(model, None), CudaSelector(SM80), emulated_images, driver())


@pytest.mark.parametrize("m", [32, 33, 128])
def test_a_record_serves_its_batch_when_the_model_is_compiled(
    m: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tuned(f"dense {m}x24x32:relu", tmp_path)
    model = as_model(tl.Dense(32, "relu", input_dim=24))
    fill(model, 0)
    compiled = compiled_with_records(model, tmp_path, monkeypatch)
    (row,) = compiled.report()
    serving = next(r for r in row["regimes"] if r["up_to"] is None or m <= r["up_to"])
    assert (serving["source"], serving["decisions"]) == ("record", result.decisions)
    assert any(r["source"] == f"nearest {result.case.workload}" for r in row["regimes"])
    weight, bias = model.get_weights()
    for batch in (1, m - 1, m, m + 1):
        x = normal(batch, 24)
        expected = np.maximum(x @ weight + bias, 0)
        np.testing.assert_allclose(compiled(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("what", "model"),
    [
        ("bag 50x8x4x5:mean:uniform", tl.EmbeddingBag(50, 8, mode="mean", input_shape=(5,))),
        ("softmax 12x20", tl.Sequential([tl.Input((20,)), tl.Activation("softmax")])),
    ],
)
def test_a_record_serves_a_kernel_that_is_made_once(
    what: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tuned(what, tmp_path)
    for row in compiled_with_records(model, tmp_path, monkeypatch).report():
        (regime,) = row["regimes"]
        assert (regime["source"], regime["decisions"]) == ("record", result.decisions)


def test_a_candidate_that_computes_something_else_is_no_candidate(tmp_path: Path) -> None:
    def toolchain(source: str, kernels: Sequence[Any], target: Any) -> Any:
        broken = source.replace("tvmlayers_wait_1();", "").replace("tvmlayers_wait_0();", "")
        return emulated_images(broken, kernels, target)

    result = tuned("dense 20x24x32:relu", tmp_path, toolchain)  # the untuned one has no waits
    assert all("wrong result" in cause for cause in result.failures)


class Begins:
    """A toolchain that is changed once the untuned kernel is there: kernels begin with `code`."""

    def __init__(self, code: str) -> None:
        self.code, self.images = code, 0

    def __call__(self, source: str, kernels: Sequence[Any], target: Any) -> Any:
        self.images += 1
        if self.images > 1:
            source = re.sub(r"(__global__[^{;]*\{)", rf"\1 {self.code}", source)
        return emulated_images(source, kernels, target)


@pytest.mark.parametrize(
    ("code", "cause"), [("emulated_fault();", "failed"), ("return;", "wrong result")]
)
def test_a_kernel_that_fails_or_writes_nothing_costs_a_trial(
    code: str, cause: str, tmp_path: Path
) -> None:
    result = tuned("dense 40x24x32:relu", tmp_path, Begins(code))
    assert result.failures == {cause: 4}


class Dying(Driver):
    """A driver whose GPU does not answer once a launch has failed."""

    dead = False

    def fail(self, status: int, doing: str) -> None:
        self.dead = True
        super().fail(status, doing)

    def synchronize(self, stream: int) -> None:
        if self.dead:
            raise tl.TvmLayersError("NVIDIA's driver reports an error")
        super().synchronize(stream)


def test_a_dead_gpu_stops_the_run_which_goes_on_behind_the_candidate(tmp_path: Path) -> None:
    for kept in (1, 2):
        measurer = GpuMeasurer(SM80, Begins("emulated_fault();"), Dying(emulator.library()))
        with pytest.raises(tl.TuneError, match="all trials are kept"):
            tune_workload(case_of("dense 40x24x32:relu"), plan_in(tmp_path), measurer, Silent(), "")
        journals = [each.read_text() for each in (tmp_path / "trials").rglob("*") if each.is_file()]
        assert sum(each.count("failed: ") for each in journals) == kept


def test_without_a_gpu_tuning_says_so() -> None:
    for target in ("cuda", "cuda-sm90"):
        for space in ("tvmlayers", "stock"):
            with pytest.raises(tl.TargetError, match="driver does not load"):
                tl.tune("dense 4x8x8:relu", target, space=space)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--target", "cuda-sm80", "--dtypes", "bfloat16"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "tuning for cuda-sm80 measures on such a GPU, and there is none" in done.stderr


def test_the_script_tunes_halves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from common import dtype_of, public_cases
    from tune_cuda import halves

    given = [*public_cases(KINDS), *halves()]
    cases = cases_of(given, (1,), tl.tune.Data())
    assert len(cases) == len(given)
    assert [case.workload["dtype"] for case in cases] == [dtype_of(text) for text in given]
    for dtype in HALF_DTYPES:
        few = {f"dense {m}x4096x4096:{dtype}:linear" for m in (1, 16, 64, 4096)}
        assert few < {str(case) for case in cases}


def test_what_is_for_cpus_is_refused() -> None:
    for given in ({"runner": "static"}, {"tracker": "a:1", "key": "b"}):
        with pytest.raises(tl.ConfigError, match="tuned on the GPU that is here"):
            tl.tune("dense 4x8x8:relu", "cuda-sm80", **given)


def test_a_gpu_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvmlayers.targets import cuda

    monkeypatch.setattr(cuda.present, "__defaults__", (emulator.library(),))
    with pytest.raises(tl.TargetError, match="the one here is cuda-sm80"):
        tl.tune("dense 4x8x8:relu", "cuda-sm90")
