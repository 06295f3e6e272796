"""Dense kernels in fewer bits give what PyTorch makes of the numbers that they stand for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import Twin, needs, normal, on_cpu

import tvmlayers as tl
from tvmlayers.quantization import KINDS

torch = pytest.importorskip("torch")
pytestmark = on_cpu

BATCHES = (*range(14), 33, 100)
TARGETS = [needs("x86-64-v3"), needs("x86-64-v4"), needs("sapphirerapids")]


def kernel(k: int, n: int) -> np.ndarray:
    """Normal, but for a column of zeros, one of next to nothing, and one with an outlier."""
    made = np.random.default_rng(k + n).standard_normal((k, n)).astype(np.float32) / np.sqrt(k)
    made[:, 0] *= np.float32(1e-38)
    if n > 2:
        made[:, 1] = 0
        made[0, 2] = 1000
    return made.astype(np.float32)


@cache
def dense(
    kind: str, k: int, n: int, target: str = "native", activation: str = "linear", **more: Any
) -> Twin:
    layer = tl.Dense(n, activation, input_dim=k, **more)
    biases = [normal(n, seed=3)] if layer.use_bias else []
    layer.set_weights([kernel(k, n), *biases])
    return Twin(tl.quantize(layer, weights=kind), seed=None, target=target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_panels_with_a_tail_agree_for_every_batch(kind: str, target: str) -> None:
    dense(kind, 130, 100, target).agrees_for_every_batch(normal(100, 130), batches=BATCHES)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (301, 1), (5, 3), (64, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_and_single_columns_agree(kind: str, k: int, n: int) -> None:
    dense(kind, k, n).agrees_for_every_batch(normal(20, k), batches=range(0, 20, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_a_long_k_agree(kind: str) -> None:
    # A weight that the second-level cache cannot hold, so that tiles go over blocks of k.
    twin = dense(kind, 9216, 512, activation="relu")
    twin.agrees_for_every_batch(normal(30, 9216), batches=(1, 2, 8, 30))


@pytest.mark.parametrize("kind", KINDS)
def test_activations_over_a_row_agree_and_no_bias_is_needed(kind: str) -> None:
    twin = dense(kind, 96, 80, activation="softmax", use_bias=False)
    twin.agrees_for_every_batch(normal(20, 96), batches=(1, 7, 20))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_chain_of_layers_agrees(kind: str, target: str) -> None:
    model = tl.Sequential(
        [tl.Dense(70, "gelu", input_dim=50, seed=1), tl.Dense(90, "relu", seed=2), tl.Dense(3)]
    )
    twin = Twin(tl.quantize(model, weights=kind), seed=None, target=target)
    twin.agrees_for_every_batch(normal(65, 50), batches=(1, 3, 4, 65))


def test_infinite_and_nan_inputs_come_out_as_they_do_of_float_weights() -> None:
    twin, x = dense("int8", 64, 64), normal(4, 64)
    x[1, 5], x[2, 7] = np.nan, np.inf
    result = twin.compiled(x)
    assert np.isfinite(result[[0, 3]]).all()
    assert np.isnan(result[1]).all()
    assert not np.isfinite(np.delete(result[2], [1])).any()


@pytest.mark.parametrize("target", ["armv8-a", "neoverse-v1"])
@pytest.mark.parametrize("kind", KINDS)
def test_arm_targets_compile(kind: str, target: str) -> None:
    model = tl.Sequential([tl.EmbeddingBag(40, 64, mode="sum"), tl.Dense(100, "relu")])
    compiled = tl.compile(tl.quantize(model, tables=kind, weights=kind), target=target)
    kept = {row["layer"]: row["stored"].partition("/")[0] for row in compiled.report()}
    assert kept == {"embedding_bag": kind, "dense": kind}
