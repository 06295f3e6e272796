"""Normalisations of rows agree with PyTorch, alone and behind what they are one kernel with."""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Any

import numpy as np
import pytest
from agreement import Twin, compile_here, normal, on_cpu

import tvmlayers as tl

pytestmark = on_cpu

WIDTHS = (1, 3, 10, 17, 64, 100, 1100, 5000)
"""Less than a vector, a whole one, with a rest, several in flight, rows too long for the stack."""


def every(n: int | tuple[int, ...], dtype: str, axis: Any = -1) -> list[Any]:
    return [
        tl.LayerNormalization(axis, dtype=dtype),
        tl.LayerNormalization(axis, epsilon=0.1, center=False, dtype=dtype),
        tl.LayerNormalization(axis, scale=False, dtype=dtype),
        tl.RMSNormalization(axis, dtype=dtype),
        tl.UnitNormalization(axis),
    ]


@cache
def norms(n: int, dtype: str = "float32", target: str = "native") -> Twin:
    """Every normalisation of (batch, n), alone and of a sum."""
    x, y = tl.Input((n,), dtype=dtype), tl.Input((n,), dtype=dtype)
    made = [layer(x) for layer in every(n, dtype)]
    made += [layer(tl.Add()([x, y])) for layer in every(n, dtype)]
    return Twin(tl.Model([x, y], made), target=target)


@pytest.mark.parametrize("n", WIDTHS)
def test_normalisations_are_pytorchs(n: int) -> None:
    batches = (0, 1, 2, 3, 7, 333 if n < 1000 else 40)
    x, y = normal(333, n), normal(333, n, seed=2)
    norms(n).agrees_for_every_batch(x, y, batches=batches)


@pytest.mark.parametrize("n", [10, 64])
def test_normalisations_in_float64_are_pytorchs(n: int) -> None:
    x, y = normal(40, n, dtype="float64"), normal(40, n, dtype="float64", seed=2)
    norms(n, "float64").agrees_for_every_batch(x, y, batches=(1, 2, 40))


@pytest.mark.parametrize("away", [1e3, -1e6, 3e7])
def test_a_mean_far_from_zero_costs_no_digits(away: float) -> None:
    x = normal(40, 100) + np.float32(away)
    norms(100).agrees(x, np.zeros_like(x))


def test_rows_of_one_number_give_beta() -> None:
    layer = tl.LayerNormalization(beta_initializer="ones", input_shape=(300,))
    x = np.repeat(np.float32([1e8, 3.3, -0.1, 0.0, 123456.7])[:, None], 300, axis=1)
    np.testing.assert_array_equal(compile_here(layer)(x), np.ones_like(x))


def test_rows_with_what_is_no_number_are_pytorchs() -> None:
    x = normal(8, 64)
    for row, value in enumerate([np.inf, -np.inf, np.nan]):
        x[row, 5 * row] = value
    x[3], x[4] = 0.0, 1e-30
    norms(64).agrees(x, np.zeros_like(x))


def test_long_rows_are_summed_in_blocks() -> None:
    n, steps = 1 << 22, 1 << 15  # of a lane, of which there are 128 at most
    allowed = (256 + 2 * isqrt(n // 8) + 8) * np.finfo("float32").eps / 4  # see test_parity_sums
    square = np.full(steps, np.float32(0.7) ** 2)
    running = np.cumsum(square, dtype="float32")[-1] / (steps * float(square[0]))
    assert abs(running**-0.5 - 1) > allowed, "a running sum would be seen"
    x = np.full((1, n), 0.7, "float32")
    x[0, ::2] = -0.7
    layer = tl.LayerNormalization(epsilon=0.0, input_shape=(n,))
    assert np.abs(np.abs(compile_here(layer)(x)) - 1.0).max() < allowed


@cache
def over_several_axes() -> Twin:
    x, free = tl.Input((3, 5, 4)), tl.Input((None, 6))
    made = [layer(x) for layer in every((5, 4), "float32", (-2, -1))]
    made += [tl.LayerNormalization(axis=[1, 2, 3])(x), tl.RMSNormalization(axis=3)(x)]
    return Twin(tl.Model([x, free], [*made, *(layer(free) for layer in every(6, "float32"))]))


def test_normalisations_over_several_axes_are_pytorchs() -> None:
    for count in (0, 1, 5, 40):
        over_several_axes().agrees(normal(count, 3, 5, 4), normal(count, 7, 6))


def block(merge: type[tl.Layer]) -> tl.Model:
    """A transformer's feed-forward block: a residual sum and its normalisation."""
    x = tl.Input((48,))
    hidden = tl.Dense(48)(tl.Dense(96, "gelu")(x))
    return tl.Model(x, tl.LayerNormalization()(merge()([x, hidden])))


@pytest.mark.parametrize("merge", [tl.Add, tl.Multiply, tl.Maximum, tl.Average, tl.Subtract])
def test_a_merge_and_its_normalisation_are_one_kernel(merge: type[tl.Layer]) -> None:
    twin = Twin(block(merge))
    assert [row["kind"] for row in twin.compiled.report()] == ["dense", "dense", "normalization"]
    twin.agrees_for_every_batch(normal(333, 48), batches=(0, 1, 2, 3, 4, 5, 47, 48, 100, 333))


def test_a_sum_that_others_read_is_kept() -> None:
    x, y = tl.Input((48,)), tl.Input((48,))
    total = tl.Add()([x, y])
    normed = tl.LayerNormalization()(total)
    twin = Twin(tl.Model([x, y], [tl.Add()([total, tl.Dense(48)(normed)])]))
    twin.agrees_for_every_batch(normal(100, 48), normal(100, 48, seed=2), batches=(1, 4, 100))


def test_a_sum_that_is_broadcast_is_its_own_kernel() -> None:
    x, row = tl.Input((5, 16)), tl.Input((16,))
    twin = Twin(tl.Model([x, row], tl.LayerNormalization()(tl.Add()([row, x]))))
    assert [row["kind"] for row in twin.compiled.report()] == ["elementwise", "normalization"]
    twin.agrees(normal(9, 5, 16), normal(9, 16))


@cache
def maxima() -> Twin:
    x, wide = tl.Input((None, 5)), tl.Input((None, 64))
    return Twin(tl.Model([x, wide], [tl.GlobalMaxPooling1D()(t) for t in (x, wide)]))


def test_the_maximum_over_time_is_pytorchs() -> None:
    for steps in (1, 2, 7, 300):
        x, wide = normal(9, steps, 5), normal(9, steps, 64)
        x[0, -1, 0], x[1, 0, 1], x[2] = np.nan, np.nan, -np.inf
        wide[3, 0], wide[4, -1] = np.inf, np.nan
        maxima().agrees(x, wide)


def test_the_maximum_of_no_steps_is_minus_infinity() -> None:
    maxima().agrees(normal(3, 0, 5), normal(3, 0, 64))
