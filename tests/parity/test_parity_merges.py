"""Operations element by element agree with PyTorch: merges, and functions with own numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import BATCHES, Twin, compile_here, normal, on_cpu

import tvmlayers as tl

pytestmark = on_cpu

MERGES = (tl.Add, tl.Average, tl.Multiply, tl.Maximum, tl.Minimum)
DTYPES = ("float32", "float64")


@cache
def merges(dtype: str) -> Twin:
    """Every merge of one shape, of several, of one tensor with itself and of three."""
    a, b = tl.Input((5, 7), dtype=dtype), tl.Input((5, 7), dtype=dtype)
    row, column = tl.Input((7,), dtype=dtype), tl.Input((5, 1), dtype=dtype)
    made = [merge()([a, b]) for merge in (*MERGES, tl.Subtract)]
    made += [merge()([column, a, row]) for merge in MERGES]
    made += [tl.Subtract()([row, a]), tl.Add()([row, row]), tl.Multiply()([row, column])]
    return Twin(tl.Model([a, b, row, column], made))


def operands(count: int, dtype: str = "float32") -> list[Any]:
    shapes = [(5, 7), (5, 7), (7,), (5, 1)]
    return [normal(count, *shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_merges_are_pytorchs(dtype: str) -> None:
    merges(dtype).agrees_for_every_batch(*operands(333, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_merges_of_infinities_and_nan_are_pytorchs(dtype: str) -> None:
    edges = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-30], dtype)
    a, b = (np.broadcast_to(e, (7, 5, 7)).copy() for e in (edges, edges[:, None, None]))
    merges(dtype).agrees(a, b, b[:, 0], np.ascontiguousarray(a[:, :, 3:4]))


def test_merges_of_many_tensors_agree() -> None:
    inputs = [tl.Input((3,)) for _ in range(40)]
    twin = Twin(tl.Model(inputs, [merge()(inputs) for merge in MERGES]))
    twin.agrees(*(normal(5, 3, seed=i) for i in range(40)))


def test_merges_of_a_free_length_agree() -> None:
    a, b = tl.Input((None, 3)), tl.Input((None, 3))
    twin = Twin(tl.Model([a, b], [tl.Add()([a, b]), tl.Maximum()([b, a])]))
    for steps in (0, 1, 9):
        twin.agrees(normal(4, steps, 3), normal(4, steps, 3, seed=2))
    with pytest.raises(tl.ShapeError):
        twin.compiled(normal(4, 2, 3), normal(4, 1, 3))


@cache
def scaled(dtype: str) -> Twin:
    """Functions of an element with numbers of their own, over axes of all kinds."""
    x, free = tl.Input((5, 7), dtype=dtype), tl.Input((None, 7), dtype=dtype)
    scale = np.linspace(-2, 2, 7)
    made = [
        tl.LeakyReLU(0.01)(x),
        tl.LeakyReLU()(free),
        tl.ELU(1.5)(x),
        tl.PReLU(dtype=dtype)(x),
        tl.PReLU(shared_axes=[1], dtype=dtype)(free),
        tl.PReLU(shared_axes=(1, 2), dtype=dtype)(x),
        tl.PReLU(shared_axes=2, dtype=dtype)(x),
        tl.Rescaling(1 / 255, -1.0)(x),
        tl.Rescaling(scale, offset=[[0.5], [1], [2], [3], [4]])(x),
        tl.Rescaling(2, scale)(free),
        tl.BatchNormalization(dtype=dtype)(free),
        tl.BatchNormalization(axis=1, dtype=dtype)(x),
        tl.BatchNormalization(center=False, epsilon=0.1, dtype=dtype)(x),
        tl.BatchNormalization(scale=False, dtype=dtype)(x),
    ]
    return Twin(tl.Model([x, free], made))


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_with_numbers_of_their_own_are_pytorchs(dtype: str) -> None:
    x, free = normal(100, 5, 7, dtype=dtype), normal(100, 9, 7, dtype=dtype)
    scaled(dtype).agrees_for_every_batch(x, free, batches=[b for b in BATCHES if b <= 100])
    far = np.array([np.inf, -np.inf, np.nan, 0, 1e30, -1e30, 1e-30], dtype)
    scaled(dtype).agrees(np.broadcast_to(far, (3, 5, 7)), np.broadcast_to(far, (3, 2, 7)))


def test_one_layer_on_tensors_of_several_ranks_agrees() -> None:
    norm, scale = tl.BatchNormalization(), tl.Rescaling(np.arange(4.0))
    x, y = tl.Input((4,)), tl.Input((3, 4))
    twin = Twin(tl.Model([x, y], [norm(x), norm(y), scale(x), scale(y)]))
    twin.agrees(normal(6, 4), normal(6, 3, 4))


def test_a_layer_is_called_with_arrays_as_a_model_is() -> None:
    x, y = normal(3, 4), normal(3, 4, seed=2)
    np.testing.assert_array_equal(tl.Add()([x, y]), x + y)
    np.testing.assert_array_equal(tl.Subtract()([x[0], y[0]]), x[0] - y[0])
    np.testing.assert_array_equal(tl.Maximum()([x, y, x]), np.maximum(x, y))
    np.testing.assert_array_equal(tl.PReLU()(x), np.maximum(x, 0))


@cache
def normalising() -> tl.Sequential:
    """Batch normalisations before, between and after Dense layers, of which none stays."""
    model = tl.Sequential(
        [
            tl.Input((20,)),
            tl.BatchNormalization(),
            tl.Dense(31, use_bias=False),
            tl.BatchNormalization(scale=False),
            tl.Activation("relu"),
            tl.BatchNormalization(center=False),
            tl.Dense(7, "gelu"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1.2, w.shape) for w in model.get_weights()])
    return model


def test_batch_normalisations_beside_dense_layers_leave_no_kernel() -> None:
    twin = Twin(normalising(), seed=None)
    assert [row["kind"] for row in twin.compiled.report()] == ["dense", "dense"]
    twin.agrees_for_every_batch(normal(333, 20))


def test_folded_weights_are_rounded_once() -> None:
    norm, dense = tl.BatchNormalization(), tl.Dense(9, input_dim=6)
    model = tl.Sequential([dense, norm])
    rng = np.random.default_rng(3)
    model.set_weights([rng.uniform(0.2, 1.2, w.shape) for w in model.get_weights()])
    kernel, bias = (w.astype(np.float64) for w in dense.get_weights())
    gamma, beta, mean, variance = (w.astype(np.float64) for w in norm.get_weights())
    factor = gamma / np.sqrt(variance + 1e-3)
    packed = compile_here(model).packed_weights()
    exact = (bias - mean) * factor + beta
    np.testing.assert_array_equal(packed["dense/bias"][:9], exact.astype(np.float32))
    # Ones pick rows of the kernel: 1 * w + 0 + ... + 0 + bias is rounded once.
    got = compile_here(model)(np.zeros((1, 6), np.float32))
    np.testing.assert_array_equal(got[0], exact.astype(np.float32))
    assert packed["dense/kernel"].size >= kernel.size


def test_a_mean_far_from_zero_is_taken_away_before_a_dense() -> None:
    norm, dense = tl.BatchNormalization(), tl.Dense(5, input_dim=6)
    model = tl.Sequential([tl.Input((6,)), norm, dense])
    model.set_weights(
        [np.ones(6), np.zeros(6), np.full(6, 1e4), np.ones(6), np.full((6, 5), 0.3), np.zeros(5)]
    )
    twin = Twin(model, seed=None)
    assert [row["kind"] for row in twin.compiled.report()] == ["elementwise", "dense"]
    twin.agrees(normal(50, 6) + np.float32(1e4))


@pytest.mark.parametrize("kind", ["used twice", "read twice", "an activation", "another axis"])
def test_batch_normalisations_stay_where_a_dense_cannot_take_them(kind: str) -> None:
    x, norm, dense = tl.Input((3, 4)), tl.BatchNormalization(), tl.Dense(4)
    if kind == "used twice":
        made: Any = [norm(dense(x)), dense(norm(x))]
    elif kind == "read twice":
        made = [hidden := dense(x), norm(hidden)]
    elif kind == "an activation":
        made = norm(tl.Dense(4, "relu")(x))
    else:
        made = tl.BatchNormalization(axis=1)(dense(x))
    twin = Twin(tl.Model(x, made))
    assert "elementwise" in [row["kind"] for row in twin.compiled.report()]
    twin.agrees(normal(9, 3, 4))
