"""The dtypes that layers compute in, by name, and what is to be known of each.

Of the two halves NumPy has float16; bfloat16 is that of `ml_dtypes`, imported when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

HALF_DTYPES = ("float16", "bfloat16")
FLOAT_DTYPES = ("float32", "float64", *HALF_DTYPES)
MIXED = "mixed_"
"""What the names of Keras's policies begin with that compute in a half and keep float32 weights."""
INDEX_DTYPES = ("int32", "int64")
"""What compiled code takes indices in; other integers are widened."""


@dataclass(frozen=True)
class Limits:
    """eps: from 1 to the next number; largest; smallest: normal number; least: number above 0."""

    eps: float
    largest: float
    smallest: float
    least: float


def is_half(name: str) -> bool:
    """Whether numbers of this dtype are kept in 16 bits and computed with in float32."""
    return name in HALF_DTYPES


def can_be_cast(given: str, wanted: str) -> bool:
    """Whether a layer of dtype `wanted` takes tensors of dtype `given`: to and from halves."""
    return given == wanted or {given, wanted} <= {"float32", *HALF_DTYPES}


def wide(name: str) -> str:
    """The dtype in which a layer of dtype `name` sums and evaluates functions."""
    return "float32" if is_half(name) else name


def passed_as(name: str) -> str:
    """The dtype of the tensors in which compiled code for CPUs takes and gives numbers of this
    one: NumPy lends no bfloat16 to others."""
    return "int16" if name == "bfloat16" else name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name."""
    kind: Any = name
    if name == "bfloat16":
        import ml_dtypes

        kind = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(kind)
    return found


def limits(name: str) -> Limits:
    """The limits of a float dtype."""
    find: Any = np.finfo
    if name == "bfloat16":
        import ml_dtypes

        find = ml_dtypes.finfo
    info = find(name)
    return Limits(*map(float, (info.eps, info.max, info.smallest_normal, info.smallest_subnormal)))
