"""What the entry points of a compiled model take and give, read from its manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tvmlayers.dtypes import numpy_dtype, passed_as
from tvmlayers.errors import ArtifactError
from tvmlayers.runtime.results import empty
from tvmlayers.runtime.scratch import bound_to, with_scratch

Dim = int | str
Function = Callable[..., int]

# Bit i of the status that compiled code returns is that of check i, this bit of all from here on.
LAST_STATUS_BIT = 62


@dataclass(frozen=True)
class Slot:
    """One tensor of an entry point; free axes of `shape` are symbols, as "n" or "n1-1"."""

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype[Any]
    kind: str = "value"  # or "index", "offsets", "weights"

    @property
    def is_integer(self) -> bool:
        """Whether smaller integers may be widened to `dtype`."""
        return self.kind in ("index", "offsets")

    def text(self) -> str:
        """The shape as a reader expects it: "(n, 10)"."""
        return shape_text(self.shape)


@dataclass(frozen=True)
class Entry:
    """One compiled function: `function(*inputs, *outputs, arena, threads) -> status`.

    compiled: the same as it was compiled, which takes scratch as well if needs_scratch, and of
    bfloat16 what `as_passed` gives.
    """

    function: Function
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    compiled: Function
    needs_scratch: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(slot.name for slot in self.inputs)

    def prepared(self, *arguments: Any) -> Callable[[], int]:
        """`compiled(*arguments)` as often as it is called, one call at a time."""
        if self.needs_scratch:
            return bound_to(self.compiled, arguments)
        return partial(self.compiled, *arguments)

    def output_shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The shapes of the outputs once the symbols are known."""
        return [tuple(extent(dim, sizes) for dim in slot.shape) for slot in self.outputs]


def read_entries(
    manifest: Mapping[str, Any], get_function: Callable[[str], Function]
) -> tuple[Entry, ...]:
    """The entry points of a manifest, each with its function; ArtifactError without one."""
    try:
        return tuple(_entry(entry, get_function(entry["symbol"])) for entry in manifest["entries"])
    except AttributeError as error:
        raise ArtifactError(
            f"the manifest names a function that the machine code has not: {error}"
        ) from error


def check_functions(entries: Iterable[Entry], arena: Any) -> None:
    """Call each entry point with as little as its shapes allow, mostly tensors without elements.

    Compiled code compares shapes, dtypes and the number of its arguments by itself: ArtifactError
    where it refuses those that the manifest says.
    """
    for entry in entries:
        slots = (*entry.inputs, *entry.outputs)
        sizes: dict[str, int] = {}
        for dim in [dim for slot in slots for dim in slot.shape if isinstance(dim, str)]:
            symbol, _, less = dim.partition("-")
            sizes[symbol] = max(sizes.get(symbol, 0), int(less or 0))
        try:
            tensors = [
                empty(tuple(extent(dim, sizes) for dim in slot.shape), slot.dtype) for slot in slots
            ]
            for tensor in tensors:
                tensor.fill(0)  # indices that every table has, offsets of no bags
            entry.function(*tensors, arena, 1)
        except (TypeError, ValueError, RuntimeError, MemoryError) as error:
            raise ArtifactError(
                f"the manifest is damaged: the machine code refuses what it says of "
                f"({', '.join(entry.names)}): {error}"
            ) from error


def _entry(described: Mapping[str, Any], compiled: Function) -> Entry:
    needs_scratch = bool(described.get("scratch"))
    inputs = tuple(read_slot(slot) for slot in described["inputs"])
    outputs = tuple(read_slot(slot) for slot in described["outputs"])
    function = with_scratch(compiled) if needs_scratch else compiled
    return Entry(function, inputs, outputs, compiled, needs_scratch)


def as_passed(tensor: Any) -> Any:
    """A tensor of bfloat16, NumPy's or torch's, as compiled code takes it: its bits."""
    if isinstance(tensor, np.ndarray):
        return tensor.view(np.int16)
    return tensor.view(sys.modules["torch"].int16)


def with_tensors(entry: Entry) -> Entry:
    """An entry of code for CPUs, whose function takes tensors of bfloat16 as they are."""
    dtypes = [slot.dtype.name for slot in (*entry.inputs, *entry.outputs)]
    places = [place for place, dtype in enumerate(dtypes) if passed_as(dtype) != dtype]
    if not places:
        return entry
    function = entry.function

    def call(*arguments: Any) -> int:
        given = list(arguments)
        for place in places:
            given[place] = as_passed(given[place])
        return function(*given)

    return replace(entry, function=call)


def input_order(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Every input name once, in the order in which positional arguments are taken."""
    longest_first = sorted(entries, key=lambda entry: -len(entry.inputs))
    return tuple(dict.fromkeys(name for entry in longest_first for name in entry.names))


def extent(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The length of an axis, its symbol looked up in `sizes`."""
    if isinstance(dim, int):
        return dim
    symbol, _, less = dim.partition("-")
    return sizes[symbol] - int(less or 0)


def shape_text(shape: Iterable[Dim]) -> str:
    """A shape as Python writes a tuple, symbols without quotes."""
    dims = [str(dim) for dim in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"


def read_slot(described: Mapping[str, Any]) -> Slot:
    """A tensor of an entry point, as a manifest describes it."""
    return Slot(
        described["name"],
        tuple(described["shape"]),
        numpy_dtype(described["dtype"]),
        described.get("kind", "value"),
    )
