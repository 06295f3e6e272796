"""Activations agree with PyTorch everywhere: on a sweep of all magnitudes, at the edges, on rows."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import Array, Twin, normal, once

import tvmlayers as tl
from tvmlayers.layers.activations import ALIASES, NAMES, OVER_LAST_AXIS

ELEMENTWISE = tuple(name for name in NAMES if name not in OVER_LAST_AXIS)
DTYPES = ("float32", "float64")
ROWS = (1, 10, 16, 17, 1000)


@once
def all_elementwise(dtype: str) -> Twin:
    """Every elementwise activation of one input, alone and in a Dense that copies its input."""
    x = tl.Input((1,), dtype=dtype)
    outputs = [tl.Activation(name)(x) for name in ELEMENTWISE]
    copies = [tl.Dense(1, name, "ones", use_bias=False, dtype=dtype)(x) for name in ELEMENTWISE]
    return Twin(tl.Model(x, [*outputs, *copies]), seed=None)


def edges(dtype: str) -> Array:
    """Infinities, NaN, the largest and smallest numbers, denormals, and where functions bend."""
    info = np.finfo(dtype)
    some = [0.0, info.smallest_subnormal, info.tiny / 2, info.tiny, 1e-30, info.eps, 1e-5, 0.1]
    some += [0.35, 0.625, 1, 3, 4, 6, 8.5, 17, 20, 80, 87, 88.5, 89, 90, 103, 105, 700, 800]
    some += [1e6, 1e30, info.max, np.inf]
    values = np.array([*some, np.nan], dtype)
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
    return np.linspace(-12, 12, 200_001, dtype=dtype)[:, None]


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("values", [edges, sweep, near_zero])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_is_pytorchs(name: str, dtype: str, values: object) -> None:
    twin = all_elementwise(dtype)
    x = values(dtype)  # type: ignore[operator]
    given, wanted = results(twin, values, dtype)
    place = ELEMENTWISE.index(name)
    outputs = [twin.model.outputs[i] for i in (place, place + len(ELEMENTWISE))]
    for output, i in zip(outputs, (place, place + len(ELEMENTWISE)), strict=True):
        assert given[i].shape == x.shape
        twin.compare_one(given[i], wanted[i], f"{name} {output.name}", x)


@once
def results(twin: Twin, values: object, dtype: str) -> tuple[list[Array], list[object]]:
    x = values(dtype)  # type: ignore[operator]
    return twin.compiled(x), twin.reference(x)
