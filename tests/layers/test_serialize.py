from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tvmlayers as tl
from tvmlayers.layers.serialize import LAYERS, MODEL_KEY


def model(dtype: str = "float32") -> tl.Sequential:
    embedding = tl.Embedding(9, 4, input_length=3, dtype=dtype)
    return tl.Sequential([embedding, tl.Flatten(), tl.Dense(2, dtype=dtype)])


def same(left: tl.Model, right: tl.Model) -> None:
    assert left.get_config() == right.get_config()
    for one, other in zip(left.get_weights(), right.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_comes_back(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    saved = model(dtype)
    saved.save(path)
    loaded = tl.load_model(path)
    assert isinstance(loaded, tl.Sequential)
    same(saved, loaded)
    assert sorted(load_file(path)) == ["dense/bias", "dense/kernel", "embedding/embeddings"]


def test_weights_move_between_equal_models(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    first, second = model(), model()
    first.save_weights(path)
    second.load_weights(path)
    same(first, second)
    first.save(path)
    model().load_weights(str(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_layer_saves_its_own_weights(tmp_path: Path) -> None:
    first, second = tl.Dense(3, input_dim=2), tl.Dense(3, input_dim=2)
    first.save_weights(tmp_path / "w")
    second.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(first.weights["kernel"], second.weights["kernel"])


def test_a_name_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    named = tl.Sequential([tl.Dense(2, input_dim=3, name="a\ud800")])
    with pytest.raises(tl.ConfigError, match="rename the layer"):
        named.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_weights_of_several_widths_lie_at_multiples_of_their_size(tmp_path: Path) -> None:
    layers = [tl.Dense(3, input_dim=1, dtype=dtype) for dtype in ("float16", "float64", "float32")]
    inputs = [tl.Input((1,), dtype=layer.dtype) for layer in layers]
    mixed = tl.Model(inputs, [layer(each) for layer, each in zip(layers, inputs, strict=True)])
    mixed.save(tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    assert list(header) == sorted(header, key=lambda name: -mixed.weights[name].itemsize)
    for name, entry in header.items():
        assert (entry["data_offsets"][0] + length) % mixed.weights[name].itemsize == 0
    same(mixed, tl.load_model(tmp_path / "m"))


@pytest.mark.parametrize("lacking", ["inputs", "nodes", "outputs"])
def test_a_configuration_of_half_a_graph_is_refused(lacking: str) -> None:
    config = model().get_config()
    del config[lacking]
    with pytest.raises(tl.ConfigError, match="inputs, nodes and outputs"):
        tl.Model.from_config(config)


def test_a_wrong_type_in_a_configuration_names_its_field() -> None:
    config = json.loads(json.dumps(model().get_config()))
    config["nodes"][1]["inputs"] = ["embedding"]
    with pytest.raises(tl.ConfigError, match=r"`\$.nodes\[1\].inputs\[0\]`"):
        tl.Model.from_config(config)


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_file({"dense/kernel": np.zeros((12, 2), np.float32), "x/y": np.zeros(1)}, path)
    with pytest.raises(
        tl.WeightsError,
        match=r"missing \['dense/bias', 'embedding/embeddings'\], unexpected \['x/y'\]",
    ):
        model().load_weights(path)


def test_weights_of_another_shape_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    path, target = tmp_path / "w", model()
    before = target.get_weights()
    weights = {name: value.copy() for name, value in model().weights.items()}
    weights["dense/bias"] = np.zeros(3, np.float32)
    save_file(weights, path)
    with pytest.raises(tl.WeightsError, match=r"'bias' expected shape \(2,\), got \(3,\)"):
        target.load_weights(path)
    for one, other in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_python_callable_is_not_saved(tmp_path: Path) -> None:
    called = tl.Sequential([tl.Dense(2, activation=abs, input_dim=3)])
    with pytest.raises(tl.ConfigError, match="activation is the Python callable 'abs'"):
        called.save(tmp_path / "m")
    with pytest.raises(tl.ConfigError, match="callable"):
        tl.Model.from_config(called.get_config())


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tl.load_model(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        model().load_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 64, b"\xff" * 64, b"PK\x03\x04", b"{}"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(tl.ConfigError):
        tl.load_model(path)
    with pytest.raises(tl.WeightsError):
        model().load_weights(path)


def test_a_file_without_configuration_is_refused(tmp_path: Path) -> None:
    model().save_weights(tmp_path / "w")
    with pytest.raises(tl.ConfigError, match="no model configuration"):
        tl.load_model(tmp_path / "w")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_file_gives_an_error_of_ours_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m"
    model().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(tl.TvmLayersError):
        tl.load_model(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(config: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in nested dicts and lists."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    found = [path] if path else []
    if not isinstance(config, dict | list):
        return found
    for key, value in items:
        found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_hostile_configuration_gives_a_config_error_or_a_model(data: st.DataObject) -> None:
    user, bag = tl.Input((3,)), tl.Input((None,), name="bag")
    embedded = tl.Flatten()(tl.Embedding(5, 2, "he_normal", seed=3)(user))
    bagged = tl.EmbeddingBag(5, 6, mode="max")(bag)
    output = tl.Dense(2)(tl.Reshape((3, 2))(embedded))
    config = tl.Model([user, bag], [output, tl.Dot(1)([embedded, bagged])]).get_config()
    config = json.loads(json.dumps(config))
    place = data.draw(st.sampled_from(places(config)))
    parent = config
    for key in place[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()) and isinstance(parent, dict):
        del parent[place[-1]]
    else:
        parent[place[-1]] = data.draw(JSON)
    with suppress(tl.ConfigError):
        tl.Model.from_config(config)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"class": "os.system"}', "[" * 100_000])
def test_hostile_metadata_is_refused(tmp_path: Path, text: str) -> None:
    save_file({}, tmp_path / "m", metadata={MODEL_KEY: text})
    with pytest.raises(tl.ConfigError):
        tl.load_model(tmp_path / "m")


def test_a_huge_table_in_a_small_file_is_refused_before_it_is_made(tmp_path: Path) -> None:
    config = tl.Sequential([tl.Embedding(10**15, 10**6)]).get_config()
    save_file(
        {"embedding/embeddings": np.zeros((1, 1), np.float32)},
        tmp_path / "m",
        metadata={MODEL_KEY: json.dumps(config)},
    )
    with pytest.raises(tl.WeightsError, match="expected shape"):
        tl.load_model(tmp_path / "m")


def test_every_layer_can_be_read_back() -> None:
    public = {name for name in tl.__all__ if isinstance(getattr(tl.layers, name, None), type)}
    layers = {name for name in public if issubclass(getattr(tl, name), tl.Layer)} - {"Layer"}
    assert layers == set(LAYERS)
