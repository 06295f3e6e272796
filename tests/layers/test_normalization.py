from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

ROWS = (tl.LayerNormalization, tl.RMSNormalization, tl.UnitNormalization)


def test_defaults_and_weights_are_kerass() -> None:
    norm = tl.LayerNormalization()
    norm(tl.Input((5, 4)))
    assert (norm.axis, norm.epsilon) == (-1, 1e-3)
    assert [(name, w.shape) for name, w in norm.weights.items()] == [
        ("gamma", (4,)),
        ("beta", (4,)),
    ]
    assert norm.get_weights()[0].tolist() == [1] * 4
    assert norm.get_weights()[1].tolist() == [0] * 4
    rms = tl.RMSNormalization()
    rms(tl.Input((5, 4)))
    assert (rms.axis, rms.epsilon, list(rms.weights)) == (-1, 1e-6, ["scale"])
    unit = tl.UnitNormalization()
    unit(tl.Input((4,)))
    assert unit.weights == {}
    batch = tl.BatchNormalization()
    batch(tl.Input((5, 4)))
    assert (batch.axis, batch.momentum, batch.epsilon) == (-1, 0.99, 1e-3)
    assert list(batch.weights) == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert batch.weights["moving_variance"].tolist() == [1] * 4


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("axis", [(-2, -1), [1, 2], [2, -2]])
def test_several_last_axes_are_normalised_together(kind: Any, axis: Any) -> None:
    norm = kind(axis=axis)
    assert norm(tl.Input((5, 4))).shape == (None, 5, 4)
    assert norm.width == 20
    assert all(weight.shape == (5, 4) for weight in norm.weights.values())
    again = kind.from_config(norm.get_config())
    assert again.axes == norm.axes


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("axis", [1, (1, 3), (-3, -1)])
def test_other_axes_are_refused(kind: Any, axis: Any) -> None:
    with pytest.raises(tl.ConfigError, match="over the last axes only"):
        kind(axis=axis)(tl.Input((6, 5, 4)))


@pytest.mark.parametrize("kind", ROWS)
def test_what_does_not_fit_is_named(kind: Any) -> None:
    with pytest.raises(tl.ConfigError, match="axis 0 is the batch"):
        kind(axis=0)(tl.Input((4,)))
    with pytest.raises(tl.ConfigError, match="at least one number for axis"):
        kind(axis=[])
    with pytest.raises(tl.ConfigError, match="whole number for axis"):
        kind(axis=1.5)
    with pytest.raises(tl.ShapeError, match="fixed lengths"):
        kind()(tl.Input((4, None)))
    norm = kind()
    norm(tl.Input((4,)))
    with pytest.raises(tl.ShapeError, match=r"expected \(4,\) on its last axes, got \(5,\)"):
        norm(tl.Input((5,)))


@pytest.mark.parametrize("epsilon", [-1e-3, float("nan"), float("inf"), "small", True])
def test_an_epsilon_is_a_finite_number_from_0_up(epsilon: Any) -> None:
    for kind in (tl.LayerNormalization, tl.RMSNormalization, tl.BatchNormalization):
        with pytest.raises(tl.ConfigError, match="epsilon"):
            kind(epsilon=epsilon)


def test_features_of_a_batch_normalisation() -> None:
    norm = tl.BatchNormalization(axis=1, center=False)
    assert norm(tl.Input((5, 4))).shape == (None, 5, 4)
    assert norm.weights["gamma"].shape == (5,)
    assert [array.shape for array in norm.operands().values()] == [(5, 1), (5, 1)]
    with pytest.raises(tl.ShapeError, match="expected 5 features and 1 axes after theirs"):
        norm(tl.Input((4, 5)))
    with pytest.raises(tl.ShapeError, match="fixed number of features"):
        tl.BatchNormalization()(tl.Input((None,)))


def test_the_factor_of_a_batch_normalisation_is_rounded_once() -> None:
    norm = tl.BatchNormalization(input_shape=(3,))
    gamma, variance = np.float32([0.3, -2, 1e-3]), np.float32([0.1, 7, 1e-8])
    norm.set_weights([gamma, np.zeros(3), np.zeros(3), variance])
    exact = gamma.astype(float) / np.sqrt(variance.astype(float) + 1e-3)
    np.testing.assert_array_equal(norm.factor(), exact)
