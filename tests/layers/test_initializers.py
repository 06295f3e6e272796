from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.layers import initializers
from tvmlayers.layers.initializers import INITIALIZERS, initialise


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(rows=st.integers(1, 17), columns=st.integers(1, 17))
def test_shape_dtype_and_seed_decide_the_values(
    name: str, dtype: str, rows: int, columns: int
) -> None:
    drawn = [
        initialise(initializers.get(name), (rows, columns), dtype, np.random.default_rng(5))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0].shape, drawn[0].dtype) == ((rows, columns), dtype)
    assert np.isfinite(drawn[0].astype("float64")).all()


@pytest.mark.parametrize(
    ("name", "scale", "fan"),
    [
        ("glorot_uniform", 1, 250),
        ("glorot_normal", 1, 250),
        ("he_uniform", 2, 300),
        ("he_normal", 2, 300),
        ("lecun_uniform", 1, 300),
        ("lecun_normal", 1, 300),
        ("variance_scaling", 1, 300),
    ],
)
def test_variance_is_scale_over_fan(name: str, scale: float, fan: float) -> None:
    values = initialise(INITIALIZERS[name], (300, 200), "float64", np.random.default_rng(0))
    assert values.var() == pytest.approx(scale / fan, rel=0.03)
    assert abs(values.mean()) < 0.002


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("uniform", 0.05 / 3**0.5),
        ("random_normal", 0.05),
        ("truncated_normal", 0.05 * 0.8796),
    ],
)
def test_default_spread_is_kerass(name: str, spread: float) -> None:
    values = initialise(INITIALIZERS[name], (300, 200), "float64", np.random.default_rng(0))
    assert values.std() == pytest.approx(spread, rel=0.03)


def test_truncated_normal_is_cut_at_two_deviations() -> None:
    values = INITIALIZERS["truncated_normal"]((100, 100))
    assert np.abs(values).max() <= 0.1


@given(st.integers(1, 20), st.integers(1, 20))
def test_orthogonal_has_orthonormal_rows_or_columns(rows: int, columns: int) -> None:
    q = initializers.Orthogonal()((rows, columns), "float64")
    gram = q.T @ q if rows >= columns else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-12)


def test_identity_and_orthogonal_refuse_vectors() -> None:
    for name in ("identity", "orthogonal"):
        with pytest.raises(tl.WeightsError, match="rank 2"):
            _ = tl.Dense(3, bias_initializer=name, input_dim=2).weights


def test_objects_classes_and_callables_are_taken() -> None:
    for given_, wanted in (
        (initializers.Constant(0.5), 0.5),
        (initializers.Ones, 1.0),
        (lambda shape, dtype: np.full(shape, 2, dtype), 2.0),
        ({"class": "Constant", "value": 3}, 3.0),
    ):
        kernel = tl.Dense(3, kernel_initializer=given_, input_dim=2).weights["kernel"]
        assert kernel.dtype == np.float32
        assert (kernel == wanted).all()


def test_a_seed_of_its_own_outdoes_the_layers() -> None:
    mine = initializers.GlorotUniform(seed=1)
    first, second = (
        tl.Dense(3, kernel_initializer=mine, input_dim=2, seed=seed).weights["kernel"]
        for seed in (5, 6)
    )
    np.testing.assert_array_equal(first, second)


def test_a_callable_of_the_wrong_shape_is_refused() -> None:
    layer = tl.Dense(3, kernel_initializer=lambda shape, dtype: np.zeros(3), input_dim=2)
    with pytest.raises(tl.WeightsError, match=r"gave shape \(3,\), expected \(2, 3\)"):
        _ = layer.weights


@pytest.mark.parametrize("name", INITIALIZERS)
def test_config_makes_an_equal_initialiser(name: str) -> None:
    config = json.loads(json.dumps(initializers.to_config(INITIALIZERS[name])))
    assert initializers.get(config) == INITIALIZERS[name]
    changed = initializers.RandomNormal(stddev=0.2, seed=4)
    assert initializers.get(initializers.to_config(changed)) == changed


@pytest.mark.parametrize(
    "bad",
    [
        3,
        None,
        {"class": "Nothing"},
        {"class": ["Zeros"]},
        {"class": "Constant", "volume": 3},
        {"class": "Constant", "value": "3"},
        {"class": "RandomUniform", "seed": -1},
        {"class": "VarianceScaling", "scale": 0},
        {"class": "VarianceScaling", "mode": "fan"},
        {"callable": "<lambda>"},
    ],
)
def test_things_that_are_no_initialiser_are_refused(bad: Any) -> None:
    with pytest.raises(tl.TvmLayersError):
        initializers.get(bad)
