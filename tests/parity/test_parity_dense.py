"""Dense agrees with PyTorch for every shape, batch size, rank, dtype and activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import Twin, compile_here, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmlayers as tl
from bench.cases import ODD_SIZES
from tvmlayers.layers.activations import NAMES

DTYPES = ("float32", "float64")
CALLABLE_BATCHES = (0, 1, 5, 18, 100)


@cache
def chosen(
    units: tuple[int, ...], activation: Any, use_bias: bool, dtype: str, target: str = "native"
) -> Twin:
    """One model: a Dense of each of `units` on each of the odd numbers of features, in turn."""
    inputs = [tl.Input((k,), dtype=dtype) for k in ODD_SIZES]
    sizes = zip(inputs, units, strict=True)
    outputs = [tl.Dense(n, activation, use_bias, dtype=dtype)(x) for x, n in sizes]
    return Twin(tl.Model(inputs, outputs), target=target)


def features(rows: int, dtype: str) -> list[np.ndarray]:
    return [normal(rows, k, dtype=dtype, seed=k) for k in ODD_SIZES]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turn", range(len(ODD_SIZES)))
def test_every_pair_of_odd_sizes_agrees_for_every_batch(turn: int, dtype: str) -> None:
    units = ODD_SIZES[turn:] + ODD_SIZES[:turn]
    activation = "relu" if turn % 2 else None
    chosen(units, activation, True, dtype).agrees_for_every_batch(*features(333, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", NAMES)
def test_every_activation_agrees_for_every_batch(activation: str, dtype: str) -> None:
    # full panels with a rest, and a single column; inputs of every odd size by turns
    turn = NAMES.index(activation)
    ks = [ODD_SIZES[(turn + i) % len(ODD_SIZES)] for i in (0, 3)]
    inputs = [tl.Input((k,), dtype=dtype) for k in ks]
    sizes = zip(inputs, (333, 1), strict=True)
    outputs = [tl.Dense(n, activation, dtype=dtype)(x) for x, n in sizes]
    twin = Twin(tl.Model(inputs, outputs))
    twin.agrees_for_every_batch(*(normal(333, k, dtype=dtype, seed=k) for k in ks))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dense_without_bias_agrees_for_every_batch(dtype: str) -> None:
    units = (17, 333, 1, 31, 3)
    chosen(units, "relu6", False, dtype).agrees_for_every_batch(*features(333, dtype))


@settings(max_examples=8, deadline=None)
@given(
    k=st.integers(1, 700),
    n=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    batches=st.lists(st.integers(0, 600), min_size=1, max_size=8),
)
def test_any_shape_agrees_for_any_batch(k: int, n: int, dtype: str, batches: list[int]) -> None:
    x = normal(600, k, dtype=dtype)
    Twin(tl.Dense(n, input_dim=k, dtype=dtype)).agrees_for_every_batch(x, batches=batches)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "relu", "softmax"])
def test_a_dense_works_on_the_last_axis_of_any_rank(activation: str | None, dtype: str) -> None:
    x = tl.Input((None, None, 7), dtype=dtype)
    twin = Twin(tl.Model(x, tl.Dense(5, activation, dtype=dtype)(x)))
    for shape in ((2, 3, 4), (0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1), (5, 17, 31)):
        twin.agrees(normal(*shape, 7, dtype=dtype))


def test_a_dense_on_fixed_inner_axes_agrees() -> None:
    twin = Twin(tl.Dense(6, "tanh", input_shape=(3, 4, 7)))
    twin.agrees_for_every_batch(normal(40, 3, 4, 7), batches=range(41))


def squared(x: Any) -> Any:
    return x * x


def bent(x: Any) -> Any:
    from tvm import te

    return te.max(x, x * 0.25)


@pytest.mark.parametrize(("function", "dtype"), [(squared, "float32"), (bent, "float64")])
def test_a_callable_is_an_activation(function: Callable[[Any], Any], dtype: str) -> None:
    twin = chosen((333, 1, 17, 3, 31), function, True, dtype)
    twin.agrees_for_every_batch(*features(100, dtype), batches=CALLABLE_BATCHES)


@pytest.mark.parametrize("result", [None, "relu", object()])
def test_a_callable_that_gives_no_expression_is_refused(result: object) -> None:
    with pytest.raises(tl.ConfigError, match="maps a tensor expression to a tensor expression"):
        compile_here(tl.Dense(3, lambda x: result, input_dim=2))


def test_a_large_reduction_agrees() -> None:
    twin = Twin(tl.Dense(100, "gelu", input_dim=10_007))
    twin.agrees_for_every_batch(normal(65, 10_007), batches=(1, 2, 7, 64, 65))


def test_rows_of_one_call_do_not_depend_on_each_other() -> None:
    twin = Twin(tl.Dense(70, "silu", input_dim=33))
    x = normal(37, 33)
    spoiled = x.copy()
    spoiled[18] = np.nan
    whole, rest = twin.compiled(x), twin.compiled(spoiled)
    assert np.isnan(rest[18]).all()
    np.testing.assert_array_equal(np.delete(rest, 18, axis=0), np.delete(whole, 18, axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_and_huge_inputs_give_what_arithmetic_gives(dtype: str) -> None:
    layer = tl.Dense(70, input_dim=2, use_bias=False, kernel_initializer="ones", dtype=dtype)
    twin = Twin(layer, seed=None)
    huge = float(np.finfo(dtype).max)
    rows = [(np.inf, 1), (-np.inf, 1), (np.inf, -np.inf), (huge, huge), (np.nan, 0), (1e-30, 0)]
    twin.agrees(np.array(rows, dtype))


@pytest.mark.parametrize("n", [20, 32, 40, 48, 64])
def test_few_columns_of_a_long_k_agree_and_are_the_same_bits_on_any_threads(n: int) -> None:
    k = 8209 if n < 40 else 4099
    twin = Twin(tl.Dense(n, "tanh", input_dim=k), threads=2)
    x = normal(70, k, dtype="float32")
    batches = (1, 2, 3, 5, 8, 17, 33, 70)
    twin.agrees_for_every_batch(x, batches=batches)
    alone = compile_here(twin.model, threads=1)
    for batch in batches:
        np.testing.assert_array_equal(alone(x[:batch]), twin.compiled(x[:batch]))
