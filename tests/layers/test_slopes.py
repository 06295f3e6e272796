"""LeakyReLU, ELU, PReLU and Rescaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmlayers as tl


def test_defaults_are_kerass() -> None:
    assert tl.LeakyReLU().negative_slope == 0.3
    assert tl.ELU().alpha == 1.0
    prelu = tl.PReLU()
    prelu(tl.Input((4, 3)))
    assert prelu.weights["alpha"].shape == (4, 3)
    assert not prelu.weights["alpha"].any()


@pytest.mark.parametrize(("shared", "shape"), [(1, (1, 3)), ([2], (4, 1)), ((1, 2), (1, 1))])
def test_axes_share_a_slope(shared: Any, shape: tuple[int, ...]) -> None:
    layer = tl.PReLU(shared_axes=shared)
    layer(tl.Input((4, 3)))
    assert layer.weights["alpha"].shape == shape
    again = tl.PReLU.from_config(layer.get_config())
    assert again.shared_axes == layer.shared_axes


def test_only_shared_axes_may_be_free() -> None:
    assert tl.PReLU(shared_axes=[1])(tl.Input((None, 3))).shape == (None, None, 3)
    with pytest.raises(tl.ShapeError, match="name the others in shared_axes"):
        tl.PReLU()(tl.Input((None, 3)))
    layer = tl.PReLU()
    layer(tl.Input((4,)))
    with pytest.raises(tl.ShapeError, match=r"alpha of shape \(4,\)"):
        layer(tl.Input((5,)))
    with pytest.raises(tl.ConfigError, match="axis 0 is the batch"):
        tl.PReLU(shared_axes=[0])(tl.Input((4,)))


@pytest.mark.parametrize("value", ["x", None, True, [], [[1], [1, 2]], [True], 1j])
def test_a_scale_is_a_number_or_an_array_of_them(value: Any) -> None:
    with pytest.raises(tl.ConfigError, match="for scale"):
        tl.Rescaling(value)
    with pytest.raises(tl.ConfigError, match="for offset"):
        tl.Rescaling(1, value)


def test_a_scale_fits_the_last_axes() -> None:
    layer = tl.Rescaling(np.ones((4, 1), np.float32), offset=[1, 2, 3])
    assert layer(tl.Input((4, 3))).shape == (None, 4, 3)
    assert tl.Rescaling.from_config(layer.get_config()).get_config() == layer.get_config()
    for shape in ((3,), (4, 2), (5, 3), (None, 3)):
        with pytest.raises(tl.ShapeError, match="does not fit"):
            layer(tl.Input(shape))


def test_layers_are_named_as_in_keras() -> None:
    x = tl.Input((3,))
    kinds = (tl.PReLU, tl.LeakyReLU, tl.ELU, tl.RMSNormalization, tl.GlobalMaxPooling1D)
    names = [layer.name for layer in [kind() for kind in kinds]]
    assert names == ["p_re_lu", "leaky_re_lu", "elu", "rms_normalization", "global_max_pooling1d"]
    assert tl.LeakyReLU()(x).name == "leaky_re_lu"


def test_a_long_array_is_not_listed_by_inspect() -> None:
    from tvmlayers.tables import layers_table

    layers = [{"class": "Rescaling", "config": tl.Rescaling(np.ones(99)).get_config()}]
    (cell,) = layers_table({"model": {"layers": layers}}).columns[2].cells
    assert str(cell) == "scale=<99 values>, offset=0.0"
