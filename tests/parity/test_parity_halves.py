"""Models of float16 and bfloat16 on CPUs: computed in float32, rounded once between layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from agreement import Twin, needs, normal, on_cpu

import tvmlayers as tl
from tvmlayers.dtypes import HALF_DTYPES, limits, numpy_dtype
from tvmlayers.layers import as_model
from tvmlayers.layers.embedding_bag import MODES

torch = pytest.importorskip("torch")
pytestmark = on_cpu

both = pytest.mark.parametrize("dtype", HALF_DTYPES)


def on(dtype: str, target: str) -> Any:
    """Both as parameters of a test, skipped where this machine lacks the target's features."""
    return pytest.param(dtype, target, marks=needs(target).marks)


@cache
def dense(k: int, n: int, dtype: str, target: str = "native", activation: str = "gelu") -> Twin:
    return Twin(tl.Dense(n, activation, input_dim=k, dtype=dtype), target=target)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [on("bfloat16", "native"), on("float16", "x86-64-v3"), on("bfloat16", "x86-64-v4")],
)
def test_panels_with_a_tail_agree_for_every_batch(dtype: str, target: str) -> None:
    x = normal(100, 131, dtype=dtype)
    dense(131, 100, dtype, target).agrees_for_every_batch(x, batches=(0, 1, 2, 6, 12, 33, 100))


@pytest.mark.parametrize(("k", "n"), [(1, 1), (301, 1), (5, 3), (64, 64)])
@both
def test_narrow_and_single_columns_agree(k: int, n: int, dtype: str) -> None:
    dense(k, n, dtype).agrees_for_every_batch(normal(20, k, dtype=dtype), batches=(0, 1, 2, 7, 20))


def test_blocks_of_a_long_k_agree() -> None:
    twin = dense(9216, 512, "float16", activation="relu")
    twin.agrees_for_every_batch(normal(30, 9216, dtype="float16"), batches=(1, 8, 30))


def layers_of(dtype: str) -> Iterator[Any]:
    """Every kind of layer but Dense, lookups and views; what has numbers of its own with them."""

    def tensor(*shape: int) -> Any:
        return tl.Input(shape, dtype=dtype)

    a, b, long = tensor(7), tensor(7), tensor(6, 41)
    for merge in (tl.Add, tl.Subtract, tl.Multiply, tl.Maximum, tl.Minimum, tl.Average):
        yield merge()([a, b])
    yield tl.Concatenate()([a, b, a])
    for layer in (tl.PReLU(dtype=dtype), tl.BatchNormalization(dtype=dtype)):
        yield layer(a)
    for layer in (tl.ELU(0.5), tl.LeakyReLU(0.1), tl.Rescaling(2.5, 1.25)):
        yield layer(a)
    for kind in ("softmax", "log_softmax", "gelu", "tanh"):
        yield tl.Activation(kind)(a)
        yield tl.Activation(kind)(long)
    for layer in (tl.LayerNormalization(dtype=dtype), tl.RMSNormalization(dtype=dtype)):
        yield layer(long)
        yield type(layer)(dtype=dtype)(tl.Add()([long, long]))
    for layer in (tl.UnitNormalization(), tl.GlobalAveragePooling1D(), tl.GlobalMaxPooling1D()):
        yield layer(long)
    yield tl.DotInteraction()(long)
    yield tl.Dot(1, normalize=True)([a, b])
    yield tl.Dot(2)([long, long])


@cache
def every_layer(dtype: str, target: str) -> Any:
    outputs = list(layers_of(dtype))
    inputs = {id(t): t for output in outputs for t in _leaves(output)}
    return Twin(tl.Model(list(inputs.values()), outputs), target=target)


def _leaves(tensor: Any) -> Iterator[Any]:
    if tensor.node is None:
        yield tensor
        return
    for each in tensor.node.inputs:
        yield from _leaves(each)


@pytest.mark.parametrize(
    ("dtype", "target"), [on("bfloat16", "native"), on("float16", "x86-64-v3")]
)
def test_every_layer_agrees(dtype: str, target: str) -> None:
    twin = every_layer(dtype, target)
    assert {output.dtype for output in twin.model.outputs} == {dtype}
    for batch in (0, 1, 5, 33):
        shapes = [tensor.shape[1:] for tensor in twin.model.inputs]
        twin.agrees(*(normal(batch, *s, dtype=dtype, seed=i) for i, s in enumerate(shapes)))


@pytest.mark.parametrize(("mode", "dtype"), list(zip(MODES, 2 * HALF_DTYPES, strict=True)))
def test_bags_agree_in_every_form(mode: str, dtype: str) -> None:
    layer = tl.EmbeddingBag(30, 37, mode=mode, padding_idx=2, dtype=dtype, oob="clip")
    twin = Twin(as_model(layer))
    indices, offsets = np.arange(60) % 37 - 3, np.array([0, 0, 7, 20, 60])
    twin.agrees(indices.reshape(6, 10))
    twin.agrees(indices, offsets=offsets)
    if mode in ("sum", "mean"):
        weights = np.abs(normal(60, dtype=dtype)) + numpy_dtype(dtype).type(0.5)
        twin.agrees(indices, offsets=offsets, per_sample_weights=weights)


