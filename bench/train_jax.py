"""JAX's steps: value_and_grad under jit, with weights and states donated.

Tables get gradients of the rows that were looked up alone, scattered by hand; duplicates of
row-wise Adagrad are counted apart, which is not exact.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.train_cases import BOTTOM, ROWS, TABLES, TOP, WIDTH, TrainCase

_MAP = jax.tree_util.tree_map
_EPSILON = 1e-8


def calls(case: TrainCase) -> list[Callable[[], float]]:
    """The steps over the case's batches in turn."""
    rng = np.random.default_rng(0)
    held = [_weights(case, rng)]
    held.append(_states(case, held[0]))
    step = jax.jit(partial(_step, case), donate_argnums=(0, 1))

    def call(x: tuple[Any, ...], y: Any) -> float:
        held[0], held[1], loss = step(held[0], held[1], x, y)
        return float(loss)

    return [
        partial(call, tuple(_as_array(each) for each in x), _as_array(y)) for x, y in case.data()
    ]


def _as_array(array: Any) -> Any:
    return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)


def _weights(case: TrainCase, rng: np.random.Generator) -> dict[str, Any]:
    def dense(k: int, n: int) -> tuple[Any, Any]:
        kernel = rng.standard_normal((k, n)).astype(np.float32) / np.sqrt(k)
        return jnp.asarray(kernel.astype(np.float32)), jnp.zeros(n, np.float32)

    def table(rows: int) -> Any:
        return jnp.asarray(rng.random((rows, 64), dtype=np.float32) - 0.5)

    if case.model == "seed":
        return {"tables": [table(5000)], "dense": [dense(640, 128), dense(128, 10)]}
    if case.model == "text":
        return {"tables": [table(20_000)], "dense": [dense(64, 4)]}
    sizes = [13, *BOTTOM], [WIDTH + TABLES * (TABLES + 1) // 2, *TOP, 1]
    layers = [dense(k, n) for each in sizes for k, n in pairwise(each)]
    return {"tables": [table(ROWS) for _ in range(TABLES)], "dense": layers}


def _states(case: TrainCase, weights: dict[str, Any]) -> Any:
    if case.optimizer == "adam":
        return _MAP(jnp.zeros_like, weights), _MAP(jnp.zeros_like, weights), jnp.zeros(())
    if case.optimizer == "adagrad":
        return [jnp.zeros_like(each) for each in weights["tables"]]
    return [jnp.zeros(each.shape[0]) for each in weights["tables"]]


def _loss(case: TrainCase, rows: list[Any], dense: list[Any], x: Any, y: Any) -> Any:
    """From rows that were looked up."""
    if case.model == "dlrm":
        return _dlrm_loss(rows, dense, x[0], y)
    h = rows[0].reshape(len(y), -1) if case.model == "seed" else rows[0].mean(1)
    for kernel, bias in dense[:-1]:
        h = jax.nn.relu(h @ kernel + bias)
    logits = jax.nn.log_softmax(h @ dense[-1][0] + dense[-1][1])
    return -jnp.take_along_axis(logits, y[:, None], 1).mean()


def _dlrm_loss(rows: list[Any], dense: list[Any], numbers: Any, y: Any) -> Any:
    h = numbers
    for kernel, bias in dense[: len(BOTTOM)]:
        h = jax.nn.relu(h @ kernel + bias)
    features = jnp.stack([h, *(each.sum(1) for each in rows)], 1)
    i, j = np.tril_indices(TABLES + 1, -1)
    h = jnp.concatenate([h, jnp.einsum("bik,bjk->bij", features, features)[:, i, j]], 1)
    for kernel, bias in dense[len(BOTTOM) : -1]:
        h = jax.nn.relu(h @ kernel + bias)
    z = h @ dense[-1][0] + dense[-1][1]
    return (jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean()


def _step(case: TrainCase, weights: dict[str, Any], states: Any, x: Any, y: Any) -> Any:
    if case.optimizer == "adam":
        return _adam(case, weights, states, x, y)
    ids = x[1:] if case.model == "dlrm" else x
    tables, rate = weights["tables"], case.rate
    rows = [table[each] for table, each in zip(tables, ids, strict=True)]
    loss, slopes = jax.value_and_grad(partial(_loss, case), argnums=(0, 1))(
        rows, weights["dense"], x, y
    )
    moved, kept = [], []
    for table, state, each, g in zip(tables, states, ids, slopes[0], strict=True):
        if case.optimizer == "sgd":
            moved.append(table.at[each].add(-rate * g))
        elif case.optimizer == "adagrad":
            whole = jnp.zeros_like(table).at[each].add(g)
            state = state + whole * whole
            moved.append(table - rate * whole / (jnp.sqrt(state) + _EPSILON))
        else:
            state = state.at[each].add((g * g).mean(-1))
            moved.append(
                table.at[each].add(-rate * g / (jnp.sqrt(state[each]) + _EPSILON)[..., None])
            )
        kept.append(state)
    dense = _MAP(lambda w, g: w - rate * g, weights["dense"], slopes[1])
    return {"tables": moved, "dense": dense}, kept, loss


def _adam(case: TrainCase, weights: dict[str, Any], states: Any, x: Any, y: Any) -> Any:
    def whole(given: dict[str, Any]) -> Any:
        rows = [table[each] for table, each in zip(given["tables"], x, strict=True)]
        return _loss(case, rows, given["dense"], x, y)

    loss, slopes = jax.value_and_grad(whole)(weights)
    m, v, t = states
    t = t + 1
    m = _MAP(lambda m, g: 0.9 * m + 0.1 * g, m, slopes)
    v = _MAP(lambda v, g: 0.999 * v + 0.001 * g * g, v, slopes)
    rate, root = case.rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    moved = _MAP(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + _EPSILON), weights, m, v)
    return moved, (m, v, t), loss
