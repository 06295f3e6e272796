"""Saved models whose configuration or weights were changed.

One that loads must have the weights of the file, and be described, saved and loaded again.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import tvmlayers as tl
from tests.fuzz.artefacts import joined, split
from tests.fuzz.mutation import mutated, text_of
from tvmlayers.layers.serialize import MODEL_KEY

NAMES = ("graph", "line", "unbuilt")


def prepare(folder: Path) -> None:
    """Write the models that are changed."""
    user, bag = tl.Input((3,), name="user"), tl.Input((None,), name="bag")
    embedded = tl.Flatten()(tl.Embedding(5, 2, "he_normal", mask_zero=True, seed=3)(user))
    bagged = tl.EmbeddingBag(5, 6, mode="max", oob="clip")(bag)
    hidden = tl.Dropout(0.5)(tl.Dense(2, "leaky_relu")(tl.Reshape((3, 2))(embedded)))
    pooled = tl.GlobalAveragePooling1D()(hidden)
    joined_up = tl.Concatenate()([pooled, tl.Activation("softmax")(bagged)])
    dots = tl.DotInteraction()([bagged, embedded])
    normed = tl.LayerNormalization()(tl.Add()([bagged, embedded]))
    slopes = tl.BatchNormalization(axis=1)(tl.PReLU(shared_axes=[1])(hidden))
    scaled = tl.Rescaling([0.5, 2.0], offset=1.0)(tl.RMSNormalization(axis=(1, 2))(slopes))
    outputs = [joined_up, tl.Dot(1)([embedded, bagged]), dots, normed, scaled]
    tl.Model([user, bag], outputs).save(folder / "graph")
    line = [tl.Embedding(9, 4, input_length=5), tl.Flatten(), tl.Dense(3, dtype="float32")]
    tl.Sequential(line).save(folder / "line")
    tl.Sequential([tl.Dense(3, input_dim=2), tl.Dense(2)]).save(folder / "unbuilt")


class Models:
    """Changes models of the folder and tries them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "changed"
        self.files = {name: split((folder / name).read_bytes()) for name in NAMES}

    def change(self, rng: Random) -> str:
        """Write a changed model; says what was changed."""
        name = rng.choice(NAMES)
        header, data = self.files[name]
        if rng.random() < 0.2:
            changed, told = mutated(header, rng)
            self.path.write_bytes(joined(text_of(changed), data[: rng.choice((None, 1, -1))]))
            return f"{name}, header: {told}"
        changed, told = mutated(json.loads(header["__metadata__"][MODEL_KEY]), rng)
        metadata: dict[str, Any] = {MODEL_KEY: text_of(changed)}
        self.path.write_bytes(joined(json.dumps({**header, "__metadata__": metadata}), data))
        return f"{name}: {told}"

    def use(self) -> None:
        """All that one does with a model; TvmLayersError where it is refused."""
        path = self.path
        model = tl.load_model(path)
        _has_weights_of(model, path)
        model.summary(print_fn=lambda _: None)
        repr(model.layers), model.get_config(), model.count_params()
        again = path.with_name("again")
        model.save(again)
        _has_weights_of(tl.load_model(again), path)


def _has_weights_of(model: Any, path: Path) -> None:
    found, expected = model.weights, load_file(path)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(array, expected[name].astype(array.dtype))
