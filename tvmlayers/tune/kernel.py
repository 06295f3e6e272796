"""A workload as compiled code: a model of one layer, built with given decisions.

The packed weights are made once for a workload and serve every candidate: their
layout does not depend on the tuner's decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers import layers
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.codegen.compiler import compile_selected
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.schedule import Selector
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.tune import inputs
from tvmlayers.workload import Workload

ENTRY = "forward_0"  # int32 indices


@dataclass(frozen=True)
class Kernel:
    """One candidate: the entry point, what gives its shared library's bytes, what comes out.

    output_shape: -1 where the offsets of the bags say how many rows there are.
    """

    function: Callable[..., int]
    library: Callable[[], bytes]
    output_shape: tuple[int, ...]


class Builder:
    """Builds candidates for one workload; the arena is theirs together."""

    def __init__(
        self, workload: Workload, target: Target | CudaTarget, threads: int, seed: int
    ) -> None:
        self.workload, self.target, self.threads = workload, target, threads
        self.model, self.layer = one_layer(workload, seed)
        self._arena: NDArray[np.uint8] | None = None
        self._seed = seed

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The packed weights; there as soon as something was built."""
        assert self._arena is not None, "the arena is made with the first candidate"
        return self._arena

    def build(self, decisions: Decisions) -> Kernel:
        """The candidate with exactly these decisions."""
        compiled = self._compile(decisions)
        return Kernel(
            compiled._entries[0].function,
            compiled._library or bytes,
            output_shape(self.workload),
        )

    def _compile(self, decisions: Decisions) -> Compiled:
        fixed = {self.workload.kind: decisions}
        assert isinstance(self.target, Target)
        selector = Selector(self.target, use_records=False, fixed=fixed)
        # A table can be as large as the memory: it is filled once, and never packed again.
        return compile_selected(self.model, selector, self.threads, self.arena_of)

    def arena_of(self, plan: ArenaPlan) -> NDArray[np.uint8]:
        """The packed weights, made at the first time."""
        if self._arena is not None:
            return self._arena
        if self.workload.kind in ("embedding", "bag"):
            self._arena = allocate_arena(plan.nbytes)
            offset = plan.manifest()[0]["offset"]
            sizes = self.workload["rows"], self.workload["width"]
            inputs.fill(self._arena, offset, *sizes, self.workload.stored, self._seed)
        else:
            self._arena = plan.fill()
        return self._arena


def output_shape(workload: Workload) -> tuple[int, ...]:
    """The shape of the result; -1 for the number of bags."""
    if workload.kind == "embedding":
        return 1, workload.batch, workload["width"]
    if workload.kind == "bag":
        return -1, workload["width"]
    return workload.batch, workload["n"]


def one_layer(workload: Workload, seed: int) -> tuple[Model, Layer]:
    """A model of the one layer whose kernel the workload names, and the layer."""
    if workload.kind == "dense":
        return _dense(workload, seed)
    if workload.kind == "softmax":
        layer: Layer = layers.Activation("softmax")
        x = layers.Input((workload["n"],), dtype=workload["dtype"], name="x")
        return Model(x, layer(x)), layer
    rows, width = workload["rows"], workload["width"]
    kept = {"dtype": workload["dtype"], "stored": workload.stored}
    if workload.kind == "embedding":
        layer = layers.Embedding(rows, width, **kept)
        layer.assign(_one_row(layer))
        return as_model(layer), layer
    layer = layers.EmbeddingBag(rows, width, mode=workload["mode"], **kept)
    layer.assign(_one_row(layer))
    # Called with offsets alone: of all the ways to call a bag only this one is compiled.
    indices = layers.Input((None,), batch=False, name="indices")
    offsets = layers.Input((), name="offsets")
    return Model([indices, offsets], layer(indices, offsets)), layer


def _one_row(table: layers.Embedding | layers.EmbeddingBag) -> dict[str, NDArray[Any]]:
    """Weights that repeat one row: the memory of the real table is the arena's."""
    made = {}
    for name, spec in table.weight_specs().items():
        row = np.zeros(spec.shape[1], numpy_dtype(spec.dtype or table.dtype))
        made[name] = np.broadcast_to(row, spec.shape)
    return made


def _dense(workload: Workload, seed: int) -> tuple[Model, Layer]:
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    layer = layers.Dense(n, activation=workload["activation"], input_dim=k, dtype=dtype)
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((k, n), dtype=np.float32).astype(dtype) / np.sqrt(k).astype(dtype)
    layer.build((None, k))
    layer.assign({"kernel": kernel, "bias": rng.standard_normal(n).astype(dtype)})
    layer.keep_as(workload.stored)
    return as_model(layer), layer
