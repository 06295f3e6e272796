"""Whole models agree with PyTorch: recommenders, shared layers, unusual outputs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from agreement import BATCHES, Twin, indices, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmlayers as tl

DTYPES = ("float32", "float64")


@cache
def two_towers(dtype: str) -> Twin:
    user, item = tl.Input((), name="user"), tl.Input((5,), name="item")
    words = tl.Embedding(30, 16, mask_zero=True, dtype=dtype)(item)
    left = tl.Dense(24, "relu", dtype=dtype)(tl.Embedding(20, 16, dtype=dtype)(user))
    right = tl.Dense(24, "relu", dtype=dtype)(tl.GlobalAveragePooling1D()(words))
    match = tl.Activation("sigmoid")(tl.Dot(axes=1, normalize=True)([left, right]))
    return Twin(tl.Model([user, item], match))


@cache
def dlrm(dtype: str) -> Twin:
    numbers, inputs = tl.Input((13,), name="numbers", dtype=dtype), []
    features = [tl.Dense(16, "relu", dtype=dtype)(tl.Dense(40, "relu", dtype=dtype)(numbers))]
    for place in range(3):
        inputs.append(tl.Input((None,), name=f"sparse{place}"))
        features.append(tl.EmbeddingBag(50 + place, 16, mode="sum", dtype=dtype)(inputs[-1]))
    crossed = tl.Concatenate()([features[0], tl.DotInteraction()(features)])
    top = tl.Dense(1, "sigmoid", dtype=dtype)(tl.Dense(33, "relu", dtype=dtype)(crossed))
    return Twin(tl.Model([numbers, *inputs], top))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_towers_agree_for_every_batch(dtype: str) -> None:
    users, items = indices(20, 333), indices(30, 333, 5)
    items[:, 0] = np.maximum(items[:, 0], 1)  # at least one word each
    two_towers(dtype).agrees_for_every_batch(users, items)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_dlrm_agrees_for_every_batch(dtype: str) -> None:
    bags = [indices(50 + place, 333, length) for place, length in enumerate((1, 4, 9))]
    dlrm(dtype).agrees_for_every_batch(normal(333, 13, dtype=dtype), *bags)


def test_inputs_are_taken_by_name_in_any_order() -> None:
    twin = two_towers("float32")
    users, items = indices(20, 9), 1 + indices(29, 9, 5)
    np.testing.assert_array_equal(
        twin.compiled(item=items, user=users), twin.compiled(users, items)
    )


def test_batches_of_different_lengths_are_refused() -> None:
    with pytest.raises(tl.ShapeError):
        two_towers("float32").compiled(indices(20, 9), indices(30, 8, 5))


def test_a_shared_tower_uses_one_set_of_weights() -> None:
    left, right = tl.Input((6,)), tl.Input((6,))
    tower = tl.Sequential([tl.Dense(9, "relu", input_dim=6), tl.Dense(4)])
    twin = Twin(tl.Model([left, right], tl.Dot(1)([tower(left), tower(right)])))
    assert len(twin.compiled.packed_weights()) == 4
    twin.agrees_for_every_batch(normal(50, 6), normal(50, 6, seed=2), batches=range(50))


def test_a_shared_table_and_pooling_serve_two_inputs() -> None:
    left, right = tl.Input((None,)), tl.Input((None,))
    words, pool = tl.Embedding(11, 5, mask_zero=True), tl.GlobalAveragePooling1D()
    twin = Twin(tl.Model([left, right], tl.Concatenate()([pool(words(left)), pool(words(right))])))
    for batch, length in ((0, 3), (1, 1), (17, 6)):
        twin.agrees(indices(11, batch, length), indices(11, batch, 2 * length, seed=4))


def test_a_shared_bag_serves_two_inputs() -> None:
    left, right = tl.Input((None,)), tl.Input((3,))
    bag = tl.EmbeddingBag(11, 8, mode="max")
    twin = Twin(tl.Model([left, right], tl.Concatenate()([bag(left), bag(right)])))
    twin.agrees(indices(11, 7, 5), indices(11, 7, 3))


def test_a_layer_may_be_used_on_its_own_output_and_at_two_ranks() -> None:
    x, y = tl.Input((8,)), tl.Input((4, 8))
    layer, act = tl.Dense(8, "tanh"), tl.Activation("softmax")
    outputs = [layer(layer(layer(x))), layer(y), act(layer(x)), act(y)]
    twin = Twin(tl.Model([x, y], outputs))
    twin.agrees_for_every_batch(normal(20, 8), normal(20, 4, 8), batches=range(21))


def test_several_outputs_come_as_a_list() -> None:
    x = tl.Input((7,))
    hidden = tl.Dense(40, "relu")(x)
    outputs = [tl.Dense(3, "softmax")(hidden), hidden, tl.Dense(1)(hidden)]
    twin = Twin(tl.Model(x, outputs))
    assert isinstance(twin.compiled(normal(2, 7)), list)
    twin.agrees_for_every_batch(normal(333, 7), batches=BATCHES)


def test_an_output_may_be_an_input_or_stand_twice() -> None:
    x = tl.Input((6,))
    y = tl.Dense(6, "relu")(x)
    outputs = [tl.Flatten()(x), y, tl.Reshape((2, 3))(y), tl.Dropout(0.1)(y), tl.Dropout(0)(x)]
    twin = Twin(tl.Model(x, outputs))
    twin.agrees_for_every_batch(normal(20, 6), batches=range(21))
    results = twin.compiled(normal(3, 6))
    for i, left in enumerate(results):
        assert not any(np.shares_memory(left, right) for right in results[i + 1 :])


def test_an_output_may_also_feed_later_layers_through_views() -> None:
    x = tl.Input((6,))
    first = tl.Reshape((2, 3))(tl.Dense(6, "relu")(x))
    second = tl.Dense(4)(first)
    outputs = [tl.Flatten()(second), first, tl.Activation("gelu")(tl.Flatten()(first))]
    Twin(tl.Model(x, outputs)).agrees_for_every_batch(normal(20, 6), batches=range(21))


def test_one_index_input_may_feed_several_tables() -> None:
    ids = tl.Input((4,))
    rows = [tl.Embedding(rows, width)(ids) for rows, width in ((9, 3), (12, 17))]
    pooled = tl.EmbeddingBag(9, 5)(ids)
    flat = tl.Flatten()(tl.Concatenate()(rows))
    twin = Twin(tl.Model(ids, tl.Concatenate()([flat, pooled])))
    twin.agrees_for_every_batch(indices(9, 40, 4), batches=range(41))
    with pytest.raises(tl.IndexOutOfRangeError, match="index 10 at position"):
        twin.compiled(np.full((2, 4), 10))


def test_free_axes_of_different_inputs_are_independent() -> None:
    left, right = tl.Input((None, 3)), tl.Input((None, 3))
    pool = tl.GlobalAveragePooling1D()
    twin = Twin(tl.Model([left, right], tl.Concatenate()([pool(left), pool(right)])))
    twin.agrees(normal(5, 2, 3), normal(5, 9, 3))


def test_a_deep_chain_agrees() -> None:
    x = y = tl.Input((24,))
    for name in ("relu", "softmax", "relu6", "hard_silu", "leaky_relu", "linear", "relu", "gelu"):
        y = tl.Dense(24, name)(y)
    Twin(tl.Model(x, y)).agrees_for_every_batch(normal(33, 24), batches=(0, 1, 2, 17, 33))


def test_a_model_of_mixed_dtypes_keeps_them_apart() -> None:
    x, ids = tl.Input((5,), dtype="float64"), tl.Input((3,))
    wide = tl.Dense(4, dtype="float64")(x)
    narrow = tl.Dense(4, dtype="float32")(tl.Flatten()(tl.Embedding(7, 2)(ids)))
    twin = Twin(tl.Model([x, ids], [wide, narrow]))
    twin.agrees_for_every_batch(normal(50, 5, dtype="float64"), indices(7, 50, 3))


@settings(max_examples=10, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["relu", "linear", "softmax", "hard_silu"]), min_size=4),
    dtype=st.sampled_from(DTYPES),
)
def test_any_chain_of_dense_layers_agrees(widths: list[int], names: list[str], dtype: str) -> None:
    x = y = tl.Input((widths[0],), dtype=dtype)
    for width, name in zip(widths, names, strict=False):
        y = tl.Dense(width, name, dtype=dtype)(y)
    twin = Twin(tl.Model(x, y))
    twin.agrees_for_every_batch(normal(40, widths[0], dtype=dtype), batches=(0, 1, 6, 33, 40))
