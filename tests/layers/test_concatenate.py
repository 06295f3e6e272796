from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(2, 4), st.data())
def test_shape_is_numpys(shape: list[int], count: int, data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([*range(1, len(shape) + 1), *range(-len(shape), 0)]))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))
    at = axis - 1 if axis > 0 else axis
    shapes = [
        [size if place == at % len(shape) else other for place, other in enumerate(shape)]
        for size in sizes
    ]
    output = tl.Concatenate(axis)([tl.Input(one) for one in shapes])
    wanted = np.concatenate([np.zeros((1, *one)) for one in shapes], axis).shape
    assert output.shape == (None, *wanted[1:])


def test_batch_axis_is_refused() -> None:
    for axis in (0, -2, 2):
        with pytest.raises(tl.ConfigError, match=f"axis {axis}"):
            tl.Concatenate(axis)([tl.Input((3,)), tl.Input((3,))])


def test_other_axes_must_agree() -> None:
    with pytest.raises(tl.ShapeError, match="equal lengths on axis 1"):
        tl.Concatenate()([tl.Input((3, 2)), tl.Input((4, 2))])
    with pytest.raises(tl.ShapeError, match="equal ranks"):
        tl.Concatenate()([tl.Input((3, 2)), tl.Input((4,))])


def test_free_axes_become_one_where_they_must_agree() -> None:
    left, right = tl.Input((None, 2)), tl.Input((None, 3))
    model = tl.Model([left, right], tl.Concatenate()([left, right]))
    assert [tensor.dims for tensor in (*model.inputs, *model.outputs)] == [
        ("n", "n1", 2),
        ("n", "n1", 3),
        ("n", "n1", 5),
    ]


def test_free_axis_cannot_be_joined_along() -> None:
    with pytest.raises(tl.ShapeError, match="fixed lengths on axis 1"):
        tl.Concatenate(1)([tl.Input((None, 2)), tl.Input((3, 2))])


def test_free_and_fixed_axes_do_not_agree() -> None:
    with pytest.raises(tl.ShapeError, match="equal lengths on axis 1"):
        tl.Concatenate()([tl.Input((None, 2)), tl.Input((3, 2))])


def test_bags_and_samples_are_not_one_batch() -> None:
    with pytest.raises(tl.ShapeError, match="equal lengths on axis 0"):
        tl.Concatenate()([tl.Input((2,)), tl.Input((None, 2), batch=False)])


def test_one_tensor_or_none_is_refused() -> None:
    for tensors in ([], [tl.Input((3,))], tl.Input((3,))):
        with pytest.raises(tl.ConfigError, match="list of two or more"):
            tl.Concatenate()(tensors)


def test_dtypes_must_agree() -> None:
    with pytest.raises(tl.DTypeError, match="expected float64, got float32"):
        tl.Concatenate()([tl.Input((3,), dtype="float64"), tl.Input((3,), dtype="float32")])
