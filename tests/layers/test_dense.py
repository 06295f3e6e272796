from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl

SIZES = st.integers(1, 400)


@given(st.lists(SIZES, min_size=0, max_size=3), SIZES, SIZES)
def test_output_keeps_all_axes_but_the_last(middle: list[int], features: int, units: int) -> None:
    output = tl.Dense(units)(tl.Input((*middle, features)))
    assert output.shape == (None, *middle, units)
    assert output.dims[0] == "n"


@given(SIZES, SIZES, st.booleans())
def test_config_makes_an_equal_layer(units: int, features: int, use_bias: bool) -> None:
    layer = tl.Dense(units, "relu", use_bias, input_dim=features, dtype="float64", seed=3)
    config = json.loads(json.dumps(layer.get_config()))
    again = tl.Dense.from_config(config)
    assert again.get_config() == layer.get_config()
    for left, right in zip(layer.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_weights_come_in_kerass_order_and_layout() -> None:
    layer = tl.Dense(3, input_dim=5)
    assert [weight.shape for weight in layer.get_weights()] == [(5, 3), (3,)]
    assert list(layer.weights) == ["kernel", "bias"]
    assert list(tl.Dense(3, use_bias=False, input_dim=5).weights) == ["kernel"]
    assert layer.count_params() == 18


def test_input_shape_of_keras_2_gives_the_features() -> None:
    assert tl.Dense(3, input_shape=(7,)).weights["kernel"].shape == (7, 3)
    assert tl.Sequential([tl.Dense(3, input_shape=(7,))]).input_shape == (None, 7)


def test_an_unbuilt_layer_has_no_weights() -> None:
    layer = tl.Dense(3)
    assert layer.get_weights() == []
    assert layer.count_params() == 0
    with pytest.raises(tl.WeightsError, match="build it first"):
        layer.set_weights([np.zeros((2, 3))])


def test_same_seed_gives_same_weights_and_other_seed_others() -> None:
    first, same, other = (
        tl.Dense(8, input_dim=8, seed=seed).get_weights()[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_default_initialisers_are_glorot_uniform_and_zeros() -> None:
    kernel, bias = tl.Dense(50, input_dim=100, seed=0).get_weights()
    limit = np.sqrt(6 / 150)
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.95 * limit
    assert not bias.any()


def test_wrong_number_of_features_names_both_and_a_remedy() -> None:
    with pytest.raises(tl.ShapeError, match=r"512 input features, got 256; pass input_dim=256"):
        tl.Dense(8, input_dim=512)(tl.Input((256,)))


@pytest.mark.parametrize("shape", [(), (None,), (3, None)])
def test_free_or_missing_features_are_refused(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(tl.ShapeError, match="fixed number of features"):
        tl.Dense(8)(tl.Input(shape))


def test_free_axes_before_the_last_stay_free() -> None:
    output = tl.Dense(8)(tl.Input((None, 4)))
    assert output.shape == (None, None, 8)
    assert output.dims == ("n", "n1", 8)


def test_dtype_of_input_must_be_the_layers() -> None:
    with pytest.raises(tl.DTypeError, match="expected float64, got float32"):
        tl.Dense(8, dtype="float64")(tl.Input((4,), dtype="float32"))
    assert tl.Dense(8, dtype="float64")(tl.Input((4,))).dtype == "float64"


@pytest.mark.parametrize("dtype", ["float128", "int32", "complex64", np.longdouble, "nonsense"])
def test_dtypes_that_no_layer_has_are_refused(dtype: object) -> None:
    with pytest.raises(tl.DTypeError, match="expected dtype float32, float64, float16 or bfloat16"):
        tl.Dense(8, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_dtype_is_taken_in_any_form(dtype: object) -> None:
    assert tl.Dense(8, dtype=dtype).dtype == "float32"


@pytest.mark.parametrize("units", [0, -1, 2.0, "3", True, None])
def test_units_must_be_a_positive_whole_number(units: object) -> None:
    with pytest.raises(tl.ConfigError, match="units"):
        tl.Dense(units)


def test_numpy_integers_are_whole_numbers() -> None:
    assert type(tl.Dense(np.int64(3), input_dim=np.uint8(4)).units) is int


def test_unknown_activation_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(tl.UnknownNameError, match=r"'rely'.*Did you mean 'relu'\?.*softmax"):
        tl.Dense(8, "rely")


def test_unknown_initialiser_names_the_nearest() -> None:
    with pytest.raises(tl.UnknownNameError, match="Did you mean 'glorot_uniform'"):
        tl.Dense(8, kernel_initializer="glorot_unifrom")


def test_aliases_of_activations_become_one_name() -> None:
    assert tl.Dense(8, "swish").activation == "silu"
    assert tl.Dense(8).activation == "linear"


def test_a_callable_activation_is_kept_but_its_config_is_refused() -> None:
    layer = tl.Dense(8, activation=lambda x: x * 2, input_dim=2)
    config = layer.get_config()
    json.dumps(config)
    assert "lambda" in config["activation"]["callable"]
    with pytest.raises(tl.ConfigError, match="callable"):
        tl.Dense.from_config(config)


def test_calling_with_more_than_one_tensor_is_refused() -> None:
    with pytest.raises(tl.ConfigError, match="one tensor"):
        tl.Dense(8)(tl.Input((4,)), tl.Input((4,)))


def test_mixing_symbols_and_arrays_is_refused() -> None:
    with pytest.raises(tl.ConfigError, match="symbolic tensors and arrays"):
        tl.Concatenate()([tl.Input((4,)), np.zeros((2, 4))])
