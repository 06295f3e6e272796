"""NumPy's scalars are numbers wherever Python's are; truth values are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

MAKERS: dict[str, Callable[[Any], Any]] = {
    "input": lambda n: tl.Input(n),
    "input_axis": lambda n: tl.Input((n, None)),
    "batch_shape": lambda n: tl.Input(batch_shape=(None, n)),
    "units": lambda n: tl.Dense(n),
    "input_dim": lambda n: tl.Dense(2, input_dim=n),
    "input_shape": lambda n: tl.Dense(2, input_shape=(n,)),
    "single_input_shape": lambda n: tl.Dense(2, input_shape=n),
    "seed": lambda n: tl.Dense(2, seed=n),
    "vocabulary": lambda n: tl.Embedding(n, 2),
    "output_dim": lambda n: tl.EmbeddingBag(2, n),
    "input_length": lambda n: tl.Embedding(2, 2, input_length=n),
    "padding_idx": lambda n: tl.Embedding(9, 2, padding_idx=n),
    "reshape": lambda n: tl.Reshape(n),
    "reshape_axis": lambda n: tl.Reshape((n, -1)),
    "concatenate": lambda n: tl.Concatenate(axis=n),
    "dot": lambda n: tl.Dot(axes=n),
    "initializer_seed": lambda n: tl.Dense(2, kernel_initializer=tl.initializers.HeNormal(seed=n)),
}
REALS: dict[str, Callable[[Any], Any]] = {
    "rate": lambda x: tl.Dropout(x),
    "constant": lambda x: tl.Dense(2, bias_initializer=tl.initializers.Constant(x)),
    "stddev": lambda x: tl.Dense(2, kernel_initializer=tl.initializers.RandomNormal(0.0, x)),
    "scale": lambda x: tl.Dense(2, kernel_initializer=tl.initializers.VarianceScaling(x)),
    "gain": lambda x: tl.Dense(2, kernel_initializer=tl.initializers.Orthogonal(x)),
}


def described(made: Any) -> Any:
    """What there is to know of a layer or an Input; a layer's can be written as JSON."""
    return json.dumps(made.get_config()) if isinstance(made, tl.Layer) else (made.shape, made.dims)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_whole_numbers_of_numpy_are_whole_numbers(maker: str, dtype: Any) -> None:
    assert described(MAKERS[maker](dtype(6))) == described(MAKERS[maker](6))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("wrong", [True, np.True_, 6.0, np.float32(6), "6", None, 1j])
def test_what_is_no_whole_number_is_refused(maker: str, wrong: Any) -> None:
    optional = {"input_dim", "input_length", "padding_idx", "seed", "initializer_seed"}
    optional |= {"single_input_shape", "input_axis", "batch_shape"}
    if wrong is None and maker in optional:
        MAKERS[maker](wrong)
        return
    with pytest.raises(tl.TvmLayersError):
        MAKERS[maker](wrong)


@pytest.mark.parametrize("maker", REALS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_real_numbers_of_numpy_are_real_numbers(maker: str, dtype: Any) -> None:
    assert described(REALS[maker](dtype(0.5))) == described(REALS[maker](0.5))


@pytest.mark.parametrize("maker", REALS)
@pytest.mark.parametrize("wrong", [True, np.True_, "0.5", None, 1j, 10**400])
def test_what_is_no_real_number_is_refused(maker: str, wrong: Any) -> None:
    with pytest.raises(tl.ConfigError, match="expected a number"):
        REALS[maker](wrong)


@pytest.mark.parametrize("wrong", [6.5, object()])
def test_what_is_no_shape_is_refused(wrong: Any) -> None:
    for make in (tl.Input, tl.Reshape, lambda shape: tl.Dense(2, input_shape=shape)):
        with pytest.raises(tl.ConfigError, match="expected a sequence for"):
            make(wrong)
