"""Copies and pickles of layers and models: equal to what they were made of, and apart from it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle{p}": lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in (2, 4, 5)},
}


def square(x: Any) -> Any:
    return x * x


def _layers() -> list[tl.Layer]:
    return [
        tl.Dense(3, square, input_dim=4, name="own", seed=3, kernel_initializer="he_normal"),
        tl.Dense(3, dtype="float64", input_shape=(2, 4)),
        tl.Dense(3),
        tl.Dense(3, input_dim=4, dtype="bfloat16"),
        tl.Embedding(5, 2, padding_idx=1, mask_zero=True, weights=np.ones((5, 2))),
        tl.EmbeddingBag(5, 2, mode="sum", include_last_offset=True),
        tl.Flatten(),
        tl.Reshape((2, -1)),
        tl.GlobalAveragePooling1D(),
        tl.Concatenate(axis=1),
        tl.Dot(axes=(1, 1), normalize=True),
        tl.DotInteraction(),
        tl.Activation("softmax"),
        tl.Dropout(0.5, seed=2),
        tl.Add(),
        tl.LayerNormalization(axis=(-2, -1), gamma_initializer="normal", input_shape=(3, 4)),
        tl.RMSNormalization(epsilon=0.1, dtype="float64", input_shape=(4,)),
        tl.BatchNormalization(center=False, moving_mean_initializer="normal", input_shape=(4,)),
        tl.PReLU("normal", shared_axes=[1], input_shape=(3, 4)),
        tl.Rescaling([1.0, 2.0], offset=0.5),
        tl.ELU(2.0),
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", _layers(), ids=lambda layer: layer.kind)
def test_a_layer_is_copied_with_its_weights(layer: tl.Layer, way: str) -> None:
    made = WAYS[way](layer)
    assert type(made) is type(layer)
    assert made.get_config() == layer.get_config()
    assert (made.auto_named, made.input_shape) == (layer.auto_named, layer.input_shape)
    assert made.weights.keys() == layer.weights.keys()
    for name, weight in made.weights.items():
        assert weight.dtype == layer.weights[name].dtype
        assert not weight.flags.writeable
        np.testing.assert_array_equal(weight, layer.weights[name])


def test_new_weights_of_a_copy_are_its_own() -> None:
    layer = tl.Dense(3, input_dim=4)
    before = layer.get_weights()
    for way in WAYS.values():
        made = way(layer)
        made.set_weights([np.zeros((4, 3)), np.zeros(3)])
        np.testing.assert_array_equal(layer.get_weights()[0], before[0])


def _models() -> dict[str, tl.Model]:
    x, y = tl.Input((6,), name="x"), tl.Input((6,))
    shared = tl.Dense(4)
    inner = tl.Sequential([tl.Input((6,)), tl.Dense(5, "relu"), tl.Dense(6)])
    total, ends = tl.Input((None,), batch=False, name="ids"), tl.Input((), name="offsets")
    built = tl.Sequential([tl.Dense(3), tl.Dense(2)])
    built.build((None, 5))
    return {
        "functional": tl.Model([x, y], tl.Dot(axes=1)([shared(x), shared(y)]), name="mine"),
        "two_outputs": tl.Model(x, [tl.Dense(2)(x), tl.Activation("relu")(x)]),
        "sequential": tl.Sequential([tl.Embedding(5, 2, input_length=3), tl.Flatten()]),
        "guessed": tl.Sequential([tl.Embedding(5, 2), tl.Dense(3)]),
        "unbuilt": tl.Sequential([tl.Dense(3), tl.Dense(2)]),
        "built": built,
        "nested": tl.Sequential([inner, tl.Dense(2)]),
        "ragged": tl.Model([total, ends], tl.EmbeddingBag(9, 2)(total, ends)),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", _models())
def test_a_model_is_copied_with_its_weights(name: str, way: str) -> None:
    model = _models()[name]
    made = WAYS[way](model)
    assert type(made) is type(model)
    assert made.get_config() == model.get_config()
    assert repr(made) == repr(model)
    if model.is_built:
        assert [tensor.dims for tensor in made.inputs] == [tensor.dims for tensor in model.inputs]
        for name, weight in model.weights.items():
            np.testing.assert_array_equal(made.weights[name], weight)


def test_layers_that_are_shared_stay_so_within_one_pickle() -> None:
    layer = tl.Dense(4, input_dim=6)
    first, second = tl.Sequential([layer, tl.Dense(2)]), tl.Sequential([layer])
    one, other, alone = pickle.loads(pickle.dumps((first, second, layer)))
    assert one.layers[0] is other.layers[0] is alone
    model = _models()["functional"]
    assert len(copy.deepcopy(model).layers) == len(model.layers) == 2


def test_axes_that_are_one_stay_so() -> None:
    total, factors = (tl.Input((None,), batch=False) for _ in range(2))
    ends = tl.Input(())
    bag = tl.EmbeddingBag(9, 2, mode="sum")
    model = tl.Model([total, ends, factors], bag(total, ends, factors))
    made = copy.deepcopy(model)
    assert made.inputs[0].axes[0] == made.inputs[2].axes[0]
    assert made.inputs[0].axes[0] != model.inputs[0].axes[0]
    assert made.outputs[0].axes[0] == model.outputs[0].axes[0]  # the batch


def test_a_model_deeper_than_the_recursion_limit_is_copied() -> None:
    x = y = tl.Input((4,))
    for _ in range(3000):
        y = tl.Activation("relu")(y)
    model = tl.Model(x, y)
    for way in ("deepcopy", "pickle5"):
        assert len(WAYS[way](model).nodes) == 3000


def test_an_input_is_copied_and_the_output_of_a_layer_refuses() -> None:
    x = tl.Input((None, 4), name="x", dtype="float64")
    made = copy.deepcopy(x)
    assert (made.name, made.shape, made.dtype) == (x.name, x.shape, x.dtype)
    with pytest.raises(tl.ConfigError, match="is the output of a layer"):
        pickle.dumps(tl.Dense(3)(tl.Input((4,))))


def test_what_a_call_compiled_stays_behind(compiler: Any) -> None:
    layer, model = tl.Dense(3), tl.Sequential([tl.Dense(3)])
    x = np.zeros((2, 4), np.float32)
    for made in (layer, model):
        made(x)
        copied = copy.deepcopy(made)
        before = len(compiler.models)
        copied(x)
        made(x)
        assert len(compiler.models) == before + 1
        np.testing.assert_array_equal(copied.get_weights()[0], made.get_weights()[0])
