"""The table of operations: each row is whole, and what has no row is refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers import layers
from tvmlayers.operations import OPERATIONS, operation_of


class Scaled(tl.Dense):
    """A user's own layer, which computes something else."""


class Own(tl.Layer):
    """A layer of nothing that there is."""


class Dense(tl.Dense):
    """A user's own layer under the name of one of ours."""


class Nothing(tl.Dropout):
    """A view of the user's own."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_row_names_parts_that_are_there(name: str) -> None:
    row = OPERATIONS[name]
    assert row.layer_class.__name__ == name
    assert getattr(tl, name) is row.layer_class
    assert callable(row.part("reference"))
    assert row.layer_class.is_view == (row.cpu is None)
    for part in ("cpu", "cuda", "formula", "training"):
        assert getattr(row, part) is None or callable(row.part(part))


def test_every_layer_has_a_row() -> None:
    public = {name for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    others = {"Layer", "Model", "Node", "Sequential", "SymbolicTensor"}
    assert public - others == set(OPERATIONS)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Scaled(3, input_dim=2), "a subclass of Dense, and only Dense itself"),
        (Dense(3, input_dim=2), "a subclass of Dense, and only Dense itself"),
        (Nothing(0.5), "a subclass of Dropout"),
        (Own(input_shape=(2,)), "no layer of tvmlayers"),
    ],
)
def test_a_layer_of_the_users_own_is_refused(layer: Any, said: str, tmp_path: Path) -> None:
    x = np.ones((1, 2), np.float32)
    model = tl.Model(given := tl.Input((2,)), tl.Dense(2)(layer(given)))
    for use in (
        lambda: layer(x),
        lambda: tl.compile(model),
        lambda: tl.compile(model, target="cuda-sm80"),
        lambda: model.save(tmp_path / "model"),
        lambda: operation_of(layer),
    ):
        with pytest.raises(tl.ConfigError, match=said):
            use()
    assert list(tmp_path.iterdir()) == []


def alone(name: str) -> tl.Model:
    """A model of one layer that is a formula."""
    x = tl.Input((4, 3))
    arguments = {"Rescaling": (2.0,)}.get(name, ())
    layer = OPERATIONS[name].layer_class(*arguments, name="this")
    return tl.Model(x, layer([x, x] if layer.takes_list else x))


def test_a_layer_without_a_kernel_for_gpus_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PReLU", "LayerNormalization"):
        monkeypatch.setitem(OPERATIONS, name, replace(OPERATIONS[name], cuda=None))
        with pytest.raises(tl.TargetError, match=f"{name} 'this' .* compile the model for a CPU"):
            tl.compile(alone(name), target="cuda-sm80")
    x = tl.Input((4,))
    model = tl.Model(x, tl.LayerNormalization()(tl.Add()([x, x])))
    with pytest.raises(tl.TargetError, match="LayerNormalization has no kernel for CUDA"):
        tl.compile(model, target="cuda-sm80")


@pytest.mark.parametrize("name", [n for n, row in OPERATIONS.items() if row.formula])
def test_a_model_of_a_layer_is_saved_and_inspected(name: str, tmp_path: Path) -> None:
    model, path = alone(name), tmp_path / "model"
    model.save(path)
    again = tl.load_model(path)
    assert again.get_config() == model.get_config()
    assert again.summary(print_fn=lambda _: None) == model.summary(print_fn=lambda _: None)
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
