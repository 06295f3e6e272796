"""The short way of a call with tensors of a GPU, for shapes and dtypes that were there before.

All that depends on no address is decided at the first call of a form; whatever is unlike it goes
the general way of the model, which puts it right or says what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

from tvmlayers.runtime.cuda.arrays import DeviceArray
from tvmlayers.runtime.cuda.memory import ALIGNMENT, DriverMemory
from tvmlayers.runtime.cuda.plan import Plan
from tvmlayers.runtime.cuda.torch_tensors import TorchMemory, made_by_torch

MOST_FORMS = 256  # then all are dropped: batches of ever new sizes fill no memory
_MISALIGNED = ALIGNMENT - 1

Key = tuple[Any, ...]
Addresses = list[int]


class Form:
    """A plan for inputs of known shapes and dtypes, and what makes and takes its results."""

    def __init__(self, plan: Plan, is_torch: bool, ordinal: int) -> None:
        self.plan, self.ordinal, self.is_torch = plan, ordinal, is_torch
        self.memory: Any = TorchMemory if is_torch else DriverMemory
        outputs = list(zip(plan.shapes, plan.entry.outputs, strict=True))
        self.sizes = [prod(shape) * slot.dtype.itemsize for shape, slot in outputs]
        self.input_sizes: list[int] = []
        driver = plan.driver
        self.make: Callable[[int], list[Any]]  # for a stream
        if is_torch:
            torch = sys.modules["torch"]
            device = torch.device("cuda", ordinal)
            rows = [(shape, getattr(torch, slot.dtype.name)) for shape, slot in outputs]
            empty = partial(made_by_torch, torch.empty, device=device)
            self.make = lambda _: [empty(shape, dtype=dtype) for shape, dtype in rows]
            self.key_of_out = rows[0][0], rows[0][1], ordinal
        else:
            plain = [(shape, slot.dtype) for shape, slot in outputs]
            self.make = lambda stream: [
                DeviceArray(s, dtype, ordinal, driver, stream) for s, dtype in plain
            ]
            self.key_of_out = plain[0][0], plain[0][1], ordinal

    def takes(self, out: Any, addresses: Addresses) -> bool:
        """Whether the one result may go to `out`: what it must be, and not the inputs' memory."""
        seen = read((out,), self.is_torch) if len(self.sizes) == 1 else None
        if seen is None or seen[0][0] != self.key_of_out or (self.is_torch and out.requires_grad):
            return False
        (begin,), (size,) = seen[1], self.sizes
        return not begin & _MISALIGNED and all(
            begin + size <= other or other + room <= begin
            for other, room in zip(addresses, self.input_sizes, strict=True)
        )


def read(values: Sequence[Any], is_torch: bool) -> tuple[Key, Addresses] | None:
    """(key, addresses) of packed tensors of one kind on GPUs; None for any others."""
    if not is_torch:
        for value in values:
            if type(value) is not DeviceArray:
                return None
        key = tuple([(value.shape, value.dtype, value.ordinal) for value in values])
        return key, [value.address for value in values]
    torch = sys.modules["torch"]
    for value in values:
        if not (
            isinstance(value, torch.Tensor)
            and value.is_cuda
            and value.layout is torch.strided
            and value.is_contiguous()
            and not value.is_neg()
            and not value.is_conj()
        ):
            return None
    key = tuple([(value.shape, value.dtype, value.device.index) for value in values])
    return key, [value.data_ptr() for value in values]


class Forms:
    """The forms that a model was called with."""

    def __init__(self) -> None:
        self._forms: dict[Key, Form] = {}

    def __len__(self) -> int:
        return len(self._forms)

    def learn(self, plan: Plan, values: Sequence[Any], ordinal: int) -> None:
        """Remember the plan of a call by position whose inputs were taken as they lay."""
        is_torch = type(values[0]) is not DeviceArray
        if is_torch and "torch" not in sys.modules:
            return
        seen = read(values, is_torch)
        if seen is None:
            return
        form = Form(plan, is_torch, ordinal)
        form.input_sizes = [
            prod(shape) * slot.dtype.itemsize
            for (shape, *_), slot in zip(seen[0], plan.entry.inputs, strict=True)
        ]
        if len(self._forms) >= MOST_FORMS:
            self._forms.clear()
        self._forms[seen[0]] = form

    def find(self, values: Sequence[Any], out: Any) -> tuple[Form, Addresses] | None:
        """The form of a call and the addresses of its inputs; None for the general way."""
        if not self._forms or not values:
            return None
        is_torch = type(values[0]) is not DeviceArray
        if is_torch and "torch" not in sys.modules:
            return None
        seen = read(values, is_torch)
        form = None if seen is None else self._forms.get(seen[0])
        if form is None or seen is None:
            return None
        addresses = seen[1]
        for each in addresses:
            if each & _MISALIGNED:
                return None
        return (form, addresses) if out is None or form.takes(out, addresses) else None
