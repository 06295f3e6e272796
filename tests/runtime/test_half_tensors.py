"""Tensors of float16 and bfloat16 in and out of compiled models: NumPy's, torch's, bound, saved."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.dtypes import HALF_DTYPES, numpy_dtype
from tvmlayers.runtime.tensors import to_torch

torch = pytest.importorskip("torch")

both = pytest.mark.parametrize("dtype", HALF_DTYPES)


@cache
def model(dtype: str) -> tl.Sequential:
    layers = [tl.Dense(9, "gelu", input_dim=20, dtype=dtype), tl.Dense(3, "relu", dtype=dtype)]
    return tl.Sequential(layers)


@cache
def compiled(dtype: str) -> Any:
    return tl.compile(model(dtype))


def given(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 20)).astype(numpy_dtype(dtype))


def same(found: Any, wanted: np.ndarray) -> None:
    """AssertionError unless both have the same bits."""
    array = found.view(torch.int16).numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_array_equal(array.view(np.uint16), wanted.view(np.uint16))


@both
def test_arrays_give_arrays_and_torch_tensors_torch_tensors(dtype: str) -> None:
    x = given(dtype)
    result = compiled(dtype)(x)
    assert result.dtype == numpy_dtype(dtype)
    for _ in range(2):  # the general way, then the short one
        found = compiled(dtype)(to_torch(x))
        assert found.dtype == getattr(torch, dtype)
        same(found, result)
    assert compiled(dtype)(to_torch(x)[:0]).shape == (0, 3)


@both
def test_views_read_only_arrays_and_lists_are_taken(dtype: str) -> None:
    x = given(dtype)
    result = compiled(dtype)(x)
    locked = x.copy()
    locked.flags.writeable = False
    same(compiled(dtype)(locked), result)
    same(compiled(dtype)(np.asfortranarray(x)), result)
    same(compiled(dtype)(to_torch(x)[::2]), result[::2])
    same(compiled(dtype)(x.astype(np.float32).tolist()), result)


@both
def test_buffers_of_the_dtype_are_filled(dtype: str) -> None:
    x = given(dtype)
    result = compiled(dtype)(x)
    for out in (np.empty_like(result), torch.empty(5, 3, dtype=getattr(torch, dtype))):
        assert compiled(dtype)(x if isinstance(out, np.ndarray) else to_torch(x), out=out) is out
        same(out, result)


@both
def test_bound_calls_read_halves_where_they_lie(dtype: str) -> None:
    x = given(dtype)
    for tensor in (x.copy(), to_torch(x.copy())):
        bound = compiled(dtype).bind(tensor)
        same(bound(), compiled(dtype)(x))
        tensor[:] = 0
        same(bound(), compiled(dtype)(np.zeros_like(x)))


@both
def test_several_inputs_and_outputs(dtype: str) -> None:
    a, b = tl.Input((4,), dtype=dtype), tl.Input((4,), dtype=dtype)
    twice = tl.compile(tl.Model([a, b], [tl.Add()([a, b]), tl.Multiply()([a, b])]))
    ones = np.ones((2, 4), numpy_dtype(dtype))
    for _ in range(2):
        assert [each.dtype for each in twice(ones, ones)] == [numpy_dtype(dtype)] * 2
        made = twice(to_torch(ones), to_torch(ones))
        assert [each.dtype for each in made] == [getattr(torch, dtype)] * 2
        assert float(made[0][0, 0]) == 2


@both
def test_rows_for_torch_indices_are_torch_tensors(dtype: str) -> None:
    lookup = tl.compile(tl.Embedding(9, 4, dtype=dtype, oob="clip"), example=[[0]])
    for _ in range(2):
        assert lookup(torch.zeros(2, 3, dtype=torch.int64)).dtype == getattr(torch, dtype)
        assert lookup(indices=torch.zeros(2, 3, dtype=torch.int64)).dtype == getattr(torch, dtype)


@both
def test_saved_copied_and_pickled_models_give_the_same(dtype: str, tmp_path: Path) -> None:
    result = compiled(dtype)(given(dtype))
    compiled(dtype).save(tmp_path / "halves.tvml")
    loaded = tl.load(tmp_path / "halves.tvml")
    same(loaded(given(dtype)), result)
    assert tl.verify(loaded, samples=[1, 5]).ok
    same(copy.deepcopy(loaded)(given(dtype)), result)
    same(pickle.loads(pickle.dumps(loaded))(given(dtype)), result)


@both
def test_new_weights_are_rounded_as_those_of_layers(dtype: str) -> None:
    weights = [2 * weight.astype(np.float32) / 3 for weight in model(dtype).get_weights()]
    again = copy.deepcopy(model(dtype))
    again.set_weights(weights)
    same(compiled(dtype).with_weights(weights)(given(dtype)), tl.compile(again)(given(dtype)))


@pytest.mark.parametrize("other", ["float16", "float32", "float64", "int64"])
def test_other_dtypes_are_refused_with_what_to_do(other: str) -> None:
    x = np.zeros((2, 20), other)
    with pytest.raises(tl.DTypeError, match=f"expected bfloat16, got {other}; cast with"):
        compiled("bfloat16")(x)
    with pytest.raises(tl.DTypeError, match=r"cast with \.to\(torch\.bfloat16\)"):
        compiled("bfloat16")(torch.from_numpy(x))


@both
def test_layers_are_called_on_arrays(dtype: str) -> None:
    layer = tl.Dense(2, dtype=dtype, seed=1)
    assert layer(given(dtype)).dtype == numpy_dtype(dtype)
    assert layer(to_torch(given(dtype))).dtype == getattr(torch, dtype)
