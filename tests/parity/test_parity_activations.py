"""Activations agree with PyTorch for all magnitudes, at the edges and on rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from agreement import Array, Twin, assert_close, normal

import tvmlayers as tl
from tvmlayers.layers.activations import ALIASES, NAMES, OVER_LAST_AXIS
from tvmlayers.testing import Bounded

ELEMENTWISE = tuple(name for name in NAMES if name not in OVER_LAST_AXIS)
FUSED = len(ELEMENTWISE)  # where the outputs of the Dense layers begin
DTYPES = ("float32", "float64")
ROWS = (1, 10, 16, 17, 1000)


@cache
def all_elementwise(dtype: str, target: str = "native") -> Twin:
    """Every elementwise activation of one input, alone and in a Dense that copies its input."""
    x = tl.Input((1,), dtype=dtype)
    outputs = [tl.Activation(name)(x) for name in ELEMENTWISE]
    copying = {"kernel_initializer": "ones", "use_bias": False, "dtype": dtype}
    copies = [tl.Dense(1, name, **copying)(x) for name in ELEMENTWISE]
    return Twin(tl.Model(x, [*outputs, *copies]), seed=None, target=target)


def edges(dtype: str) -> Array:
    """Infinities, NaN, the largest and smallest numbers, denormals, and where functions bend."""
    info = np.finfo(dtype)
    some = [0.0, info.smallest_subnormal, info.tiny / 2, info.tiny, 1e-30, info.eps, 1e-5, 0.1]
    some += [0.35, 0.625, 1, 3, 4, 6, 8.5, 17, 20, 80, 87, 88.5, 89, 90, 103, 105, 700, 800]
    some += [1e6, 1e30, info.max, np.inf]
    values = np.array([*some, np.nan], dtype)
    with np.errstate(over="ignore"):
        near = np.concatenate([np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    return np.concatenate([values, -values, near, -near])[:, None].astype(dtype)


def sweep(dtype: str) -> Array:
    """Numbers of both signs that cover every exponent, about 2^17 of them."""
    bits = np.dtype(dtype).itemsize * 8
    step = np.uint64(2 ** (bits - 17) + 12345)
    patterns = np.arange(2**17, dtype=np.uint64) * step
    return patterns.astype(f"uint{bits}").view(dtype)[:, None]


def near_zero(dtype: str) -> Array:
    """Where functions bend, closely."""
    return np.linspace(-12, 12, 50_001, dtype=dtype)[:, None]


@cache
def results(dtype: str, values: Callable[[str], Array]) -> tuple[list[Array], list[Bounded]]:
    """What came out for all values, and what should have."""
    twin, x = all_elementwise(dtype), values(dtype)
    return twin.compiled(x), twin.reference(x)


@pytest.mark.parametrize("values", [edges, sweep, near_zero])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_activation_is_pytorchs(name: str, dtype: str, values: Callable[[str], Array]) -> None:
    given, wanted = results(dtype, values)
    alone = ELEMENTWISE.index(name)
    for place, how in ((alone, "alone"), (FUSED + alone, "fused")):
        assert_close(given[place], wanted[place], dtype, f"{name} {how}")


@cache
def rows(n: int, dtype: str, target: str = "native") -> Twin:
    """softmax and log_softmax of rows of n, alone and fused into a Dense."""
    x = tl.Input((n,), dtype=dtype)
    over_rows = [tl.Activation(name)(x) for name in OVER_LAST_AXIS]
    denses = [tl.Dense(n, name, dtype=dtype)(x) for name in OVER_LAST_AXIS]
    return Twin(tl.Model(x, [*over_rows, *denses]), target=target)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", ROWS)
def test_softmax_over_rows_is_pytorchs(n: int, dtype: str) -> None:
    scales = np.array([1.0, 1e-30, 30.0, 1e4] * 10, dtype)[:, None]
    rows(n, dtype).agrees_for_every_batch(normal(40, n, dtype=dtype) * scales, batches=range(41))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 17])
def test_softmax_of_infinities_and_nan_is_pytorchs(n: int, dtype: str) -> None:
    values = [0.0, 1e30, -1e30, np.inf, -np.inf, np.nan]
    x = np.random.default_rng(0).choice(values, (200, n)).astype(dtype)
    x = np.concatenate([x, np.full((1, n), -np.inf, dtype), np.full((1, n), np.inf, dtype)])
    names = OVER_LAST_AXIS
    inputs = tl.Input((n,), dtype=dtype)
    Twin(tl.Model(inputs, [tl.Activation(name)(inputs) for name in names])).agrees(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_takes_any_rank(dtype: str) -> None:
    x = tl.Input((None, 5), dtype=dtype)
    twin = Twin(tl.Model(x, [tl.Activation(name)(x) for name in ("softmax", "gelu")]))
    for shape in ((3, 4, 5), (0, 4, 5), (3, 0, 5), (1, 1, 5), (41, 17, 5)):
        twin.agrees(normal(*shape, dtype=dtype))


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_activation_that_it_names(alias: str, name: str) -> None:
    assert tl.Activation(alias).activation == tl.Activation(name).activation
