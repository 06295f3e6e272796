"""The reference is PyTorch's own modules, and its bounds are those of rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers.layers import as_model
from tvmlayers.layers.activations import NAMES
from tvmlayers.testing import Bounded, Reference, Rounding, compare
from tvmlayers.testing.activations import steps

torch = pytest.importorskip("torch")
functional = torch.nn.functional
RNG = np.random.default_rng(0)


def value(model: tl.Model | tl.Layer, *inputs: Any, **more: Any) -> Any:
    """The first output of the reference."""
    return Reference(as_model(model))(*inputs, **more)[0].value


def double(array: Any) -> Any:
    return torch.from_numpy(np.asarray(array, np.float64))


def test_every_activation_has_a_reference() -> None:
    assert set(steps()) == set(NAMES)


def test_dense_is_pytorchs_linear() -> None:
    layer = tl.Dense(5, "gelu", input_dim=7, bias_initializer="normal")
    kernel, bias = map(double, layer.get_weights())
    x = RNG.standard_normal((4, 7))
    wanted = functional.gelu(functional.linear(double(x), kernel.T, bias))
    torch.testing.assert_close(value(layer, x), wanted)


def test_embedding_is_pytorchs() -> None:
    layer = tl.Embedding(9, 4, input_shape=(3,))
    ids = RNG.integers(0, 9, (5, 3))
    wanted = functional.embedding(torch.from_numpy(ids), double(layer.get_weights()[0]))
    torch.testing.assert_close(value(layer, ids), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 4])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_a_bag_is_pytorchs(mode: str, padding_idx: int | None, include_last_offset: bool) -> None:
    layer = tl.EmbeddingBag(
        9, 4, mode=mode, padding_idx=padding_idx, include_last_offset=include_last_offset
    )
    ids, offsets = RNG.integers(0, 9, 30), np.array([0, 0, 7, 20, 30])
    factors = RNG.standard_normal(30) if mode == "sum" else None
    more = {"offsets": offsets, "per_sample_weights": factors}
    wanted = functional.embedding_bag(
        torch.from_numpy(ids),
        double(layer.get_weights()[0]),
        torch.from_numpy(offsets),
        mode=mode,
        per_sample_weights=None if factors is None else double(factors),
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )
    given = {role: array for role, array in more.items() if array is not None}
    torch.testing.assert_close(value(layer, ids, **given), wanted)


def test_the_smallest_of_a_bag_is_the_largest_of_its_negative() -> None:
    largest, smallest = (tl.EmbeddingBag(9, 4, mode=mode) for mode in ("max", "min"))
    smallest.set_weights([-weight for weight in largest.get_weights()])
    ids = RNG.integers(0, 9, (5, 3))
    torch.testing.assert_close(value(smallest, ids), -value(largest, ids))


def test_joins_and_products_are_pytorchs() -> None:
    a, b = RNG.standard_normal((2, 5, 7)), RNG.standard_normal((2, 6, 7))
    left, right = tl.Input((5, 7), dtype="float64"), tl.Input((6, 7), dtype="float64")
    inputs, pair = [left, right], (double(a), double(b))
    units = [functional.normalize(x, dim=-1) for x in pair]
    cases = {
        torch.cat(pair, dim=1): tl.Concatenate(axis=1),
        torch.bmm(pair[0], pair[1].mT): tl.Dot(axes=-1),
        torch.bmm(units[0], units[1].mT): tl.Dot(axes=2, normalize=True),
    }
    for wanted, layer in cases.items():
        torch.testing.assert_close(value(tl.Model(inputs, layer(inputs)), a, b), wanted)


def test_a_dot_of_any_axes_is_keras_tensordot() -> None:
    a, b = RNG.standard_normal((2, 7, 5)), RNG.standard_normal((2, 6, 7))
    inputs = [tl.Input((7, 5), dtype="float64"), tl.Input((6, 7), dtype="float64")]
    wanted = np.einsum("bki,bjk->bij", a, b)
    found = value(tl.Model(inputs, tl.Dot(axes=(1, 2))(inputs)), a, b)
    np.testing.assert_allclose(found.numpy(), wanted)


def test_pooling_is_the_mean_with_a_mask_and_without() -> None:
    ids = np.array([[1, 0, 2], [0, 0, 3]])
    for mask_zero in (False, True):
        model = tl.Sequential(
            [tl.Embedding(4, 2, mask_zero=mask_zero), tl.GlobalAveragePooling1D()]
        )
        (table,) = model.get_weights()
        kept = [[1, 2], [3]] if mask_zero else ids.tolist()
        wanted = [table[row].astype(np.float64).mean(axis=0) for row in kept]
        np.testing.assert_allclose(value(model, ids).numpy(), wanted)


@pytest.mark.parametrize("n", [1, 2, 17, 333, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpys_rounding_of_a_product_is_within_the_bound_and_not_far_below(
    n: int, dtype: str
) -> None:
    layer = tl.Dense(50, input_dim=n, dtype=dtype, bias_initializer="normal")
    x = RNG.standard_normal((40, n)).astype(dtype)
    (want,) = Reference(as_model(layer))(x)
    kernel, bias = layer.get_weights()
    in_turn = np.add.accumulate(x[:, :, None] * kernel, axis=1, dtype=dtype)[:, -1] + bias
    share = compare(in_turn, want, Rounding.of(dtype)).share
    assert share <= 1.0
    assert share > 1e-3 or dtype == "float64"


@pytest.mark.parametrize("name", NAMES)
def test_float32_of_pytorch_is_within_the_bound(name: str) -> None:
    layer = tl.Dense(33, name, input_dim=65)
    kernel = layer.get_weights()[0]
    x = RNG.standard_normal((100, 65)).astype(np.float32)
    (want,) = Reference(as_model(layer))(x)
    product = Bounded.exact(torch.from_numpy(x @ kernel))
    with torch.inference_mode():
        given = steps()[name](product, Rounding.of("float32")).value.numpy()
    assert compare(given, want, Rounding.of("float32")).is_rounding


@given(st.floats(-1e3, 1e3), st.floats(1e-9, 1.0))
def test_a_difference_counts_in_tolerances(value: float, bound: float) -> None:
    want = Bounded(torch.tensor([[value]]).double(), torch.tensor([[bound]]).double())
    exact = np.array([[float(want.value)]])
    rounding = Rounding.of("float32")
    assert compare(exact, want, rounding).share == 0
    assert compare(exact + 0.9 * bound, want, rounding).is_rounding
    assert not compare(exact + 1.2 * bound, want, rounding).is_rounding


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (1.0, np.inf, False),
        (np.inf, 1e39, True),  # past the largest float32
        (3.4e38, 1e39, False),
        (-np.inf, -1e39, True),
        (0.0, -0.0, True),
    ],
)
def test_what_is_not_finite_must_be_the_same(got: float, expected: float, same: bool) -> None:
    want = Bounded(torch.tensor([expected]).double(), torch.tensor([1e-3]).double())
    difference = compare(np.array([got]), want, Rounding.of("float32"))
    assert difference.is_rounding is same


def test_no_tolerance_means_the_same_bits() -> None:
    want = Bounded.exact(torch.tensor([1.0]).double())
    assert compare(np.array([1.0]), want, Rounding.of("float32")).is_rounding
    assert not compare(np.array([1 + 1e-12]), want, Rounding.of("float32")).is_rounding
