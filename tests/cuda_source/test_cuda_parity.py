"""The very source that NVIDIA's compilers get, run on the emulated GPU, agrees with PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from agreement import Array, Twin, indices, normal
from emulator import be, emulated
from samples import every_input, every_kernel

import tvmlayers as tl
from tvmlayers.codegen.cuda.compiler import lower_model
from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.layers import as_model
from tvmlayers.runtime.cuda import CudaCompiled
from tvmlayers.schedule.cuda import CudaSelector, analytic
from tvmlayers.spaces import choices_of
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.cuda_lookup import ROWS_IN_FLIGHT
from tvmlayers.targets import GPUS
from tvmlayers.workload import Workload

pytest.importorskip("torch")

BATCHES = (0, 1, 2, 3, 16, 17, 33, 130)


class GpuTwin(Twin):
    """A model on the emulated GPU, and the same model in PyTorch."""

    def __init__(
        self, model: tl.Model | tl.Layer, fixed: Mapping[str, Decisions] | None = None, **more: Any
    ) -> None:
        """fixed: decisions by kind of kernel."""
        self._fixed = fixed or {}
        super().__init__(model, **more)

    def _compile(self, target: str, threads: int) -> CudaCompiled:
        return emulated(self.model, "cuda-sm80" if target == "native" else target, **self._fixed)


@cache
def everything(dtype: str) -> GpuTwin:
    return GpuTwin(every_kernel(dtype))


def test_twins_run_on_the_emulated_gpu() -> None:
    assert isinstance(everything("float32").compiled, CudaCompiled)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_every_kind_of_kernel_agrees_for_every_batch(dtype: str) -> None:
    for batch, length in product(BATCHES, (5, 0)):
        ids, x = every_input(batch, dtype, length)
        if length or batch == 3:
            everything(dtype).agrees(ids, x)
            everything(dtype).agrees(ids.astype(np.int32), x)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 17), (64, 128), (130, 10), (31, 513)])
def test_dense_of_any_size_agrees_for_every_batch(k: int, n: int) -> None:
    twin = dense(k, n, "float32")
    twin.agrees_for_every_batch(normal(300, k), batches=(*BATCHES, 300))


@cache
def dense(k: int, n: int, dtype: str) -> GpuTwin:
    return GpuTwin(tl.Dense(n, "relu", input_dim=k, dtype=dtype))


@pytest.mark.parametrize("place", range(4))
def test_every_tile_that_can_be_decided_agrees(place: int) -> None:
    target = GPUS["cuda-sm80"]
    workload = Workload.make("dense", m=200, k=70, n=128, dtype="float32", activation="linear")
    choices = choices_of(workload, target)
    for tile in list(choices["tile"])[place::4]:
        steps = choices["k_steps"][place % len(choices["k_steps"])]
        decisions = {**analytic(workload, target), "tile": tile, "k_steps": steps}
        twin = GpuTwin(tl.Dense(128, input_dim=70), {"dense": decisions})
        twin.agrees(normal(200, 70))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_elements_of_a_weight_past_two_to_the_31_are_counted_in_64_bits(dtype: str) -> None:
    k, n = 1 << 15, 1 << 17
    layer = tl.Dense(n, use_bias=False, input_dim=k, dtype=dtype)
    layer._weights = {"kernel": np.broadcast_to(np.zeros((), dtype), (k, n))}  # of no memory
    selector = CudaSelector(GPUS["cuda-sm80"], use_records=False)
    lowered, _, _ = lower_model(as_model(layer), selector, lambda plan: None)
    # What tensor cores are fed with has loops of its own, which begin where 32 bits are enough.
    lines = [line for line in lowered.source.splitlines() if "copy_async" not in line]
    places = [place for line in lines for place in re.findall(r"w_ptr(?: \+ |\[).*", line)]
    assert len(places) >= 2
    assert all("(int64_t)" in place for place in places), places


def test_every_activation_agrees() -> None:
    x = tl.Input((21,))
    names = [name for name in (*ACTIVATIONS, *ROW_ACTIVATIONS) if name != "linear"]
    outputs = [tl.Activation(name)(x) for name in names]
    twin = GpuTwin(tl.Model(x, [*outputs, tl.Dense(3, "mish")(x)]))
    for batch in (1, 40):
        twin.agrees(normal(batch, 21))


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("n", [1, 10, 33, 1000, 2500])
def test_softmax_of_rows_of_any_length_agrees(n: int) -> None:
    twin = softmax(n)
    for batch in (0, 1, 5, 66):
        twin.agrees(normal(batch, n))


@cache
def softmax(n: int) -> GpuTwin:
    x = tl.Input((n,))
    return GpuTwin(tl.Model(x, [tl.Activation("softmax")(x), tl.Activation("log_softmax")(x)]))


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("n", [1, 31, 33, 700, 3000])
def test_normalisations_of_rows_of_any_length_agree(n: int) -> None:
    twin = normalised(n)
    for batch in (0, 1, 5, 66):
        twin.agrees(normal(batch, n))


@cache
def normalised(n: int) -> GpuTwin:
    x = tl.Input((n,))
    made = tl.Subtract()([x, tl.LeakyReLU()(x)])
    kinds = tl.LayerNormalization(), tl.RMSNormalization(), tl.UnitNormalization()
    return GpuTwin(tl.Model(x, [kind(made if i else x) for i, kind in enumerate(kinds)]))


def test_merges_give_nan_where_one_tensor_has_it() -> None:
    x, y = tl.Input((7,)), tl.Input((7,))
    kinds = tl.Maximum(), tl.Minimum(), tl.Average(), tl.Multiply()
    twin = GpuTwin(tl.Model([x, y], [kind([x, y]) for kind in kinds]))
    one, other = normal(3, 7), normal(3, 7, seed=2)
    one[0, 0] = other[1, 1] = np.nan
    twin.agrees(one, other)


@pytest.mark.parametrize("oob", ["clip", "zero"])
def test_indices_outside_the_table_follow_the_policy(oob: str) -> None:
    lookups_of_every_width(oob, "float32").agrees(WILD)


WILD = np.array([[-(1 << 40), -1, 0, 60], [61, 1 << 62, 5, 7]])


def lookups_of_every_width(oob: str, dtype: str) -> GpuTwin:
    """Rows and bags of one, two, four and other numbers of columns at a time, of one input."""
    ids = tl.Input((None,), dtype="int64")
    kinds = tl.Embedding, partial(tl.EmbeddingBag, mode="max")
    layers = [make(61, width, oob=oob, dtype=dtype) for width in (1, 2, 4, 6, 64) for make in kinds]
    return GpuTwin(tl.Model(ids, [layer(ids) for layer in layers]))


def bags() -> list[tuple[str, int | None, bool]]:
    return [("sum", None, False), ("mean", 30, True), ("max", 30, False), ("min", None, True)]


@pytest.mark.parametrize(("mode", "padding_idx", "last"), bags())
def test_bags_of_any_form_agree(mode: str, padding_idx: int | None, last: bool) -> None:
    layer = tl.EmbeddingBag(61, 12, mode=mode, padding_idx=padding_idx, include_last_offset=last)
    twin = GpuTwin(layer)
    ids = indices(61, 40)
    ids[::3] = 30
    ends = np.array([0, 0, 1, 7, 7, 40] if last else [0, 0, 1, 7, 7])
    twin.agrees(ids, offsets=ends)
    twin.agrees(ids.reshape(8, 5))
    twin.agrees(np.zeros((3, 0), np.int64))
    if mode in ("sum", "mean"):
        weights: Array = normal(40) ** 2
        twin.agrees(ids, offsets=ends, per_sample_weights=weights)
        twin.agrees(ids.reshape(8, 5), per_sample_weights=weights.reshape(8, 5))


@cache
def bag_in_flight(mode: str, padding_idx: int | None, last: bool, flight: int) -> GpuTwin:
    layer = tl.EmbeddingBag(61, 12, mode=mode, padding_idx=padding_idx, include_last_offset=last)
    return GpuTwin(layer, {"bag": {"rows_in_flight": flight, "threads": 64}})


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("flight", [n for n in ROWS_IN_FLIGHT if n != 4])  # 4 by default
@pytest.mark.parametrize(("mode", "padding_idx", "last"), bags())
def test_bags_agree_with_any_number_of_rows_in_flight(
    mode: str, padding_idx: int | None, last: bool, flight: int
) -> None:
    twin = bag_in_flight(mode, padding_idx, last, flight)
    ends = np.array([0, 0, 1, 3, 7, 15, 31, 40] if last else [0, 0, 1, 3, 7, 15, 31])
    ids = indices(61, 40)
    ids[::3] = 30
    ids[-2:] = 60, 59  # an entry that is read again does not count again
    twin.agrees(ids, offsets=ends)
    if mode in ("sum", "mean"):
        weights: Array = normal(40) ** 2
        twin.agrees(ids, offsets=ends, per_sample_weights=weights)
    wild = np.where(ids == 59, 61, ids)
    with pytest.raises(tl.IndexOutOfRangeError, match="61"):
        twin.compiled(wild, offsets=ends)


@pytest.mark.parametrize("target", sorted(GPUS))
def test_the_seed_model_agrees_on_every_target(target: str) -> None:
    model = tl.Sequential(
        [
            tl.Embedding(5000, 64, input_length=10),
            tl.Flatten(),
            tl.Dense(128, activation="relu"),
            tl.Dense(10, activation="softmax"),
        ]
    )
    twin = GpuTwin(model, target=target)
    be(*GPUS[target].capability)
    try:
        for batch in (1, 33, 200):
            twin.agrees(indices(5000, batch, 10))
    finally:
        be()
