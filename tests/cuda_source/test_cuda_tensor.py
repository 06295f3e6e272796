"""Dense layers on tensor cores: float32's accuracy, float32's Inf and NaN, waits and barriers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import Array, fill, normal
from emulator import device, driver, emulated, emulated_images
from test_cuda_parity import GpuTwin

import tvmlayers as tl
from tvmlayers.codegen.cuda.compiler import compile_cuda
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.layers import as_model
from tvmlayers.schedule.cuda import CudaSelector, analytic
from tvmlayers.spaces import choices_of
from tvmlayers.spaces.cuda_tensor_gemm import STAGES, TENSOR, TensorTile, pipeline
from tvmlayers.targets import GPUS
from tvmlayers.workload import Workload

pytest.importorskip("torch")

SMALL: dict[str, Any] = {"tile": "tf32:32x32:16x16", "k_steps": 16, "stages": 3}


def workload(m: int, k: int, n: int, dtype: str = "float32") -> Workload:
    return Workload.make("dense", m=m, k=k, n=n, dtype=dtype, activation="linear")


@pytest.mark.parametrize("target", ["cuda-sm80", "cuda-sm90"])
@pytest.mark.parametrize(("m", "k", "n"), [(33, 16, 1), (64, 768, 3072), (4096, 4096, 4096)])
def test_float32_takes_tensor_cores_from_33_rows(target: str, m: int, k: int, n: int) -> None:
    assert str(analytic(workload(m, k, n), GPUS[target])["tile"]).startswith(TENSOR)


def test_other_layers_do_not_take_tensor_cores() -> None:
    sm80, sm86 = GPUS["cuda-sm80"], GPUS["cuda-sm86"]
    for given, target in (
        (workload(32, 768, 768), sm80),
        (workload(4096, 15, 768), sm80),
        (workload(4096, 768, 768, "float64"), sm80),
        # Three products for one are slower there than one on CUDA cores.
        (workload(4096, 768, 768), sm86),
    ):
        assert not str(analytic(given, target)["tile"]).startswith(TENSOR)


@cache
def dense(k: int, n: int) -> GpuTwin:
    return GpuTwin(tl.Dense(n, "relu", input_dim=k))


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("k", "n"), [(16, 1), (17, 16), (50, 33), (72, 513)])
def test_ragged_shapes_agree(k: int, n: int) -> None:
    dense(k, n).agrees_for_every_batch(normal(257, k), batches=(33, 34, 63, 64, 65, 100, 257))
    assert TENSOR in str(dense(k, n).compiled.report())


def every_tile() -> list[str]:
    names = choices_of(workload(200, 70, 128), GPUS["cuda-sm80"])["tile"]
    return [str(name) for name in names if str(name).startswith(TENSOR)]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("tile", every_tile())
@pytest.mark.parametrize("stages", STAGES[1:])
def test_every_tile_agrees_with_any_number_of_stages(tile: str, stages: int) -> None:
    tiled(tile, stages).agrees(normal(140, 70))


@cache
def tiled(tile: str, stages: int) -> GpuTwin:
    decided = {"tile": tile, "k_steps": (8, 16, 32)[stages % 3], "stages": stages}
    return GpuTwin(tl.Dense(70, "gelu", input_dim=70), {"dense": decided})


def test_every_activation_is_fused() -> None:
    x = tl.Input((21,))
    outputs = [tl.Dense(35, name)(x) for name in (*ACTIVATIONS, *ROW_ACTIVATIONS)]
    GpuTwin(tl.Model(x, outputs)).agrees(normal(50, 21))


def test_a_long_sum_is_as_exact_as_in_float32() -> None:
    k = 4096
    layer = tl.Dense(32, use_bias=False, input_dim=k)
    twin = GpuTwin(layer)
    for x in (normal(40, k), np.abs(normal(40, k)) + 1):
        twin.agrees(x)
        (weight,) = twin.model.get_weights()
        exact = x.astype(np.float64) @ weight.astype(np.float64)
        one_by_one = np.zeros(exact.shape, np.float32)
        for s in range(k):
            one_by_one += np.outer(x[:, s], weight[s])
        ours = np.abs(twin.compiled(x) - exact)
        assert np.sqrt((ours**2).mean()) <= np.sqrt((np.abs(one_by_one - exact) ** 2).mean())


@pytest.mark.parametrize(("of_x", "of_w"), [(1e30, 1e-30), (1e-30, 1e25), (1e15, 1e17), (1e-15, 1)])
def test_large_and_small_numbers_keep_their_digits(of_x: float, of_w: float) -> None:
    layer = tl.Dense(32, use_bias=False, input_dim=48)
    twin = GpuTwin(layer)
    (weight,) = twin.model.get_weights()
    twin.model.set_weights([weight * np.float32(of_w)])
    twin = GpuTwin(twin.model, seed=None)
    # Within a row too: what is small beside the rest is small beside the sum.
    x = normal(40, 48) * np.float32(of_x) * np.exp2(normal(40, 48, seed=2) * 4).astype(np.float32)
    twin.agrees(x)


def test_inf_nan_and_overflow_give_what_float32_gives() -> None:
    k, n = 48, 33
    model = as_model(tl.Dense(n, input_dim=k))
    fill(model, 0)
    weight, bias = model.get_weights()
    weight[5, 7], weight[6, 8], weight[9, 9], weight[2:, 10] = np.inf, 0, np.nan, 1e-42
    weight[:, 11] = 1  # a small part of zero
    model.set_weights([weight, bias])
    x = normal(70, k)
    x[3, 6], x[20, 9], x[33, 2], x[34, 2] = np.inf, -np.inf, np.nan, np.float32(3.4028235e38)
    x[35, :2] = 3e38
    x[66, 5] = np.inf
    with np.errstate(all="ignore"):
        total = np.zeros((70, n), np.float32)
        for s in range(k):
            total += np.outer(x[:, s], weight[s])
        want = total + bias
    given = emulated(model, dense=SMALL)(x)
    assert np.isnan(want).any()
    assert np.isposinf(want).any()
    assert np.isneginf(want).any()
    np.testing.assert_array_equal(np.isnan(given), np.isnan(want))
    np.testing.assert_array_equal(given[np.isinf(want)], want[np.isinf(want)])
    finite = np.isfinite(want)
    np.testing.assert_allclose(given[finite], want[finite], rtol=1e-5, atol=1e-5)


def test_a_row_does_not_change_with_what_its_neighbours_hold() -> None:
    compiled = emulated(tl.Dense(32, input_dim=48), dense=SMALL)
    x = normal(40, 48)
    other = x.copy()
    other[8, 3] = np.inf
    rows = np.arange(40) != 8
    np.testing.assert_array_equal(compiled(other)[rows], compiled(x)[rows])


def without(what: str, place: int) -> Callable[[str], str]:
    """Takes the `what` of that place out of a source."""

    def edit(source: str) -> str:
        begin = [found.start() for found in re.finditer(re.escape(what), source)][place]
        return source[:begin] + source[begin + len(what) :]

    return edit


SLICED: dict[str, Any] = {"tile": "tf32:64x64:64x32/2", "k_steps": 16, "stages": 2}
BREAKS = {
    "waits for less": (SMALL, lambda source: source.replace("wait_1();", "wait_2();")),
    "no wait": (SMALL, without("tvmlayers_wait_1();", 0)),
    "no first group": (SMALL, without("tvmlayers_commit();", 0)),
    "no group in the loop": (SMALL, without("tvmlayers_commit();", 2)),
    "no barrier in the loop": (SMALL, without("__syncthreads();", 0)),
    "no barrier before sums are handed over": (SLICED, without("__syncthreads();", 1)),
    "no barrier after sums are handed over": (SLICED, without("__syncthreads();", 2)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_emulated_gpu_finds_what_is_missing(broken: str) -> None:
    decided, edit = BREAKS[broken]
    assert differs(tl.Dense(64, input_dim=16 if decided is SLICED else 96), decided, edit)


def differs(layer: tl.Layer, decided: dict[str, Any], edit: Callable[[str], str]) -> bool:
    """Whether the results of an edited source are others, in one order of threads at least."""
    model = as_model(layer)
    fill(model, 0)
    selector = CudaSelector(GPUS["cuda-sm80"], use_records=False, fixed={"dense": decided})

    def toolchain(source: str, kernels: Sequence[Any], target: Any) -> Any:
        edited = edit(source)
        assert edited != source
        return emulated_images(edited, kernels, target)

    x: Array = normal(64, *model.inputs[0].shape[1:], dtype=layer.dtype)
    whole = compile_cuda(model, selector, emulated_images, driver())
    wrong = compile_cuda(model, selector, toolchain, driver())
    found = []
    for backwards in (0, 1):
        device().emulated_set(backwards, backwards)
        results = (compiled(x).astype("float32") for compiled in (wrong, whole))
        found.append(not np.allclose(*results, rtol=1e-4, atol=1e-4))
    device().emulated_set(0, 0)
    return any(found)


def test_stages_are_as_many_as_shared_memory_holds() -> None:
    target = GPUS["cuda-sm80"]
    for steps in (8, 16, 32):
        for stages in STAGES:
            decided = {"k_steps": steps, "stages": stages}
            large = pipeline(TensorTile(128, 128, 64, 32, 1), decided, target)
            assert large.shared <= target.static_shared
            assert large.stages >= 2
    assert (large.k_steps, large.stages) == (16, 2)
