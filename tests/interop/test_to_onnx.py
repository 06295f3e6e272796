"""`model.to_onnx()`: files that other runtimes run, and that come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from all_layers import (
    MODELS,
    agree,
    bags,
    expected,
    filled,
    numbers,
    padded_bags,
    samples,
    weights_of,
    words,
)

import tvmlayers as tl
from tests.networks import onnx_session

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

MADE = {name: make for name, make in MODELS.items() if "ragged" not in name}
MADE["padded_bags"] = lambda dtype: padded_bags(dtype, ("mean", "sum"))


def by_onnx_runtime(path: Path, model: tl.Model, inputs: tuple[Any, ...]) -> list[Any]:
    session = onnx_session(path)
    names = [tensor.name for tensor in model.inputs]
    return session.run(None, dict(zip(names, inputs, strict=True)))


@pytest.mark.parametrize("name", MADE)
def test_every_layer_is_written_run_and_read_again(name: str, tmp_path: Path) -> None:
    # ONNX Runtime has no kernels in float64 for these.
    dtype = "float32" if name in ("activations", "dense", "slopes") else "float64"
    model, path = MADE[name](dtype), tmp_path / "made.onnx"
    model.to_onnx(path)
    again, inputs = tl.from_onnx(path), samples(model)
    assert weights_of(again) == weights_of(model)
    assert [t.shape for t in again.inputs] == [t.shape for t in model.inputs]
    assert [t.name for t in again.inputs] == [t.name for t in model.inputs]
    agree(again, expected(model, inputs), inputs)
    agree(model, by_onnx_runtime(path, model, inputs), inputs)


def test_shared_layers_and_names_stay(tmp_path: Path) -> None:
    model, path = MODELS["dense"]("float32"), tmp_path / "made.onnx"
    model.to_onnx(path)
    proto = onnx.load(path)
    assert [tensor.name for tensor in proto.graph.initializer] == list(model.weights)
    assert [layer.name for layer in tl.from_onnx(path).layers if layer.has_weights] == [
        layer.name for layer in model.layers if layer.has_weights
    ]
    assert {node.domain for node in proto.graph.node} == {""}


def test_all_that_onnx_lacks_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    model, path = MODELS["ragged_bags"]("float32"), tmp_path / "made.onnx"
    with pytest.raises(tl.ModelExportError, match="3 parts of this model 'made' cannot be written"):
        model.to_onnx(path)
    ids = words()
    zero = tl.Embedding(20, 4, oob="zero", name="zero")(ids)
    least = tl.EmbeddingBag(20, 4, mode="min", padding_idx=1, name="least")(ids)
    with pytest.raises(tl.ModelExportError) as caught:
        tl.Model(ids, [zero, least]).to_onnx(path)
    assert "the layer 'zero': only oob=" in str(caught.value)
    assert "the layer 'least': padding_idx has an equivalent" in str(caught.value)
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    x = numbers(6)
    with pytest.raises(tl.SaveError):
        filled(x, tl.Dense(3)(x)).to_onnx(tmp_path / "absent" / "made.onnx")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_keep_their_bits(dtype: str, tmp_path: Path) -> None:
    x = numbers(6, dtype=dtype)
    model = filled(x, tl.Dense(3, "relu", dtype=dtype)(x))
    model.to_onnx(tmp_path / "made.onnx")
    assert weights_of(tl.from_onnx(tmp_path / "made.onnx")) == weights_of(model)


def test_a_batch_of_any_size_runs(tmp_path: Path) -> None:
    model, path = bags("float32"), tmp_path / "made.onnx"
    model.to_onnx(path)
    for batch in (1, 2, 9):
        inputs = samples(model, batch)
        agree(model, by_onnx_runtime(path, model, inputs), inputs)
