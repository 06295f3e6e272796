"""A compiled model gives the same however it is called, stored and placed in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import Array, Twin, indices, normal, once
from samples import every_input, every_kernel

import tvmlayers as tl
from tvmlayers import targets

torch = pytest.importorskip("torch")

TARGETS = ("x86-64-v3", "x86-64-v4", "sapphirerapids")
DTYPES = ("float32", "float64")


def needs(target: str) -> Any:
    missing = targets.missing_features(targets.resolve(target).cpu_flags)
    return pytest.param(target, marks=pytest.mark.skipif(bool(missing), reason=f"no {missing}"))


@once
def sample(dtype: str = "float32", target: str = "native") -> Twin:
    return Twin(every_kernel(dtype), target=target)


@pytest.mark.parametrize("target", [needs(target) for target in TARGETS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_target_of_this_machine_is_right_for_every_batch(target: str, dtype: str) -> None:
    twin = sample(dtype, target)
    assert twin.compiled.target == target
    twin.agrees_for_every_batch(*every_input(333, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_single_bit(dtype: str) -> None:
    compiled = sample(dtype).compiled
    large = tl.compile(tl.Dense(300, "softmax", input_dim=500, dtype=dtype))
    for batch in (0, 1, 2, 7, 64, 333, 1000):
        for model, inputs in (
            (compiled, every_input(batch, dtype)),
            (large, (normal(batch, 500, dtype=dtype),)),
        ):
            results = []
            for threads in (1, 2, 3, 16):
                model.threads = threads
                results.append(model(*inputs))
            for result in results[1:]:
                for left, right in zip(results[0], result, strict=True):
                    np.testing.assert_array_equal(left, right)
    compiled.threads = 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loaded_model_gives_the_same_bits(dtype: str, tmp_path: Path) -> None:
    compiled = sample(dtype).compiled
    compiled.save(tmp_path / "model.tvml")
    loaded = tl.load(tmp_path / "model.tvml", threads=compiled.threads)
    for batch in (0, 1, 5, 333):
        inputs = every_input(batch, dtype)
        for left, right in zip(compiled(*inputs), loaded(*inputs), strict=True):
            np.testing.assert_array_equal(left, right)
    assert loaded.report() == compiled.report()


def test_a_model_saved_and_compiled_again_gives_the_same_bits(tmp_path: Path) -> None:
    model = every_kernel()
    model.save(tmp_path / "model.safetensors")
    again = tl.load_model(tmp_path / "model.safetensors")
    inputs = every_input(40)
    for left, right in zip(tl.compile(model)(*inputs), tl.compile(again)(*inputs), strict=True):
        np.testing.assert_array_equal(left, right)


def at(array: Array, offset: int) -> Array:
    """A copy that begins `offset` bytes behind a multiple of 64, other bytes around it set."""
    block = np.full(array.nbytes + 192, 0x5A, np.uint8)
    start = -block.ctypes.data % 64 + 64 + offset
    made = np.ndarray(array.shape, array.dtype, block.data, start)
    made[...] = array
    return made


def surroundings_are_untouched(array: Array) -> bool:
    block = array.base if isinstance(array.base, np.ndarray) else np.frombuffer(array.base, "u1")
    start = array.ctypes.data - block.ctypes.data
    around = np.concatenate([block[:start], block[start + array.nbytes :]])
    return bool((around == 0x5A).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 37])
def test_inputs_and_results_may_begin_at_any_address(batch: int, dtype: str) -> None:
    compiled = sample(dtype).compiled
    ids, x = every_input(batch, dtype)
    wanted = compiled(ids, x)
    for place in range(0, 64, x.itemsize):
        out = [at(np.zeros_like(array), (place + 4 * i) % 64 // x.itemsize * x.itemsize)
               for i, array in enumerate(wanted)]
        given = at(ids, place // 8 * 8), at(x, place)
        assert compiled(*given, out=out) is out
        for array, want in zip(out, wanted, strict=True):
            np.testing.assert_array_equal(array, want)
            assert surroundings_are_untouched(array)
        assert all(map(surroundings_are_untouched, given))


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_bags_may_begin_at_any_address(index_dtype: str) -> None:
    compiled = tl.compile(tl.EmbeddingBag(97, 16, mode="sum"))
    ids, factors = indices(97, 50, dtype=index_dtype), normal(50)
    offsets = np.array([0, 3, 3, 20], index_dtype)
    wanted = compiled(ids, offsets, per_sample_weights=factors)
    for place in range(0, 64, ids.itemsize):
        out = at(np.zeros_like(wanted), place)
        given = at(ids, place), at(offsets, (place + 24) % 64), at(factors, place)
        np.testing.assert_array_equal(compiled(*given, out=out), wanted)
        assert surroundings_are_untouched(out)


def test_nothing_is_read_or_written_beyond_any_array() -> None:
    program = [sys.executable, "-W", "error", str(Path(__file__).with_name("guarded.py"))]
    result = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert result.stdout == "untouched\n", f"status {result.returncode}: {result.stderr[-2000:]}"


def test_inputs_that_are_not_packed_or_writable_give_the_same() -> None:
    compiled = sample().compiled
    ids, x = every_input(20)
    wanted = compiled(ids, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    padded = np.zeros((20, 40), np.float32)
    padded[:, 5:36] = x
    for other in (frozen, np.asfortranarray(x), padded[:, 5:36], x[::-1].copy()[::-1], x.tolist()):
        for left, right in zip(compiled(ids.tolist(), other), wanted, strict=True):
            np.testing.assert_array_equal(left, right)


def test_the_result_is_of_the_callers_kind() -> None:
    compiled = sample().compiled
    ids, x = every_input(9)
    wanted = compiled(ids, x)
    given = compiled(torch.from_numpy(ids), torch.from_numpy(x))
    assert all(isinstance(result, torch.Tensor) for result in given)
    for left, right in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(left.numpy(), right)


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
        tl.compile(model)
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
