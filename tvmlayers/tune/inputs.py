"""Inputs for measurements: indices that a table has, values that a layer meets, all from a seed."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import view
from tvmlayers.quantization import KINDS, ROWS
from tvmlayers.quantization.rows import TABLE
from tvmlayers.tune.cases import Case
from tvmlayers.tune.data import Data
from tvmlayers.workload import Workload

Array: TypeAlias = NDArray[Any]

INDEX_SETS = 8
ZIPF_EXPONENT = 1.05
# What a rotation of copies may hold, so that each call finds its data in memory.
COLD_BYTES = 512 << 20
MOST_COPIES = 64
_CHUNK = 1 << 20


def draw(workload: Workload, data: Data, seed: int) -> list[tuple[Array, ...]]:
    """The inputs of one call for each turn of the rotation, as the entry point takes them.

    dense, softmax: (x,); embedding: (indices,) of shape (1, indices); bag: (indices, offsets).
    """
    rng = np.random.default_rng(seed)
    if workload.kind in ("dense", "softmax"):
        width = workload["k" if workload.kind == "dense" else "n"]
        x = rng.standard_normal((workload.batch, width), dtype=np.float64)
        values = x.astype(workload["dtype"])
        return [(values.copy(),) for _ in range(copies(values.nbytes) if data.cold else 1)]
    sets = INDEX_SETS
    if data.cold:
        sets = max(sets, copies(workload.batch * workload.row_bytes))
    return [_lookup(workload, data, rng) for _ in range(sets)]


def held_bytes(case: Case) -> int:
    """About how many bytes a whole rotation reads: what decides which cache or memory it is in."""
    workload = case.workload
    size = np.dtype(workload["dtype"]).itemsize
    if case.data.cold:
        return COLD_BYTES
    if workload.kind == "dense":
        return int(workload["k"] * workload["m"] * size + workload.weight_bytes)
    if workload.kind == "softmax":
        return int(workload["m"] * workload["n"] * size)
    read = min(INDEX_SETS * workload.batch, workload["rows"])
    result = workload.batch * workload["width"] * size
    return int(read * workload.row_bytes + result)


def copies(nbytes: int) -> int:
    """How many copies of something make up COLD_BYTES; at least 1, at most MOST_COPIES."""
    return max(1, min(MOST_COPIES, math.ceil(COLD_BYTES / max(nbytes, 1))))


def draw_indices(rows: int, count: int, distribution: str, rng: np.random.Generator) -> Array:
    """`count` row numbers below `rows`, int32; Zipf's frequent rows are spread over the table."""
    if distribution == "uniform":
        return rng.integers(0, rows, count, dtype=np.int32)
    # The inverse of the integral over ranks 1..rows of rank ** -exponent.
    power = 1.0 - ZIPF_EXPONENT
    ranks = (1.0 + rng.random(count) * ((rows + 1.0) ** power - 1.0)) ** (1.0 / power)
    step = next(step for step in range(int(rows * 0.618) | 1, 2 * rows + 2) if _coprime(step, rows))
    spread = (np.minimum(ranks.astype(np.int64), rows) - 1) * step % rows
    drawn: Array = spread.astype(np.int32)
    return drawn


def fill(
    arena: NDArray[np.uint8], offset: int, rows: int, width: int, stored: str, seed: int
) -> None:
    """Write a table of normal numbers into the arena: of any size, within a second a GB."""
    count = min(max(_CHUNK // width, 1), rows)
    chunk = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    held = ROWS.hold(chunk, stored, "table")[TABLE] if stored in KINDS else chunk.astype(stored)
    table = view(arena, offset, (rows, held.shape[1]), held.dtype.name)
    for start in range(0, rows, count):
        part = table[start : start + count]
        part[:] = held[: len(part)]


def _lookup(workload: Workload, data: Data, rng: np.random.Generator) -> tuple[Array, ...]:
    indices = draw_indices(workload["rows"], workload.batch, data.distribution, rng)
    if workload.kind == "embedding":
        return (indices.reshape(1, -1),)
    return indices, _offsets(workload.batch, data, rng)


def _offsets(total: int, data: Data, rng: np.random.Generator) -> Array:
    """Where each bag begins; together the bags have `total` indices."""
    least, most = data.lengths
    bags = max(1, round(total / max(1, data.mean_length)))
    lengths = rng.integers(least, most + 1, bags)
    ends = np.minimum(np.cumsum(lengths), total)
    return np.concatenate([[0], ends[:-1]]).astype(np.int32)


def _coprime(a: int, b: int) -> bool:
    return math.gcd(a, b) == 1
