"""`from_keras`: models in memory and .keras files, on PyTorch as Keras's backend."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")
L = keras.layers if keras else None

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras's own


def ids(length: int | None = None) -> Any:
    return keras.Input(() if length is None else (length,), dtype="int32")


def seed_model() -> Any:
    return keras.Sequential(
        [keras.Input((10,)), L.Embedding(50, 4), L.Flatten(), L.Dense(3, activation="softmax")]
    )


def two_tower() -> Any:
    user, item, tower = ids(), ids(), L.Dense(8, activation="gelu", name="tower")
    vectors = [tower(L.Embedding(30, 8)(user)), tower(L.Embedding(40, 8, name="items")(item))]
    return keras.Model([user, item], L.Activation("sigmoid")(L.Dot(1, normalize=True)(vectors)))


def masked_text() -> Any:
    words = ids(7)
    pooled = L.GlobalAveragePooling1D()(L.Dense(5)(L.Embedding(40, 6, mask_zero=True)(words)))
    return keras.Model(words, L.ReLU(6.0)(L.Dropout(0.2)(L.Dense(4, use_bias=False)(pooled))))


def nested() -> Any:
    words, other, inner = ids(7), ids(7), masked_text()
    ends = [inner(words), inner(other), L.Softmax()(L.Flatten()(L.Embedding(40, 2)(words)))]
    return keras.Model([words, other], [L.Concatenate()(ends), L.LeakyReLU(0.2)(ends[0])])


def transformer() -> Any:
    """A table, feed-forward blocks of residual sums and normalisations, and slopes."""
    words = ids(7)
    x = L.Embedding(40, 6)(words)
    for norm in (L.LayerNormalization(), L.RMSNormalization(), L.BatchNormalization()):
        x = norm(L.Add()([x, L.Dense(6)(L.LeakyReLU()(L.Dense(9)(x)))]))
    x = L.PReLU(shared_axes=[1])(L.Rescaling(0.5, offset=-1.0)(x))
    ends = [L.GlobalMaxPooling1D()(x), L.GlobalAveragePooling1D()(L.ReLU(negative_slope=0.1)(x))]
    merged = [kind()(ends) for kind in (L.Average, L.Maximum, L.Minimum, L.Multiply, L.Subtract)]
    model = keras.Model(words, L.UnitNormalization()(L.ELU(2.0)(L.Concatenate()(merged))))
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.2, 1.2, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("make", [seed_model, two_tower, masked_text, nested, transformer])
def test_models_and_their_files_are_equal(make: Callable[[], Any], tmp_path: Path) -> None:
    model, path = make(), tmp_path / "model.keras"
    model.save(path)
    given = [
        np.random.default_rng(0).integers(1, 30, (9, *tensor.shape[1:])) for tensor in model.inputs
    ]
    taken = given if len(given) > 1 else given[0]
    for source in (model, path, str(path)):
        imported = tl.from_keras(source)
        assert {w.tobytes() for w in imported.get_weights()} == {
            keras.ops.convert_to_numpy(w).tobytes() for w in model.weights
        }
        report = tl.verify(
            tl.compile(imported),
            against=lambda *_: model(taken),
            inputs=tuple(given),
        )
        assert report.ok, str(report)


def test_an_input_that_nothing_uses_is_taken_where_an_input_can_be_it() -> None:
    unused, x, mask = ids(7), keras.Input((6,)), keras.Input((6,), dtype="bool")
    model = keras.Model([unused, x, mask], L.Dense(3)(x))
    imported = tl.from_keras(model)
    assert imported.input_shape == [(None, 7), (None, 6)]
    given = np.zeros((9, 7), np.int32), np.random.default_rng(0).normal(size=(9, 6)).astype("f")
    wanted = keras.ops.convert_to_numpy(model([*given, given[1] > 0]))
    np.testing.assert_allclose(tl.compile(imported)(*given), wanted, rtol=1e-5, atol=1e-5)


def test_float64_stays_float64() -> None:
    # Keras on PyTorch rounds to float32 on the way, so NumPy is what is compared with.
    model = keras.Sequential([keras.Input((6,), dtype="float64"), L.Dense(3, dtype="float64")])
    x = np.random.default_rng(0).normal(size=(9, 6))
    kernel, bias = map(keras.ops.convert_to_numpy, model.weights)
    compiled = tl.compile(tl.from_keras(model))
    np.testing.assert_allclose(compiled(x), x @ kernel + bias, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_policies_compute_in_their_half(policy: str) -> None:
    layers = [L.Dense(8, "relu", dtype=policy), L.LayerNormalization(dtype=policy)]
    model = keras.Sequential([keras.Input((6,)), *layers, L.Dense(3, dtype="float32")])
    imported = tl.from_keras(model)
    assert [layer.dtype_policy for layer in imported.layers] == [policy, policy, "float32"]
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    compiled = tl.compile(imported)
    assert compiled(x).dtype == np.float32
    wanted = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(compiled(x), wanted, rtol=0.05, atol=0.05)


def test_layers_without_weights_do_not_cast() -> None:
    layers = [L.Dense(8, dtype="mixed_bfloat16"), L.Activation("softmax", dtype="float32")]
    with pytest.raises(tl.ModelImportError, match="casts bfloat16 to float32"):
        tl.from_keras(keras.Sequential([keras.Input((6,)), *layers]))


def test_layers_keep_their_names() -> None:
    names = {layer.name for layer in tl.from_keras(two_tower()).layers}
    assert {"tower", "items"} <= names


def test_all_unsupported_layers_are_named() -> None:
    x = keras.Input((4,))
    y = L.GroupNormalization(1, name="norm")(L.Dense(3, activation=lambda v: v)(x))
    with pytest.raises(tl.ModelImportError) as caught:
        tl.from_keras(keras.Model(x, L.ReLU(threshold=0.3)(y)))
    found = str(caught.value)
    assert found.startswith("3 parts of this Keras model cannot be imported:")
    assert "GroupNormalization 'norm': no layer here computes it" in found
    assert "only threshold=0 is there, not 0.3" in found


def test_a_model_that_was_never_built_is_refused() -> None:
    with pytest.raises(tl.ModelImportError, match="never built"):
        tl.from_keras(keras.Sequential([L.Dense(3)]))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(tl.ConfigError, match=r"path of a \.keras file, got int"):
        tl.from_keras(3)


def test_damaged_and_hostile_files_are_refused(tmp_path: Path) -> None:
    path, outside = tmp_path / "model.keras", tmp_path / "outside"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(tl.ModelImportError, match="damaged"):
        tl.from_keras(path)
    seed_model().save(path)
    with zipfile.ZipFile(path) as good:
        members = {name: good.read(name) for name in good.namelist()}
    changes = {
        "config.json": [b"{}", b"[" * 100_000, members["config.json"][:-9]],
        "model.weights.h5": [b"", members["model.weights.h5"][:900]],
    }
    for name, contents in changes.items():
        for content in contents:
            with zipfile.ZipFile(path, "w") as bad:
                for member, data in {**members, name: content}.items():
                    bad.writestr(member, data)
                bad.writestr("../outside", b"traversal")
            with pytest.raises(tl.TvmLayersError):
                tl.from_keras(path)
    assert not outside.exists()
    assert not (tmp_path.parent / "outside").exists()


def test_weights_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    import h5py

    path, weights = tmp_path / "model.keras", tmp_path / "weights.h5"
    seed_model().save(path)
    with zipfile.ZipFile(path) as good:
        config = good.read("config.json")
        weights.write_bytes(good.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        del file["layers/embedding/vars/0"]
        file["layers/embedding/vars/0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    with zipfile.ZipFile(path, "w") as bad:
        bad.writestr("config.json", config)
        bad.writestr("model.weights.h5", weights.read_bytes())
    with pytest.raises(tl.ModelImportError, match="outside of the file"):
        tl.from_keras(path)


@pytest.mark.parametrize("kind", ["Maximum", "Minimum", "Multiply"])
def test_merges_that_leave_out_what_a_mask_hides_are_refused(kind: str) -> None:
    words = ids(7)
    rows = L.Embedding(40, 6, mask_zero=True)(words)
    merged = getattr(L, kind)()([rows, L.Dense(6)(rows)])
    with pytest.raises(tl.ModelImportError, match="leaves out what a mask hides"):
        tl.from_keras(keras.Model(words, L.Flatten()(merged)))
    ours = tl.Input((7,), dtype="int32")
    rows = tl.Embedding(40, 6, mask_zero=True)(ours)
    model = tl.Model(ours, tl.Flatten()(getattr(tl, kind)()([rows, tl.Dense(6)(rows)])))
    with pytest.raises(tl.ModelExportError, match="leave out what a mask hides"):
        model.to_keras()
