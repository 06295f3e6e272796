"""`model.to_torch()`: modules that compute what our layers compute, and come back as they were."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from all_layers import MODELS, agree, filled, numbers, samples, weights_of, words
from torch import Tensor

import tvmlayers as tl


def free_axes(model: tl.Model) -> tuple[Any, ...]:
    """Those of each input, as torch.export takes them."""
    auto = torch.export.Dim.AUTO
    return tuple(
        {axis: auto for axis, size in enumerate(tensor.shape) if size is None}
        for tensor in model.inputs
    )


def tensors(arrays: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def called(module: Any, given: tuple[Tensor, ...]) -> list[Any]:
    with torch.no_grad():
        made = module(*given)
    return [tensor.numpy() for tensor in (made if isinstance(made, tuple) else (made,))]


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_written_and_read_again(name: str) -> None:
    model = MODELS[name]("float64")
    module, inputs = model.to_torch(), samples(model)
    results = called(module, tensors(inputs))
    agree(model, results, inputs)
    again = tl.from_torch(module, tensors(inputs), dynamic_shapes=free_axes(model))
    assert weights_of(again) == weights_of(model)
    assert [t.shape for t in again.inputs] == [t.shape for t in model.inputs]
    agree(again, results, inputs)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_and_results_have_the_layers_dtype(dtype: str) -> None:
    x = numbers(6, dtype=dtype)
    model = filled(x, tl.Dense(3, dtype=dtype)(x))
    module = model.to_torch()
    assert module(torch.zeros(2, 6, dtype=getattr(torch, dtype))).dtype == getattr(torch, dtype)
    (layer,) = module.children()
    bits = layer.weight.detach().t().contiguous().view(torch.uint8).numpy().tobytes()
    assert bits == model.layers[0].weights["kernel"].tobytes()


def test_names_of_the_state_dict_follow_those_of_the_layers() -> None:
    x = numbers(6, name="lambda")
    first, second = tl.Dense(6, name="towers.0"), tl.Dense(6, name="forward")
    last = tl.LayerNormalization(name="towers.0.weight")
    module = filled(x, last(second(first(first(x))))).to_torch()
    assert sorted(module.state_dict()) == [
        *("forward_.bias", "forward_.weight"),
        *("towers.0.bias", "towers.0.weight"),
        *("towers.0.weight_.bias", "towers.0.weight_.weight"),
    ]
    assert len(list(module.parameters())) == 6  # shared layers once


def test_a_module_is_copied_saved_exported_and_trained_as_others() -> None:
    model = MODELS["masked_text"]("float32")
    module, inputs = model.to_torch(), tensors(samples(model))
    results = called(module, inputs)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    exported = torch.export.export(module, inputs).module()
    for other in (copy.deepcopy(module), loaded, exported):
        for result, wanted in zip(called(other, inputs), results, strict=True):
            assert np.array_equal(result, wanted)
    sum(output.sum() for output in module(*inputs)).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_weights_are_copies_and_nothing_is_drawn() -> None:
    x = numbers(6)
    model = filled(x, tl.Dense(3, name="head")(x))
    state = torch.random.get_rng_state()
    module = model.to_torch()
    assert torch.equal(torch.random.get_rng_state(), state)
    before = model.weights["head/kernel"].tobytes()
    with torch.no_grad():
        module.head.weight.zero_()
    assert model.weights["head/kernel"].tobytes() == before


def test_indices_in_other_integers_are_cast() -> None:
    ids = words("uint8")
    model = filled(ids, tl.EmbeddingBag(20, 3)(ids))
    inputs = samples(model)
    agree(model, called(model.to_torch(), tensors(inputs)), inputs)


def test_all_that_pytorch_lacks_is_named() -> None:
    ids, factors = words(), numbers(5)
    zero = tl.Embedding(20, 4, oob="zero", name="zero")(ids)
    least = tl.EmbeddingBag(20, 4, mode="min", padding_idx=1, name="least")(ids)
    mean = tl.EmbeddingBag(20, 4, padding_idx=1, name="mean")(ids, per_sample_weights=factors)
    slopes = tl.PReLU(shared_axes=[1], name="slopes")(numbers(2, 3, 4))
    own = tl.Dense(3, lambda x: x * 2, name="own")(least)
    inputs = [ids, factors, slopes.node.inputs[0]]
    with pytest.raises(tl.ModelExportError) as caught:
        tl.Model(inputs, [zero, mean, slopes, own]).to_torch()
    found = str(caught.value)
    assert found.startswith("5 parts of this model 'model' cannot be written for PyTorch:")
    for name in ("zero", "least", "mean", "slopes", "own"):
        assert f"the layer {name!r}" in found


@pytest.mark.parametrize("kind", ["int8", "int4", "bfloat16"])
def test_weights_in_fewer_bits_become_the_floats_that_they_stand_for(kind: str) -> None:
    x, ids = numbers(64), words()
    ends = [tl.Dense(33, "relu", name="head")(x), tl.EmbeddingBag(20, 6, name="bag")(ids)]
    model = tl.quantize(filled([x, ids], ends), weights=kind, tables=kind)
    module, inputs = model.to_torch(), samples(model)
    assert all(layer.stored.startswith(kind) for layer in model.layers), "it stays as it was"
    for layer in model.layers:
        wanted = layer.form.floats(layer.weights, layer.stored).astype(np.float32)
        found = module.get_submodule(layer.name).weight.detach().numpy()
        np.testing.assert_array_equal(found.T if layer.name == "head" else found, wanted)
    agree(model, called(module, tensors(inputs)), inputs)


def test_a_model_that_is_not_built_is_refused() -> None:
    with pytest.raises(tl.ConfigError, match="input shape"):
        tl.Sequential([tl.Dense(3)]).to_torch()
