from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@given(SIZES, st.data())
def test_one_minus_one_takes_what_is_left(shape: list[int], data: st.DataObject) -> None:
    target = list(data.draw(st.permutations(shape)))
    hole = data.draw(st.integers(0, len(target) - 1))
    wanted, target[hole] = tuple(target), -1
    assert tl.Reshape(target)(tl.Input(shape)).shape == (None, *wanted)


@given(SIZES, SIZES)
def test_the_number_of_elements_must_agree(shape: list[int], target: list[int]) -> None:
    if prod(shape) == prod(target):
        assert tl.Reshape(target)(tl.Input(shape)).shape == (None, *target)
        return
    with pytest.raises(tl.ShapeError, match="cannot put"):
        tl.Reshape(target)(tl.Input(shape))


@pytest.mark.parametrize("target", [(0,), (-2, 3), (-1, -1), (2.0,), ("a",)])
def test_impossible_targets_are_refused_at_once(target: tuple[int, ...]) -> None:
    with pytest.raises(tl.ConfigError):
        tl.Reshape(target)


def test_elements_that_do_not_divide_are_refused() -> None:
    with pytest.raises(tl.ShapeError, match="10 elements"):
        tl.Reshape((-1, 3))(tl.Input((10,)))
