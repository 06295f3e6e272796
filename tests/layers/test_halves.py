"""Layers of float16 and bfloat16: what they keep, how it is drawn, and how it is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.dtypes import HALF_DTYPES, limits, numpy_dtype, wide
from tvmlayers.layers import load_model
from tvmlayers.layers.summary import rows

both = pytest.mark.parametrize("dtype", HALF_DTYPES)


def model(dtype: str) -> tl.Sequential:
    layers = [tl.Embedding(9, 4, input_length=3, dtype=dtype), tl.Flatten()]
    return tl.Sequential([*layers, tl.Dense(2, "softmax", dtype=dtype)])


@both
def test_weights_and_results_are_of_the_dtype(dtype: str) -> None:
    made = model(dtype)
    assert {weight.dtype for weight in made.get_weights()} == {numpy_dtype(dtype)}
    assert made.outputs[0].dtype == dtype
    assert tl.Activation("relu")(tl.Input((3,), dtype=dtype)).dtype == dtype
    assert tl.Dense(2, dtype=numpy_dtype(dtype)).dtype == dtype


@both
def test_first_values_are_rounded_float32(dtype: str) -> None:
    drawn = [
        tl.Dense(7, seed=3, input_dim=5, dtype=each).get_weights() for each in (dtype, "float32")
    ]
    for half, single in zip(*drawn, strict=True):
        np.testing.assert_array_equal(half, single.astype(numpy_dtype(dtype)))


@both
def test_weights_of_other_dtypes_are_rounded(dtype: str) -> None:
    layer = tl.Dense(2, use_bias=False, input_dim=2, dtype=dtype)
    values = np.array([[1 / 3, 1e-3], [7.77, -2.5]])
    layer.set_weights([values])
    assert np.abs(layer.get_weights()[0] / values - 1).max() <= limits(dtype).eps / 2


@both
def test_torch_parameters_are_taken(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(3, 2, dtype=getattr(torch, dtype))
    layer = tl.Dense(2, input_dim=3, dtype=dtype)
    layer.set_weights([linear.weight.T, linear.bias])
    kept = layer.get_weights()[0].astype("float32")
    np.testing.assert_array_equal(kept, linear.weight.T.float().detach().numpy())


@both
def test_a_saved_model_is_the_same(dtype: str, tmp_path: Path) -> None:
    made = model(dtype)
    made.save(tmp_path / "halves.safetensors")
    again = load_model(tmp_path / "halves.safetensors")
    assert again.get_config() == made.get_config()
    for left, right in zip(again.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


@both
def test_a_number_is_two_bytes(dtype: str) -> None:
    def dense_bytes(dtype: str) -> int:
        return rows(tl.Sequential([tl.Dense(2, input_dim=12, dtype=dtype)]))[0].bytes

    assert dense_bytes(dtype) == dense_bytes("float32") // 2 == 2 * (12 + 26 + 2)


def test_sums_of_halves_are_float32() -> None:
    assert [wide(dtype) for dtype in ("float16", "bfloat16", "float32", "float64")] == [
        "float32",
        "float32",
        "float32",
        "float64",
    ]


def test_mixed_policies_keep_float32_weights_and_take_float32() -> None:
    for half in HALF_DTYPES:
        layer = tl.Dense(2, input_dim=3, dtype=f"mixed_{half}")
        x = tl.Input((3,))
        assert (layer(x).dtype, x.dtype) == (half, "float32")
        assert {weight.dtype.name for weight in layer.get_weights()} == {"float32"}
        assert {weight.dtype.name for weight in layer.rounded_weights().values()} == {half}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_model_is_saved_with_its_policy(policy: str, tmp_path: Path) -> None:
    layers = [tl.EmbeddingBag(9, 4, dtype=policy), tl.BatchNormalization(dtype=policy)]
    made = tl.Sequential([*layers, tl.Dense(2, dtype=policy)])
    made.build((None, 3))
    made.save(tmp_path / "mixed.safetensors")
    again = load_model(tmp_path / "mixed.safetensors")
    assert again.get_config() == made.get_config()
    assert [layer.dtype_policy for layer in again.layers] == [policy] * 3
    for left, right in zip(again.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("wrong", ["mixed", "mixed_float32", "mixed_int8", "half"])
def test_unknown_policies_are_refused(wrong: str) -> None:
    with pytest.raises(tl.DTypeError, match=f"expected dtype .*bfloat16.*got {wrong}"):
        tl.Dense(2, dtype=wrong)


@both
def test_layers_with_weights_cast_and_others_refuse_to(dtype: str) -> None:
    single = tl.Input((3,), dtype="float32")
    half = tl.Dense(3, dtype=dtype)(single)
    assert (half.dtype, tl.Dense(3, dtype="float32")(half).dtype) == (dtype, "float32")
    with pytest.raises(tl.DTypeError, match="make both with the same dtype"):
        tl.Add()([half, single])
    with pytest.raises(tl.DTypeError, match=f"expected {dtype}, got float64"):
        tl.Dense(3, dtype=dtype)(tl.Input((3,), dtype="float64"))


@both
def test_weights_of_halves_are_not_kept_in_fewer_bits(dtype: str) -> None:
    with pytest.raises(tl.DTypeError, match=f"is {dtype}, and weights are kept in fewer bits"):
        tl.quantize(tl.Dense(2, input_dim=3, dtype=dtype), weights="int8")
