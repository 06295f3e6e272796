"""`model.to_keras()`: models that compute what ours compute, and come back as they were."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from all_layers import (
    MODELS,
    WIDTH,
    agree,
    bags,
    expected,
    filled,
    numbers,
    samples,
    weights_of,
    words,
)

import tvmlayers as tl
from tvmlayers.layers.activations import NAMES

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras's own

MADE = {
    name: make
    for name, make in MODELS.items()
    if name not in ("embeddings", "interaction", "normalizations", "padded_bags", "ragged_bags")
    and name != "weighted_bags"
}
MADE["bags"] = lambda dtype: bags(dtype, ("mean", "max"))


def functions(dtype: str) -> tl.Model:
    x = numbers(WIDTH)
    ends = [tl.Activation(name)(x) for name in NAMES if name not in ("linear", "gelu_tanh")]
    return filled(x, [*ends, tl.LeakyReLU(0.3)(x), tl.ELU(0.7)(x), tl.Dense(3, "relu")(x)])


def normal(dtype: str) -> tl.Model:
    """Every normalisation, with an epsilon of Keras's where it has no other."""
    x, flat = numbers(4, WIDTH), numbers(WIDTH)
    ends = [tl.LayerNormalization((-2, -1))(x), tl.RMSNormalization((-2, -1), 0.1)(x)]
    ends += [tl.LayerNormalization(center=c, scale=s)(x) for c in (0, 1) for s in (0, 1)]
    ends += [tl.UnitNormalization()(x), tl.UnitNormalization((-2, -1))(x)]
    ends += [tl.BatchNormalization(center=c, scale=s)(flat) for c in (0, 1) for s in (0, 1)]
    ends += [tl.BatchNormalization(1, 0.9, 0.1)(x), tl.BatchNormalization()(x)]
    return filled([x, flat], ends)


def tables(dtype: str) -> tl.Model:
    ids, few = words(name="ids"), tl.Input((), dtype="int32", name="few")
    table = tl.Embedding(20, 4, name="table")
    return filled([ids, few], [table(ids), table(few)])


MADE |= {"activations": functions, "normalizations": normal, "embeddings": tables}


@pytest.mark.parametrize("name", MADE)
def test_every_layer_is_written_and_read_again(name: str, tmp_path: Path) -> None:
    model = MADE[name]("float32")
    written, inputs = model.to_keras(), samples(model)
    made = written(list(inputs) if len(inputs) > 1 else inputs[0])
    made = made if isinstance(made, (list, tuple)) else [made]
    agree(model, [keras.ops.convert_to_numpy(each) for each in made], inputs, share=2.0)
    path = tmp_path / "made.keras"
    written.save(path)
    for source in (written, path):
        again = tl.from_keras(source)
        named = {name.replace(".", "_"): weight for name, weight in weights_of(model).items()}
        assert weights_of(again) == named
        assert [t.shape for t in again.inputs] == [t.shape for t in model.inputs]
        agree(again, expected(model, inputs), inputs)


def test_layers_keep_their_names_and_shared_ones_stay_shared() -> None:
    model = MODELS["dense"]("float32")
    written = model.to_keras()
    names = {layer.name for layer in written.layers}
    assert {layer.name.replace(".", "_") for layer in model.layers} <= names
    assert len(written.weights) == len(model.weights)


def test_all_that_keras_lacks_is_named() -> None:
    ids, x = words(), numbers(3, 4)
    ends = [
        tl.EmbeddingBag(20, 3, mode="sum", name="sum")(ids),
        tl.EmbeddingBag(20, 3, padding_idx=1, name="padded")(ids),
        tl.Embedding(20, 3, oob="clip", name="clipped")(ids),
        tl.DotInteraction(name="pairs")(x),
        tl.UnitNormalization(epsilon=1e-24, name="unit")(x),
        tl.Activation("gelu_tanh", name="tanh")(x),
    ]
    with pytest.raises(tl.ModelExportError) as caught:
        tl.Model([ids, x], ends).to_keras()
    for name in ("sum", "padded", "clipped", "pairs", "unit", "tanh"):
        assert f"the layer {name!r}" in str(caught.value)


def test_float64_is_written_as_float64() -> None:
    x = numbers(6, dtype="float64")
    written = filled(x, tl.Dense(3, dtype="float64")(x)).to_keras()
    assert np.asarray(keras.ops.convert_to_numpy(written.weights[0])).dtype == np.float64


def test_weights_in_fewer_bits_become_the_floats_that_they_stand_for() -> None:
    x = numbers(64)
    model = tl.quantize(filled(x, tl.Dense(33, "relu", name="head")(x)), weights="int4")
    kernel, _ = model.to_keras().get_layer("head").get_weights()
    layer = model.layers[0]
    wanted = layer.form.floats(layer.weights, layer.stored).astype(np.float32)
    np.testing.assert_array_equal(kernel, wanted)
    rounding = tl.Model(x, tl.Dense(3, stored="int8:int8", name="own")(x))
    with pytest.raises(tl.ModelExportError, match="'own': it rounds its inputs to int8"):
        rounding.to_keras()
