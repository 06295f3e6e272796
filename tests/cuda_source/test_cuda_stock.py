"""MetaSchedule's own CUDA schedules: proposed, built, and run on the emulated GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from emulator import ORDERS, driver, emulated_images

import tvmlayers as tl
from tvmlayers.codegen.cuda import fixed, nvrtc
from tvmlayers.codegen.cuda.fixed import FixedProgram, lower_fixed
from tvmlayers.codegen.cuda.toolchain import available, device_images
from tvmlayers.targets import GPUS

pytest.importorskip("xgboost")

from tvmlayers.tune import stock
from tvmlayers.tune.cases import Case
from tvmlayers.tune.fixture import WrongResult
from tvmlayers.tune.progress import Silent
from tvmlayers.tune.result import WorkloadResult
from tvmlayers.tune.session import Plan, untuned
from tvmlayers.tune.stock import MODULE, StockSearch, tune_stock
from tvmlayers.tune.stock_gpu import StockGpuMeasurer
from tvmlayers.tune.workloads import cases_of
from tvmlayers.workload import Workload

SM80 = GPUS["cuda-sm80"]
DENSE, LOOKUP, SOFTMAX = "dense 40x24x32:relu", "embedding 50x8x20:uniform", "softmax 12x20"
WHOLE = "dense 64x96x48:gelu"
WMMA, ASYNC = "nvcuda::wmma::", "ptx_cp_async_legacy"
CASES = [
    *((what, dtype) for what in (DENSE, LOOKUP, SOFTMAX) for dtype in ("float32", "float16")),
    (WHOLE, "float16"),
    ("dense 1x40x20", "float16"),
    (DENSE, "bfloat16"),
    (LOOKUP, "bfloat16"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer candidates bred for each that is tried: most are thrown away unseen."""
    monkeypatch.setattr(stock, "POPULATION", 48)
    monkeypatch.setattr(stock, "GENERATIONS", 1)


def case_of(what: str, dtype: str = "float32") -> Case:
    (case,) = cases_of(what, (1,), tl.tune.Data())
    return replace(case, workload=Workload.from_dict({**case.workload.to_dict(), "dtype": dtype}))


@cache
def search_of(what: str, dtype: str = "float32") -> StockSearch:
    """A search that has proposed its first candidates."""
    search = StockSearch(case_of(what, dtype), SM80, seed=0, trials=8)
    assert search.propose()
    return search


def programs(what: str, dtype: str = "float32") -> list[FixedProgram]:
    """The kernels of the first candidates."""
    return [lower_fixed(each["main"], SM80) for each in search_of(what, dtype).modules.values()]


def tuned(what: str, dtype: str, folder: Path, trials: int = 3) -> WorkloadResult:
    plan = Plan(SM80, 1, trials, 0, folder / "trials", folder / "records")
    measurer = StockGpuMeasurer(SM80, emulated_images, driver())
    return tune_stock(case_of(what, dtype), plan, measurer, Silent(), "1/1")


@pytest.mark.parametrize(
    ("what", "dtype", "order"),
    [(*case, ORDERS[place % 2]) for place, case in enumerate(CASES)],
    indirect=["order"],
)
@pytest.mark.usefixtures("order")
def test_candidates_compute_what_the_layer_does(what: str, dtype: str, tmp_path: Path) -> None:
    result = tuned(what, dtype, tmp_path)
    assert (result.space, result.trials, result.failures) == ("stock", 3, {})
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("what", [DENSE, WHOLE])
def test_dense_layers_of_float16_alone_are_on_tensor_cores(what: str) -> None:
    assert all(WMMA in each.source for each in programs(what, "float16"))
    assert not any(WMMA in each.source for each in programs(what))


def test_what_tvm_cannot_lower_costs_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "_even", lambda loop: loop)  # vectors of three halves
    result = tuned("dense 40x24x32:gelu", "bfloat16", tmp_path, trials=8)
    assert result.trials == 8
    assert list(result.failures) == ["build failed"]
    assert 0 < result.failures["build failed"] < 8


def test_a_block_with_too_much_shared_memory_is_no_candidate() -> None:
    module = next(iter(search_of(WHOLE, "float16").modules.values()))
    with pytest.raises(tl.ConfigError, match="bytes of shared memory, where cuda-sm80 gives 1024"):
        lower_fixed(module["main"], replace(SM80, static_shared=1024))


def compiles(program: FixedProgram, target: str) -> None:
    images = device_images(program.source, program.kernels, GPUS[target])
    assert images.binaries["cubin"].startswith(b"\x7fELF")
    assert set(images.resources) == {kernel.name for kernel in program.kernels}
    wanted = b"wmma.mma.sync.aligned.row." in images.binaries["ptx"]
    assert wanted == (WMMA in program.source)


