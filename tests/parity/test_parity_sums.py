"""Long sums are sums of partial sums: their error does not grow with their length."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from agreement import Array, compile_here

import tvmlayers as tl
from tvmlayers import targets

STEPS = 6144
PRIMES = (193, 257, 479, 1009, 10_007)


def losing(steps: int, dtype: str) -> Any:
    """Just above 1: a running sum of so many loses the rest of each from a power of two on.

    Half a unit in the last place of the largest power of two below `steps` is a little more than
    that rest, so that the sum is off by their difference times the rest.
    """
    scalar = np.dtype(dtype).type
    half = scalar(1 << steps.bit_length() - 1) * np.finfo(dtype).eps / 2
    return scalar(1) + half - np.finfo(dtype).eps


def is_close(got: Array, exact: Fraction | int, steps: int, extra: int = 0) -> bool:
    """Whether no result is off by more than a sum in blocks can be.

    gamma(n) of n = 256 + 2 sqrt(steps) additions one after another: a block and the sums of blocks
    (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2). A running
    sum of `losing` is three times as far off, or more. extra: roundings besides.
    """
    unit = float(np.finfo(got.dtype).eps) / 2
    allowed = (256 + 2 * isqrt(steps) + extra) * unit
    return all(
        abs(Fraction(float(each)) - exact) <= allowed * exact for each in np.unique(got).tolist()
    )


def running_sum(values: Array) -> Any:
    """One addition after the other, as np.sum does not do."""
    return np.cumsum(values, dtype=values.dtype)[-1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_running_sum_would_be_seen(dtype: str) -> None:
    each = losing(STEPS, dtype)
    total = running_sum(np.full(STEPS, each, dtype))
    assert not is_close(np.array([total]), STEPS * Fraction(float(each)), STEPS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [STEPS, 24_576])
def test_a_dense_sums_in_blocks(k: int, dtype: str) -> None:
    layer = tl.Dense(70, use_bias=False, input_dim=k, kernel_initializer="ones", dtype=dtype)
    compiled = compile_here(layer)
    # Where two stretches of k are summed side by side each is half as long.
    for each in (losing(k, dtype), losing(k // 2, dtype)):
        for rows in (1, 2, 3, 4, 7, 32, 300):
            got = compiled(np.full((rows, k), each, dtype))
            assert is_close(got, k * Fraction(float(each)), k), rows


def lane_steps(dtype: str) -> int:
    """So many that each lane of a vector comes to STEPS of them."""
    return STEPS * targets.native().lanes(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("normalize", [False, True])
def test_dot_products_are_summed_in_blocks(normalize: bool, dtype: str) -> None:
    k, each = lane_steps(dtype), losing(STEPS, dtype)
    inputs = [tl.Input((k,), dtype=dtype) for _ in range(2)]
    compiled = compile_here(tl.Model(inputs, tl.Dot(axes=1, normalize=normalize)(inputs)))
    ones, others = np.ones((3, k), dtype), np.full((3, k), each, dtype)
    exact = 1 if normalize else k * Fraction(float(each))
    # Both lengths are roots of such sums, which halve what these are off.
    lengths = 256 + 2 * isqrt(STEPS) if normalize else 0
    assert is_close(compiled(ones, others), exact, STEPS, extra=lengths + 8)


def test_a_dense_of_one_column_sums_in_blocks() -> None:
    k, each = lane_steps("float32"), losing(STEPS, "float32")
    layer = tl.Dense(1, use_bias=False, input_dim=k, kernel_initializer="ones")
    got = compile_here(layer)(np.full((5, k), each, "float32"))
    assert is_close(got, k * Fraction(float(each)), STEPS, extra=8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 64, 70])
def test_a_mean_over_time_is_summed_in_blocks(width: int, dtype: str) -> None:
    x = tl.Input((None, width), dtype=dtype)
    compiled = compile_here(tl.Model(x, tl.GlobalAveragePooling1D()(x)))
    each = losing(STEPS, dtype)
    assert is_close(compiled(np.full((2, STEPS, width), each, dtype)), Fraction(float(each)), STEPS)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_long_bag_is_summed_in_blocks(mode: str) -> None:
    layer = tl.EmbeddingBag(3, 20, mode=mode)
    each = losing(STEPS, "float32")
    layer.set_weights([np.full((3, 20), each, "float32")])
    got = compile_here(layer)(np.ones((2, STEPS), np.int64))
    assert is_close(got, (STEPS if mode == "sum" else 1) * Fraction(float(each)), STEPS)


@pytest.mark.parametrize("k", PRIMES)
def test_no_step_of_any_length_is_left_out_or_taken_twice(k: int) -> None:
    # Whole numbers, so that every sum is exact.
    rng = np.random.default_rng(k)
    layer, column = tl.Dense(65, input_dim=k), tl.Dense(1, input_dim=k)
    x = tl.Input((k,))
    model = tl.Model(x, [layer(x), column(x)])
    for each in (layer, column):
        shape = each.weights["kernel"].shape
        each.set_weights([rng.integers(-9, 9, shape).astype("float32"), np.zeros(shape[1], "f")])
    compiled = compile_here(model)
    values = rng.integers(-9, 9, (150, k)).astype("float32")
    for rows in (1, 2, 3, 4, 5, 13, 150):
        for got, each in zip(compiled(values[:rows]), (layer, column), strict=True):
            want = values[:rows].astype("float64") @ each.weights["kernel"].astype("float64")
            np.testing.assert_array_equal(got, want)


def test_bags_and_means_of_every_length_take_each_entry_once() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-9, 9, (50, 24)).astype("float32")
    bag = tl.EmbeddingBag(50, 24, mode="sum")
    bag.set_weights([table])
    x = tl.Input((None, 24))
    bags, means = compile_here(bag), compile_here(tl.Model(x, tl.GlobalAveragePooling1D()(x)))
    for length in (*range(1, 36), *range(254, 260), *range(4095, 4099)):
        ids = rng.integers(0, 50, (2, length))
        total = table[ids].astype("float64").sum(axis=1)
        np.testing.assert_array_equal(bags(ids), total)
        mean = total.astype("float32") / np.float32(length)
        np.testing.assert_array_equal(means(table[ids]), mean)


def test_a_softmax_sums_long_rows_in_blocks() -> None:
    n = 4 * lane_steps("float32")  # four vectors are summed side by side
    each = losing(STEPS, "float32") / 2
    row = np.full((1, n), np.log(each), "float32")
    row[0, 0] = 0  # the maximum, so that each of the others is the exponential of its own
    got = compile_here(tl.Activation("softmax", input_shape=(n,)))(row)
    power = np.exp(row[0, 1].astype("float64"))
    total = 1 + (n - 1) * power
    # A few units in the last place are the exponential's and the quotient's.
    np.testing.assert_allclose(got[0, 1:], power / total, rtol=(256 + 2 * 79 + 32) * 2.0**-24)
