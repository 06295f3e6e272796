from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmlayers as tl


def test_batch_axis_comes_first_and_is_shared() -> None:
    for shape in ((), (3,), 3, [None, 2]):
        tensor = tl.Input(shape)
        assert tensor.shape[0] is None
        assert tensor.dims[0] == "n"
    assert tl.Input(3).shape == (None, 3)


def test_batch_shape_says_the_same() -> None:
    assert tl.Input(batch_shape=(None, 4)).dims == tl.Input((4,)).dims


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shape": (3,), "batch_shape": (None, 3)},
        {"batch_shape": (2, 3)},
        {"batch_shape": ()},
        {"shape": (0,)},
        {"shape": (-1,)},
        {"shape": (2.5,)},
        {"shape": (), "batch": False},
        {"shape": (3,), "name": "a/b"},
        {"shape": (3,), "name": ""},
    ],
)
def test_impossible_inputs_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(tl.ConfigError):
        tl.Input(**arguments)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "uint64", "bool", "string"])
def test_unknown_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(tl.DTypeError, match=dtype):
        tl.Input((3,), dtype=dtype)


def test_first_use_decides_the_dtype() -> None:
    indices, values, plain = tl.Input((3,)), tl.Input((3,)), tl.Input((3,))
    tl.Embedding(5, 2)(indices)
    tl.Dense(2, dtype="float64")(values)
    tl.Flatten()(plain)
    assert [t.dtype for t in (indices, values, plain)] == ["int64", "float64", "float32"]
    assert tl.Input((3,), dtype=np.int32).dtype == "int32"


def test_the_name_of_the_result_buffer_is_refused() -> None:
    with pytest.raises(tl.ConfigError, match="cannot be named 'out'"):
        tl.Input((3,), name="out")
