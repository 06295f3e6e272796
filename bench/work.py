"""What a case works on: weights and inputs as NumPy arrays, the same for every side.

Lookups are either `repeated` (one set of indices, its rows end up in the caches) or `rotated` (as
many sets as it takes to touch four times the L2 caches, at least four, called in turn). A dense
layer is `repeated` (its kernel may stay in a cache) or `rotated` (as many copies of it).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases import BagCase, Case, DenseCase, EmbeddingCase, ModelCase
from bench.models import MODELS
from tvmlayers.dtypes import numpy_dtype

Array = NDArray[Any]
LAYOUTS = ("repeated", "rotated")
ZIPF_EXPONENT = 1.05
# Beyond these a rotation costs more memory and compile time than it tells.
MAX_INDEX_SETS = 256
MAX_KERNEL_COPIES = 8
MODEL_INPUT_SETS = 8


@dataclass(frozen=True)
class DenseWork:
    case: DenseCase
    data: str
    x: Array  # (m, k)
    kernels: list[Array]  # each (k, n), equal values in memory of their own
    bias: Array  # (n,)


@dataclass(frozen=True)
class EmbeddingWork:
    case: EmbeddingCase
    data: str
    table: Array  # (rows, dim)
    indices: list[Array]  # each (indices,)


@dataclass(frozen=True)
class BagWork:
    case: BagCase
    data: str
    table: Array  # (rows, dim)
    indices: list[Array]  # each (bags, length), or (lookups,) where ragged
    offsets: list[Array]  # each (bags,); of equal bags too, for peers that prefer them

    @property
    def flat(self) -> list[Array]:
        """The indices as 1-D arrays, each beside its offsets."""
        return [indices.reshape(-1) for indices in self.indices]


@dataclass(frozen=True)
class ModelWork:
    case: ModelCase
    data: str
    weights: dict[str, Array]
    inputs: list[tuple[Array, ...]]


Work = DenseWork | EmbeddingWork | BagWork | ModelWork


def make(case: Case, layout: str, dtype: str, index_dtype: str, cache_bytes: int) -> Work:
    """The work of a case, the same on every run; `cache_bytes` is what a rotation overflows."""
    rng = np.random.default_rng(zlib.crc32(case.spec.encode()))
    if isinstance(case, DenseCase):
        return _dense(case, layout, dtype, cache_bytes, rng)
    if isinstance(case, ModelCase):
        spec = MODELS[case.name]
        inputs = [spec.inputs(case.batch, rng, dtype, index_dtype) for _ in range(MODEL_INPUT_SETS)]
        weights = _model_weights(case.name, dtype)
        return ModelWork(case, f"{MODEL_INPUT_SETS} inputs rotated", weights, inputs)
    table = _table(case.rows, case.dim, dtype)
    row_bytes = table.itemsize * case.dim
    sets = 1
    if layout == "rotated":
        wanted = -(-4 * cache_bytes // (max(case.lookups, 1) * row_bytes))
        sets = min(max(wanted, 4), MAX_INDEX_SETS)
    data = f"{sets} sets rotated" if sets > 1 else "1 set repeated"
    if isinstance(case, EmbeddingCase):
        draws = [draw(case.rows, case.lookups, case.distribution, rng) for _ in range(sets)]
        return EmbeddingWork(case, data, table, [ids.astype(index_dtype) for ids in draws])
    return _bag(case, data, table, sets, index_dtype, rng)


def draw(rows: int, count: int, distribution: str, rng: np.random.Generator) -> Array:
    """`count` row numbers below `rows`, int64; Zipf's ranks are spread over a permuted table."""
    if distribution == "uniform":
        return rng.integers(0, rows, count, dtype=np.int64)
    cumulative, permuted = _zipf(rows)
    ranks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    rows_drawn: Array = permuted[np.minimum(ranks, rows - 1)]
    return rows_drawn


def release() -> None:
    """Let go of the tables kept from one case to the next."""
    _table.cache_clear()
    _model_weights.cache_clear()
    _zipf.cache_clear()


def _dense(
    case: DenseCase, layout: str, dtype: str, cache_bytes: int, rng: np.random.Generator
) -> DenseWork:
    x, kernel, bias = (
        _normal(shape, dtype, rng) for shape in ((case.m, case.k), (case.k, case.n), (case.n,))
    )
    kernel /= np.sqrt(case.k)
    x, kernel, bias = (array.astype(numpy_dtype(dtype), copy=False) for array in (x, kernel, bias))
    copies = 1
    if layout == "rotated":
        copies = min(max(-(-4 * cache_bytes // kernel.nbytes), 2), MAX_KERNEL_COPIES)
    data = f"{copies} kernels rotated" if copies > 1 else "1 kernel repeated"
    return DenseWork(case, data, x, [kernel, *(kernel.copy() for _ in range(copies - 1))], bias)


def _normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    return rng.standard_normal(shape, dtype=_float(dtype))


def _float(dtype: str) -> type[np.float32] | type[np.float64]:
    return np.float64 if dtype == "float64" else np.float32


def _bag(
    case: BagCase, data: str, table: Array, sets: int, index_dtype: str, rng: np.random.Generator
) -> BagWork:
    indices: list[Array] = []
    offsets: list[Array] = []
    for _ in range(sets):
        lengths = rng.integers(case.shortest, case.longest + 1, case.bags)
        ids = draw(case.rows, int(lengths.sum()), case.distribution, rng).astype(index_dtype)
        indices.append(ids if case.ragged else ids.reshape(case.bags, case.longest))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        offsets.append(starts.astype(index_dtype))
    return BagWork(case, data, table, indices, offsets)


# One table at a time: the largest public one is 2.6 GB.
@lru_cache(maxsize=1)
def _table(rows: int, dim: int, dtype: str) -> Array:
    rng = np.random.default_rng(rows * dim)
    table: Array = rng.random((rows, dim), dtype=_float(dtype))
    table -= 0.5
    return table


@lru_cache(maxsize=1)
def _model_weights(name: str, dtype: str) -> dict[str, Array]:
    return MODELS[name].weights(np.random.default_rng(zlib.crc32(name.encode())), dtype)


@lru_cache(maxsize=1)
def _zipf(rows: int) -> tuple[Array, Array]:
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return np.cumsum(weights), np.random.default_rng(rows).permutation(rows)
