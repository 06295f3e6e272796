"""JAX on the CPU: functions that XLA compiles, weights as arguments and as constants."""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-call"

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.cases import DenseCase
from bench.models import DLRM_BAGS, DLRM_BOTTOM, DLRM_TOP, TOWERS
from bench.peers import Unsupported
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork

NAME = "jax"

MOST_CONSTANT_BYTES = 64 << 20  # beyond, compiling takes minutes and many times the memory

Function = Callable[..., Any]
ACTIVATIONS: dict[str, Function] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": partial(jax.nn.leaky_relu, negative_slope=0.2),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "hard_silu": jax.nn.hard_silu,
    "hard_swish": jax.nn.hard_silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "mish": jax.nn.mish,
    "exponential": jnp.exp,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
}
REDUCTIONS: dict[str, Function] = {
    "sum": jnp.sum,
    "mean": jnp.mean,
    "max": jnp.max,
    "min": jnp.min,
}

_pool: list[int] = []  # the threads of the process's pool, once it is made


def version() -> str:
    return str(jax.__version__)


def set_up(settings: Settings) -> None:
    """RuntimeError if this process has had another number before: the pool cannot be replaced."""
    threads = settings.threads
    if not _pool:
        os.environ["NPROC"] = str(threads)  # all that XLA reads of it, as its client is made
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # a thread less to wait for
        jax.config.update("jax_enable_x64", True)  # else int64 and float64 become 32 bits
        jax.devices()
        _pool.append(threads)
    if _pool != [threads]:
        raise RuntimeError(f"JAX runs on {_pool[0]} threads in this process, not {threads}")


def dense(work: DenseWork) -> list[Side]:
    after = _activation(work.case)

    def layer(weights: tuple[Any, Any], x: Any) -> Any:
        kernel, bias = weights
        return after(x @ kernel + bias)

    return _sides(layer, [(kernel, work.bias) for kernel in work.kernels], [(work.x,)])


def embedding(work: EmbeddingWork) -> list[Side]:
    return _sides(_rows, [work.table], [(ids,) for ids in work.indices])


def bag(work: BagWork) -> list[Side]:
    if work.case.ragged:
        raise Unsupported("ragged bags change their shapes, for which XLA compiles anew")
    reduced = partial(_bags, REDUCTIONS[work.case.mode])
    return _sides(reduced, [work.table], [(ids,) for ids in work.indices])


def model(work: ModelWork) -> list[Side]:
    return _sides(MODELS[work.case.name], [work.weights], work.inputs)


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "dense": dense,
    "embedding": embedding,
    "bag": bag,
    "model": model,
}


def _sides(
    function: Function, weights: Sequence[Any], inputs: Sequence[tuple[Array, ...]]
) -> list[Side]:
    """NumPy arrays at each call, and arrays that JAX has already; weights or inputs take turns.

    With the weights as arguments, and as constants that XLA may rearrange as it compiles.
    """
    sides = []
    given = jax.device_put(list(inputs))
    held = [jax.device_put(each) for each in weights]
    compiled = jax.jit(function)
    ways: dict[str, list[Function]] = {"arguments": [partial(compiled, each) for each in held]}
    size = sum(array.nbytes for array in jax.tree.leaves(held))
    if len(held) == 1 and size < MOST_CONSTANT_BYTES:  # of many kernels each would be compiled
        ways["constants"] = [jax.jit(partial(function, held[0]))]
    for variant, calls in ways.items():
        for form, arrays in (("arrays", inputs), ("bound", given)):
            turns = [partial(_ready, call, each) for call in calls for each in arrays]
            sides.append(Side(NAME, turns, variant=f"{variant} {form}"))
    return sides


def _ready(call: Function, inputs: tuple[Any, ...]) -> Any:
    return call(*inputs).block_until_ready()


def _activation(case: DenseCase) -> Function:
    if case.activation is None:
        return lambda x: x
    if case.activation not in ACTIVATIONS:
        raise Unsupported(f"JAX has no function for {case.activation!r}")
    return ACTIVATIONS[case.activation]


def _rows(table: Any, ids: Any) -> Any:
    return table.at[ids].get(mode="promise_in_bounds")


def _bags(reduce: Function, table: Any, ids: Any) -> Any:
    return reduce(_rows(table, ids), axis=1)


def _dense(weights: dict[str, Any], name: str, x: Any) -> Any:
    return x @ weights[f"{name}.kernel"] + weights[f"{name}.bias"]


def _seed(weights: dict[str, Any], ids: Any) -> Any:
    rows = _rows(weights["embedding.embeddings"], ids).reshape(len(ids), -1)
    hidden = jax.nn.relu(_dense(weights, "hidden", rows))
    return jax.nn.softmax(_dense(weights, "output", hidden))


def _text(weights: dict[str, Any], ids: Any) -> Any:
    bags = _bags(jnp.mean, weights["bag.embeddings"], ids)
    return jax.nn.softmax(_dense(weights, "output", bags))


def _two_tower(weights: dict[str, Any], *indices: Any) -> Any:
    towers = []
    for name, ids in zip(TOWERS, indices, strict=True):
        rows = _rows(weights[f"{name}.embeddings"], ids)
        hidden = jax.nn.relu(_dense(weights, f"{name}_hidden", rows))
        towers.append(_dense(weights, f"{name}_output", hidden))
    user, item = towers
    return jax.nn.sigmoid((user * item).sum(-1, keepdims=True))


def _dlrm(weights: dict[str, Any], numbers: Any, *indices: Any) -> Any:
    for place in range(len(DLRM_BOTTOM)):
        numbers = jax.nn.relu(_dense(weights, f"bottom{place}", numbers))
    tables = (weights[f"bag{bag}.embeddings"] for bag in range(DLRM_BAGS))
    bags = [_bags(jnp.sum, table, ids) for table, ids in zip(tables, indices, strict=True)]
    stacked = jnp.stack([numbers, *bags], axis=1)
    products = stacked @ stacked.swapaxes(1, 2)
    row, column = np.tril_indices(DLRM_BAGS + 1, k=-1)
    top = jnp.concatenate([numbers, products[:, row, column]], axis=1)
    last = len(DLRM_TOP) - 1
    for place in range(len(DLRM_TOP)):
        after = jax.nn.sigmoid if place == last else jax.nn.relu
        top = after(_dense(weights, f"top{place}", top))
    return top


MODELS: dict[str, Function] = {
    "seed": _seed,
    "text": _text,
    "two tower": _two_tower,
    "dlrm": _dlrm,
}
