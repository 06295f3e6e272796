"""float16 and bfloat16 on the emulated GPU: every kernel, every tile, rounded once at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import Array, fill, indices, normal
from emulator import driver, emulated
from test_cuda_parity import WILD, GpuTwin, bags, lookups_of_every_width
from test_cuda_tensor import differs, without

import tvmlayers as tl
from tvmlayers.artifact.panels import PaddedLayout, pack_padded, unpack
from tvmlayers.codegen.cuda.kernels import dense as dense_kernel
from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.layers import as_model
from tvmlayers.schedule.cuda import analytic
from tvmlayers.spaces import choices_of
from tvmlayers.spaces.cuda_tensor_gemm import OPERANDS, pipeline, tensor_tiles
from tvmlayers.targets import GPUS
from tvmlayers.workload import Workload

torch = pytest.importorskip("torch")

both = pytest.mark.parametrize("dtype", HALF_DTYPES)


def workload(m: int, k: int, n: int, dtype: str) -> Workload:
    return Workload.make("dense", m=m, k=k, n=n, dtype=dtype, activation="linear")


@cache
def dense(k: int, n: int, dtype: str) -> GpuTwin:
    return GpuTwin(tl.Dense(n, "gelu", input_dim=k, dtype=dtype))


@both
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 17), (16, 33), (50, 130), (129, 16)])
@pytest.mark.usefixtures("order")
def test_dense_of_any_size_agrees_for_every_batch(k: int, n: int, dtype: str) -> None:
    batches = (0, 1, 2, 3, 16, 17, 33, 64, 65, 130)
    dense(k, n, dtype).agrees_for_every_batch(normal(130, k, dtype=dtype), batches=batches)


def tiles(dtype: str) -> list[str]:
    return list(map(str, choices_of(workload(200, 70, 128, dtype), GPUS["cuda-sm80"])["tile"]))


@pytest.mark.parametrize("place", range(len(tiles("float16"))))
def test_every_tile_agrees(place: int) -> None:
    for k in (70, 256):
        dtype = HALF_DTYPES[(k + place) % 2]
        steps = OPERANDS[dtype].steps[place % 3]
        decided = {"tile": tiles(dtype)[place], "k_steps": steps, "stages": 2 + place % 3}
        twin = GpuTwin(tl.Dense(128, input_dim=k, dtype=dtype), {"dense": decided})
        twin.agrees(normal(140, k, dtype=dtype))


@both
def test_tensor_cores_take_halves_of_all_shapes_but_of_one_or_two_rows(dtype: str) -> None:
    kind = OPERANDS[dtype].name + ":"
    for target in GPUS.values():
        for m, k, n in [(3, 1, 1), (16, 768, 3072), (33, 15, 7), (4096, 4096, 4096)]:
            decided = analytic(workload(m, k, n, dtype), target)
            assert str(decided["tile"]).startswith(kind)
            assert decided["tile"] in choices_of(workload(m, k, n, dtype), target)["tile"]
            few = analytic(workload(min(m, 2), k, n, dtype), target)
            assert str(few["tile"]).startswith("split:")


def test_lanes_that_read_at_once_find_their_words_in_other_banks() -> None:
    target = GPUS["cuda-sm80"]
    for tile, steps in product(tensor_tiles(128, 64, "float16"), OPERANDS["float16"].steps):
        made = pipeline(tile, {"k_steps": steps, "stages": 2}, target)
        lanes = [(lane // 4, lane % 4) for lane in range(32)]  # group, place
        for turn, half in product(range(made.words // 8), (0, 16)):
            at_once = lanes[half : half + 16]
            of_x = [made.x_at(group, turn * 8 + place * 2) for group, place in at_once]
            of_w = [made.w_at(turn * 4 + place, group * 2) for group, place in at_once]
            for words in (of_x, of_w):
                assert len({word % 32 for word in words}) == 16
                assert all(word % 2 == 0 for word in words)
        # Every word has its place.
        assert len({made.x_at(row, word) for row in range(16) for word in range(made.words)}) == (
            16 * made.words
        )


@both
def test_every_activation_agrees(dtype: str) -> None:
    x = tl.Input((21,), dtype=dtype)
    names = [name for name in (*ACTIVATIONS, *ROW_ACTIVATIONS) if name != "linear"]
    outputs = [tl.Activation(name)(x) for name in names]
    outputs += [tl.Dense(35, name, dtype=dtype)(x) for name in names]
    twin = GpuTwin(tl.Model(x, outputs))
    for batch in (1, 40):
        twin.agrees(normal(batch, 21, dtype=dtype))


@both
def test_a_softmax_takes_sums_that_were_not_rounded(dtype: str) -> None:
    layer = tl.Dense(40, "softmax", input_dim=64, dtype=dtype)
    twin = GpuTwin(layer)
    twin.model.set_weights([weight.astype("float32") * 12 for weight in twin.model.get_weights()])
    twin = GpuTwin(
        twin.model, seed=None
    )  # logits of about 100, whose last place is 1/2 in bfloat16
    for batch in (1, 40):
        twin.agrees(normal(batch, 64, dtype=dtype))


@both
@pytest.mark.parametrize("n", [1, 33, 2500])
def test_softmax_of_rows_of_any_length_agrees(n: int, dtype: str) -> None:
    x = tl.Input((n,), dtype=dtype)
    outputs = [tl.Activation("softmax")(x), tl.Activation("log_softmax")(x)]
    twin = GpuTwin(tl.Model(x, outputs))
    for batch in (0, 1, 5, 66):
        twin.agrees(normal(batch, n, dtype=dtype))


@both
def test_whole_numbers_give_exact_sums_rounded_to_the_nearest(dtype: str) -> None:
    rng = np.random.default_rng(0)
    k, n = 100, 40
    layer = tl.Dense(n, use_bias=False, input_dim=k, dtype=dtype)
    weight = rng.integers(-40, 40, (k, n))
    layer.set_weights([weight])
    x = rng.integers(-8, 8, (50, k))
    compiled = emulated(layer)
    for batch in (1, 50):
        wanted = (x[:batch] @ weight).astype("float32").astype(dtype)
        np.testing.assert_array_equal(compiled(x[:batch].astype(dtype)), wanted)


@both
def test_every_number_passes_unchanged(dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    infinite = {"float16": 0x7C00, "bfloat16": 0x7F80}[dtype]
    nan, every = (bits & 0x7FFF) > infinite, bits.view(dtype)
    x = tl.Input((), dtype=dtype)
    compiled = emulated(tl.Model(x, [tl.Activation("linear")(x), tl.Activation("relu")(x)]))
    numbers = every[~nan]
    same, positive = compiled(numbers)
    np.testing.assert_array_equal(same.view(np.uint16), numbers.view(np.uint16))
    np.testing.assert_array_equal(positive, np.where(numbers < 0, np.zeros((), dtype), numbers))
    assert all(np.isnan(result).all() for result in compiled(every[nan]))


@both
@pytest.mark.parametrize("oob", ["clip", "zero"])
def test_indices_outside_the_table_follow_the_policy(oob: str, dtype: str) -> None:
    lookups_of_every_width(oob, dtype).agrees(WILD)


@both
@pytest.mark.parametrize(("mode", "padding_idx", "last"), bags())
def test_bags_of_any_form_agree(mode: str, padding_idx: int | None, last: bool, dtype: str) -> None:
    form: dict[str, Any] = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": last}
    twin = GpuTwin(tl.EmbeddingBag(61, 12, dtype=dtype, **form))
    ids = indices(61, 40)
    ids[::3] = 30
    ends = np.array([0, 0, 1, 7, 7, 40] if last else [0, 0, 1, 7, 7])
    twin.agrees(ids, offsets=ends)
    twin.agrees(ids.reshape(8, 5))
    if mode in ("sum", "mean"):
        weights: Array = (normal(40) ** 2).astype(dtype)
        twin.agrees(ids, offsets=ends, per_sample_weights=weights)


@both
def test_inf_nan_and_overflow_come_out_as_they_are(dtype: str) -> None:
    k, n = 48, 33
    model = as_model(tl.Dense(n, input_dim=k, dtype=dtype))
    fill(model, 0)
    x = normal(70, k, dtype=dtype)
    x[3, 6], x[20, 9], x[33, 2] = np.inf, -np.inf, np.nan
    x[35] = np.finfo("float16").max if dtype == "float16" else 3e38
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64) @ kernel + bias
    given = emulated(model)(x).astype(np.float64)
    for row in (3, 20, 33):
        np.testing.assert_array_equal(given[row], exact[row])
    largest = 65504.0 if dtype == "float16" else 3.3895313892515355e38
    over = np.abs(exact[35]) > 1.01 * largest
    assert over.any()
    np.testing.assert_array_equal(given[35][over], np.copysign(np.inf, exact[35][over]))
    finite = np.delete(np.arange(70), [3, 20, 33, 35])
    assert np.isfinite(given[finite]).all()


SMALL: dict[str, Any] = {"tile": "f16:32x32:16x16", "k_steps": 32, "stages": 3}
SLICED: dict[str, Any] = {"tile": "f16:32x32:32x32/4", "k_steps": 64, "stages": 2}


def moved(words: str, bit: int) -> Callable[[str], str]:
    """Has a thread's registers of an operand loaded in another order."""
    register = re.compile(rf"{words}_ptr\[(\(*v_\d+[^\]]*)\]")

    def edit(source: str) -> str:
        lines = source.splitlines()
        return "\n".join(
            register.sub(rf"{words}_ptr[(\1) ^ {bit}]", line) if "load_pair" in line else line
            for line in lines
        )

    return edit


