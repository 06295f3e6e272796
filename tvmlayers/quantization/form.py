"""What the ways to keep a weight have in common, and the two that are halves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import limits, numpy_dtype
from tvmlayers.errors import WeightsError

Array: TypeAlias = NDArray[Any]
Held: TypeAlias = Mapping[str, Array]
"""The arrays that a weight is kept as, by name."""

# The quotients that become whole numbers are rounded once in float64.
_ALMOST = 1 + 2.0**-40


@dataclass(frozen=True)
class Form:
    """How one float32 weight of two axes is kept in fewer bits, as `Kind` names it.

    specs: the shape and dtype of each array it is kept as, from its own shape and the kind.
    hold: those arrays, from the weight, the kind and how errors call the weight; WeightsError where
    the kind cannot hold a number.
    check: WeightsError where arrays from elsewhere hold no weight.
    floats: the numbers that arrays stand for, float64, exact.
    errors: how far each may be from the number that was held, of a shape that broadcasts.
    bound: of what a layer sums up or looks up, from the errors of all finite numbers: the largest
    of a table, the largest Euclidean norm of a kernel's column of them.
    """

    specs: Callable[[tuple[int, int], str], dict[str, tuple[tuple[int, ...], str]]]
    hold: Callable[[Array, str, str], dict[str, Array]]
    check: Callable[[Held, str, str], None]
    floats: Callable[[Held, str], Array]
    errors: Callable[[Held, str], Array]
    bound: Callable[[Held, str], float]


def as_half(values: Array, kind: str, where: str) -> Array:
    """`values` rounded to float16 or bfloat16; infinities and NaN stay.

    WeightsError where a finite number would become infinite.
    """
    with np.errstate(over="ignore"):
        held = values.astype(numpy_dtype(kind))
    lost = np.isinf(held) & np.isfinite(values)
    if lost.any():
        at = tuple(map(int, np.argwhere(lost)[0]))
        other = "bfloat16" if kind == "float16" else "int8"
        raise WeightsError(
            f"{where} is {values[at]:g} at {at}, and {kind} holds numbers up to "
            f"{limits(kind).largest:g}; keep it as {other}, or scale the weights"
        )
    return held


def half_errors(held: Array, kind: str) -> Array:
    """How far each half may be from the number that it was rounded from.

    Half a unit in its last place, or half of the least number (N. J. Higham, Accuracy and Stability
    of Numerical Algorithms, 2nd ed., SIAM 2002, theorem 2.3).
    """
    own = limits(kind)
    with np.errstate(invalid="ignore"):
        errors: Array = own.eps / 2 * np.abs(held.astype(np.float64)) + own.least / 2
    return errors


def steps_of(spans: Array, most: int, dtype: type[np.floating[Any]] = np.float32) -> Array:
    """The least steps of a dtype of which `most` reach as far as `spans`, which are float64."""
    steps = (spans / most).astype(dtype)
    short = steps.astype(np.float64) * most < spans
    return np.where(short, np.nextafter(steps, dtype(np.inf)), steps)


def codes_of(values: Array, steps: Array) -> Array:
    """`values` in whole steps, as floats; of steps of zero, zero."""
    codes: Array = np.rint(values / np.where(steps == 0, 1.0, steps.astype(np.float64)))
    return codes


def half_steps(steps: Array) -> Array:
    """How far a number may be from the nearest of whole steps."""
    errors: Array = np.abs(steps.astype(np.float64)) * (_ALMOST / 2)
    return errors


def need_finite(values: Array, where: str, kind: str, start: int = 0) -> None:
    """WeightsError for an infinity or a NaN. start: the row of the weight that is the first."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = tuple(map(int, np.argwhere(wrong)[0]))
        place = (at[0] + start, *at[1:])
        raise WeightsError(
            f"{where} is {values[at]} at {place}, and {kind} holds finite numbers only; mend "
            "the weights, or keep them as float16 or bfloat16"
        )
