"""Calls on tensors of a form that was seen before: all but their addresses is known.

A small kernel takes some microseconds, so the Python around it counts. What does not depend on the
addresses is worked out at the first call with tensors of such shapes and dtypes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers import diagnose
from tvmlayers.arena import address
from tvmlayers.cuda.arrays import DeviceArray, View, is_on_gpu
from tvmlayers.cuda.driver import Device, Driver
from tvmlayers.cuda.memory import ALIGNMENT, DriverMemory
from tvmlayers.cuda.streams import current_stream
from tvmlayers.cuda.torch_tensors import TorchMemory, torch_view
from tvmlayers.signature import Entry

if TYPE_CHECKING:
    from tvmlayers.cuda.compiled import CudaCompiled

# What tells two calls apart: the tensors' kind, then GPU, shape and dtype of each.
Form = tuple[Any, ...]
MOST_FORMS = 256  # kept by a model


@dataclass
class Recipe:
    """How an entry is called for one form of its inputs.

    sizes: its first arguments; after: those behind the addresses of the tensors, without scratch;
    scratch: bytes of it.
    """

    entry: Entry
    ordinal: int
    shapes: list[tuple[int, ...]]
    sizes: list[int]
    after: list[int]
    scratch: int
    is_checked: bool
    device: Device
    place: int = field(init=False)

    def __post_init__(self) -> None:
        self.place = ctypes.addressof(self.device)


class ArrayCalls:
    """`DeviceArray`s."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def seen(self, values: Sequence[Any]) -> tuple[Form, list[int]] | None:
        """The form of the values and their addresses; None where one is to be looked at again."""
        form: list[Any] = [DeviceArray]
        addresses = []
        for value in values:
            if type(value) is not DeviceArray or value.address % ALIGNMENT:
                return None
            form += (value.ordinal, value.shape, value.dtype)
            addresses.append(value.address)
        return tuple(form), addresses

    def empty(self, recipe: Recipe) -> tuple[list[Any], list[int]]:
        """Memory for the results, and its addresses."""
        slots = recipe.entry.outputs
        made = [
            DeviceArray(shape, slot.dtype, recipe.ordinal, self._driver)
            for shape, slot in zip(recipe.shapes, slots, strict=True)
        ]
        return made, [each.address for each in made]

    def views(self, values: Sequence[Any]) -> list[View]:
        """The values as compiled code takes them."""
        return [value.view() for value in values]

    def memory(self, ordinal: int, stream: int) -> DriverMemory:
        """Memory for one call."""
        return DriverMemory(self._driver, ordinal, stream)


class TensorCalls:
    """torch's CUDA tensors."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._torch = driver, sys.modules["torch"]

    def seen(self, values: Sequence[Any]) -> tuple[Form, list[int]] | None:
        """As `ArrayCalls.seen`."""
        kind = self._torch.Tensor
        form: list[Any] = [kind]
        addresses = []
        for value in values:
            if type(value) is not kind or not value.is_cuda or not value.is_contiguous():
                return None
            place = value.data_ptr()
            if place % ALIGNMENT or value.is_neg() or value.is_conj():
                return None
            form += (value.get_device(), value.shape, value.dtype)
            addresses.append(place)
        return tuple(form), addresses

    def empty(self, recipe: Recipe) -> tuple[list[Any], list[int]]:
        """As `ArrayCalls.empty`, of torch's allocator."""
        torch, slots = self._torch, recipe.entry.outputs
        made = [
            torch.empty(
                shape,
                dtype=getattr(torch, slot.dtype.name),
                device=torch.device("cuda", recipe.ordinal),
            )
            for shape, slot in zip(recipe.shapes, slots, strict=True)
        ]
        return made, [each.data_ptr() for each in made]

    def views(self, values: Sequence[Any]) -> list[View]:
        """As `ArrayCalls.views`."""
        return [torch_view(value, f"input {place}") for place, value in enumerate(values)]

    def memory(self, ordinal: int, stream: int) -> TorchMemory:
        """As `ArrayCalls.memory`."""
        return TorchMemory(self._driver, ordinal, stream)


def calls_of(value: Any, driver: Driver) -> ArrayCalls | TensorCalls | None:
    """The calls for tensors of the kind of `value`, where there are such."""
    if type(value) is DeviceArray:
        return ArrayCalls(driver)
    torch = sys.modules.get("torch")
    return TensorCalls(driver) if torch is not None and type(value) is torch.Tensor else None


