"""MetaSchedule's own CUDA schedules: proposed, built, and run on the emulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from emulator import driver, emulated_images

import tvmlayers as tl
from tvmlayers.build.cuda.fixed import FixedProgram, fixed_target, lower_fixed
from tvmlayers.build.cuda.toolchain import available, device_images
from tvmlayers.targets import GPUS

pytest.importorskip("xgboost")

from tvm import IRModule, te
from tvm.s_tir import meta_schedule as ms

from tvmlayers.tune.cases import Case
from tvmlayers.tune.engine import Context, RandomState
from tvmlayers.tune.progress import Silent
from tvmlayers.tune.session import Plan
from tvmlayers.tune.stock import StockSearch, tune_stock
from tvmlayers.tune.stock_gpu import StockGpuMeasurer
from tvmlayers.tune.workloads import cases_of
from tvmlayers.workload import Workload

SM80 = GPUS["cuda-sm80"]
CASES = ("dense 40x24x32:relu", "embedding 50x8x20:uniform", "softmax 12x20")


def case_of(what: str) -> Case:
    (case,) = cases_of(what, (1,), tl.tune.Data())
    assert isinstance(case, Case)
    return case


def programs(what: str) -> list[FixedProgram]:
    """The kernels of the first candidates."""
    search = StockSearch(case_of(what), SM80, seed=0, trials=8)
    assert search.propose()
    return [lower_fixed(module["main"], SM80) for module in search.modules.values()]


@pytest.mark.parametrize("what", CASES)
def test_candidates_compute_what_the_layer_does(what: str, tmp_path: Path) -> None:
    plan = Plan(SM80, 1, 3, 0, tmp_path / "trials", tmp_path / "records")
    measurer = StockGpuMeasurer(SM80, emulated_images, driver())
    result = tune_stock(case_of(what), plan, measurer, Silent(), "1/1")
    assert (result.space, result.trials, result.failures) == ("stock", 3, {})
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("what", ["dense 40x24x32:relu", "embedding 50x8x20:uniform"])
def test_candidates_are_compiled_for_the_gpu(what: str) -> None:
    if available() is None:
        pytest.skip("compiling CUDA source needs nvcc, or NVRTC: pip install 'tvmlayers[cuda]'")
    for program in programs(what)[:2]:
        images = device_images(program.source, program.kernels, SM80)
        assert images.binaries["cubin"].startswith(b"\x7fELF")
        assert set(images.resources) == {kernel.name for kernel in program.kernels}


def test_a_candidate_that_computes_something_else_is_no_candidate(tmp_path: Path) -> None:
    def toolchain(source: str, kernels: Any, target: Any) -> Any:
        return emulated_images(source.replace("0x0p+0f", "1.0f"), kernels, target)

    plan = Plan(SM80, 1, 3, 0, tmp_path / "trials", tmp_path / "records")
    measurer = StockGpuMeasurer(SM80, emulated_images, driver())
    measurer.open = _opens_then(measurer, toolchain)  # type: ignore[method-assign]
    result = tune_stock(case_of(CASES[0]), plan, measurer, Silent(), "1/1")
    assert sum(result.failures.values()) == 3
    assert all("wrong result" in cause for cause in result.failures)


def _opens_then(measurer: StockGpuMeasurer, toolchain: Any) -> Any:
    """Opens a workload with kernels of ours as they are, and builds candidates otherwise."""
    opening = measurer.open

    def opens(*given: Any) -> float:
        microseconds = opening(*given)
        measurer._toolchain = toolchain
        return microseconds

    return opens


def test_most_of_what_tensor_core_rules_make_is_refused_by_tvms_lowering() -> None:
    """Why they are left out. wmma is out of the emulator's reach, and its headers out of NVRTC's:
    what a later TVM lowers would have to be run on a GPU before the rules are let in."""
    pytest.importorskip("tvm.s_tir.tensor_intrin.cuda")  # registers what the rules refer to
    rules, tried = "cuda-tensorcore", 16
    x = te.placeholder((128, 256), "float16", name="x")
    w = te.placeholder((256, 128), "float16", name="w")
    axis = te.reduce_axis((0, 256), "axis")

    def product(i: Any, j: Any) -> Any:
        return te.sum(x[i, axis].astype("float32") * w[axis, j].astype("float32"), axis=axis)

    function = te.create_prim_func([x, w, te.compute((128, 128), product, "out")])
    generator = ms.space_generator.PostOrderApply(
        sch_rules=rules, postprocs=rules, mutator_probs=rules
    )
    module = IRModule({"main": function.with_attr("global_symbol", "main")})
    strategy = ms.search_strategy.ReplayTrace()
    context = Context(module, fixed_target(SM80), generator, strategy, 0)
    with RandomState(0):
        context.pre_tuning(tried, tried, context.generate_design_space())
        candidates = list(context.generate_measure_candidates())
    said = []
    for each in candidates:
        assert "wmma" in str(each.sch.mod)
        try:
            lower_fixed(each.sch.mod["main"], SM80)
        except RuntimeError as error:
            said.append(str(error))
    assert len(said) > tried / 2
    assert all("element type must match the source buffer" in text for text in said)


def test_bags_are_refused_as_the_rules_cannot_bound_what_a_bag_gathers() -> None:
    with pytest.raises(tl.TvmLayersError, match=r"cuda rules cannot schedule bag.*HasLowerBound"):
        StockSearch(case_of("bag 50x8x4x5:mean:uniform"), SM80, seed=0, trials=4)


def test_float16_is_refused_with_the_reason() -> None:
    workload = Workload.make("dense", m=4, k=8, n=8, dtype="float16", activation="relu")
    case = Case(workload, case_of(CASES[0]).data)
    with pytest.raises(tl.TvmLayersError, match="its rules for tensor cores"):
        StockSearch(case, SM80, seed=0, trials=4)
