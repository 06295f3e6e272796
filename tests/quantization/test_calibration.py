"""`quantize` with example inputs: the fewest bits that hold a limit, and what was measured."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.errors import (
    ConfigError,
    DTypeError,
    ShapeError,
    TvmLayersError,
    UnknownNameError,
    WeightsError,
)

X = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
FEWER = {"float32": "float16", "float16": "int8", "int8": "int4"}


@pytest.fixture(scope="module")
def model() -> tl.Sequential:
    """The second layer has an outlier in each column: fewer bits change it more than the others."""
    made = tl.Sequential(
        [
            tl.Dense(24, "relu", input_dim=10, seed=1, name="usual"),
            tl.Dense(20, "tanh", seed=2, name="hard"),
            tl.Dense(3, "softmax", seed=3, name="last"),
        ]
    )
    kernel, bias = made.layers[1].get_weights()
    kernel[0] = 20
    made.layers[1].set_weights([kernel, bias])
    return made


@pytest.fixture(scope="module")
def floats(model: tl.Sequential) -> np.ndarray:
    results: np.ndarray = tl.compile(model)(X)
    return results


def change(made: tl.Model, floats: np.ndarray) -> float:
    return float(np.abs(tl.compile(made)(X) - floats).max())


def test_the_limit_holds_and_no_layer_could_take_fewer_bits(
    model: tl.Sequential, floats: np.ndarray
) -> None:
    limit = 2e-3
    made = tl.quantize(model, weights="int4", calibrate=X, max_error=limit)
    found = made.calibration
    assert found is not None
    # Outputs are below 1: what rounding adds to the change that was measured is a few 2^-24.
    rounding = 1e-6
    assert found.error <= limit
    assert abs(change(made, floats) - found.error) < rounding
    kinds = {each.layer: each.kind.partition("/")[0] for each in found.choices}
    assert kinds == {layer.name: layer.stored.partition("/")[0] for layer in made.layers}
    assert len(set(kinds.values())) > 1
    for name in kinds:
        if kinds[name] != "int4":
            trial = copy.deepcopy(model)
            for layer in trial.layers:
                kind = FEWER[kinds[name]] if layer.name == name else kinds[layer.name]
                if kind != "float32":
                    layer.quantize(kind)
            assert change(trial, floats) > limit - rounding


def test_reports_of_the_compiled_model_say_what_was_measured() -> None:
    model = tl.Sequential([tl.Embedding(50, 4, input_length=3, seed=1)])
    ids = np.arange(48).reshape(16, 3)
    made = tl.quantize(model, tables="int8", calibrate=ids)
    (choice,) = made.calibration.choices  # type: ignore[union-attr]
    compiled = tl.compile(made)
    row, *_ = compiled.report()
    assert row["measured_error"] == choice.error > 0
    assert row["row_error_bound"] == choice.bound >= choice.error
    table = model.layers[0].get_weights()[0]
    assert np.abs(compiled(ids) - table[ids]).max() == choice.error
    assert "int8" in str(made.calibration)
    assert "embedding" in str(made.calibration)


def test_a_metric_loses_no_more_than_it_may(model: tl.Sequential, floats: np.ndarray) -> None:
    def agreement(outputs: np.ndarray) -> float:
        return float(-np.abs(outputs - floats).mean())

    made = tl.quantize(model, weights="int4", calibrate=X, metric=agreement, max_drop=2e-4)
    drop = made.calibration.drop  # type: ignore[union-attr]
    assert drop is not None
    assert 0 < drop <= 2e-4
    assert abs(agreement(tl.compile(made)(X)) + drop) < 1e-6
    assert "loses" in str(made.calibration)


def test_inputs_in_fewer_bits_are_part_of_what_is_measured() -> None:
    layer, x = tl.Dense(5, input_dim=40, seed=1), np.random.default_rng(1).normal(size=(9, 40))
    given = x.astype(np.float32)
    exact, rounded = (
        tl.quantize(layer, weights="int8", activations=kind, calibrate=given).calibration
        for kind in (None, "int8")
    )
    assert exact is not None
    assert rounded is not None
    # They are as they were where the target multiplies no bytes.
    assert rounded.error >= exact.error
    limit = (rounded.error + exact.error) / 2
    made = tl.quantize(layer, weights="int8", activations="int8", calibrate=given, max_error=limit)
    assert made.stored == ("int8" if rounded.error > limit else "int8:int8")


def test_nothing_is_kept_in_fewer_bits_where_nothing_holds(model: tl.Sequential) -> None:
    made = tl.quantize(model, weights="bfloat16", calibrate=X, max_error=0)
    assert [each.kind for each in made.calibration.choices] == ["float32"] * 3  # type: ignore[union-attr]
    assert made.calibration.error == 0  # type: ignore[union-attr]
    assert not any(layer.is_quantized for layer in made.layers)


def test_kinds_that_cannot_hold_a_number_are_passed_over() -> None:
    layer = tl.Dense(2, input_dim=3, use_bias=False)
    layer.set_weights([np.array([[1e30, 3.125], [1, 3], [2, 1]], np.float32)])
    x = np.array([[0, 1, 1]], np.float32)
    made = tl.quantize(layer, weights="int8", calibrate=x, max_error=1e-3)
    assert made.stored == "bfloat16"


def test_several_inputs_come_as_a_tuple_or_by_name() -> None:
    left, right = tl.Input((4,), name="left"), tl.Input((4,), name="right")
    model = tl.Model([left, right], tl.Dense(3, seed=1)(tl.Concatenate()([left, right])))
    x = np.random.default_rng(2).normal(size=(2, 5, 4)).astype(np.float32)
    by_place, by_name = (
        tl.quantize(model, weights="int8", calibrate=given).calibration
        for given in ((x[0], x[1]), {"right": x[1], "left": x[0]})
    )
    assert by_place == by_name


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"max_error": 1.0}, ConfigError, "give calibrate="),
        ({"metric": np.mean}, ConfigError, "give calibrate="),
        ({"calibrate": X, "max_error": 1, "metric": np.mean}, ConfigError, "not both"),
        ({"calibrate": X, "max_drop": 0.1}, ConfigError, "give metric="),
        ({"calibrate": X, "max_error": -1}, ConfigError, "finite max_error of at least 0"),
        ({"calibrate": X, "max_error": np.nan}, ConfigError, "finite max_error"),
        ({"calibrate": X, "metric": np.mean, "max_drop": -1}, ConfigError, "max_drop"),
        (
            {"calibrate": X, "metric": "accuracy"},
            ConfigError,
            "a function of the model's outputs",
        ),
        ({"calibrate": X, "metric": lambda _: np.nan}, ConfigError, "metric gave nan"),
        ({"calibrate": X, "metric": lambda _: "good"}, ConfigError, "value of metric"),
        ({"calibrate": X[:0]}, ConfigError, "at least one sample"),
        ({"calibrate": X[:, :4]}, ShapeError, "10 features"),
        ({"calibrate": X.astype(np.int32)}, DTypeError, "float32"),
        ({"calibrate": np.where(X[3, 4] == X, np.nan, X)}, ConfigError, "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    model: tl.Sequential, more: dict[str, Any], error: type[TvmLayersError], said: str
) -> None:
    with pytest.raises(error, match=said):
        tl.quantize(model, weights="int8", **more)


def test_layers_and_models_are_quantised_in_place_by_the_verb_of_keras() -> None:
    layer = tl.Dense(8, input_dim=70, seed=1)
    wanted = tl.quantize(layer, weights="int4").get_weights()
    assert layer.quantize("int4") is None
    assert layer.stored == "int4/32"
    assert all(map(np.array_equal, layer.get_weights(), wanted))
    x = np.ones((2, 70), np.float32)
    assert np.array_equal(tl.compile(layer)(x), layer(x))

    model = tl.Sequential([tl.Embedding(9, 4, input_length=3), tl.Flatten(), tl.Dense(2)])
    model.quantize("int8")
    assert [getattr(each, "stored", "") for each in model.layers] == ["int8", "", "int8"]
    with pytest.raises(ConfigError, match="kept as int8 already"):
        model.quantize("int4")
    with pytest.raises(ConfigError, match="Flatten keeps no weights"):
        model.layers[1].quantize("int8")
    with pytest.raises(UnknownNameError, match="int3"):
        tl.Dense(2, input_dim=2).quantize("int3")
    broken = tl.Dense(1, input_dim=1, use_bias=False)
    broken.set_weights([np.full((1, 1), np.nan, np.float32)])
    with pytest.raises(WeightsError, match="nan"):
        broken.quantize("int8")
    assert broken.stored == "float32"
