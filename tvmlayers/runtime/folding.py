"""Inputs of another number of axes, where no layer of the model looks at the leading ones.

Compiled code takes a fixed number of them. What comes with more or fewer, even none, has them all
put into one on the way in and parted again in the results; no element moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

from tvmlayers.errors import ShapeError
from tvmlayers.runtime.signature import Slot, shape_text

Shape = tuple[int, ...]


class Shaped(Protocol):
    """An array, wherever it lies."""

    @property
    def shape(self) -> Shape: ...


def leading_shape(arrays: Sequence[Shaped], slots: Sequence[Slot], leading: int) -> Shape | None:
    """The axes that replace the leading ones in all of the arrays; None where they are as compiled.

    leading: how many the slots have, 0 where no others may replace them. ShapeError where the
    arrays do not have them in common.
    """
    ranks = [len(array.shape) for array in arrays]
    if not leading or ranks == [len(slot.shape) for slot in slots]:
        return None
    shapes: list[Shape] = []
    for array, slot in zip(arrays, slots, strict=True):
        own = slot.shape[leading:]
        split = len(array.shape) - len(own)
        if split < 0 or any(
            isinstance(dim, int) and dim != got
            for dim, got in zip(own, array.shape[split:], strict=True)
        ):
            expected = shape_text(("...", *own)) if own else "any shape"
            raise ShapeError(
                f"input {slot.name!r} expected {expected}, whatever comes before, got "
                f"{array.shape}; reshape the input, or build the model for it"
            )
        shapes.append(array.shape[:split])
    if len(set(shapes)) > 1:
        got = " and ".join(f"{s.name!r} {a.shape}" for s, a in zip(slots, arrays, strict=True))
        raise ShapeError(f"inputs expected the same axes before those of each row, got {got}")
    return shapes[0]


def folded(shape: Shape, lead: Shape, leading: int) -> Shape:
    """`shape`, which begins with `lead`, with `leading` axes in place of those."""
    return (prod(lead), *(1,) * (leading - 1), *shape[len(lead) :])


def unfolded(shape: Shape, lead: Shape, leading: int) -> Shape:
    """The shape for the caller of a result that has `shape` in compiled code."""
    return (*lead, *shape[leading:])
