"""verify tells rounding from a wrong kernel: planted errors of every kind are found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from broken import Broken
from numpy.typing import NDArray

import tvmlayers as tl
from tvmlayers.layers.activations import NAMES
from tvmlayers.testing import verify

pytest.importorskip("torch")

Array = NDArray[Any]

SAMPLES = (17, 64)
EPS = 2.0**-23


@cache
def activation(name: str) -> tl.Compiled:
    x = tl.Input((10,))
    return tl.compile(tl.Model(x, tl.Activation(name)(x)))


@cache
def dense(name: str, inputs: int = 64) -> tl.Compiled:
    return tl.compile(tl.Dense(33, name, input_dim=inputs))


@cache
def pooling() -> tl.Compiled:
    return tl.compile(tl.Sequential([tl.Input((None, 16)), tl.GlobalAveragePooling1D()]))


@cache
def bag(mode: str) -> tl.Compiled:
    return tl.compile(tl.EmbeddingBag(100, 16, mode=mode))


def off_by(factor: float) -> Callable[[Array], Array]:
    """All numbers too large by so much of themselves."""
    return lambda result: (result * (1 + factor)).astype(result.dtype)


def finds(compiled: tl.Compiled, spoil: Callable[[Array], Array]) -> bool:
    """Whether verify passes the model, and does not when its results are spoilt."""
    right = verify(compiled, samples=SAMPLES)
    assert right.passed, str(right)
    return not verify(Broken(compiled, spoil), samples=SAMPLES).passed


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_roundings_are_found_in_an_activation(name: str) -> None:
    assert finds(activation(name), off_by(100 * EPS))


@pytest.mark.parametrize("name", NAMES)
def test_a_thousandth_is_found_in_an_activation_behind_a_dense(name: str) -> None:
    assert finds(dense(name), off_by(1e-3))


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_tanh", "sigmoid", "silu", "softplus", "mish", "exponential", "softmax"]
)
def test_a_rounding_of_one_is_found_in_a_tail(name: str) -> None:
    # as 1 + erf(x), 1 + tanh(x) or log(1 + exp(x)) have it
    assert finds(activation(name), lambda y: np.where(np.abs(y) < 1e-5, y + np.float32(EPS), y))


@pytest.mark.parametrize("inputs", [16, 256, 4096])
def test_a_hundredth_is_found_in_a_dense_layer(inputs: int) -> None:
    assert finds(dense("linear", inputs), off_by(1e-2))


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "min"])
def test_a_hundred_roundings_are_found_in_a_bag(mode: str) -> None:
    assert finds(bag(mode), off_by(100 * EPS))


def test_a_hundred_roundings_are_found_in_pooling() -> None:
    assert finds(pooling(), off_by(100 * EPS))


def merge(*layers: tl.Layer) -> Any:
    """A layer of two inputs, with others behind it."""
    x, y = tl.Input((48,)), tl.Input((48,))
    tensor = layers[0]([x, y])
    for layer in layers[1:]:
        tensor = layer(tensor)
    return tl.compile(tl.Model([x, y], tensor))


def behind(layer: tl.Layer) -> Any:
    return tl.compile(tl.Model(x := tl.Input((48,)), layer(x)))


@pytest.mark.parametrize("kind", [tl.Add, tl.Average, tl.Multiply, tl.Maximum, tl.Subtract])
def test_a_rounding_more_is_found_in_a_merge(kind: Any) -> None:
    assert finds(merge(kind()), off_by(2 * EPS))


@pytest.mark.parametrize(
    "layer",
    [tl.BatchNormalization(), tl.PReLU("ones"), tl.Rescaling(0.3), tl.LeakyReLU(), tl.ELU(2.0)],
    ids=lambda layer: layer.kind,
)
def test_a_few_roundings_are_found_element_by_element(layer: tl.Layer) -> None:
    assert finds(behind(layer), off_by(16 * EPS))


@pytest.mark.parametrize(
    "layer",
    [tl.LayerNormalization(), tl.RMSNormalization(), tl.UnitNormalization()],
    ids=lambda layer: layer.kind,
)
def test_a_hundred_roundings_are_found_in_a_normalisation(layer: tl.Layer) -> None:
    assert finds(behind(layer), off_by(100 * EPS))


def test_a_mean_that_is_rounded_is_found_in_a_layer_normalisation() -> None:
    """A thousand away from 0 a mean of one number loses 6e-5, which others do not."""
    compiled = behind(tl.LayerNormalization())

    class Rounded(Broken):
        def __call__(self, *inputs: Any, **named: Any) -> Any:
            x = next(iter([*inputs, *named.values()]))
            d = x - np.float32(1.0000001) * x.mean(-1, keepdims=True, dtype=np.float64).astype("f")
            return d / np.sqrt((d * d).mean(-1, keepdims=True) + np.float32(1e-3))

    assert verify(compiled).ok
    assert not verify(Rounded(compiled, off_by(0)), samples=SAMPLES).ok


@pytest.mark.parametrize("away", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_row_that_is_no_distribution_is_found_however_large_the_logits(
    name: str, away: float
) -> None:
    layer = tl.Dense(10, name, input_dim=4)
    layer.build((None, 4))
    (kernel, _) = layer.get_weights()
    layer.set_weights([kernel, np.full(10, away)])
    compiled = tl.compile(layer)
    assert verify(compiled).ok

    def renormed(result: Array) -> Array:
        return result + np.float32(1e-4) if name == "log_softmax" else result * np.float32(1.0001)

    assert not verify(Broken(compiled, renormed), samples=SAMPLES).ok


def test_a_logarithm_that_is_lost_beside_the_largest_logit_is_found() -> None:
    layer = tl.Dense(10, "log_softmax", input_dim=4)
    layer.build((None, 4))
    kernel, bias = layer.get_weights()[0], np.full(10, 1e6, np.float32)
    layer.set_weights([kernel, bias])
    compiled = tl.compile(layer)

    class Cancelling(Broken):
        def __call__(self, *inputs: Any, **named: Any) -> Any:
            logits = next(iter([*inputs, *named.values()])) @ kernel + bias
            top = logits.max(-1, keepdims=True)
            return logits - (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))

    assert verify(compiled).ok
    assert not verify(Cancelling(compiled, off_by(0)), samples=SAMPLES).ok
