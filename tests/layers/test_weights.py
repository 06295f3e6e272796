from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl


def model() -> tl.Sequential:
    return tl.Sequential([tl.Embedding(9, 4, input_length=3), tl.Flatten(), tl.Dense(2)])


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["float16", "float64", "int8"]))
def test_what_is_set_is_what_is_got(features: int, units: int, dtype: str) -> None:
    layer = tl.Dense(units, input_dim=features)
    given_ = [np.arange(features * units).reshape(features, units), np.arange(units)]
    layer.set_weights([array.astype(dtype) for array in given_])
    for left, right in zip(layer.get_weights(), given_, strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == np.float32


def test_weights_are_copied_in_and_out() -> None:
    layer = tl.Dense(2, use_bias=False, input_dim=2)
    kernel = np.ones((2, 2), np.float32)
    layer.set_weights([kernel])
    kernel[:] = 5
    layer.get_weights()[0][:] = 6
    assert (layer.weights["kernel"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        layer.weights["kernel"][0, 0] = 2


def test_torch_parameters_and_lists_are_taken() -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(3, 2)
    layer = tl.Dense(2, input_dim=3)
    layer.set_weights([linear.weight.T, linear.bias])
    np.testing.assert_array_equal(layer.get_weights()[0], linear.weight.detach().numpy().T)
    layer.set_weights([[[1, 2], [3, 4], [5, 6]], [0.5, 0.5]])
    assert layer.weights["kernel"][2, 1] == 6


def test_nan_and_infinity_are_kept() -> None:
    layer = tl.Dense(2, use_bias=False, input_dim=1)
    layer.set_weights([np.array([[np.nan, 1e300]])])
    assert np.isnan(layer.weights["kernel"][0, 0])
    assert np.isinf(layer.weights["kernel"][0, 1])


def test_torchs_layout_is_recognised() -> None:
    with pytest.raises(tl.WeightsError, match=r"'kernel' expected shape \(3, 2\).*weight\.T"):
        tl.Dense(2, input_dim=3).set_weights([np.zeros((2, 3)), np.zeros(2)])


def test_wrong_count_lists_what_is_expected() -> None:
    with pytest.raises(tl.WeightsError, match=r"expected 3 weights \(embedding/embeddings.*got 1"):
        model().set_weights([np.zeros((9, 4))])


@pytest.mark.parametrize("bad", ["text", [[1, 2], [3]], np.array([["a"]]), None, 1j, object()])
def test_things_that_are_no_numbers_are_refused(bad: object) -> None:
    with pytest.raises(tl.WeightsError):
        tl.Dense(1, use_bias=False, input_dim=1).set_weights([bad])


def test_a_refused_list_changes_nothing() -> None:
    one = model()
    before = one.get_weights()
    with pytest.raises(tl.WeightsError):
        one.set_weights([np.zeros((9, 4)), np.zeros((12, 2)), np.zeros(3)])
    for left, right in zip(before, one.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_model_names_weights_by_layer() -> None:
    assert list(model().weights) == ["embedding/embeddings", "dense/kernel", "dense/bias"]
