from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl

AXES = st.lists(st.one_of(st.none(), st.integers(1, 50)), max_size=4)


@given(AXES, st.integers(1, 64))
def test_indices_of_any_shape_gain_one_axis(shape: list[int | None], dim: int) -> None:
    indices = tl.Input(shape)
    output = tl.Embedding(10, dim)(indices)
    assert output.shape == (None, *shape, dim)
    assert indices.dtype == "int64"
    assert output.dtype == "float32"


@given(st.integers(1, 20), st.integers(-30, 30))
def test_padding_idx_is_in_range_or_refused(rows: int, padding_idx: int) -> None:
    if not -rows <= padding_idx < rows:
        with pytest.raises(tl.ConfigError, match="padding_idx"):
            tl.Embedding(rows, 3, padding_idx=padding_idx)
        return
    table = tl.Embedding(rows, 3, "ones", padding_idx=padding_idx).weights["embeddings"]
    assert not table[padding_idx].any()
    assert table.sum() == 3 * (rows - 1)


def test_input_length_gives_the_shape_and_is_enforced() -> None:
    assert tl.Sequential([tl.Embedding(5, 2, input_length=10)]).input_shape == (None, 10)
    for shape in [(9,), (), (None,), (10, 1)]:
        with pytest.raises(tl.ShapeError, match=r"shape \(batch, 10\)"):
            tl.Embedding(5, 2, input_length=10)(tl.Input(shape))


def test_without_input_length_a_sequential_takes_any_length() -> None:
    model = tl.Sequential([tl.Embedding(5, 2)])
    assert model.input_shape == (None, None)
    assert model.inputs[0].dims == ("n", "n1")


def test_default_table_is_uniform_within_a_twentieth() -> None:
    table = tl.Embedding(100, 50, seed=0).weights["embeddings"]
    assert table.dtype == np.float32
    assert 0.045 < np.abs(table).max() <= 0.05


def test_table_is_not_made_before_it_is_needed() -> None:
    layer = tl.Embedding(10**12, 64)
    assert layer.count_params() == 64 * 10**12
    assert layer(tl.Input((3,))).shape == (None, 3, 64)


@pytest.mark.parametrize("wrap", [lambda table: table, lambda table: [table]])
def test_weights_argument_takes_the_table_or_a_list_of_it(wrap: object) -> None:
    table = np.arange(2.0).reshape(1, 2)
    layer = tl.Embedding(1, 2, weights=wrap(table))
    np.testing.assert_array_equal(layer.weights["embeddings"], table)
    assert layer.weights["embeddings"].dtype == np.float32


def test_weights_argument_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(tl.WeightsError, match=r"expected shape \(3, 2\), got \(3, 4\)"):
        tl.Embedding(3, 2, weights=np.zeros((3, 4)))


def test_float_indices_are_refused() -> None:
    with pytest.raises(tl.DTypeError, match="expected integers"):
        tl.Embedding(3, 2)(tl.Input((4,), dtype="float32"))


def test_indices_come_straight_from_an_input() -> None:
    floats = tl.Dense(3)(tl.Input((4,)))
    with pytest.raises(tl.DTypeError, match="expected integers"):
        tl.Embedding(3, 2)(floats)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_every_index_dtype_is_kept(dtype: str) -> None:
    indices = tl.Input((4,), dtype=dtype)
    tl.Embedding(3, 2)(indices)
    assert indices.dtype == dtype


def test_unknown_oob_names_the_nearest() -> None:
    with pytest.raises(tl.UnknownNameError, match=r"Did you mean 'clip'\?.*raise, unchecked, zero"):
        tl.Embedding(3, 2, oob="clipped")


def test_mask_zero_marks_the_output_with_its_indices() -> None:
    indices = tl.Input((4,))
    assert tl.Embedding(3, 2, mask_zero=True)(indices).mask_of is indices
    assert tl.Embedding(3, 2)(indices).mask_of is None


def test_config_makes_an_equal_layer() -> None:
    layer = tl.Embedding(
        7, 2, "he_normal", mask_zero=True, input_length=4, padding_idx=-1, oob="zero", seed=1
    )
    again = tl.Embedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again.weights["embeddings"], layer.weights["embeddings"])
    assert again.padding_idx == 6
