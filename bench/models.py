"""The public models: their weights and inputs. `ours` and `twins` build the layers around them.

A weight's name is "<layer>.<weight>"; a kernel is (in, out), as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]

SEED_LENGTH = 10
TEXT_LENGTH = 20
TOWERS = ("user", "item")
TOWER_ROWS = 1_000_000
DLRM_NUMBERS = 13
DLRM_BAGS = 8
DLRM_ROWS = 100_000
DLRM_LENGTH = 20  # cases.json leaves it open
DLRM_BOTTOM = (512, 256, 64)
DLRM_TOP = (512, 256, 1)


@dataclass(frozen=True)
class ModelSpec:
    """weights(rng, dtype); inputs(batch, rng, dtype, index_dtype), in the order of the model's."""

    weights: Callable[[np.random.Generator, str], Weights]
    inputs: Callable[[int, np.random.Generator, str, str], tuple[Array, ...]]
    flops: int  # of one sample, in its dense layers and products
    row_bytes: int  # float32 bytes looked up for one sample


def dense_weights(name: str, k: int, n: int, rng: np.random.Generator, dtype: str) -> Weights:
    kernel = rng.standard_normal((k, n)) / np.sqrt(k)
    bias = rng.standard_normal(n) * 0.1
    return {f"{name}.kernel": kernel.astype(dtype), f"{name}.bias": bias.astype(dtype)}


def table(name: str, rows: int, dim: int, rng: np.random.Generator, dtype: str) -> Weights:
    values = rng.random((rows, dim), dtype=np.float32) - np.float32(0.5)
    return {f"{name}.embeddings": values.astype(dtype, copy=False)}


def _seed_weights(rng: np.random.Generator, dtype: str) -> Weights:
    return {
        **table("embedding", 5000, 64, rng, dtype),
        **dense_weights("hidden", SEED_LENGTH * 64, 128, rng, dtype),
        **dense_weights("output", 128, 10, rng, dtype),
    }


def _seed_inputs(
    batch: int, rng: np.random.Generator, dtype: str, index_dtype: str
) -> tuple[Array, ...]:
    return (rng.integers(0, 5000, (batch, SEED_LENGTH)).astype(index_dtype),)


def _text_weights(rng: np.random.Generator, dtype: str) -> Weights:
    return {
        **table("bag", 5000, 64, rng, dtype),
        **dense_weights("output", 64, 10, rng, dtype),
    }


def _text_inputs(
    batch: int, rng: np.random.Generator, dtype: str, index_dtype: str
) -> tuple[Array, ...]:
    return (rng.integers(0, 5000, (batch, TEXT_LENGTH)).astype(index_dtype),)


def _tower_weights(rng: np.random.Generator, dtype: str) -> Weights:
    weights: Weights = {}
    for tower in TOWERS:
        weights |= table(f"{tower}", TOWER_ROWS, 64, rng, dtype)
        weights |= dense_weights(f"{tower}_hidden", 64, 128, rng, dtype)
        weights |= dense_weights(f"{tower}_output", 128, 64, rng, dtype)
    return weights


def _tower_inputs(
    batch: int, rng: np.random.Generator, dtype: str, index_dtype: str
) -> tuple[Array, ...]:
    return tuple(rng.integers(0, TOWER_ROWS, batch).astype(index_dtype) for _ in TOWERS)


def _dlrm_weights(rng: np.random.Generator, dtype: str) -> Weights:
    weights: Weights = {}
    for bag in range(DLRM_BAGS):
        weights |= table(f"bag{bag}", DLRM_ROWS, 64, rng, dtype)
    vectors = DLRM_BAGS + 1
    top_in = DLRM_BOTTOM[-1] + vectors * (vectors - 1) // 2
    for stack, first, units in (("bottom", DLRM_NUMBERS, DLRM_BOTTOM), ("top", top_in, DLRM_TOP)):
        for place, (k, n) in enumerate(zip((first, *units), units, strict=False)):
            weights |= dense_weights(f"{stack}{place}", k, n, rng, dtype)
    return weights


def _dlrm_inputs(
    batch: int, rng: np.random.Generator, dtype: str, index_dtype: str
) -> tuple[Array, ...]:
    numbers = rng.standard_normal((batch, DLRM_NUMBERS)).astype(dtype)
    bags = (
        rng.integers(0, DLRM_ROWS, (batch, DLRM_LENGTH)).astype(index_dtype)
        for _ in range(DLRM_BAGS)
    )
    return (numbers, *bags)


def _chain_flops(*sizes: int) -> int:
    return sum(2 * k * n for k, n in pairwise(sizes))


_PAIRS = (DLRM_BAGS + 1) * DLRM_BAGS // 2
MODELS = {
    "seed": ModelSpec(
        _seed_weights,
        _seed_inputs,
        _chain_flops(SEED_LENGTH * 64, 128, 10),
        SEED_LENGTH * 256,
    ),
    "text": ModelSpec(
        _text_weights,
        _text_inputs,
        _chain_flops(64, 10) + TEXT_LENGTH * 64,
        TEXT_LENGTH * 256,
    ),
    "two tower": ModelSpec(
        _tower_weights,
        _tower_inputs,
        2 * _chain_flops(64, 128, 64) + 2 * 64,
        2 * 256,
    ),
    "dlrm": ModelSpec(
        _dlrm_weights,
        _dlrm_inputs,
        _chain_flops(DLRM_NUMBERS, *DLRM_BOTTOM)
        + _chain_flops(DLRM_BOTTOM[-1] + _PAIRS, *DLRM_TOP)
        + 2 * 64 * _PAIRS
        + DLRM_BAGS * DLRM_LENGTH * 64,
        DLRM_BAGS * DLRM_LENGTH * 256,
    ),
}
