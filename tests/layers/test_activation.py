from __future__ import annotations

import pytest

import tvmlayers as tl
from tvmlayers.layers.activations import ALIASES, NAMES, canonical


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_name_are_kept(name: str) -> None:
    layer = tl.Activation(name)
    assert layer(tl.Input((3, 4))).shape == (None, 3, 4)
    assert tl.Activation.from_config(layer.get_config()).activation == name


def test_every_alias_is_a_known_name() -> None:
    assert {canonical(alias) for alias in ALIASES} <= set(NAMES)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_needs_classes(name: str) -> None:
    with pytest.raises(tl.ShapeError, match="classes"):
        tl.Activation(name)(tl.Input(()))


def test_things_that_are_no_activation_are_refused() -> None:
    with pytest.raises(tl.ConfigError, match="got 3"):
        tl.Activation(3)


def test_integers_are_refused() -> None:
    with pytest.raises(tl.DTypeError, match="got int64"):
        tl.Activation("relu")(tl.Input((3,), dtype="int64"))