BREAKS = {
    "k of x in another order": (SMALL, moved("x_words", 2)),
    "rows of x swapped": (SMALL, moved("x_words", 1)),
    "k of w in another order": (SMALL, moved("w_words", 1)),
    "columns of w swapped": (SMALL, moved("w_words", 2)),
    "another kind of half": (SMALL, lambda s: s.replace("mma_f16(", "mma_bf16(")),
    "no wait": (SMALL, without("tvmlayers_wait_1();", 0)),
    "no barrier in the loop": (SMALL, without("__syncthreads();", 0)),
    "no barrier after sums are handed over": (SLICED, without("__syncthreads();", 2)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_emulated_gpu_finds_what_is_wrong(broken: str) -> None:
    decided, edit = BREAKS[broken]
    assert differs(tl.Dense(64, input_dim=192, dtype="float16"), decided, edit)


def test_a_weight_packed_in_another_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_pack(kernel: Array, layout: PaddedLayout, out: Array) -> None:
        pack_padded(kernel, layout, out)
        out[...] = out[..., ::-1].copy()

    twin = GpuTwin(tl.Dense(64, input_dim=64, dtype="float16"))
    monkeypatch.setattr(dense_kernel, "pack_padded", reversed_pack)
    twin.compiled = emulated(twin.model)
    for batch in (1, 40):
        with pytest.raises(AssertionError, match="times the tolerance"):
            twin.agrees(normal(batch, 64, dtype="float16"))


@both
def test_a_kernel_is_packed_and_unpacked_again(dtype: str) -> None:
    for k, n in [(1, 1), (7, 5), (64, 16)]:
        kernel = normal(k, n, dtype=dtype)
        layout = PaddedLayout(k, n, 64, 32, 4)
        packed = np.zeros(layout.shape, dtype)
        pack_padded(kernel, layout, packed)
        np.testing.assert_array_equal(unpack(packed, layout.describe()), kernel)
        assert np.count_nonzero(packed) == kernel.size


@both
def test_an_artefact_holds_halves(tmp_path: Path, dtype: str) -> None:
    layers = [tl.Embedding(50, 8, dtype=dtype, input_length=4), tl.Flatten()]
    model = tl.Sequential([*layers, tl.Dense(6, "relu", dtype=dtype)])
    compiled = emulated(model)
    assert tl.verify(compiled, samples=(0, 1, 3, 40)).ok
    compiled.save(tmp_path / "halves.tvml")
    again = tl.load(tmp_path / "halves.tvml")
    again._driver = driver()
    ids = indices(50, 9, 4)
    np.testing.assert_array_equal(again(ids), compiled(ids))
    assert again(ids).dtype == dtype
    assert {weight.dtype.name for weight in again.packed_weights().values()} == {dtype}


@both
def test_torch_tensors_and_lists_are_taken_from_the_host(dtype: str) -> None:
    compiled = emulated(tl.Dense(6, "relu", input_dim=4, dtype=dtype))
    x = normal(9, 4).astype(dtype)
    given = torch.from_numpy(x.astype("float32")).to(getattr(torch, dtype))
    result = compiled(given)
    assert result.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(result.float().numpy(), compiled(x).astype("float32"))
    np.testing.assert_array_equal(compiled(x.astype("float32").tolist()), compiled(x))
    with pytest.raises(tl.DTypeError, match=f"expected {dtype}, got float32"):
        compiled(x.astype("float32"))