@pytest.mark.parametrize("target", sorted(GPUS))
@pytest.mark.parametrize(
    ("what", "dtype"),
    [(DENSE, "float32"), (DENSE, "float16"), (WHOLE, "float16"), (LOOKUP, "float16")],
)
def test_candidates_are_compiled_for_every_gpu(what: str, dtype: str, target: str) -> None:
    if available() is None:
        pytest.skip("compiling CUDA source needs nvcc, or NVRTC: pip install 'tvmlayers[cuda]'")
    for program in programs(what, dtype)[:2]:
        compiles(program, target)


def test_nvrtc_alone_compiles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    if nvrtc.find() is None:
        pytest.skip("NVRTC is not here: pip install 'tvmlayers[cuda]'")
    monkeypatch.setenv("PATH", "")
    for program in [programs(WHOLE, "float16")[0], first(ASYNC, WHOLE, "float32")]:
        compiles(program, "cuda-sm80")


def first(word: str, what: str, dtype: str) -> FixedProgram:
    """The first candidate in whose source the word is."""
    return next(each for each in programs(what, dtype) if word in each.source)


def without(word: str) -> Callable[[str], str]:
    return lambda source: re.sub(rf"\n *{word}[^;\n]*;", "\n", source)


def instead(old: str, new: str) -> Callable[[str], str]:
    return lambda source: source.replace(old, new)


def turned(source: str) -> str:
    """w is read the other way round."""
    other = {"row": "col", "col": "row"}
    layout = re.compile(r"(matrix_b, 16, 16, 16, half, nvcuda::wmma::)(\w+)_major")
    return layout.sub(lambda found: f"{found[1]}{other[found[2]]}_major", source)


def loading(old: str, new: str) -> Callable[[str], str]:
    """The matrices that are loaded begin elsewhere."""
    return lambda source: re.sub(rf"(load_matrix_sync\(.*){old}\);", rf"\1{new});", source)


BREAKS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "no wait": ("float32", ASYNC, without("tvm_builtin_ptx_cp_async_wait_group")),
    "no barrier after copies": ("float32", ASYNC, without("__syncthreads")),
    "no fill": ("float16", WMMA, without("nvcuda::wmma::fill_fragment")),
    "no product": ("float16", WMMA, without("nvcuda::wmma::mma_sync")),
    "no barrier": ("float16", WMMA, without("__syncthreads")),
    "w turned": ("float16", WMMA, turned),
    "sums stored turned": ("float16", WMMA, instead("mem_row_major", "mem_col_major")),
    "rows that are not aligned": ("float16", WMMA, loading(r"(\d+)", r"\2 + 1")),
    "lanes that differ": (
        "float16",
        WMMA,
        loading(r"\]\)\), (\d+)", r" + (int)threadIdx.x / 16 * 16])), \2"),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_emulated_gpu_finds_what_is_wrong(broken: str) -> None:
    dtype, word, edit = BREAKS[broken]
    case, search = case_of(WHOLE, dtype), search_of(WHOLE, dtype)
    source = first(word, WHOLE, dtype).source
    assert edit(source) != source
    measurer = StockGpuMeasurer(SM80, emulated_images, driver())
    measurer.open(case, 0, untuned(case.workload, SM80))
    measurer.search = search
    place = [each.source for each in programs(WHOLE, dtype)].index(source)
    decisions = {MODULE: list(search.modules)[place]}
    measurer._candidate(decisions)

    def toolchain(source: str, kernels: Any, target: Any) -> Any:
        return emulated_images(edit(source), kernels, target)

    measurer._toolchain = toolchain
    with pytest.raises((WrongResult, tl.TvmLayersError)):
        measurer._candidate(decisions)


def test_a_candidate_that_computes_something_else_is_no_candidate(tmp_path: Path) -> None:
    def toolchain(source: str, kernels: Any, target: Any) -> Any:
        return emulated_images(source.replace("0x0p+0f", "1.0f"), kernels, target)

    plan = Plan(SM80, 1, 3, 0, tmp_path / "trials", tmp_path / "records")
    measurer = StockGpuMeasurer(SM80, emulated_images, driver())
    measurer.open = _opens_then(measurer, toolchain)
    result = tune_stock(case_of(DENSE), plan, measurer, Silent(), "1/1")
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


def test_bags_are_refused_as_the_rules_cannot_bound_what_a_bag_gathers() -> None:
    with pytest.raises(tl.TvmLayersError, match=r"cuda rules cannot schedule bag.*HasLowerBound"):
        StockSearch(case_of("bag 50x8x4x5:mean:uniform"), SM80, seed=0, trials=4)
