"""A compiled model gives the same on any threads, loaded or as compiled, however it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agreement import compile_here, normal, on_cpu, unless_emulated
from samples import every_input, sample

import tvmlayers as tl
from tvmlayers import targets

torch = pytest.importorskip("torch")

DTYPES = ("float32", "float64")


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_kernel_is_right_for_every_batch(dtype: str) -> None:
    twin = sample(dtype)
    assert twin.compiled.target == targets.native().name
    twin.agrees_for_every_batch(*every_input(333, dtype))


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_single_bit(dtype: str) -> None:
    compiled = sample(dtype).compiled
    large = compile_here(tl.Dense(300, "softmax", input_dim=500, dtype=dtype))
    for batch in (0, 1, 2, 7, 64, 333, 1000):
        for model, inputs in (
            (compiled, every_input(batch, dtype)),
            (large, (normal(batch, 500, dtype=dtype),)),
        ):
            results = []
            for threads in (1, 2, 3):
                model.threads = threads
                results.append(model(*inputs))
            for result in results[1:]:
                for left, right in zip(results[0], result, strict=True):
                    np.testing.assert_array_equal(left, right)
    compiled.threads = 2


@unless_emulated
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loaded_model_gives_the_same_bits(dtype: str, tmp_path: Path) -> None:
    compiled = sample(dtype).compiled
    compiled.save(tmp_path / "model.tvml")
    loaded = tl.load(tmp_path / "model.tvml", threads=compiled.threads)
    for batch in (0, 1, 5, 333):
        inputs = every_input(batch, dtype)
        for left, right in zip(compiled(*inputs), loaded(*inputs), strict=True):
            np.testing.assert_array_equal(left, right)
    assert loaded.report() == compiled.report()


def test_a_model_saved_and_compiled_again_gives_the_same_bits(tmp_path: Path) -> None:
    twin = sample()
    twin.model.save(tmp_path / "model.safetensors")
    again = compile_here(tl.load_model(tmp_path / "model.safetensors"), threads=2)
    inputs = every_input(40)
    for left, right in zip(twin.compiled(*inputs), again(*inputs), strict=True):
        np.testing.assert_array_equal(left, right)


def test_inputs_that_are_not_packed_or_writable_give_the_same() -> None:
    compiled = sample().compiled
    ids, x = every_input(20)
    wanted = compiled(ids, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    padded = np.zeros((20, 40), np.float32)
    padded[:, 5:36] = x
    for other in (frozen, np.asfortranarray(x), padded[:, 5:36], x[::-1].copy()[::-1], x.tolist()):
        for left, right in zip(compiled(ids.tolist(), other), wanted, strict=True):
            np.testing.assert_array_equal(left, right)


def test_the_result_is_of_the_callers_kind() -> None:
    compiled = sample().compiled
    ids, x = every_input(9)
    wanted = compiled(ids, x)
    given = compiled(torch.from_numpy(ids), torch.from_numpy(x))
    assert all(isinstance(result, torch.Tensor) for result in given)
    for left, right in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(left.numpy(), right)


def test_a_large_batch_agrees() -> None:
    sample().agrees(*every_input(5003, length=2))
