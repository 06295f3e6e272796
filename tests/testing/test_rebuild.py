"""A compiled model gives back the model and the weights that it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers.artifact.bf16x3 import parts_bytes, write_parts
from tvmlayers.artifact.panels import pack_columns, pack_kernel, panel_layout, unpack_kernel
from tvmlayers.testing import model_of, weights_of

UNITS = (1, 3, 17, 64, 65, 333)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["x86-64-v3", "sapphirerapids"])
def test_weights_come_back_to_the_last_bit(target: str, dtype: str) -> None:
    x, ids = tl.Input((7,), dtype=dtype), tl.Input((None,))
    tables = [tl.EmbeddingBag(9, 5, dtype=dtype)(ids)]
    denses = [tl.Dense(n, dtype=dtype, bias_initializer="normal")(x) for n in UNITS]
    model = tl.Model([x, ids], [*tables, *denses])
    compiled = tl.compile(model, target=target)
    rebuilt = model_of(compiled)
    weights = weights_of(compiled, rebuilt)
    assert rebuilt.get_config() == model.get_config()
    assert weights.keys() == model.weights.keys()
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weights[name], weight)


@given(
    k=st.integers(1, 40),
    n=st.integers(1, 200),
    vectors=st.integers(1, 6),
    lanes=st.sampled_from([1, 4, 8, 16]),
)
def test_packing_loses_nothing_and_adds_zeros(k: int, n: int, vectors: int, lanes: int) -> None:
    layout = panel_layout(k, n, width=vectors * lanes, lanes=lanes, dtype="float32")
    kernel = np.random.default_rng(n).standard_normal((k, n)).astype("float32")
    packed = pack_kernel(kernel, layout)
    np.testing.assert_array_equal(unpack_kernel(packed, layout), kernel)
    assert packed.size == k * layout.columns
    assert np.count_nonzero(packed) == kernel.size
    assert layout.n <= layout.columns < layout.n + vectors * lanes
    with_parts = panel_layout(k, n, width=vectors * 16, lanes=16, dtype="float32", has_parts=n > 1)
    again = pack_kernel(kernel, with_parts)
    assert again.size == with_parts.size
    np.testing.assert_array_equal(unpack_kernel(again, with_parts), kernel)
    in_pairs = panel_layout(k, n, width=vectors * 16, lanes=16, dtype="bfloat16", depth=1 + (n > 1))
    halves = kernel.astype("bfloat16")
    np.testing.assert_array_equal(unpack_kernel(pack_kernel(halves, in_pairs), in_pairs), halves)
    bias = np.zeros(layout.columns)
    pack_columns(np.ones(n), layout, bias)
    assert bias.sum() == n


@given(k=st.integers(1, 70), n=st.integers(1, 40), scale=st.integers(-60, 120))
def test_parts_add_up_to_the_weight(k: int, n: int, scale: int) -> None:
    columns = -(-n // 16) * 16
    kernel = np.random.default_rng(k).standard_normal((k, n)).astype("float32")
    kernel *= np.float32(2.0) ** scale
    out = np.zeros(parts_bytes(k, columns) // 4, "float32")
    write_parts(kernel, columns, out)
    # (strips, tiles, parts, pairs of steps 16 apart, columns, step of the pair)
    tiles = out.view("uint16").reshape(columns // 16, -(-k // 32), 3, 16, 16, 2)
    values = (tiles.astype("uint32") << 16).view("float32").astype("float64").sum(axis=2)
    found = values.transpose(1, 4, 2, 0, 3).reshape(-1, columns)
    np.testing.assert_array_equal(found[:k, :n], kernel)
    assert not found[k:].any()
    assert not found[:, n:].any()
