from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl


@given(st.lists(st.integers(1, 20), max_size=4))
def test_all_axes_but_the_batch_become_one(shape: list[int]) -> None:
    assert tl.Flatten()(tl.Input(shape)).shape == (None, prod(shape))


def test_a_free_axis_is_refused_with_a_remedy() -> None:
    with pytest.raises(tl.ShapeError, match="pass input_length"):
        tl.Flatten()(tl.Embedding(3, 2)(tl.Input((None,))))


def test_input_shape_of_keras_2_begins_a_sequential() -> None:
    model = tl.Sequential([tl.Flatten(input_shape=(28, 28)), tl.Dense(10, dtype="float64")])
    assert model.output_shape == (None, 10)
    assert model.inputs[0].dtype == "float64"
