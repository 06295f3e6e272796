from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmlayers as tl


class OnlyDLPack:
    """A tensor that has neither shape nor dtype, as some libraries have them."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def test_first_call_compiles_and_later_calls_do_not(compiler: Any) -> None:
    layer = tl.Dense(3)
    for batch in (2, 5, 0):
        assert layer(np.zeros((batch, 4), np.float32)) == "result of 1"
    assert len(compiler.models) == 1
    assert compiler.models[0].inputs[0].dims == ("n", 4)
    assert layer.weights["kernel"].shape == (4, 3)


def test_another_rank_compiles_once_more(compiler: Any) -> None:
    layer = tl.Dense(3)
    layer(np.zeros((2, 4), np.float32))
    layer(np.zeros((2, 7, 4), np.float32))
    layer(np.zeros((2, 9, 4), np.float32))
    assert [model.inputs[0].dims for model in compiler.models] == [("n", 4), ("n", "n1", 4)]


def test_new_weights_drop_what_was_compiled(compiler: Any, tmp_path: Any) -> None:
    layer = tl.Dense(3, input_dim=4)
    x = np.zeros((2, 4), np.float32)
    layer(x)
    layer.set_weights(layer.get_weights())
    layer(x)
    layer.save_weights(tmp_path / "w.safetensors")
    layer.load_weights(tmp_path / "w.safetensors")
    layer(x)
    assert len(compiler.models) == 3


def test_new_weights_of_a_layer_drop_what_its_models_compiled(compiler: Any) -> None:
    shared = tl.Dense(3, input_dim=4)
    model = tl.Sequential([shared, tl.Dense(2)])
    x = np.zeros((2, 4), np.float32)
    model(x)
    model(x)
    shared.set_weights(shared.get_weights())
    model(x)
    assert len(compiler.models) == 2


@pytest.mark.parametrize(
    ("layer", "shape", "dims"),
    [
        (tl.Embedding(5, 2), (7,), ("n",)),
        (tl.Embedding(5, 2), (7, 3), ("n", "n1")),
        (tl.Embedding(5, 2), (7, 3, 4), ("n", "n1", "n2")),
        (tl.Embedding(5, 2, input_length=3), (7, 3), ("n", 3)),
        (tl.EmbeddingBag(5, 2), (7, 3), ("n", "n1")),
    ],
)
def test_index_axes_are_left_open(
    layer: tl.Layer, shape: tuple[int, ...], dims: tuple[Any, ...]
) -> None:
    for dtype in (np.int8, np.uint32, np.int64):
        (indices,) = tl.layers.as_model(layer, np.zeros(shape, dtype)).inputs
        assert (indices.dims, indices.dtype, indices.name) == (dims, "int64", "indices")


def test_a_bag_takes_offsets_and_sample_weights_by_name(compiler: Any) -> None:
    bag = tl.EmbeddingBag(5, 2, mode="sum")
    bag(np.zeros((2, 3), np.int32))
    bag([0, 1, 2], [0, 1], per_sample_weights=[1, 2, 3])
    (model,) = compiler.models
    assert model.inputs[0].dims == ("n", "n1")
    (indices,), named = compiler.calls[1]
    assert list(named) == ["offsets", "per_sample_weights"]
    assert (indices.dtype, named["offsets"].dtype) == (np.int64, np.int64)
    assert named["per_sample_weights"].dtype == np.float32


def test_a_model_that_begins_with_a_bag_takes_offsets_too(compiler: Any) -> None:
    model = tl.Sequential([tl.EmbeddingBag(5, 2), tl.Dense(3)])
    model([0, 1, 2], [0, 1])
    model([0, 1, 2], offsets=[0, 1])
    model([[0, 1, 2]])
    assert len(compiler.models) == 1
    assert len(compiler.calls[0][0]) == 2
    assert list(compiler.calls[1][1]) == ["offsets"]


def test_lists_take_the_dtype_of_the_layer(compiler: Any) -> None:
    tl.Dense(3)([[1, 2]])
    tl.Dense(3, dtype="float64")([[1.5, 2.0]])
    tl.Embedding(3, 2)([])
    assert [args[0].dtype for args, _ in compiler.calls] == [np.float32, np.float64, np.int64]


def test_arrays_reach_compiled_code_as_they_are(compiler: Any) -> None:
    torch = pytest.importorskip("torch")
    for x in (np.ones((2, 4), np.float32), torch.ones(2, 4)):
        tl.Dense(3)(x)
        assert compiler.calls[-1][0][0] is x


def test_a_tensor_that_only_speaks_dlpack_is_taken(compiler: Any) -> None:
    x = OnlyDLPack(np.ones((2, 4), np.float32))
    tl.Dense(3)(x)
    assert compiler.models[0].inputs[0].dims == ("n", 4)
    assert compiler.calls[0][0][0] is x
    with pytest.raises(tl.DTypeError, match="got int64"):
        tl.Dense(3)(OnlyDLPack(np.ones((2, 4), np.int64)))


@pytest.mark.parametrize(
    ("layer", "array", "message"),
    [
        (tl.Dense(3, dtype="float16"), np.zeros((2, 4)), "expected float16, got float64"),
        (tl.Dense(3), np.zeros((2, 4), np.int64), "got int64"),
        (tl.Dense(3), np.zeros((2, 4)), "expected float32, got float64"),
        (tl.Embedding(3, 2), np.zeros((2, 4)), "expected integers"),
        (tl.Embedding(3, 2), np.zeros((2, 4), np.uint64), "got uint64"),
        (tl.Embedding(3, 2), np.zeros((2, 4), bool), "got bool"),
        (tl.Flatten(), np.zeros((2, 4), np.complex64), "got complex64"),
    ],
)
def test_arrays_of_the_wrong_dtype_are_refused_before_compiling(
    compiler: Any, layer: tl.Layer, array: Any, message: str
) -> None:
    with pytest.raises(tl.DTypeError, match=message):
        layer(array)
    assert not compiler.models


@pytest.mark.parametrize("layer", [tl.Dense(3), tl.EmbeddingBag(3, 2), tl.Flatten()])
def test_scalars_and_uneven_lists_are_refused(compiler: Any, layer: tl.Layer) -> None:
    for value in (0, np.float32(1), [[1, 2], [3]]):
        with pytest.raises(tl.ShapeError):
            layer(value)
    assert not compiler.models


def test_weightless_layers_take_the_dtype_of_the_array(compiler: Any) -> None:
    relu = tl.Activation("relu")
    for dtype in ("float32", "float64"):
        relu(np.zeros((2, 3), dtype))
        assert compiler.models[-1].inputs[0].dtype == dtype


def test_several_arrays_reach_a_merging_layer(compiler: Any) -> None:
    tl.Concatenate()([np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)])
    (model,) = compiler.models
    assert [tensor.dims for tensor in model.inputs] == [("n", 3), ("n", 4)]
    assert len(compiler.calls[0][0]) == 2


def test_a_list_of_arrays_is_no_input_of_dot_interaction(compiler: Any) -> None:
    with pytest.raises(tl.ConfigError, match="stack"):
        tl.DotInteraction()([np.zeros((2, 3)), np.zeros((2, 3))])


def test_a_deferred_sequential_is_built_by_its_first_call(compiler: Any) -> None:
    model = tl.Sequential([tl.Dense(units=128, activation="relu"), tl.Dense(10, "softmax")])
    model(np.zeros((32, 64), np.float32))
    assert model.input_shape == (None, 64)
    assert model.output_shape == (None, 10)


def test_an_embedding_without_length_fixes_it_when_flatten_needs_it(compiler: Any) -> None:
    model = tl.Sequential([tl.Embedding(50, 8), tl.Flatten(), tl.Dense(2)])
    with pytest.raises(tl.ConfigError, match="not known"):
        _ = model.inputs
    model(np.zeros((3, 7), np.int64))
    assert model.input_shape == (None, 7)


def test_a_guessed_rank_gives_way_to_the_callers(compiler: Any) -> None:
    model = tl.Sequential([tl.Embedding(50, 8)])
    for shape in ((3, 4), (3,), (3, 4, 5)):
        model(np.zeros(shape, np.int64))
        assert model.inputs[0].rank == len(shape)


def test_a_model_takes_its_inputs_apart_or_as_a_list(compiler: Any) -> None:
    left, right = tl.Input((3,)), tl.Input((3,))
    model = tl.Model([left, right], tl.Dot(axes=1)([left, right]))
    arrays = [np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)]
    model(*arrays)
    model(arrays)
    assert [len(args) for args, _ in compiler.calls] == [2, 2]
    assert len(compiler.models) == 1


def test_as_model_without_a_known_shape_asks_for_an_example() -> None:
    for layer in (tl.Dense(3), tl.Flatten(), tl.Concatenate()):
        with pytest.raises(tl.ConfigError, match="example"):
            tl.layers.as_model(layer)
    with pytest.raises(tl.ConfigError, match="expected a layer or a model"):
        tl.layers.as_model(3)


def test_as_model_takes_shapes_too() -> None:
    assert tl.layers.as_model(tl.Dense(3), shapes=[(None, 4)]).output_shape == (None, 3)
    deferred = tl.Sequential([tl.Dense(3)])
    assert tl.layers.as_model(deferred, shapes=[(None, 4)]) is deferred
    assert deferred.output_shape == (None, 3)
