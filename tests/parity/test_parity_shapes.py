"""Layers without weights agree with PyTorch: views, joins, dot products, pooling."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from agreement import Twin, compile_here, indices, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmlayers as tl

torch = pytest.importorskip("torch")

DTYPES = ("float32", "float64")
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_give_the_elements_in_order(dtype: str) -> None:
    x = tl.Input((3, 4, 5), dtype=dtype)
    views = [
        tl.Flatten()(x),
        tl.Reshape((60,))(x),
        tl.Reshape((5, -1))(x),
        tl.Reshape((-1, 2, 2, 3))(x),
        tl.Dropout(0.5)(x),
        tl.Activation("linear")(x),
        tl.Reshape((4, 15))(tl.Flatten()(tl.Dropout(0.1)(x))),
    ]
    twin = Twin(tl.Model(x, views))
    twin.agrees_for_every_batch(normal(41, 3, 4, 5, dtype=dtype), batches=range(41))


def test_a_view_of_an_input_is_a_copy_of_it() -> None:
    x = tl.Input((3,))
    compiled = compile_here(tl.Model(x, tl.Flatten()(x)))
    given = normal(4, 3)
    result = compiled(given)
    assert not np.shares_memory(given, result)
    np.testing.assert_array_equal(result, given)


def test_flatten_gives_vectors_an_axis_of_one() -> None:
    x = tl.Input(())
    Twin(tl.Model(x, tl.Flatten()(x))).agrees_for_every_batch(normal(7), batches=range(8))


@settings(max_examples=10, deadline=None)
@given(SIZES, st.data())
def test_any_reshape_keeps_the_elements(shape: list[int], data: st.DataObject) -> None:
    x = tl.Input(shape)
    twin = Twin(tl.Model(x, tl.Reshape(data.draw(st.permutations(shape)))(x)))
    twin.agrees_for_every_batch(normal(3, *shape), batches=(0, 1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_concatenate_joins_any_axis(dtype: str) -> None:
    shapes = (2, 3, 4), (2, 3, 4), (5, 3, 4), (2, 1, 4), (2, 3, 17)
    inputs = [tl.Input(shape, dtype=dtype) for shape in shapes]
    a, b, first, second, third = inputs
    outputs = [
        tl.Concatenate()([a, third, b]),
        tl.Concatenate(axis=3)([third, a]),
        tl.Concatenate(axis=1)([a, first]),
        tl.Concatenate(axis=-2)([second, a, second]),
        tl.Concatenate()([a, a]),
    ]
    twin = Twin(tl.Model(inputs, outputs))
    arrays = [normal(33, *shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    twin.agrees_for_every_batch(*arrays, batches=(0, 1, 2, 7, 32, 33))


def test_concatenate_of_many_odd_widths_agrees() -> None:
    widths = (1, 3, 17, 31, 64, 1, 100)
    inputs = [tl.Input((width,)) for width in widths]
    twin = Twin(tl.Model(inputs, tl.Concatenate()(inputs)))
    twin.agrees_for_every_batch(*(normal(333, width, seed=width) for width in widths))


def test_concatenate_takes_a_free_axis_that_all_share() -> None:
    left, right = tl.Input((None, 3)), tl.Input((None, 4))
    twin = Twin(tl.Model([left, right], tl.Concatenate()([left, right])))
    twin.agrees(normal(2, 5, 3), normal(2, 5, 4))
    twin.agrees(normal(2, 0, 3), normal(2, 0, 4))
    with pytest.raises(tl.ShapeError):
        twin.compiled(normal(2, 5, 3), normal(2, 6, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [False, True])
def test_dot_contracts_any_axes(normalize: bool, dtype: str) -> None:
    shapes = [(k,) for k in (1, 3, 17, 64)] + [(5, 17), (17, 5), (6, 17), (17,)]
    inputs = [tl.Input(shape, dtype=dtype) for shape in shapes]
    one, three, seventeen, many, rows, columns, others, vector = inputs

    def dot(axes: object, *pair: tl.layers.SymbolicTensor) -> tl.layers.SymbolicTensor:
        return tl.Dot(axes, normalize=normalize)(list(pair))

    outputs = [
        dot(1, one, one),
        dot(-1, three, three),
        dot(1, seventeen, vector),
        dot((1, -1), many, many),
        dot(2, rows, others),
        dot((2, 1), rows, columns),
        dot((1, 2), columns, others),
        dot(1, columns, columns),
        dot((2, 1), rows, vector),
        dot((1, 1), vector, columns),
    ]
    twin = Twin(tl.Model(inputs, outputs))
    arrays = [normal(40, *shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    twin.agrees_for_every_batch(*arrays, batches=(0, 1, 2, 7, 33, 40))


def test_a_dot_product_is_pytorchs_and_numpys() -> None:
    left, right = tl.Input((5, 17)), tl.Input((6, 17))
    compiled = compile_here(tl.Model([left, right], tl.Dot(axes=2)([left, right])))
    a, b = normal(9, 5, 17), normal(9, 6, 17, seed=2)
    result = compiled(a, b)
    np.testing.assert_allclose(result, np.einsum("bik,bjk->bij", a, b), atol=1e-4)
    wanted = torch.bmm(torch.from_numpy(a), torch.from_numpy(b).mT).numpy()
    np.testing.assert_allclose(result, wanted, atol=1e-4)


def test_the_cosine_of_nothing_is_zero_and_of_tiny_vectors_small() -> None:
    left, right = tl.Input((3,)), tl.Input((3,))
    twin = Twin(tl.Model([left, right], tl.Dot(axes=1, normalize=True)([left, right])))
    a = np.array([[0, 0, 0], [1e-20, 0, 0], [1e-3, 1e-3, 0], [3, 4, 0], [-1e18, 0, 0]], "float32")
    twin.agrees(a, np.ascontiguousarray(a[::-1]))
    twin.agrees(a, a)
    assert twin.compiled(a, a)[0] == 0
    np.testing.assert_allclose(twin.compiled(a, a)[3:], 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("features", "d"), [(2, 1), (3, 17), (9, 64), (27, 16), (4, 100)])
def test_dot_interaction_gives_all_pairs_once(features: int, d: int, dtype: str) -> None:
    x = tl.Input((features, d), dtype=dtype)
    twin = Twin(tl.Model(x, tl.DotInteraction()(x)))
    given = normal(33, features, d, dtype=dtype)
    twin.agrees_for_every_batch(given, batches=(0, 1, 2, 7, 33))
    row, column = np.tril_indices(features, -1)
    wanted = np.einsum("bik,bjk->bij", given, given)[:, row, column]
    np.testing.assert_allclose(twin.compiled(given), wanted, rtol=1e-3, atol=1e-4)


def test_dot_interaction_of_separate_vectors_is_that_of_the_stack() -> None:
    inputs = [tl.Input((8,)) for _ in range(4)]
    compiled = compile_here(tl.Model(inputs, tl.DotInteraction()(inputs)))
    arrays = [normal(5, 8, seed=i) for i in range(4)]
    x = tl.Input((4, 8))
    stacked = compile_here(tl.Model(x, tl.DotInteraction()(x)))
    np.testing.assert_array_equal(compiled(*arrays), stacked(np.stack(arrays, axis=1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 16, 17, 100])
def test_pooling_is_the_mean_over_the_steps(width: int, dtype: str) -> None:
    x = tl.Input((None, width), dtype=dtype)
    twin = Twin(tl.Model(x, tl.GlobalAveragePooling1D()(x)))
    for batch, steps in product((0, 1, 2, 33), (1, 2, 17, 100)):
        twin.agrees(normal(batch, steps, width, dtype=dtype))
    assert np.isnan(twin.compiled(normal(2, 0, width, dtype=dtype))).all()  # as NumPy and Keras


def test_pooling_of_fixed_steps_agrees() -> None:
    Twin(tl.GlobalAveragePooling1D(input_shape=(9, 12))).agrees_for_every_batch(normal(20, 9, 12))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling_leaves_masked_steps_out(dtype: str) -> None:
    ids = tl.Input((None,))
    words = tl.Embedding(7, 17, mask_zero=True, dtype=dtype)(ids)
    # the mask goes through whatever keeps the steps
    tall = tl.Activation("tanh")(tl.Dropout(0.5)(tl.Dense(18, dtype=dtype)(words)))
    pooled = [tl.GlobalAveragePooling1D()(tensor) for tensor in (words, tall)]
    twin = Twin(tl.Model(ids, pooled))
    for batch, steps in product((0, 1, 2, 33), (1, 2, 17)):
        for index_dtype in ("int32", "int64"):
            twin.agrees(indices(7, batch, steps, dtype=index_dtype))


def test_a_masked_mean_counts_the_words_that_are_there() -> None:
    model = tl.Sequential([tl.Embedding(9, 4, mask_zero=True), tl.GlobalAveragePooling1D()])
    compiled = compile_here(model)
    (table,) = model.get_weights()
    result = compiled(np.array([[3, 0, 5, 0], [0, 0, 0, 8], [1, 2, 3, 4]]))
    wanted = [table[[3, 5]].mean(axis=0), table[8], table[[1, 2, 3, 4]].mean(axis=0)]
    np.testing.assert_allclose(result, wanted, rtol=1e-6)
    assert np.isnan(compiled(np.zeros((1, 3), np.int64))).all()  # 0 / 0, as Keras has it


def test_without_mask_zero_index_zero_counts() -> None:
    model = tl.Sequential([tl.Embedding(9, 4), tl.GlobalAveragePooling1D()])
    compiled = compile_here(model)
    (table,) = model.get_weights()
    wanted = table[[3, 0]].mean(axis=0)[None]
    np.testing.assert_allclose(compiled(np.array([[3, 0]])), wanted, rtol=1e-6)