class Again:
    """The calls that one model knows; it comes along each time, so that it can go at once."""

    def __init__(self) -> None:
        self._kinds: dict[type, ArrayCalls | TensorCalls] = {}
        self._recipes: dict[Form, Recipe] = {}
        self._found: dict[int, NDArray[np.int32]] = {}  # flags as they were last looked at

    def find(self, model: CudaCompiled, inputs: Sequence[Any]) -> Callable[[], Any] | None:
        """The call for these inputs, by position, where their form is known."""
        kind = self._kinds.get(type(inputs[0]))
        seen = kind.seen(inputs) if kind is not None else None
        if kind is None or seen is None:
            return None
        recipe = self._recipes.get(seen[0])
        return None if recipe is None else partial(self._call, model, recipe, kind, inputs, seen[1])

    def learn(self, model: CudaCompiled, inputs: Sequence[Any]) -> None:
        """Remember how tensors of this form are called with, after a first call with them."""
        kind = calls_of(inputs[0], model.driver) if is_on_gpu(inputs[0]) else None
        seen = kind.seen(inputs) if kind is not None else None
        if kind is None or seen is None:
            return
        views = kind.views(inputs)
        names = model._names[: len(inputs)]
        entry, sizes = diagnose.choose_entry(model._entries, names, views)  # type: ignore[arg-type]
        row, ordinal = model._described[id(entry)], views[0].ordinal
        shapes = entry.output_shapes(sizes)
        fits = all(v.dtype == s.dtype for v, s in zip(views, entry.inputs, strict=True))
        if not fits or not all(prod(shape) for shape in (*shapes, *(v.shape for v in views))):
            return
        with model._lock, model.driver.context(ordinal):
            arena, handles = model._load(ordinal)
            device, needed = model.driver.device(handles, 0), 0
            given = [sizes[name] for name in row["sizes"]]
            after = [arena.address, model._flags_of(ordinal, 0).address]
            if row["device_scratch"]:
                between = [0] * (len(views) + len(shapes))
                needed = -model._launch(entry.function, [*given, *between, *after, 0, -1], device)
            if len(self._recipes) >= MOST_FORMS:
                self._recipes.clear()
            self._kinds[type(inputs[0])] = kind
            is_checked = bool(row["checks"])
            self._recipes[seen[0]] = Recipe(
                entry, ordinal, shapes, given, after, needed, is_checked, device
            )

    def _call(
        self,
        model: CudaCompiled,
        recipe: Recipe,
        kind: ArrayCalls | TensorCalls,
        inputs: Sequence[Any],
        addresses: list[int],
    ) -> Any:
        driver = model.driver
        stream = current_stream(recipe.ordinal)
        with model._lock:
            driver.enter(recipe.ordinal)
            try:
                results, places = kind.empty(recipe)
                arguments = [*recipe.sizes, *addresses, *places, *recipe.after]
                scratch = None  # held until all is launched
                if recipe.scratch:
                    memory = kind.memory(recipe.ordinal, stream)
                    scratch = model._scratch_of(memory, recipe.scratch)
                    arguments += (scratch.address, recipe.scratch)
                recipe.device.stream = stream
                recipe.entry.function(*arguments, recipe.place)
                if recipe.device.error:
                    model._fail_launch(recipe.device)
                if recipe.is_checked and not model.deferred:
                    self._look(model, recipe, kind, inputs, stream)
            finally:
                driver.leave()
        return results[0] if len(results) == 1 else results

    def _look(
        self,
        model: CudaCompiled,
        recipe: Recipe,
        kind: ArrayCalls | TensorCalls,
        inputs: Sequence[Any],
        stream: int,
    ) -> None:
        """Wait for the flags of a call, and raise where one is set."""
        driver = model.driver
        flags = model._flags[recipe.ordinal]
        found = self._found.get(recipe.ordinal)
        if found is None:
            found = self._found[recipe.ordinal] = np.empty(flags.shape, np.int32)
        driver.download(address(found), flags.address, flags.nbytes, stream)
        driver.synchronize(stream)
        if found.any():
            model._raise_for(flags, recipe.entry, kind.views(inputs), stream)
