"""Machine code for a layer of one form, and the weights of a module packed for it.

A form is compiled once for the process. Each module has its own packed weights. Whether they are
still the module's is seen from where its parameters lie and from PyTorch's version counters.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tvmlayers import targets
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.codegen.compiler import compile_selected
from tvmlayers.errors import TargetError
from tvmlayers.layers import Dense, Embedding, EmbeddingBag, Layer, Model, as_model
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.schedule import Selector

Forward = Callable[..., Tensor]

ALIGNMENT = 64  # bytes, that compiled code asks of its weights
SAMPLE = 64  # bytes of a weight that are compared at each call
NAME = "layer"

lock = threading.RLock()
"""Held while code is compiled or weights are packed."""


class Kernel:
    """The machine code of a layer with any weights of its shapes.

    is_table: the one weight is a table that compiled code reads as PyTorch keeps it.
    """

    def __init__(self, make: Callable[[], Layer], target: str, is_table: bool) -> None:
        self._make, self._target, self.is_table = make, target, is_table

    @cached_property
    def model(self) -> Compiled:
        """Compiled when first asked for."""
        return machine_code(as_model(self._make()), self._target)


def machine_code(model: Model, target: str) -> Compiled:
    """A model compiled with weights that take up no memory, for others to be put in their place."""
    return compile_selected(
        model,
        Selector(runnable(target), True),
        torch.get_num_threads(),
        fill=lambda plan: allocate_arena(plan.arena_bytes),
    )


@cache
def linear_kernel(
    units: int, features: int, has_bias: bool, dtype: torch.dtype, activation: str, target: str
) -> Kernel:
    """act(x @ weight.T + bias)."""

    def make() -> Layer:
        return Dense(
            units,
            activation,
            use_bias=has_bias,
            kernel_initializer="zeros",
            input_dim=features,
            dtype=str(dtype),
            name=NAME,
        )

    return Kernel(make, target, is_table=False)


@cache
def embedding_kernel(rows: int, columns: int, dtype: torch.dtype, target: str) -> Kernel:
    """Rows of a table."""

    def make() -> Layer:
        return Embedding(rows, columns, "zeros", dtype=str(dtype), name=NAME)

    return Kernel(make, target, is_table=True)


@cache
def bag_kernel(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
    target: str,
) -> Kernel:
    """Rows of a table, reduced bag by bag."""

    def make() -> Layer:
        return EmbeddingBag(
            rows,
            columns,
            "zeros",
            mode=mode,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            dtype=str(dtype),
            name=NAME,
        )

    return Kernel(make, target, is_table=True)


def runnable(target: object) -> targets.Target:
    """The CPU target of that name; TargetError where this machine cannot run its code."""
    found = targets.resolve_cpu(target)
    why = targets.obstacle(found.triple, found.cpu_flags)
    if why:
        raise TargetError(f"modules of PyTorch run on this machine, and {found.name} {why}")
    return found


class Packed:
    """A kernel with the weights of a module, for as long as these stay as they were.

    model: what to call; None where the weights may change without a trace, as those in memory that
    other processes write to. in_place: whether compiled code reads them where they lie.
    """

    __slots__ = ("_in_place", "_kernel", "_seen", "model")

    def __init__(
        self,
        kernel: Kernel,
        seen: Sequence[Seen],
        model: Compiled | None,
        in_place: bool = False,
    ) -> None:
        self._kernel, self._seen, self.model, self._in_place = kernel, seen, model, in_place

    def holds(self, kernel: Kernel, weights: Sequence[Tensor]) -> bool:
        """Whether these are still the weights that were packed for that kernel."""
        if kernel is not self._kernel:
            return False
        if self._in_place:
            return all(map(Seen.is_at, self._seen, weights))
        return unchanged(weights, self._seen)

    def is_gone(self) -> bool:
        """Whether the memory of a weight was given back."""
        return any(seen.storage.expired() for seen in self._seen)

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Not copied and not pickled: a copy of a module packs its own weights."""
        return _nothing, ()


class Seen:
    """Where a weight was, and what it was like."""

    __slots__ = ("_bytes", "_place", "_sample", "_version", "storage")

    def __init__(self, weight: Tensor) -> None:
        # As long as the reference is there, no other storage has its identity.
        self.storage = StorageWeakRef(weight.untyped_storage())
        self._place, self._version = weight.data_ptr(), weight._version
        # Of a tensor with other strides, such as an expanded one, fewer bytes may be there.
        nbytes = weight.element_size() * (weight.numel() if weight.is_contiguous() else 1)
        length = min(nbytes, SAMPLE)
        middle = self._place + (nbytes - length) // 2
        self._bytes = (ctypes.c_char * length).from_address(middle)
        self._sample = self._bytes.raw

    def is_at(self, weight: Tensor) -> bool:
        return bool(
            weight.data_ptr() == self._place
            and weight.untyped_storage()._cdata == self.storage.cdata
        )


def unchanged(weights: Iterable[Tensor], seen: Iterable[Seen]) -> bool:
    """Whether weights are where they were seen, as they were: by the version counter, and by a few
    numbers, as changes through `.data` count none. One call for all, as calls of Python cost."""
    for weight, was in zip(weights, seen, strict=True):
        if (
            weight.data_ptr() != was._place
            or weight._version != was._version
            or weight.untyped_storage()._cdata != was.storage.cdata
            or was._bytes.raw != was._sample  # last, as only then its memory is there
        ):
            return False
    return True


def pack(kernel: Kernel, weights: Sequence[Tensor]) -> Packed:
    """`kernel` with these weights, contiguous and on the CPU."""
    with lock:
        template = kernel.model
        seen = [Seen(weight) for weight in weights]  # before they are read
        (first, *_) = weights
        if kernel.is_table and first.data_ptr() % ALIGNMENT == 0:
            return Packed(kernel, seen, template.over(_memory(first, template)), in_place=True)
        if any(weight.is_shared() for weight in weights):
            return Packed(kernel, seen, None)
        plain = [weight.detach().numpy() for weight in weights]
        if not kernel.is_table:
            plain[0] = plain[0].T
        return Packed(kernel, seen, template.with_weights(plain))


def _memory(table: Tensor, template: Compiled) -> Any:
    """The table's own memory as the arena of a model, which ends at a multiple of 128 bytes.

    Compiled code reads no byte after the table.
    """
    nbytes = template.manifest["arena_bytes"]
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(table.data_ptr()), np.uint8)


def _nothing() -> None:
    """What a copy of a `Packed` is."""


def _after_fork() -> None:
    global lock
    lock = threading.RLock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)
