from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl

SIZES = st.integers(1, 9)


def dot(left: tuple[Any, ...], right: tuple[Any, ...], axes: Any) -> tuple[int | None, ...]:
    output: tl.layers.SymbolicTensor = tl.Dot(axes)([tl.Input(left), tl.Input(right)])
    return output.shape


@given(SIZES)
def test_two_vectors_give_one_number(size: int) -> None:
    for axes in (1, -1, (1, 1), [1, -1]):
        assert dot((size,), (size,), axes) == (None, 1)


@given(SIZES, SIZES, SIZES)
def test_two_matrices_give_all_pairs(i: int, j: int, d: int) -> None:
    assert dot((i, d), (j, d), 2) == (None, i, j)
    assert dot((d, i), (d, j), 1) == (None, i, j)
    assert dot((i, d), (d, j), (2, 1)) == (None, i, j)
    assert dot((i, d), (d,), (2, 1)) == (None, i)


def test_axes_of_different_lengths_are_refused() -> None:
    with pytest.raises(tl.ShapeError, match="equal lengths"):
        dot((3,), (4,), 1)


@pytest.mark.parametrize("axes", [0, 2, -2, (1, 3)])
def test_batch_and_missing_axes_are_refused(axes: Any) -> None:
    with pytest.raises(tl.ConfigError, match="axis"):
        dot((3,), (3,), axes)


@pytest.mark.parametrize("axes", [(1,), (1, 1, 1), 1.0, "1"])
def test_axes_are_one_or_two_whole_numbers(axes: Any) -> None:
    with pytest.raises(tl.ConfigError):
        tl.Dot(axes)


def test_two_tensors_of_rank_2_or_3_are_wanted() -> None:
    with pytest.raises(tl.ShapeError, match="two tensors"):
        tl.Dot(1)([tl.Input((3,))] * 3)
    with pytest.raises(tl.ShapeError, match="rank 2 or 3"):
        dot((3, 4, 5), (3, 4, 5), 1)