@both
@pytest.mark.parametrize("oob", ["zero", "clip"])
def test_rows_are_copied_to_the_bit(oob: str, dtype: str) -> None:
    layer = tl.Embedding(30, 24, oob=oob, dtype=dtype)
    table = np.arange(30 * 24, dtype=np.uint16).reshape(30, 24) * np.uint16(91)
    layer.set_weights([table.view(numpy_dtype(dtype))])  # NaNs, infinities, subnormal numbers
    found = tl.compile(layer)(np.array([[0, 29, 7], [3, -1, 30]]))
    ends = {"zero": [0 * table[0], 0 * table[0]], "clip": [table[0], table[29]]}[oob]
    wanted = [[table[0], table[29], table[7]], [table[3], *ends]]
    np.testing.assert_array_equal(found.view(np.uint16), wanted)


@both
def test_large_lookups_that_pass_the_caches_agree(dtype: str) -> None:
    layer = tl.Embedding(50, 64, dtype=dtype)
    indices = np.random.default_rng(0).integers(0, 50, (40_000,))
    np.testing.assert_array_equal(tl.compile(layer)(indices), layer.get_weights()[0][indices])


@both
def test_a_mean_of_masked_rows_agrees(dtype: str) -> None:
    ids = tl.Input((None,), dtype="int64")
    pooled = tl.GlobalAveragePooling1D()(tl.Embedding(30, 20, mask_zero=True, dtype=dtype)(ids))
    Twin(tl.Model(ids, pooled)).agrees(np.arange(40).reshape(5, 8) % 30 * (np.arange(8) % 3 > 0))


def test_a_chain_of_layers_agrees_on_two_threads() -> None:
    dtype = "bfloat16"
    made = [tl.Dense(70, "gelu", input_dim=50, dtype=dtype), tl.Dense(90, "relu", dtype=dtype)]
    model = tl.Sequential([*made, tl.Dense(3, "softmax", dtype=dtype)])
    Twin(model).agrees_for_every_batch(normal(300, 50, dtype=dtype), batches=(0, 1, 3, 4, 65, 300))


def edges(dtype: str) -> np.ndarray:
    """Numbers whose sums and products are ties, subnormal, infinite and none at all."""
    known = limits(dtype)
    one = [1, 1 + known.eps, 1 - known.eps / 2, 1 + 3 * known.eps, known.eps, known.eps / 2]
    tiny = [0, known.least, 3 * known.least, known.smallest, 2.5 * known.smallest]
    large = [known.largest, known.largest / 2, known.largest / 3, np.inf, np.nan]
    found = np.array([*one, *tiny, *large], np.float64)
    return np.concatenate([found, -found]).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("target", [needs("x86-64-v3"), "native"])
@both
def test_results_are_rounded_to_the_nearest_even_half(dtype: str, target: str) -> None:
    numbers = np.array(list(product(edges(dtype), repeat=2)))
    left, right = (np.ascontiguousarray(column)[:, None] for column in numbers.T)
    a, b = tl.Input((1,), dtype=dtype), tl.Input((1,), dtype=dtype)
    model = tl.Model([a, b], [tl.Add()([a, b]), tl.Multiply()([a, b])])
    found = tl.compile(model, target=target)(left, right)
    with np.errstate(all="ignore"):
        wide = left.astype(np.float32), right.astype(np.float32)
        wanted = [(wide[0] + wide[1]).astype(left.dtype), (wide[0] * wide[1]).astype(left.dtype)]
    for got, want in zip(found, wanted, strict=True):
        is_nan = np.isnan(want.astype(np.float32))
        np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), is_nan)
        np.testing.assert_array_equal(got.view(np.uint16)[~is_nan], want.view(np.uint16)[~is_nan])


@pytest.mark.parametrize("target", ["armv8-a", "neoverse-v1"])
@both
def test_arm_targets_compile(dtype: str, target: str) -> None:
    model = tl.Sequential(
        [tl.EmbeddingBag(40, 64, mode="sum", dtype=dtype), tl.Dense(9, "softmax", dtype=dtype)]
    )
    assert {row["dtype"] for row in tl.compile(model, target=target).report()} == {dtype}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_models_take_and_give_float32_where_asked(policy: str) -> None:
    layers = [tl.Dense(70, "gelu", input_dim=20, dtype=policy)]
    layers += [tl.BatchNormalization(dtype=policy), tl.Dense(5, "softmax", dtype="float32")]
    twin = Twin(tl.Sequential(layers))
    assert twin.compiled.inputs[0].dtype == twin.compiled.outputs[0].dtype == "float32"
    twin.agrees_for_every_batch(normal(65, 20), batches=(0, 1, 5, 65))
    assert tl.verify(twin.compiled, samples=[3]).ok


def test_each_layer_rounds_what_it_takes_to_its_own_dtype() -> None:
    x = tl.Input((20,), dtype="float32")
    first = tl.Dense(7, dtype="bfloat16")(x)
    made = [first, tl.Dense(7, dtype="float16")(first), tl.Dense(3, dtype="float16")(x)]
    Twin(tl.Model(x, made)).agrees(normal(9, 20) * 10)


@both
def test_a_batch_normalisation_rounds_by_itself(dtype: str) -> None:
    """Folded into the Dense before it, its weights would be rounded twice."""
    layers = [tl.Dense(4, input_dim=3, dtype=dtype), tl.BatchNormalization(dtype=dtype)]
    assert len(tl.compile(tl.Sequential(layers)).report()) == 2
