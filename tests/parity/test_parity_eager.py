"""The Keras snippets run word for word, and layers compute when they are called by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agreement import Twin, compile_here, indices, normal

import tvmlayers as tl

torch = pytest.importorskip("torch")

KERAS_SNIPPETS = (
    "tf.keras.Sequential([tf.keras.layers.Embedding("
    "input_dim=5000, output_dim=64, input_length=10)])",
    "tf.keras.Sequential([tf.keras.layers.Dense(units=128, activation='relu'), "
    "tf.keras.layers.Dense(units=10, activation='softmax')])",
)


def from_keras(snippet: str) -> tl.Sequential:
    """What a Keras tutorial writes, with tl in place of tf.keras and of tf.keras.layers."""
    model = eval(snippet.replace("tf.keras.layers.", "tl.").replace("tf.keras.", "tl."))
    assert isinstance(model, tl.Sequential)
    return model


def test_the_embedding_of_the_tutorial_runs_word_for_word() -> None:
    model = from_keras(KERAS_SNIPPETS[0])
    ids = indices(5000, 32, 10)
    assert model(ids).shape == (32, 10, 64)
    twin = Twin(model, seed=None)
    twin.agrees_for_every_batch(ids, batches=range(33))
    np.testing.assert_array_equal(twin.compiled(ids), model(ids))
    with pytest.raises(tl.IndexOutOfRangeError, match="input_dim=5000"):
        model(np.full((1, 10), 5000))


def test_the_dense_layers_of_the_tutorial_run_word_for_word() -> None:
    model = from_keras(KERAS_SNIPPETS[1])
    x = normal(333, 784)
    result = model(x)
    assert result.shape == (333, 10)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-5)
    Twin(model, seed=None).agrees_for_every_batch(x)


def test_a_model_that_knows_no_shape_yet_is_compiled_with_an_example() -> None:
    model = from_keras(KERAS_SNIPPETS[1])
    with pytest.raises(tl.ConfigError, match="input shape"):
        compile_here(model)
    x = normal(3, 20)
    Twin(model, example=x, seed=None).agrees(x)


EAGER: list[tuple[tl.Layer, Any]] = [
    (tl.Dense(10), normal(5, 7)),
    (tl.Dense(10, "gelu", dtype="float64"), normal(2, 3, 7, dtype="float64")),
    (tl.Embedding(50, 8), indices(50, 6, 3)),
    (tl.Embedding(50, 8, oob="zero"), indices(50, 6, dtype="uint8")),
    (tl.EmbeddingBag(50, 8, mode="max"), indices(50, 6, 3)),
    (tl.Activation("mish"), normal(4, 4)),
    (tl.Flatten(), normal(4, 2, 3)),
    (tl.Reshape((3, -1)), normal(4, 2, 3)),
    (tl.Dropout(0.3), normal(4, 2)),
    (tl.GlobalAveragePooling1D(), normal(4, 5, 2)),
    (tl.Concatenate(), [normal(4, 5), normal(4, 2)]),
    (tl.Dot(axes=1, normalize=True), [normal(4, 5), normal(4, 5, seed=2)]),
    (tl.DotInteraction(), normal(4, 5, 6)),
]


@pytest.mark.parametrize(("layer", "value"), EAGER, ids=[layer.kind for layer, _ in EAGER])
def test_a_layer_called_by_itself_computes(layer: tl.Layer, value: Any) -> None:
    listed = value if isinstance(value, list) else [value]
    example = tuple(listed) if isinstance(value, list) else value
    twin = Twin(layer, example=example, seed=None)
    wanted = twin.reference(*listed)
    twin.compare(layer(value), wanted)
    if not isinstance(value, list):
        tensor = layer(torch.from_numpy(value))
        assert isinstance(tensor, torch.Tensor)
        twin.compare(tensor, wanted)


def test_a_bag_called_by_itself_takes_offsets_and_weights() -> None:
    layer = tl.EmbeddingBag(50, 8, mode="sum")
    ids, offsets, factors = indices(50, 9), np.array([0, 2, 2]), normal(9)
    twin = Twin(layer, seed=None)
    more = {"offsets": offsets, "per_sample_weights": factors}
    twin.compare(layer(ids, **more), twin.reference(ids, **more))
    twin.compare(layer(ids, offsets), twin.reference(ids, offsets=offsets))


def test_new_weights_show_in_the_next_call_of_a_layer() -> None:
    layer = tl.Dense(3, input_dim=2)
    x = normal(4, 2)
    layer(x)
    layer.set_weights([np.zeros((2, 3)), [1, 2, 3]])
    np.testing.assert_array_equal(layer(x), np.tile(np.array([1, 2, 3], np.float32), (4, 1)))
