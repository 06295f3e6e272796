"""A compiled model gives back the model and the weights that it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers.pack import pack_bias, pack_kernel, panel_layout, unpack_kernel
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
    bias = pack_bias(np.ones(n), layout)
    assert bias.size == layout.columns
    assert bias.sum() == n
