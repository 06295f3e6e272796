"""Inputs in digits by weights as codes: exact sums, and what PyTorch makes of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agreement import Twin, needs, normal, on_cpu

import tvmlayers as tl

pytest.importorskip("torch")
pytestmark = on_cpu

BATCHES = (1, 2, 3, 7, 12, 33, 100)
CASES = [
    (130, 100, "int8", None, None),
    (192, 100, "int8", None, "int8"),
    (200, 70, "int8", 64, "int16"),
    (200, 72, "int4", 32, None),
    (131, 37, "int4", "channel", "int8"),
    (64, 1, "int4", 32, None),
]


def hard(k: int, n: int) -> np.ndarray:
    """A normal kernel with a column of zeros, one of next to nothing and one with an outlier."""
    made = normal(k, n, seed=k + n) / np.float32(np.sqrt(k))
    if n > 2:
        made[:, 0], made[3, 2] = 0, 1000
        made[:, 1] *= np.float32(1e-38)
    return made.astype(np.float32)


def inputs(m: int, k: int) -> np.ndarray:
    """Rows of normal numbers, and rows of zeros, with an outlier, of large and of small ones."""
    x = normal(m, k)
    x[0::7, 5], x[1::7], x[2::7], x[3::7] = 1e4, 0, x[2::7] * 1e20, x[3::7] * np.float32(1e-25)
    return x


def agrees(
    k: int, n: int, weights: str, granularity: Any, activations: str | None, target: str
) -> None:
    layer = tl.Dense(n, "relu", input_dim=k)
    layer.set_weights([hard(k, n), normal(n, seed=3)])
    made = tl.quantize(
        layer,
        weights=weights,
        granularity=granularity,
        activations=activations,
    )
    twin = Twin(made, seed=None, target=target)
    twin.agrees_for_every_batch(inputs(100, k), batches=BATCHES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_digits_agree_for_every_batch(case: tuple[Any, ...]) -> None:
    agrees(*case, "native")


@pytest.mark.parametrize("target", [needs("x86-64-v3")])
@pytest.mark.parametrize("case", CASES[2:5], ids=str)
def test_without_byte_products_numbers_are_widened(case: tuple[Any, ...], target: str) -> None:
    agrees(*case, target)


@pytest.fixture(scope="module")
def whole() -> Any:
    """Codes up to the ends of int8, and scales of 1."""
    layer = tl.Dense(70, use_bias=False, input_dim=128, stored="int8")
    codes = np.random.default_rng(1).integers(-127, 128, (128, 70)).astype(np.int8)
    codes[:, 0], codes[:, 1] = 127, -127
    layer.set_weights([codes, np.ones(70, np.float32)])
    return tl.compile(layer, threads=2)


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_products_of_whole_numbers_are_exact(whole: Any, m: int) -> None:
    # All sums are below 2^24: with digits, of which one carries into the next, nothing is rounded.
    x = np.random.default_rng(m).integers(-1000, 1001, (m, 128)).astype(np.float32)
    x[0, :5] = 127, 128, -128, -129, 255
    kernel = np.random.default_rng(1).integers(-127, 128, (128, 70))
    kernel[:, 0], kernel[:, 1] = 127, -127
    np.testing.assert_array_equal(whole(x), x.astype(np.float64) @ kernel)


def test_rows_with_infinities_and_nan_come_out_as_of_float_weights(whole: Any) -> None:
    for m in (3, 40):
        x = normal(m, 128)
        wanted = whole(x)
        x[1, 3], x[2, 7] = np.nan, np.inf
        result = whole(x)
        assert np.isnan(result[1]).all()
        assert not np.isfinite(result[2, 0]).any()
        np.testing.assert_allclose(result[0], wanted[0], rtol=1e-5, atol=1e-3)


def test_a_long_sum_at_the_ends_of_its_digits_does_not_overflow() -> None:
    k = 70_000
    layer = tl.Dense(20, use_bias=False, input_dim=k, stored="int8:int8")
    codes = np.full((k, 20), 127, np.int8)
    codes[:, ::2] = -127
    layer.set_weights([codes, np.ones(20, np.float32)])
    x = np.ones((2, k), np.float32)
    x[1] = -1
    wanted = x.astype(np.float64) @ codes.astype(np.float64)
    np.testing.assert_allclose(tl.compile(layer)(x), wanted, rtol=1e-6)
