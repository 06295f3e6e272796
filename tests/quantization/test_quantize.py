"""`quantize` gives a new model that says what it holds, and keeps what it promises."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.layers.summary import rows
from tvmlayers.quantization import KINDS


def tower() -> tl.Sequential:
    model = tl.Sequential(
        [
            tl.Embedding(50, 12, input_length=4, name="words", seed=1),
            tl.Flatten(),
            tl.Dense(20, "gelu", name="hidden", seed=2),
            tl.Dense(3, name="output", seed=3),
        ]
    )
    return model


@pytest.fixture(scope="module")
def model() -> tl.Sequential:
    return tower()


def test_the_model_stays_as_it_is(model: tl.Sequential) -> None:
    before = [weight.copy() for weight in model.get_weights()]
    made = tl.quantize(model, tables="int8")
    assert made is not model
    assert "stored" not in model.layers[0].get_config()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert made.layers[2].weights["kernel"] is model.layers[2].weights["kernel"]


@pytest.mark.parametrize("kind", KINDS)
def test_config_and_summary_say_what_is_held(model: tl.Sequential, kind: str) -> None:
    made = tl.quantize(model, tables=kind)
    words = made.layers[0]
    assert words.stored == words.get_config()["stored"] == kind
    assert [row.stored for row in rows(made)] == [kind, "", "", ""]
    assert kind in made.summary(lambda _: None)
    assert made.count_params() == model.count_params()
    assert rows(made)[0].bytes < rows(model)[0].bytes


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_and_copies_hold_the_same(
    model: tl.Sequential, kind: str, tmp_path: Path
) -> None:
    made = tl.quantize(model, tables=kind, weights=kind)
    path = tmp_path / "model.safetensors"
    made.save(path)
    for again in (tl.load_model(path), copy.deepcopy(made)):
        assert again.get_config() == made.get_config()
        for old, new in zip(made.get_weights(), again.get_weights(), strict=True):
            assert old.dtype == new.dtype
            np.testing.assert_array_equal(old, new)


def test_a_layer_made_in_fewer_bits_begins_as_one_that_was_quantised() -> None:
    words = tl.Embedding(50, 12, stored="int8", seed=1)
    quantised = tl.quantize(tl.Embedding(50, 12, seed=1), tables="int8")
    np.testing.assert_array_equal(words.weights["embeddings"], quantised.weights["embeddings"])


def test_rows_of_pytorch_are_taken_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(table))
    bag = tl.EmbeddingBag(50, 12, mode="sum", stored="int8", weights=packed)
    ids = np.random.default_rng(1).integers(0, 50, (7, 9))
    wanted = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        packed,
        torch.from_numpy(ids.reshape(-1)),
        torch.arange(0, 63, 9),
        include_last_offset=False,
    )
    np.testing.assert_allclose(bag(ids), wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_names_in_keep_stay_float(model: tl.Sequential) -> None:
    made = tl.quantize(model, weights="int8", tables="int8", keep=["output", "words"])
    assert [row.stored for row in rows(made)] == ["", "", "int8", ""]
    with pytest.raises(tl.UnknownNameError, match=r"'ouput'.*Did you mean 'output'"):
        tl.quantize(model, weights="int8", keep=["ouput"])
    with pytest.raises(tl.ConfigError, match=r"keep=\['output'\]"):
        tl.quantize(model, weights="int8", keep="output")


def test_unknown_kinds_are_refused_with_those_there_are(model: tl.Sequential) -> None:
    with pytest.raises(tl.UnknownNameError, match=r"'int7'.*Did you mean 'int8'"):
        tl.quantize(model, tables="int7")
    with pytest.raises(tl.UnknownNameError, match=r"bfloat16, float16, int4, int8"):
        tl.quantize(model, weights="float64")


def test_nothing_to_do_is_refused(model: tl.Sequential) -> None:
    with pytest.raises(tl.ConfigError, match=r"nothing to quantise"):
        tl.quantize(model)
    with pytest.raises(tl.ConfigError, match=r"nothing to quantise.*for Dense"):
        tl.quantize(tl.Dense(3, input_dim=4), tables="int8")
    with pytest.raises(tl.ConfigError, match=r"kept as int8 already"):
        tl.quantize(tl.quantize(model, tables="int8"), tables="float16")
    with pytest.raises(tl.ConfigError, match=r"no weights yet"):
        tl.quantize(tl.Dense(3), weights="int8")
    with pytest.raises(tl.DTypeError, match=r"float64.*float32 layers only"):
        tl.quantize(tl.Dense(3, input_dim=4, dtype="float64"), weights="int8")


def test_weights_that_cannot_be_held_are_named(model: tl.Sequential) -> None:
    broken = tower()
    table = broken.layers[0].get_weights()[0]
    table[3, 2] = np.nan
    broken.layers[0].set_weights([table])
    with pytest.raises(tl.WeightsError, match=r"'words' weight 'embeddings' is nan at \(3, 2\)"):
        tl.quantize(broken, tables="int8")


def test_floats_are_not_taken_for_codes(model: tl.Sequential) -> None:
    made = tl.quantize(model, tables="int8")
    with pytest.raises(tl.WeightsError, match=r"expected uint8, as tvmlayers\.quantize makes it"):
        made.layers[0].set_weights([np.zeros((50, 20), np.float32)])


def test_gpus_refuse_fewer_bits(model: tl.Sequential) -> None:
    with pytest.raises(tl.DTypeError, match=r"'words' keeps its weights as int8.*cuda-sm90"):
        tl.compile(tl.quantize(model, tables="int8"), target="cuda-sm90")
